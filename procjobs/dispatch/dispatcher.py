"""The scheduling core: which job runs when, on which worker, and how often.

It does no I/O and reads no clock: it is told events and the monotonic time, and calls an Engine. What waits is Waiting's,
which worker gets it the Assigner's, how it ends the Endings'; how many workers there are to be is the Scaler's, which
they are the Staff's, how long a job may run the Guard's. What always holds:

1. A job that was submitted gets exactly one answer, through `Engine.answer`, when it reaches a final state.
2. A job is started at most 1 + retries times, and again for each run that the pool's end has cut off. A start that is
   taken back before the worker began does not count.
3. A job with work behind it is in one place: one queue, one timetable, one line of those that share a limit, or one slot.
4. Higher priority starts first, then first come, first served, within one generation of code.
5. No worker is idle while a job of its generation waits that may run, unless the pool is paused.
6. A worker that is being stopped gets no job, and its jobs are settled when it has gone, not before.
7. Of the jobs of one queue, or with one key, no more run, and no more are started in a rate's period, than was set.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from procjobs.dispatch.assigner import Assigner
from procjobs.dispatch.completion import Endings
from procjobs.dispatch.failures import job_name
from procjobs.dispatch.model import Generation, Job, Slot, SlotState, Stop
from procjobs.dispatch.pending import Waiting
from procjobs.dispatch.scaling import Scaler
from procjobs.dispatch.slots import Staff
from procjobs.dispatch.watchdog import keeps_too_much
from procjobs.shared.states import FINAL, Reason

if TYPE_CHECKING:
    from procjobs.dispatch.failures import How
    from procjobs.dispatch.ports import Engine
    from procjobs.shared.config import PoolSettings
    from procjobs.shared.wire import Finished

_NOT_STOPPED = Stop.NONE  # looking up a member of an enum costs 40 ns; this is looked up for every job
_DECIDED = frozenset({Stop.TIMEOUT, Stop.CANCEL, Stop.SHUTDOWN, Stop.STALL, Stop.MEMORY})
"""Why a job is being stopped whose answer, should it come now, comes too late."""


class Dispatcher:
    """What a pool is told: by clients, by workers, and by the clock."""

    def __init__(self, engine: Engine, settings: PoolSettings, *, jitter: Callable[[], float] = random.random) -> None:
        self._engine = engine
        self.staff = Staff(engine, settings)
        self.slots = self.staff.slots
        self.generations = self.staff.generations
        self._waiting = Waiting(self.generations, settings.queues)
        self._endings = Endings(engine, self._waiting, jitter)
        self._assigner = Assigner(engine, settings, self.staff, self._waiting, self._endings)
        self._guard = self._assigner.guard
        self._scaler = Scaler(engine, self.staff, settings.worker_idle)
        self.paused = False
        self._mean_seconds = 0.0
        self._measured = 0

    # What it tells ----------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """How many jobs could run now, but for the limits that they share with others, and wait for a worker."""
        return self._waiting.queued

    @property
    def scheduled(self) -> int:
        """How many jobs wait for a time: of a delay, or of a retry."""
        return self._waiting.scheduled

    @property
    def unfinished(self) -> int:
        """How many jobs have not been answered."""
        return sum(generation.unfinished for generation in self.generations)

    @property
    def finished(self) -> int:
        """How many jobs have ended, one way or another."""
        return self._endings.finished

    @property
    def failed(self) -> int:
        """How many of them have failed."""
        return self._endings.failed

    @property
    def crashed(self) -> int:
        """How often a worker has crashed in a job."""
        return self._endings.crashed

    @property
    def stopping(self) -> bool:
        """Whether the queue was closed: nothing is started any more."""
        return self._endings.stopping

    def crowded_queues(self, most: int) -> dict[str, int]:
        """Return the queues whose limits so many of their jobs wait for, and how many these are."""
        return self._waiting.lines.crowded(most)

    def describe_queues(self) -> list[dict[str, Any]]:
        """Return the pool's queues: their limits, how many of their jobs run, and wait for these."""
        return self._waiting.lines.describe()

    def estimated_wait(self) -> float:
        """Return about how many seconds a job that is queued now will wait, from the run times of late."""
        return self.queued * self._mean_seconds / self.staff.size

    # What clients want ------------------------------------------------------------------------------------------

    def submit(self, job: Job, now: float, *, delay: float = 0.0, expires: float = 0.0) -> None:
        """Take a job: into the queue, or with a delay into the timetable. Less than 0, `expires` was so long ago."""
        job.generation.unfinished += 1
        if expires < 0:
            self._endings.expire(job)
            return
        self._waiting.add(job, now, delay=delay, expires=expires)

    def reject(self, job: Job, error: str, message: str, details: dict[str, Any]) -> None:
        """Answer a submission that is not taken."""
        self._endings.reject(job, error, message, details)

    def cancel(self, job: Job, now: float) -> bool:
        """Cancel a job, running or not; return False if it has an answer, or its answer is under way."""
        if job.slot is not None:
            self._assigner.take_back(job.slot, now, even_one=True)
        if job.state in FINAL:
            return False
        if job.slot is not None:
            return self._cancel_running(job, job.slot, now)
        self._waiting.count_out(job)
        self._endings.cancel(job, f"{job_name(job)} was cancelled before it ran")
        return True

    def _cancel_running(self, job: Job, slot: Slot, now: float) -> bool:
        if slot.stop in {Stop.NONE, Stop.RETIRE}:
            if slot.jobs[-1] is not job:
                return False  # the worker reads a job when it has answered the one before
            self._guard.stop(slot, Stop.CANCEL, now)
        elif slot.jobs[0] is job:
            slot.stop = Stop.CANCEL  # it is being stopped for another reason, which might have let it run again
        else:
            return False
        return True

    def isolate(self, job: Job, slot: Slot, now: float) -> bool:
        """Leave a worker only the job that it is in; return whether that is this one, and it is not being stopped."""
        return slot.stop in {Stop.NONE, Stop.RETIRE} and self._assigner.take_back(slot, now) and slot.current is job

    def resize(self, least: int, most: int, now: float) -> None:
        """Change the number of workers, or its bounds: more at once, fewer as their jobs end."""
        self.staff.resize(least, most, now)
        self.assign(now)

    def supersede(self, old: Generation, new: Generation, now: float) -> None:
        """Let newer code take over: what waits runs on the new generation, what runs ends on the old one."""
        self._assigner.take_back_all((slot for slot in self.slots if slot.generation is old), now)
        old.successor = new
        self._waiting.hand_over(old, new)
        self.staff.retire_generation(old, now)

    def pause(self, now: float) -> None:
        """Start no more jobs, not even those that lie before a worker; running ones go on."""
        self.paused = True
        self._assigner.take_back_all(self.slots, now)

    def close_queue(self, reason: str) -> None:
        """Give up every job that has not been started."""
        self._endings.stopping = True
        self._endings.stop_reason = reason
        for job in self._waiting.drain():
            self._endings.give_up(job)

    def stop_running(self, now: float) -> None:
        """Stop every worker: idle ones end, busy ones are terminated and, after the grace period, killed."""
        for slot in self.slots:
            if slot.state in {SlotState.EMPTY, SlotState.STOPPING}:
                continue
            if slot.state is SlotState.IDLE:
                self.staff.retire(slot, now)
            elif slot.state is SlotState.STARTING or self._assigner.take_back(slot, now):
                self._guard.stop(slot, Stop.SHUTDOWN, now)
            elif slot.stop is Stop.NONE:
                self.staff.retire(slot, now)

    # What workers do ------------------------------------------------------------------------------------------

    def on_finished(self, slot: Slot, answer: Finished, frame: bytes, fd: int | None, now: float) -> int | None:
        """Take a worker's answer to a job; return the descriptor if it is not wanted."""
        if slot.stop is not _NOT_STOPPED and slot.stop in _DECIDED and slot.jobs and slot.jobs[0].id == answer.job_id:
            return fd  # too late: its end is decided, and told when the worker has gone
        job = _pick(slot, answer.job_id)
        if job is None:
            self._engine.log(f"worker {slot.number} answered for a job that it was not given")
            return fd
        self._observe(slot, job, answer)
        unwanted = self._endings.settle_answered(job, answer, frame, fd, now)
        self._after_job(slot, now)
        return unwanted

    def _observe(self, slot: Slot, job: Job, answer: Finished) -> None:
        """Take note of how long a job has run, and of what its worker has become."""
        slot.jobs_done += 1
        if slot.jobs_done == 1:
            job.generation.budget.add_success()
        slot.is_slow = False
        seconds = answer.seconds
        job.kind.observe(seconds)
        if self._measured < 16:
            self._measured += 1  # the first weigh more: there were no jobs of zero seconds before
        self._mean_seconds += (seconds - self._mean_seconds) / self._measured
        if answer.rss_bytes and keeps_too_much(slot, answer.rss_bytes, job.kind.options.max_rss):
            slot.has_grown = True

    def _after_job(self, slot: Slot, now: float) -> None:
        if slot.stop is not _NOT_STOPPED and slot.stop is not Stop.RETIRE:
            return
        if slot.jobs:
            self._assigner.set_deadlines(slot, now)
        elif slot.stop is Stop.RETIRE:
            self.staff.await_end(slot, now)
        elif self.staff.is_used_up(slot) or self.staff.is_unwanted(slot):
            self.staff.retire(slot, now)
        else:
            self.staff.set_idle(slot, now)

    def on_examined(self, slot: Slot, job: Job | None, stack: str, now: float) -> None:
        """Take note of where a worker is: `job` is the one that it was in when it was asked, None before its first."""
        who = f"worker {slot.number}"
        if job is not None:
            job.stack = stack
            who = job_name(job)
        if stack and slot.stop is Stop.NONE:
            self._engine.log(f"{who} is slow (slow_after); it is here:\n{stack}")
        elif stack:
            self._engine.log(f"{who} is stopped ({slot.stop.name.lower()}); it was here:\n{stack}")
        self._guard.on_examined(slot, now)

    def on_exit(self, slot: Slot, how: How, unread: Iterable[bytes], now: float) -> None:
        """Settle a worker that has gone: (signal, exit code), and the ids of jobs that it had not read."""
        self._assigner.give_back(slot, unread)
        if slot.jobs and slot.stop in {Stop.NONE, Stop.RETIRE} and not self._engine.has_begun(slot.jobs[-1]):
            self._assigner.give_back(slot, [slot.jobs[-1].id])
        was_in_job = bool(slot.jobs)
        while slot.jobs:
            self._endings.settle_interrupted(slot.jobs.popleft(), slot, how, now)
        self.staff.on_exit(slot, how, now, was_in_job=was_in_job)

    # Time -------------------------------------------------------------------------------------------------------

    def next_deadline(self, now: float) -> float:
        """Return the monotonic time at which `advance` has something to do, infinity when it has nothing."""
        deadline = min(self._waiting.next_time(), self.staff.next_time(now))
        if not self.stopping:
            deadline = min(deadline, self._scaler.next_time())
        for slot in self.slots:
            if slot.limits is not None:
                deadline = min(deadline, slot.limits.next_time())
            deadline = min(deadline, slot.take_back_at, slot.term_at, slot.kill_at)
        return deadline

    def advance(self, now: float) -> None:
        """Do what is due: queue delayed jobs, stop the overdue, kill the stubborn, take back, shrink, expire."""
        self._waiting.lines.advance(now)
        for job in self._waiting.queue_due(now):
            self._engine.note_state(job, Reason.NONE, "")
        for slot in self.slots:
            if not self._guard.advance(slot, now) and not self._assigner.advance(slot, now):
                self.staff.advance(slot, self._guard, now)
        for job in self._waiting.take_expired(now):
            self._endings.expire(job)
        if not self.stopping:
            self._scale(now)

    def _scale(self, now: float) -> None:
        if self._scaler.is_due(now):
            for generation in self.generations:
                self._assigner.park_blocked(generation, now)
        self._scaler.advance(now)

    def forgive(self, seconds: float, now: float) -> None:
        """Push back the deadlines of running jobs: the supervisor was not there (stopped, or not scheduled)."""
        for slot in self.slots:
            self._guard.forgive(slot, seconds, now)
            slot.take_back_at += seconds
            if slot.state is SlotState.STARTING:
                self.staff.forgive(slot, seconds, now)

    def assign(self, now: float) -> None:
        """Give waiting jobs to idle workers, tiny ones ahead to busy workers, and start workers that are missing."""
        if self.stopping:
            return
        if not self.paused:
            self._give_out(now)
        self.staff.spawn_missing(now, paused=self.paused)
        self._scaler.observe(now, may_grow=not self.paused)

    def _give_out(self, now: float) -> None:
        self._waiting.call_held(now)
        calls = -1
        while calls != self._waiting.calls:  # who waited in a line may have been called for a generation seen already
            calls = self._waiting.calls
            for generation in self.generations:
                if generation.queue:
                    self._assigner.assign(generation, now)


def _pick(slot: Slot, job_id: bytes) -> Job | None:
    """Take the job that was answered out of the slot: the first one, but for a job that is being cancelled."""
    jobs = slot.jobs
    if jobs and jobs[0].id == job_id:
        return jobs.popleft()
    for job in jobs:
        if job.id == job_id:
            jobs.remove(job)
            return job
    return None
