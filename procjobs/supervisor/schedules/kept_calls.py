"""The calls of schedules, and the jobs that are made of them in a pool without a store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from procjobs.clock import wall
from procjobs.shared.moments import MICROS
from procjobs.shared.table.annex import Extras
from procjobs.supervisor.job import NO_CLIENT, SupervisedJob

if TYPE_CHECKING:
    from procjobs.dispatch.dispatcher import Dispatcher
    from procjobs.schedules.schedule import Schedule
    from procjobs.schedules.timetable import Run
    from procjobs.supervisor.clients.admission import Admission
    from procjobs.supervisor.job import SupervisedKind
    from procjobs.supervisor.registry import Registry

_AT_ONCE: Final = 1e-6


class ScheduleCall(NamedTuple):
    """What a schedule calls. `fd` has the large part of its payload, and is the call's own."""

    kind: SupervisedKind
    inline: bytes
    fd: int | None
    key: bytes
    meta: bytes

    @property
    def name(self) -> str:
        """The name of its jobs."""
        return self.kind.name.decode(errors="replace")

    def close(self) -> None:
        """Let go of the payload."""
        if self.fd is not None:
            os.close(self.fd)


class JobMaker:
    """Makes jobs of calls, as if a client had submitted them."""

    def __init__(self, registry: Registry, dispatcher: Dispatcher, admission: Admission) -> None:
        self._registry = registry
        self._dispatcher = dispatcher
        self._admission = admission

    @property
    def can_make(self) -> bool:
        """Whether there is code that jobs can run with, and jobs are taken."""
        return self._admission.is_open_to_schedules and bool(self._dispatcher.generations)

    def make(self, schedule: Schedule, call: ScheduleCall, run: Run) -> None:
        """Submit the job of a run on the newest code. Where there is no room for it, it ends at once, and says so."""
        generation = self._dispatcher.newest_generation() or self._dispatcher.generations[-1]
        fd = None if call.fd is None else os.dup(call.fd)
        job = SupervisedJob(run.run_id, call.kind, generation, NO_CLIENT, call.inline, fd)
        job.key = call.key
        job.extras = Extras(call.meta, schedule=schedule.name.encode(), scheduled_for=run.period)
        expires = 0.0
        if schedule.expires is not None:
            expires = max(run.period / MICROS + schedule.expires - wall(), _AT_ONCE)
        self._admission.begin_turn()
        self._admission.admit(NO_CLIENT, job, 0.0, expires)

    def cancel(self, job_id: bytes) -> bool:
        """Cancel a job that overlap="replace" is in the way of; return False if it is not known here."""
        job = self._registry.jobs.get(job_id)
        return job is not None and self._admission.cancel(job)
