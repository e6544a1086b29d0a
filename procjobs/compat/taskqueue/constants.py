"""The limits, with the values that they have in the original."""

from __future__ import annotations

import datetime as dt
from typing import Final

__all__ = [
    "DEFAULT_APP_VERSION",
    "MAX_COUNTDOWN_SECONDS",
    "MAX_DISPATCH_DEADLINE",
    "MAX_LEASE_SECONDS",
    "MAX_PULL_TASK_SIZE_BYTES",
    "MAX_PUSH_TASK_SIZE_BYTES",
    "MAX_QUEUE_NAME_LENGTH",
    "MAX_TAG_LENGTH",
    "MAX_TASKS_PER_ADD",
    "MAX_TASKS_PER_LEASE",
    "MAX_TASKS_PER_TRANSACTION",
    "MAX_TASK_NAME_LENGTH",
    "MAX_TASK_SIZE_BYTES",
    "MAX_TRANSACTIONAL_REQUEST_SIZE_BYTES",
    "MAX_URL_LENGTH",
    "MIN_DISPATCH_DEADLINE",
    "QUEUE_URL",
    "TOMBSTONE_SECONDS",
    "UNKNOWN_APP_VERSION",
    "Version",
]

MAX_QUEUE_NAME_LENGTH: Final = 100
MAX_TASK_NAME_LENGTH: Final = 500
MAX_TAG_LENGTH: Final = 500
MAX_URL_LENGTH: Final = 2083

MAX_PUSH_TASK_SIZE_BYTES: Final = 100 * 1024
MAX_PULL_TASK_SIZE_BYTES: Final = 1024 * 1024
MAX_TASK_SIZE_BYTES: Final = MAX_PUSH_TASK_SIZE_BYTES
MAX_TRANSACTIONAL_REQUEST_SIZE_BYTES: Final = 1024 * 1024

MAX_TASKS_PER_ADD: Final = 100
MAX_TASKS_PER_LEASE: Final = 1000
MAX_TASKS_PER_TRANSACTION: Final = 5

MAX_LEASE_SECONDS: Final = 7 * 24 * 3600
MAX_COUNTDOWN_SECONDS: Final = 30 * 24 * 3600
TOMBSTONE_SECONDS: Final = 9 * 24 * 3600
"""How long the name of a task that has ended cannot be used again."""

MAX_DISPATCH_DEADLINE: Final = dt.timedelta(hours=24)
MIN_DISPATCH_DEADLINE: Final = dt.timedelta(seconds=15)

QUEUE_URL: Final = "/_ah/queue"
"""Tasks without a url go to this path, with the name of their queue behind it."""


class Version:
    """A version of the application that has no name."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __repr__(self) -> str:
        return f"<{self._words}>"


DEFAULT_APP_VERSION: Final = Version("DefaultApplicationVersion")
"""As the `target` of a task: the application at `configure(base_url=)`, whatever target its queue has."""
UNKNOWN_APP_VERSION: Final = Version("UnknownApplicationVersion")
"""The `target` of a task that has none: that of its queue, else the application at `configure(base_url=)`."""
