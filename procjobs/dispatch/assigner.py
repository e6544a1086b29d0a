"""Which waiting job goes to which worker, and back from a worker that turns out to be busy. Pure.

1. Higher priority starts first, then first come, first served, within one generation of code.
2. Tiny jobs are prefetched: they are sent to busy workers, so that no worker waits for the supervisor between two of them.
   The jobs that a worker has not read are reclaimed when its first job takes longer than expected.
3. A worker that is being stopped gets no job.
4. Of the jobs that share a limit, no more run or start than it allows.
5. Where there are more workers than the pool's size, no more jobs are started than that, those that wait for others not
   counted (procjobs.dispatch.nesting).
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any, Final

from procjobs.clock import NEVER
from procjobs.dispatch.completion import Completion
from procjobs.dispatch.limits import Stop
from procjobs.dispatch.model import Generation, Job, Slot, SlotState
from procjobs.dispatch.pending import PendingJobs
from procjobs.dispatch.ports import Outcomes, Workers
from procjobs.dispatch.slots import WorkerSlots
from procjobs.shared.config import PoolSettings
from procjobs.shared.states import Event

MAX_PREFETCH: Final = 64
"""The most tiny jobs that lie before one worker. With 16 a worker ran out of jobs while the supervisor was busy, which cost
7 % of the jobs a second."""
TINY_SECONDS: Final = 0.000_3
"""A kind whose runs take less on average is worth a prefetch: a trip over two pipes takes 0.03 to 0.2 ms."""
RECLAIM_TIMEOUT: Final = 0.002
"""How long the first of several jobs may take before the unread ones behind it are reclaimed."""
BEGIN_TIMEOUT: Final = 5.0
"""How long a worker may take to read the job that it was sent: a worker that was stopped between two jobs never does."""
# Looking up a member of an enum costs 40 ns; these are looked up for every job.
_NOT_STOPPED, _START, _BUSY = Stop.NONE, Event.START, SlotState.BUSY


class Assigner:
    """Sends jobs to workers, and reclaims them."""

    def __init__(
        self,
        workers: Workers[Any],
        outcomes: Outcomes[Any],
        settings: PoolSettings,
        worker_slots: WorkerSlots,
        pending: PendingJobs,
        completion: Completion,
    ) -> None:
        self._workers = workers
        self._outcomes = outcomes
        self._prefetches = settings.max_jobs_per_worker is None
        self._worker_slots = worker_slots
        self._pending = pending
        self._limiters = pending.limiters
        self._completion = completion

    # Sending ----------------------------------------------------------------------------------------------------

    def assign(self, generation: Generation, now: float, only: Container[Job] | None = None) -> None:
        """Send the waiting jobs of a generation to idle workers, tiny ones to busy workers too. With `only`, no others."""
        queue, idle = generation.queue, generation.idle
        slots = self._worker_slots
        while queue and idle:
            job = queue.first()
            if job is None or (slots.live > slots.size and slots.places() <= 0):
                return
            if only is not None and job not in only:
                return
            if job.shares_limits and self._throttle_if_full(job, now):
                continue
            if self._give(idle[-1], job, now):
                idle.pop()
            else:
                return
        if queue and self._prefetches and only is None:
            self._prefetch(generation, now)

    def throttle_blocked(self, generation: Generation, now: float) -> None:
        """Throttle the jobs at the front of the queue that may not start: another worker would not help them."""
        queue = generation.queue
        while (job := queue.first()) is not None and job.shares_limits and self._throttle_if_full(job, now):
            pass

    def _throttle_if_full(self, job: Job, now: float) -> bool:
        """Move the first job of the queue into the first of its limiters without capacity, if there is one."""
        limiter = self._limiters.full(job, now)
        if limiter is None:
            return False
        job.generation.queue.drop_first()
        self._limiters.throttle(job, limiter)
        self._pending.wake_throttled(now)
        return True

    def _give(self, slot: Slot, job: Job, now: float) -> bool:
        """Send a job to a worker and take it out of the queue; False if the worker cannot take it."""
        job.attempt += 1
        if not self._workers.send(slot, job):
            job.attempt -= 1
            return False
        job.generation.queue.drop_first()
        job.advance(_START)
        job.slot = slot
        if job.shares_limits:
            self._limiters.start(job, now)
        jobs = slot.jobs
        jobs.append(job)
        if len(jobs) == 1:
            slot.state = _BUSY
            self.set_deadlines(slot, now)
        elif slot.reclaim_at > now + RECLAIM_TIMEOUT:
            slot.reclaim_at = now + RECLAIM_TIMEOUT
        self._outcomes.started(job, slot)
        return True

    def _prefetch(self, generation: Generation, now: float) -> None:
        """Let tiny jobs lie before busy workers, but no jobs that print.

        Printed text belongs to a job only as long as the worker has no other one.
        """
        quick = [slot for slot in self._worker_slots.slots if slot.generation is generation and self._may_prefetch(slot)]
        quick.sort(key=lambda slot: len(slot.jobs))
        for position, slot in enumerate(quick):
            share = -(-len(generation.queue) // (len(quick) - position))  # all to the first would leave the others idle
            limit = min(len(slot.jobs) + share, MAX_PREFETCH)
            while len(slot.jobs) < limit:
                job = generation.queue.first()
                if job is None or not _is_tiny(job) or not self._give(slot, job, now):
                    break

    def _may_prefetch(self, slot: Slot) -> bool:
        if slot.state is not _BUSY or slot.stop is not _NOT_STOPPED or slot.is_slow:
            return False
        return _is_tiny(slot.jobs[0]) and not self._worker_slots.is_unwanted(slot)

    def set_deadlines(self, slot: Slot, now: float) -> None:
        """Begin to watch the first job of a worker."""
        job = slot.jobs[0]
        if job.kind.is_limited or slot.limits is not None:  # most jobs have no limits, and are spared the call
            slot.watch(job, now)
        slot.reclaim_at = now + (RECLAIM_TIMEOUT if len(slot.jobs) > 1 else BEGIN_TIMEOUT)

    # Reclaiming -------------------------------------------------------------------------------------------------

    def reclaim_overdue(self, slot: Slot, now: float) -> bool:
        """Reclaim the jobs that a worker has not read by `reclaim_at`; return whether it has not even read its only job.

        Such a worker would never read one: it is to be stopped.
        """
        if len(slot.jobs) > 1:
            self.reclaim(slot, now)
            return False
        slot.reclaim_at = NEVER
        if not slot.jobs or slot.stop not in {Stop.NONE, Stop.RETIRE} or self._workers.has_begun(slot.jobs[0]):
            return False
        self.requeue(slot, self._workers.reclaim(slot))
        if slot.jobs:
            return False
        self._outcomes.log(f"worker {slot.number} has not taken its job for {BEGIN_TIMEOUT:g} s; it is replaced")
        return True

    def reclaim(self, slot: Slot, now: float, *, even_one: bool = False) -> bool:
        """Reclaim the jobs behind the one that a worker is in; return whether it is still in a job.

        A worker that had not read even the first one is idle after that. In both cases nothing is prefetched for it until
        it has answered: a worker that hangs is left with one job, which runs into its timeout.
        """
        slot.reclaim_at = NEVER
        slot.is_slow = True
        if slot.stop not in {Stop.NONE, Stop.RETIRE}:
            self.requeue(slot, self._workers.reclaim(slot) if even_one else ())
        elif len(slot.jobs) > 1 or even_one:
            first = slot.jobs[0]
            self.requeue(slot, self._workers.reclaim(slot))
            if slot.jobs and slot.jobs[-1] is not first:  # it has answered the first one, or never read it
                slot.watch(slot.jobs[-1], now)
            elif not slot.jobs and slot.stop is Stop.NONE:
                self._worker_slots.set_idle(slot, now)
            elif not slot.jobs:
                self._worker_slots.await_end(slot, now)
        return bool(slot.jobs)

    def reclaim_all(self, slots: Iterable[Slot], now: float) -> None:
        """Reclaim from busy workers all jobs that they have not begun."""
        for slot in slots:
            if slot.state in {SlotState.BUSY, SlotState.WAITING}:
                self.reclaim(slot, now, even_one=True)

    def requeue(self, slot: Slot, job_ids: Iterable[bytes]) -> None:
        """Return jobs of a slot to the front of their queue, unstarted and in the order in which they were there."""
        unread = set(job_ids)
        for job in reversed(slot.jobs.copy() if unread else ()):
            if job.id in unread:
                slot.jobs.remove(job)
                self._requeue_one(job)

    def _requeue_one(self, job: Job) -> None:
        job.advance(Event.RECLAIM)
        job.attempt -= 1
        job.slot = None
        if job.shares_limits:
            self._limiters.release(job, was_started=False)
        if self._completion.stopping:
            self._completion.abandon(job)
        else:
            self._pending.requeue(job)


def _is_tiny(job: Job) -> bool:
    kind = job.kind
    return kind.mean_seconds <= TINY_SECONDS and not kind.prints and not job.shares_limits
