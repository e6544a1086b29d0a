"""What is configured for one queue: immutable, and JSON in the database."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

DEFAULT_QUEUE: Final = "default"
DEFAULT_RATE: Final = 5.0
"""Tasks per second of a queue without a rate, and of the default queue where it is not listed."""
DEFAULT_BUCKET_SIZE: Final = 5
MIN_BACKOFF: Final = 0.1
MAX_BACKOFF: Final = 3600.0
MAX_DOUBLINGS: Final = 16

LONGEST_PAUSE: Final = 100 * 366 * 86400.0
"""Longer backoffs are this one, which is for ever: their ends would fit into no column. Seconds."""

Mode = Literal["push", "pull"]


@dataclass(frozen=True)
class RetryParameters:
    """When a task that has failed runs again. Backoffs and the age limit are seconds; a limit of None is no limit.

    With both limits, a task is given up when it has passed both. For pull queues `task_retry_limit` counts leases.
    """

    min_backoff_seconds: float = MIN_BACKOFF
    max_backoff_seconds: float = MAX_BACKOFF
    max_doublings: int = MAX_DOUBLINGS
    task_retry_limit: int | None = None
    task_age_limit: int | None = None

    @classmethod
    def of(
        cls,
        *,
        min_backoff_seconds: float | None = None,
        max_backoff_seconds: float | None = None,
        max_doublings: int | None = None,
        task_retry_limit: int | None = None,
        task_age_limit: int | None = None,
    ) -> RetryParameters:
        """Return parameters with the defaults for None; a default backoff gives way to the one that is given.

        Backoffs of more than a century are a century.
        """
        least = min(MIN_BACKOFF, MAX_BACKOFF if max_backoff_seconds is None else max_backoff_seconds)
        least = least if min_backoff_seconds is None else min_backoff_seconds
        most = max(MAX_BACKOFF, least) if max_backoff_seconds is None else max_backoff_seconds
        doublings = MAX_DOUBLINGS if max_doublings is None else max_doublings
        least, most = (min(float(seconds), LONGEST_PAUSE) for seconds in (least, most))
        return cls(least, most, doublings, task_retry_limit, task_age_limit)

    def to_json(self) -> str:
        """Return JSON text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RetryParameters:
        """Return what `to_json` has written."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class QueueSettings:
    """A queue: `rate` is tasks per second (0 pauses it), `bucket_size` how many of them may start at once."""

    name: str = DEFAULT_QUEUE
    mode: Mode = "push"
    rate: float = DEFAULT_RATE
    bucket_size: int = DEFAULT_BUCKET_SIZE
    max_concurrent_requests: int | None = None
    target: str | None = None
    retry: RetryParameters = field(default_factory=RetryParameters)

    def to_json(self) -> str:
        """Return JSON text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> QueueSettings:
        """Return what `to_json` has written."""
        values: dict[str, Any] = json.loads(text)
        return cls(**values | {"retry": RetryParameters(**values["retry"])})
