"""The scheduling core: which job runs when, on which worker, and how often.

It does no I/O and reads no clock: events come in as calls, with the monotonic time, and everything that it needs done goes
out through three ports (procjobs.dispatch.ports). Its parts: PendingJobs keeps the jobs that wait, Assigner sends them to
workers, Completion ends them, WorkerSlots knows the workers, Scaler decides how many there are, Watchdog stops them. None
of the parts holds the dispatcher: it asks them, and acts on their answers. These laws always hold:

1. A job that was submitted gets exactly one answer, through `Outcomes.finished`, when it reaches a final state.
2. A job is started at most 1 + retries times, and again for each run that ended with the supervisor or the host. A start
   that is reclaimed before the worker began does not count.
3. A job without an answer is in one place: one queue, the queue of delayed jobs, one limiter, or one slot.
4. Higher priority starts first, then first come, first served, within one generation of code. A job that another one waits
   for is the next of its priority.
5. No worker is idle while a job of its generation waits that may run, unless the pool is paused, or as many jobs run as it
   has workers; those that wait for other jobs do not count.
6. A worker that is being stopped gets no job. Its job is settled when the worker has ended, or has answered for it after
   its interruption; then the worker goes on.
7. Of the jobs of one queue, or with one key, no more run, and no more are started in a rate's period, than was set.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterable
from typing import Any, Final

from procjobs.clock import NEVER
from procjobs.dispatch.assigner import Assigner
from procjobs.dispatch.completion import Completion
from procjobs.dispatch.failures import How, job_name
from procjobs.dispatch.limits import Stop
from procjobs.dispatch.model import Generation, Job, Slot, SlotState
from procjobs.dispatch.nesting import Nesting
from procjobs.dispatch.pending import PendingJobs
from procjobs.dispatch.ports import Host, Outcomes, Workers
from procjobs.dispatch.scaling import Scaler
from procjobs.dispatch.slots import WorkerSlots
from procjobs.dispatch.waits import Waits
from procjobs.dispatch.watchdog import Watchdog, keeps_too_much, may_answer
from procjobs.shared.config import PoolSettings
from procjobs.shared.states import FINAL
from procjobs.shared.wire import Finished

# Looking up a member of an enum costs 40 ns; these are looked up for every job.
_NOT_STOPPED, _RETIRE = Stop.NONE, Stop.RETIRE
_DECIDED = frozenset({Stop.TIMEOUT, Stop.CANCEL, Stop.SHUTDOWN, Stop.STALL, Stop.MEMORY})
"""Why a worker is being stopped in a job whose answer, should it come now, comes too late."""
_DID_NOT_END: Final[How] = (None, None)


class Dispatcher:
    """The one entrance to the core: for clients' wishes, workers' events, and the time."""

    def __init__(
        self,
        workers: Workers[Any],
        outcomes: Outcomes[Any],
        host: Host,
        settings: PoolSettings,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._workers = workers
        self._outcomes = outcomes
        self.waits = Waits()
        self.worker_slots = WorkerSlots(workers, outcomes, settings, self.waits)
        self.slots = self.worker_slots.slots
        self.generations = self.worker_slots.generations
        self._pending = PendingJobs(self.generations, settings.queues)
        self._completion = Completion(outcomes, self._pending, self.waits, jitter)
        self._assigner = Assigner(workers, outcomes, settings, self.worker_slots, self._pending, self._completion)
        self.nesting = Nesting(self.waits, self._pending, self.worker_slots)
        self._watchdog = Watchdog(workers, settings.job_defaults.grace_period)
        self._scaler = Scaler(host, self.worker_slots, settings.worker_idle)
        self.paused = self.held = False
        self._mean_seconds = 0.0
        self._measured = 0

    # For users --------------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """How many jobs wait for a worker, or for a limit that they share with others."""
        return self._pending.queued

    def reschedule(self, time_of: Callable[[Job], float | None]) -> None:
        """Let delayed jobs wait for other times (monotonic), where `time_of(job)` returns one."""
        self._pending.reschedule(time_of)

    @property
    def scheduled(self) -> int:
        """How many jobs wait for a time: of a delay, or of a retry."""
        return self._pending.scheduled

    @property
    def unfinished(self) -> int:
        """How many jobs have not been answered."""
        return sum(generation.unfinished for generation in self.generations)

    @property
    def finished(self) -> int:
        """How many jobs have ended, one way or another."""
        return self._completion.finished

    @property
    def failed(self) -> int:
        """How many of them have failed."""
        return self._completion.failed

    @property
    def crashed(self) -> int:
        """How often a worker has crashed in a job."""
        return self._completion.crashed

    @property
    def stopping(self) -> bool:
        """Whether the queue was closed: nothing is started any more."""
        return self._completion.stopping

    def saturated_queues(self, count: int) -> dict[str, int]:
        """Return the queues with at least `count` jobs that wait for their limits, and how many each has."""
        return self._pending.limiters.saturated(count)

    def describe_queues(self) -> list[dict[str, Any]]:
        """Return the pool's queues: their limits, how many of their jobs run, and how many wait for these limits."""
        return self._pending.limiters.describe()

    def oldest_waiting(self) -> tuple[float, Job | None]:
        """Return what `PendingJobs.oldest` and `PendingJobs.front` do."""
        oldest = self._pending.oldest()
        return oldest, None if oldest == NEVER else self._pending.front()

    def oldest_by_queue(self) -> dict[str, float]:
        """Return since when a job waits in each of the pool's queues; the jobs that their limits hold count here."""
        return self._pending.arrivals.oldest()

    def estimated_wait(self) -> float:
        """Return about how many seconds a job that is queued now will wait, judged by recent run times."""
        return self.queued * self._mean_seconds / self.worker_slots.size

    # Generations ------------------------------------------------------------------------------------------------

    def newest_generation(self) -> Generation | None:
        """Return the newest generation that no other one has taken over, None if there is none."""
        return next(iter(self.current_generations()), None)

    def current_generations(self) -> list[Generation]:
        """Return the generations that no other one has taken over, the newest first."""
        return [generation for generation in reversed(self.generations) if generation.successor is None]

    def supersede(self, old: Generation, new: Generation, now: float) -> None:
        """Let newer code take over: waiting jobs run on the new generation, running ones end on the old one."""
        self._assigner.reclaim_all((slot for slot in self.slots if slot.generation is old), now)
        old.successor = new
        self._pending.hand_over(old, new)
        self.worker_slots.retire_generation(old, now)

    def retire_generation(self, generation: Generation, now: float) -> None:
        """Let the idle workers of a generation end."""
        self.worker_slots.retire_generation(generation, now)

    # Clients' wishes --------------------------------------------------------------------------------------------

    def submit(self, job: Job, now: float, *, delay: float = 0.0, expires: float = 0.0) -> None:
        """Take a job that is to start after `delay` seconds, and within `expires` seconds.

        `expires` of 0 is never; a negative one means that the time is over already.
        """
        job.generation.unfinished += 1
        if expires < 0:
            self._completion.expire(job)
            return
        self._pending.add(job, now, delay=delay, expires=expires)
        self.nesting.hasten_if_awaited(job)  # it may be, if it was in the store only now

    def reject(self, job: Job, error: str, message: str, details: dict[str, Any]) -> None:
        """Answer a submission that is not taken."""
        self._completion.reject(job, error, message, details)

    def cancel(self, job: Job, now: float, *, at_once: bool = False) -> bool:
        """Cancel a job, running or not; return False if it has an answer, or its answer is under way.

        With `at_once`, its worker has no time to end it in.
        """
        if job.slot is not None:
            self._assigner.reclaim(job.slot, now, even_one=True)
        if job.state in FINAL:
            return False
        if job.slot is not None:
            slot = job.slot
            was_cancelled = self._watchdog.try_cancel(slot, job, now)
            if was_cancelled and at_once:
                self._watchdog.kill(slot, now)
            return was_cancelled
        self._pending.remove(job)
        self._completion.cancel(job, f"{job_name(job)} was cancelled before it ran")
        return True

    def begin_wait(self, job: Job, awaited: Iterable[Job], *, owner: Any, number: int, now: float) -> None:
        """Take note that a running job waits for any of these others; `nesting.refused` has the waits that are in vain."""
        slot = job.slot
        if slot is not None and self._assigner.reclaim(slot, now) and slot.current is job:
            self.nesting.begin(job, awaited, owner, number, NEVER if self.held else job.effective_priority)

    def isolate(self, job: Job, slot: Slot, now: float) -> bool:
        """Leave a worker only the job that it is in; return whether that is this one, and the worker is not stopped."""
        return slot.stop in {Stop.NONE, Stop.RETIRE} and self._assigner.reclaim(slot, now) and slot.current is job

    # The pool as a whole ----------------------------------------------------------------------------------------

    def resize(self, min_workers: int, max_workers: int, now: float) -> None:
        """Change the number of workers, or its bounds: more at once, fewer as their jobs end."""
        self.worker_slots.resize(min_workers, max_workers, now)
        self.assign(now)

    def pause(self, now: float) -> None:
        """Start no more jobs, not even those that lie before a worker; running ones go on."""
        self.paused = True
        self._assigner.reclaim_all(self.slots, now)

    def resume(self) -> None:
        """Start jobs again, from the next turn on."""
        self.paused = False

    @property
    def running(self) -> int:
        """How many jobs were sent to workers and have no answer."""
        return sum(len(slot.jobs) for slot in self.slots)

    def hold(self, now: float) -> None:
        """Start none but jobs that running ones wait for, whatever users pause and resume: a successor starts the others."""
        self.held = True
        self._assigner.reclaim_all(self.slots, now)
        self.nesting.hasten_all(NEVER)

    def unhold(self) -> None:
        """Start jobs again, from the next turn on."""
        self.held = False

    def waiting(self) -> list[tuple[Job, float]]:
        """Return the jobs that do not run, each with the time (monotonic) before which it may not."""
        return self._pending.waiting()

    def close_queue(self, reason: str) -> None:
        """Answer every job that has not been started: it will not be run, for this reason."""
        self._completion.begin_stop(reason)
        for job in self._pending.drain():
            self._completion.abandon(job)

    def stop_running(self, now: float) -> None:
        """Stop every worker: idle ones end, the jobs of busy ones are interrupted and, after the grace period, killed."""
        for slot in self.slots:
            if slot.state in {SlotState.EMPTY, SlotState.STOPPING}:
                continue
            if slot.state is SlotState.IDLE:
                self.worker_slots.retire(slot, now)
            elif slot.state is SlotState.STARTING or self._assigner.reclaim(slot, now):
                self._watchdog.stop(slot, Stop.SHUTDOWN, now)
            elif slot.stop is Stop.NONE:
                self.worker_slots.retire(slot, now)

    # Workers' events --------------------------------------------------------------------------------------------

    def on_ready(self, slot: Slot, baseline_bytes: int, now: float) -> None:
        """Take note that a worker has started: it can be given jobs. A second note changes nothing."""
        self.worker_slots.on_ready(slot, baseline_bytes, now)

    def on_init_failed(self, slot: Slot, problem: str) -> None:
        """Take note why a worker cannot start; it is about to end."""
        if slot.state is SlotState.STARTING and slot.generation is not None:
            slot.generation.problem = problem

    def on_spawn_failed(self, slot: Slot, problem: str, now: float) -> None:
        """Take note that a worker was not forked."""
        self.worker_slots.on_spawn_failed(slot, problem, now)

    def add_start_failure(self, generation: Generation, problem: str, now: float) -> None:
        """Count a template that was lost or did not start."""
        self.worker_slots.add_start_failure(generation, problem, now)

    def on_finished(self, slot: Slot, answer: Finished, frame: bytes, fd: int | None, now: float) -> int | None:
        """Take a worker's answer to a job; return the descriptor if it is not wanted."""
        if slot.stop is not _NOT_STOPPED and slot.stop in _DECIDED and slot.jobs and slot.jobs[0].id == answer.job_id:
            self._settle_stopped(slot, answer, now)
            return fd  # too late: how the job ends is decided
        jobs, job_id = slot.jobs, answer.job_id
        job = jobs.popleft() if jobs and jobs[0].id == job_id else slot.take(job_id)
        if job is None:
            self._outcomes.log(f"worker {slot.number} answered for a job that it was not given")
            return fd
        self._observe(slot, job, answer, now)
        unwanted = self._completion.complete(job, answer, frame, fd, now)
        self._after_job(slot, now)
        return unwanted

    def _settle_stopped(self, slot: Slot, answer: Finished, now: float) -> None:
        """End the job that a worker has answered for after its interruption. A worker that was not killed goes on."""
        if not may_answer(slot):
            return
        job = slot.jobs.popleft()
        slot.jobs_done += 1
        slot.is_slow = False
        self._completion.fail(job, slot, _DID_NOT_END, now)
        self._watchdog.release(slot, is_ending=self.worker_slots.is_ending(slot))
        if answer.rss_bytes and keeps_too_much(slot, answer.rss_bytes, job.kind.options.max_rss):
            self._retire_grown(slot)
        if self.stopping and slot.stop is Stop.NONE:
            self.worker_slots.retire(slot, now)
        else:
            self._after_job(slot, now)

    def _observe(self, slot: Slot, job: Job, answer: Finished, now: float) -> None:
        """Take note of how long a job has run, and of how large its worker has become."""
        slot.jobs_done += 1
        if slot.jobs_done == 1:
            job.generation.budget.add_success()
        slot.is_slow = False
        seconds = answer.seconds
        job.kind.observe(seconds, now - seconds - job.queued_at)
        if self._measured < 16:
            self._measured += 1  # the first ones weigh more: there were no jobs of zero seconds before them
        self._mean_seconds += (seconds - self._mean_seconds) / self._measured
        if answer.rss_bytes and keeps_too_much(slot, answer.rss_bytes, job.kind.options.max_rss):
            self._retire_grown(slot)

    def _retire_grown(self, slot: Slot) -> None:
        if slot.stop is Stop.NONE:
            self.worker_slots.retire_after_jobs(slot)

    def _after_job(self, slot: Slot, now: float) -> None:
        if slot.stop is not _NOT_STOPPED and slot.stop is not _RETIRE:
            return
        if slot.jobs:
            self._assigner.set_deadlines(slot, now)
        elif slot.stop is _RETIRE:
            self.worker_slots.await_end(slot, now)
        elif self.worker_slots.is_used_up(slot) or self.worker_slots.is_unwanted(slot):
            self.worker_slots.retire(slot, now)
        else:
            self.worker_slots.set_idle(slot, now)

    def on_spent(self, slot: Slot, why: str, now: float) -> None:
        """Give a worker no more jobs: it ends by itself after the answer to the one that it is in."""
        if slot.stop in _DECIDED:
            self.worker_slots.note_ending(slot)
        if slot.stop is not Stop.NONE or slot.state not in {SlotState.IDLE, SlotState.BUSY, SlotState.WAITING}:
            return
        self._outcomes.log(f"worker {slot.number} is replaced: a job has left what cannot be put back: {why}")
        if slot.state is SlotState.IDLE:
            self.worker_slots.retire(slot, now)
        else:
            self.worker_slots.retire_after_jobs(slot)

    def on_stack_dumped(self, slot: Slot, job: Job | None, stack: str, now: float) -> None:
        """Take note of where a worker is: `job` is the one that it was in when it was asked, None before its first."""
        who = f"worker {slot.number}"
        if job is not None:
            job.stack = stack
            who = job_name(job)
        if stack and slot.stop is Stop.NONE:
            self._outcomes.log(f"{who} is slow (slow_after); it is here:\n{stack}")
        elif stack:
            self._outcomes.log(f"{who} is stopped ({slot.stop.name.lower()}); it was here:\n{stack}")
        self._watchdog.on_stack_dumped(slot, now)

    def on_exit(self, slot: Slot, how: How, unread: Iterable[bytes], now: float) -> None:
        """Settle a worker that has ended: (signal, exit code), and the ids of the jobs that it had not read."""
        self._assigner.requeue(slot, unread)
        if slot.jobs and slot.stop in {Stop.NONE, Stop.RETIRE} and not self._workers.has_begun(slot.jobs[-1]):
            self._assigner.requeue(slot, [slot.jobs[-1].id])
        was_in_job = bool(slot.jobs)
        while slot.jobs:
            self._completion.fail(slot.jobs.popleft(), slot, how, now)
        self.worker_slots.on_exit(slot, how, now, was_in_job=was_in_job)

    # Time -------------------------------------------------------------------------------------------------------

    def next_deadline(self, now: float) -> float:
        """Return the monotonic time at which `advance` has something to do, infinity when it has nothing."""
        deadline = min(self._pending.next_time(), self.worker_slots.next_time(now))
        if not self.stopping:
            deadline = min(deadline, self._scaler.next_time())
        for slot in self.slots:
            if slot.limits is not None:
                deadline = min(deadline, slot.limits.next_time())
            deadline = min(deadline, slot.reclaim_at, slot.climb_at)
        return deadline

    def advance(self, now: float) -> None:
        """Do everything that is due: queue delayed jobs, act on slots, expire jobs, change the size."""
        self._pending.limiters.advance(now)
        for job in self._pending.queue_due(now):
            self._outcomes.queued(job)
            self.nesting.hasten_if_awaited(job)
        for slot in self.slots:
            self._advance_slot(slot, now)
        for job in self._pending.take_expired(now):
            self._completion.expire(job)
        if not self.stopping:
            self._scale(now)

    def _advance_slot(self, slot: Slot, now: float) -> None:
        """Do the first thing that is due about a worker; the next turn comes at once if there is another one."""
        if slot.climb_at <= now:
            self._watchdog.climb(slot, now)
        elif slot.limits is not None and slot.limits.next_time() <= now:
            self._assigner.reclaim(slot, now)
            self._watchdog.enforce(slot, now)
        elif slot.reclaim_at <= now:
            if self._assigner.reclaim_overdue(slot, now):
                self._watchdog.stop(slot, Stop.STUCK, now)
        elif self.worker_slots.is_overdue(slot, now):
            self._watchdog.stop(slot, Stop.START, now)

    def _scale(self, now: float) -> None:
        if self._scaler.is_due(now):
            for generation in self.generations:
                self._assigner.throttle_blocked(generation, now)
        self._scaler.advance(now)

    def extend_deadlines(self, seconds: float, now: float) -> None:
        """Push back the deadlines of running jobs: the supervisor was not there (stopped, or not scheduled)."""
        for slot in self.slots:
            self._watchdog.extend_deadlines(slot, seconds, now)
            slot.reclaim_at += seconds
            self.worker_slots.extend_deadline(slot, seconds, now)

    def assign(self, now: float) -> None:
        """Send waiting jobs to workers, and start workers that are missing."""
        if self.stopping:
            return
        is_paused = self.paused or self.held
        if self.waits.is_changed:
            self.nesting.refuse_endless()
        if not is_paused:
            self._assign_all(now)
        elif self.waits and not self.paused:
            self._assign_all(now, self.waits.awaited)
        self.worker_slots.spawn_missing(now, paused=is_paused)
        self._scaler.observe(now, may_grow=not is_paused)

    def _assign_all(self, now: float, only: Container[Job] | None = None) -> None:
        """Send jobs until limiters wake no more of them: a woken job may belong to a generation that had its turn."""
        self._pending.wake_throttled(now)
        wakes = -1
        while wakes != self._pending.wakes:
            wakes = self._pending.wakes
            for generation in self.generations:
                if generation.queue:
                    self._assigner.assign(generation, now, only)
