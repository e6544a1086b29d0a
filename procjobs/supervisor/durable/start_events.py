"""Starts of jobs that are not recorded yet: most jobs have ended before theirs is, and their end says it all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER, wall
from procjobs.shared.recorder_wire import Start
from procjobs.shared.states import JobState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from procjobs.dispatch.model import Slot
    from procjobs.supervisor.job import SupervisedJob

_START_DELAY: Final = 0.005
"""How long a job runs before its start is recorded."""


class StartEvents:
    """Keeps the last start of each job until it is recorded, or the job has ended."""

    def __init__(self) -> None:
        self._starts: dict[SupervisedJob, tuple[float, Start]] = {}  # (when it is recorded, the event)

    def note(self, job: SupervisedJob, slot: Slot, now: float) -> None:
        """Note that a job was sent to a worker."""
        self._starts.pop(job, None)
        self._starts[job] = now + _START_DELAY, Start(job.id, job.attempt, slot.number, slot.pid, wall())

    def take(self, job: SupervisedJob | None) -> Start | None:
        """Take out the start of a job; None if it is recorded already, or there is no such job."""
        return None if job is None else self._starts.pop(job, (0.0, None))[1]

    def take_due(self, now: float) -> Iterator[Start]:
        """Take out the starts that are to be recorded now. Those of jobs that have ended, or were reclaimed, go."""
        while self._starts:
            job, (due_at, start) = next(iter(self._starts.items()))
            if due_at > now:
                return
            del self._starts[job]
            if job.state is JobState.RUNNING and job.attempt == start.attempt:
                yield start

    def next_deadline(self) -> float:
        """Return when the next start is to be recorded."""
        return next(iter(self._starts.values()))[0] if self._starts else NEVER
