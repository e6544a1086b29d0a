"""Jobs that wait for other jobs of their pool: who works in their place, and which waits can never end. Pure.

1. A worker whose job waits does not count: another one may be started in its place, up to MAX_SPARE (slots.py) of these.
2. The job that is waited for comes first: before all others of its priority, and with the priority of the one that waits,
   if that is higher. So trees of jobs are worked through in depth, and need as many workers as they are deep.
3. No more jobs are started than the pool has workers, those that wait not counted. When a wait ends, both jobs go on.
4. A wait is refused if it can never end: all that it waits for is waiting in turn, or cannot start before a job ends that
   is. Of the waits that block each other, the newest is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from procjobs.dispatch.failures import job_name
from procjobs.dispatch.model import Job
from procjobs.dispatch.pending import PendingJobs
from procjobs.dispatch.slots import WorkerSlots
from procjobs.dispatch.waits import RefusedWait, Wait, Waits
from procjobs.shared.states import FINAL, JobState


class Nesting:
    """Acts on the waits of jobs. `refused` are the waits that cannot end, for whoever tells their owners."""

    def __init__(self, waits: Waits, pending: PendingJobs, worker_slots: WorkerSlots) -> None:
        self.refused: list[RefusedWait] = []
        self._waits = waits
        self._pending = pending
        self._worker_slots = worker_slots

    def begin(self, waiter: Job, awaited: Iterable[Job], owner: Any, number: int, priority: float) -> None:
        """Note that a running job waits for any of these jobs, which get this priority at least."""
        unfinished = [job for job in awaited if job.state not in FINAL]
        if not unfinished:
            return
        self._waits.begin(waiter, unfinished, owner, number)
        for job in reversed(unfinished):
            self._pending.hasten(job, priority)

    def hasten_all(self, priority: float) -> None:
        """Let every job that is waited for come before those of a lower priority."""
        for job in self._waits.awaited:
            self._pending.hasten(job, priority)

    def hasten_if_awaited(self, job: Job) -> None:
        """Let a job that has just begun to wait for a worker be the next one, if another one waits for it."""
        if self._waits.awaited and job in self._waits.awaited:
            self._pending.hasten(job, job.effective_priority)

    def refuse_endless(self) -> None:
        """Refuse waits that cannot end, until all can."""
        while self._waits.is_changed:
            self._waits.is_changed = False
            stuck = self._find_stuck()
            if stuck:
                wait = next(wait for wait in self._waits.newest_first() if wait.waiter in stuck)
                self.refused.append(
                    RefusedWait(wait.owner, wait.waiter, tuple(wait.awaited), self._explain(wait, stuck))
                )
                self._waits.end(wait.owner, wait.number)
                self._waits.is_changed = True

    def _find_stuck(self) -> set[Job]:
        """Return the jobs that wait, and would for ever."""
        stuck = set(self._waits.of)
        while True:
            going = {job for job in stuck if self._may_go_on(job, stuck)}
            if not going:
                return stuck
            stuck -= going

    def _may_go_on(self, waiter: Job, stuck: set[Job]) -> bool:
        return any(self._goes_on(job, stuck) for wait in self._waits.of[waiter] for job in wait.awaited)

    def _goes_on(self, job: Job, stuck: set[Job]) -> bool:
        """Return whether a job will end, if those that are stuck do not."""
        if job.state is JobState.RUNNING:
            return job not in stuck
        return len(stuck) < self._worker_slots.capacity and self._pending.limiters.blocking(job, stuck) is None

    def _explain(self, wait: Wait, stuck: set[Job]) -> str:
        job = next(iter(wait.awaited))
        return (
            f"{job_name(wait.waiter)} would wait for ever for {job_name(job)}: {self._reason(wait.waiter, job, stuck)}"
        )

    def _reason(self, waiter: Job, job: Job, stuck: set[Job]) -> str:
        if job is waiter:
            return "that is the job itself"
        if job.state is JobState.RUNNING:
            return "that one waits in turn, for this one or for others that cannot go on before this one ends"
        limiter = self._pending.limiters.blocking(job, stuck)
        if limiter is None:
            return (
                f"all workers have jobs that wait, {self._worker_slots.capacity} with all spare ones that there may be. "
                "Submit all jobs from outside, or let the outer job end and submit the rest as its last act"
            )
        which = f"the key {limiter.key.decode(errors='replace')!r}" if limiter.key else f"queue {job.kind.options.queue!r}"
        return (
            f"no more than {limiter.limit:g} of the jobs of {which} may run at once, and all that run wait themselves. "
            f"Give the inner job another {'key' if limiter.key else 'queue'}, or none"
        )
