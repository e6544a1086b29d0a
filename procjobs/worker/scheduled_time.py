"""The placeholder that stands in the arguments of a scheduled call for the time of each run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from procjobs.worker.context import current_job

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

_is_kept = False
"""Whether it is unpickled as itself, for what stays longer than one job."""


class _ScheduledFor:
    """The type of SCHEDULED_FOR.

    The arguments of a schedule are pickled once, and unpickled in each of its runs: there the placeholder becomes the time.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "procjobs.SCHEDULED_FOR"

    def __copy__(self) -> _ScheduledFor:
        return self

    def __deepcopy__(self, _memo: object) -> _ScheduledFor:
        return self

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        return resolve, ()


SCHEDULED_FOR: Final[Any] = _ScheduledFor()
"""In the arguments of a scheduled call, at any depth: the run gets `current_job().scheduled_for` in its place.

It is an aware datetime in UTC. A job that belongs to no schedule gets the placeholder as it is.
"""


def resolve() -> datetime | _ScheduledFor:
    """Return the time of the job that unpickles its arguments; in a process that runs no such job, the placeholder."""
    job = None if _is_kept else current_job()
    return (None if job is None else job.scheduled_for) or SCHEDULED_FOR


@contextmanager
def kept() -> Iterator[None]:
    """Unpickle the placeholder as itself: a function is unpickled once, and called by many jobs."""
    global _is_kept
    _is_kept = True
    try:
        yield
    finally:
        _is_kept = False
