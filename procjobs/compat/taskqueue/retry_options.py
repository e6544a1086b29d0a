"""When a task that has failed runs again, as programs say it."""

from __future__ import annotations

import math
from typing import Any, Final

from procjobs.compat.taskqueue.errors import InvalidTaskRetryOptionsError
from procjobs.compat.taskqueue.settings.queues import RetryParameters

_NAMES: Final = ("min_backoff_seconds", "max_backoff_seconds", "task_age_limit", "max_doublings", "task_retry_limit")


class TaskRetryOptions:
    """Options of one task, in place of all of those of its queue; None, or nothing, is the default.

    The pause before a retry begins at `min_backoff_seconds` (0.1), doubles `max_doublings` times (16), then grows by the
    same amount each time, up to `max_backoff_seconds` (3600). The task is given up when it is older than `task_age_limit`
    seconds and was retried `task_retry_limit` times; each limit alone holds where the other is None. In a pull queue
    `task_retry_limit` is how often the task may be leased, and the others are not used.

    Raise InvalidTaskRetryOptionsError for values that contradict each other or themselves.
    """

    def __init__(
        self,
        *,
        min_backoff_seconds: float | None = None,
        max_backoff_seconds: float | None = None,
        task_age_limit: float | None = None,
        max_doublings: int | None = None,
        task_retry_limit: int | None = None,
    ) -> None:
        given = (min_backoff_seconds, max_backoff_seconds, task_age_limit, max_doublings, task_retry_limit)
        for name, value in zip(_NAMES, given, strict=True):
            _check(name, value)
        if min_backoff_seconds is not None and max_backoff_seconds is not None and max_backoff_seconds < min_backoff_seconds:
            raise InvalidTaskRetryOptionsError(
                f"max_backoff_seconds={max_backoff_seconds} is less than min_backoff_seconds={min_backoff_seconds}"
            )
        self._min_backoff_seconds = min_backoff_seconds
        self._max_backoff_seconds = max_backoff_seconds
        self._task_age_limit = None if task_age_limit is None else math.ceil(task_age_limit)
        self._max_doublings = max_doublings
        self._task_retry_limit = task_retry_limit

    @property
    def min_backoff_seconds(self) -> float | None:
        """The pause before the first retry, in seconds."""
        return self._min_backoff_seconds

    @property
    def max_backoff_seconds(self) -> float | None:
        """The longest pause before a retry, in seconds."""
        return self._max_backoff_seconds

    @property
    def task_age_limit(self) -> int | None:
        """The age in whole seconds, rounded up, after which a task that fails is given up."""
        return self._task_age_limit

    @property
    def max_doublings(self) -> int | None:
        """How often the pause is doubled."""
        return self._max_doublings

    @property
    def task_retry_limit(self) -> int | None:
        """How often a task is retried, or leased."""
        return self._task_retry_limit

    def parameters(self) -> RetryParameters:
        """Return these options with the defaults for everything that was not given."""
        return RetryParameters.of(
            min_backoff_seconds=self._min_backoff_seconds,
            max_backoff_seconds=self._max_backoff_seconds,
            max_doublings=None if self._max_doublings is None else int(self._max_doublings),
            task_retry_limit=None if self._task_retry_limit is None else int(self._task_retry_limit),
            task_age_limit=self._task_age_limit,
        )

    def __repr__(self) -> str:
        return f"TaskRetryOptions({', '.join(f'{name}={getattr(self, name)!r}' for name in _NAMES)})"


def _check(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, int | float):
        raise TypeError(f"{name}={value!r}: expected a number")
    if not 0 <= value < math.inf:
        raise InvalidTaskRetryOptionsError(f"{name}={value}: expected a number that is not negative")
    if name in {"max_doublings", "task_retry_limit"} and value != int(value):
        raise InvalidTaskRetryOptionsError(f"{name}={value}: expected a whole number")
