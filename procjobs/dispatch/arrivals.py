"""Since when the jobs of each queue wait, those that are held by its limits among them. Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER
from procjobs.shared.states import JobState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from procjobs.dispatch.model import Job

_QUEUED: Final = JobState.QUEUED
_MIN_LIMIT: Final = 1000


class _Line:
    """The jobs of one queue in the order in which they came; one that waits no longer is left until it is in the way."""

    __slots__ = ("jobs", "limit")

    def __init__(self) -> None:
        self.jobs: deque[tuple[float, Job]] = deque()
        self.limit = _MIN_LIMIT

    def drop_gone(self) -> None:
        """Keep only the jobs that wait, once there may be many others."""
        if len(self.jobs) > self.limit:
            self.jobs = deque(entry for entry in self.jobs if _waits(*entry))
            self.limit = max(2 * len(self.jobs), _MIN_LIMIT)


class Arrivals:
    """The jobs that wait, by queue. Only jobs that name one of the pool's queues are here."""

    def __init__(self, queues: Iterable[str]) -> None:
        self._lines = {name: _Line() for name in queues}

    def add(self, job: Job) -> None:
        """Take a job that waits from now on: `queued_at` says so."""
        line = self._lines.get(job.kind.options.queue or "")
        if line is not None:
            line.jobs.append((job.queued_at, job))
            line.drop_gone()

    def put_back(self, job: Job) -> None:
        """Take a job that was not started after all."""
        line = self._lines.get(job.kind.options.queue or "")
        if line is not None:
            line.jobs.appendleft((job.queued_at, job))

    def oldest(self) -> dict[str, float]:
        """Return since when the first job of each queue waits (monotonic), infinity where none does."""
        return {name: _first(line) for name, line in self._lines.items()}


def _first(line: _Line) -> float:
    jobs = line.jobs
    while jobs and not _waits(*jobs[0]):
        jobs.popleft()
    return jobs[0][0] if jobs else NEVER


def _waits(queued_at: float, job: Job) -> bool:
    return job.state is _QUEUED and job.queued_at == queued_at
