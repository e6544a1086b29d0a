"""When a push task that has failed runs again, and when it is given up. Pure: no clock, no database."""

from __future__ import annotations

from typing import Final

from procjobs.compat.taskqueue.settings.queues import RetryParameters

_MAX_EXPONENT: Final = 1000
"""Powers of two above fit into no float; every limit is far below."""


def backoff(retry: RetryParameters, failures: int) -> float:
    """Return how many seconds after its last failure a task runs again that has failed so often, 1 or more times.

    The pause doubles `max_doublings` times. From there on it grows by the amount that it has then, up to
    `max_backoff_seconds`: with 10, 300 and 3 the pauses are 10, 20, 40, 80, 160, 240, 300, 300 seconds.
    """
    doublings = min(failures - 1, retry.max_doublings)
    grown = retry.min_backoff_seconds * 2.0 ** min(doublings, _MAX_EXPONENT)
    return min(grown * (failures - doublings), retry.max_backoff_seconds)


def is_given_up(retry: RetryParameters, failures: int, age: float) -> bool:
    """Return whether a task that has failed so often is not tried again; `age` is seconds since its first attempt began.

    A task without limits is tried for ever, one with both until both are passed.
    """
    passed = []
    if retry.task_retry_limit is not None:
        passed.append(failures > retry.task_retry_limit)
    if retry.task_age_limit is not None:
        passed.append(age > retry.task_age_limit)
    return bool(passed) and all(passed)
