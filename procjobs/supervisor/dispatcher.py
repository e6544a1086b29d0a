"""The scheduling core: which job runs when, on which worker, and how often.

It does no I/O and reads no clock: it is told events and the monotonic time, and calls an Engine. How many workers there
are is the Staff's, how long a job may run the Guard's. What always holds:

1. A job that was submitted gets exactly one answer, through `Engine.answer`, when it reaches a final state.
2. A job is started at most 1 + retries times. A start that is taken back before the worker began does not count.
3. A job with work behind it is in one place: one queue, one timetable, one line of its key, or one slot.
4. Higher priority starts first, then first come, first served, within one generation of code.
5. No worker is idle while a job of its generation waits that may run, unless the pool is paused.
6. A worker that is being stopped gets no job, and its jobs are settled when it has gone, not before.
7. Of the jobs of one key, at most one runs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from procjobs.config import JobOptions, PoolSettings
from procjobs.shared.states import FINAL, Event, JobState, Reason
from procjobs.shared.wire import Finished, Outcome, finished_frame
from procjobs.supervisor.engine import Engine
from procjobs.supervisor.guard import Guard, keeps_too_much
from procjobs.supervisor.jobs import Generation, Job, Slot, SlotState, Stop
from procjobs.supervisor.queue import KeyLines, Timetable
from procjobs.supervisor.staff import Staff
from procjobs.supervisor.verdicts import Verdict, describe_attempt, first_line, job_name, judge, quarantine

_NEVER = float("inf")

AHEAD = 64
"""The most tiny jobs that lie before one worker. Of 16 it ran out while the supervisor was busy: 7 % fewer jobs a second."""
TINY_SECONDS = 0.000_3
"""A kind whose runs take less on average is worth sending ahead: a trip over two pipes takes 0.03 to 0.2 ms."""
TAKE_BACK_SECONDS = 0.002
"""How long the first of several jobs may take before those behind it are taken back."""
BEGIN_SECONDS = 5.0
"""How long a worker may take to read the job that it was given: one that was stopped between two jobs never does."""
# Looking up a member of an enum costs 40 ns; these are looked up for every job.
_NOT_STOPPED, _NO_REASON, _RETURNED = Stop.NONE, Reason.NONE, Outcome.RETURNED
_RUNNING, _SUCCEEDED, _BUSY = JobState.RUNNING, JobState.SUCCEEDED, SlotState.BUSY
_DECIDED = frozenset({Stop.TIMEOUT, Stop.CANCEL, Stop.SHUTDOWN, Stop.STALL, Stop.MEMORY})
"""Why a job is being stopped whose answer, should it come now, comes too late."""


class Dispatcher:
    """Queue, slots, deadlines and retries of one pool."""

    def __init__(self, engine: Engine, settings: PoolSettings, *, jitter: Callable[[], float] = random.random) -> None:
        self._engine = engine
        self._settings = settings
        self._jitter = jitter
        self._delayed = Timetable()
        self._expiring = Timetable()
        self._keys = KeyLines()
        self.staff = Staff(engine, settings)
        self._guard = Guard(engine, settings.job_defaults.grace_period, self._take_back)
        self.slots = self.staff.slots
        self.generations = self.staff.generations
        self.paused = False
        self.stopping = False
        self._stop_reason = ""
        self.scheduled = 0
        self.finished = self.failed = self.crashed = 0
        self._mean_seconds = 0.0
        self._measured = 0

    # What the pool is told --------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """How many jobs could run now, but for their key, and wait for a worker."""
        return sum(len(generation.queue) for generation in self.generations) + self._keys.waiting

    @property
    def unfinished(self) -> int:
        """How many jobs have not been answered."""
        return sum(generation.unfinished for generation in self.generations)

    def estimated_wait(self) -> float:
        """Return about how many seconds a job that is queued now will wait, from the run times of late."""
        return self.queued * self._mean_seconds / self.staff.most

    def submit(self, job: Job, now: float, *, delay: float = 0.0, expires: float = 0.0) -> None:
        """Take a job: into the queue, or with a delay into the timetable."""
        job.generation.unfinished += 1
        if expires:
            job.expires_at = now + expires
            self._expiring.add(job.expires_at, job)
        if delay > 0:
            job.state = JobState.SCHEDULED
            self._delayed.add(now + delay, job)
            self.scheduled += 1
        else:
            job.generation.queue.push(job)

    def cancel(self, job: Job, now: float) -> bool:
        """Cancel a job, running or not; return False if it has an answer, or its answer is under way."""
        if job.slot is not None:
            self._take_back(job.slot, now, even_one=True)
        if job.state in FINAL:
            return False
        if job.slot is not None:
            return self._cancel_running(job, job.slot, now)
        self._stop_waiting(job)
        job.advance(Event.CANCEL)
        self._conclude(job, Verdict(Reason.CANCELLED, "JobCancelled", f"{job_name(job)} was cancelled before it ran"))
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
        return slot.stop in {Stop.NONE, Stop.RETIRE} and self._take_back(slot, now) and slot.current is job

    def resize(self, least: int, most: int, now: float) -> None:
        """Change the number of workers: more at once, fewer as their jobs end."""
        self.staff.least, self.staff.most = least, most
        self.staff.retire_surplus(now)
        self.assign(now)

    def supersede(self, old: Generation, new: Generation, now: float) -> None:
        """Let newer code take over: what waits runs on the new generation, what runs ends on the old one."""
        self._take_back_all((slot for slot in self.slots if slot.generation is old), now)
        old.successor = new
        waiting = list(_drain(old))
        elsewhere = [job for job in (*self._keys.jobs(), *self._delayed.jobs()) if job.generation is old]
        for job in waiting:
            new.queue.push(job)
        for job in waiting + elsewhere:
            _follow(job)
        self.staff.retire_generation(old, now)

    def pause(self, now: float) -> None:
        """Start no more jobs, not even those that lie before a worker; running ones go on."""
        self.paused = True
        self._take_back_all(self.slots, now)

    def close_queue(self, reason: str) -> None:
        """Give up every job that has not been started."""
        self.stopping = True
        self._stop_reason = reason
        waiting = [job for generation in self.generations for job in _drain(generation)]
        waiting += self._keys.drain()
        while (delayed := self._delayed.pop_due(_NEVER)) is not None:
            if delayed.state in {JobState.SCHEDULED, JobState.RETRYING}:
                self.scheduled -= 1
                delayed.advance(Event.DUE)
                waiting.append(delayed)
        for job in waiting:
            self._give_up(job)

    def _give_up(self, job: Job) -> None:
        job.advance(Event.REJECT)
        self._conclude(job, Verdict(Reason.STOPPED, "PoolClosed", f"{job_name(job)} was not run: {self._stop_reason}"))

    def stop_running(self, now: float) -> None:
        """Stop every worker: idle ones end, busy ones are terminated and, after the grace period, killed."""
        for slot in self.slots:
            if slot.state in {SlotState.EMPTY, SlotState.STOPPING}:
                continue
            if slot.state is SlotState.IDLE:
                self.staff.retire(slot, now)
            elif slot.state is SlotState.STARTING or self._take_back(slot, now):
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
        if answer.outcome == _RETURNED:
            job.state = _SUCCEEDED  # advance(RETURN), without the look-up: this runs for every job, as its start does
            self._settle(job)
            self._engine.answer(job, _NO_REASON, frame, fd, "")
            fd = None
        elif answer.outcome == Outcome.RAISED and self._may_retry(job):
            reason, error = _reason_of(answer), first_line(answer.details)
            self._note_attempt(job, reason, error)
            self._retry(job, reason, error, now)
        else:
            job.advance(Event.FAIL)
            self._settle(job)
            self.failed += 1
            self._engine.answer(job, _reason_of(answer), frame, fd, first_line(answer.details))
            fd = None
        self._after_job(slot, now)
        return fd

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
            self._set_deadlines(slot, now)
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

    def on_exit(self, slot: Slot, how: tuple[int | None, int | None], unread: Iterable[bytes], now: float) -> None:
        """Settle a worker that has gone: (signal, exit code), and the ids of jobs that it had not read."""
        self._give_back(slot, unread)
        if slot.jobs and slot.stop in {Stop.NONE, Stop.RETIRE} and not self._engine.has_begun(slot.jobs[-1]):
            self._give_back(slot, [slot.jobs[-1].id])
        was_in_job = bool(slot.jobs)
        while slot.jobs:
            self._settle_interrupted(slot.jobs.popleft(), slot, how, now)
        self.staff.on_exit(slot, how, now, was_in_job=was_in_job)

    def _settle_interrupted(self, job: Job, slot: Slot, how: tuple[int | None, int | None], now: float) -> None:
        """Decide about the job that a worker was in when it ended."""
        if slot.stop is Stop.CANCEL:
            job.advance(Event.CANCEL)
            self._conclude(job, Verdict(Reason.CANCELLED, "JobCancelled", f"{job_name(job)} was cancelled while it ran"))
            return
        account = self._engine.account(job)
        verdict = judge(job, slot, how, account, self._stop_reason)
        self._note_attempt(job, verdict.reason, verdict.message, how)
        if verdict.reason is Reason.CRASHED:
            self.crashed += 1
            job.crashes += 1
            if job.crashes >= job.kind.options.max_crashes:
                verdict = quarantine(job, verdict)
        if slot.stop is not Stop.SHUTDOWN:
            self._engine.log(verdict.message)
            if self._may_retry(job) and verdict.reason is not Reason.QUARANTINED:
                self._retry(job, verdict.reason, verdict.message, now)
                return
        job.advance(Event.FAIL)
        self._conclude(job, verdict)

    def _note_attempt(
        self, job: Job, reason: Reason, error: str, how: tuple[int | None, int | None] = (None, None)
    ) -> None:
        """Add an attempt that failed to the job's history."""
        job.history = job.history or []
        job.history.append(describe_attempt(job, reason, error, how, self._engine.account(job)))

    # Time -----------------------------------------------------------------------------------------------------

    def next_deadline(self, now: float) -> float:
        """Return the monotonic time at which `advance` has something to do, infinity when it has nothing."""
        deadline = min(self._delayed.next_time(), self._expiring.next_time(), self.staff.next_time(now))
        for slot in self.slots:
            if slot.limits is not None:
                deadline = min(deadline, slot.limits.next_time())
            deadline = min(deadline, slot.take_back_at, slot.term_at, slot.kill_at)
        return deadline

    def advance(self, now: float) -> None:
        """Do what is due: queue delayed jobs, stop the overdue, kill the stubborn, take back, shrink, expire."""
        while (job := self._delayed.pop_due(now)) is not None:
            if job.state in {JobState.SCHEDULED, JobState.RETRYING}:
                self.scheduled -= 1
                job.advance(Event.DUE)
                self._engine.note_state(job, Reason.NONE, "")
                job.generation.queue.push(job)
        for slot in self.slots:
            if self._guard.advance(slot, now):
                continue
            if slot.take_back_at <= now and len(slot.jobs) > 1:
                self._take_back(slot, now)
            elif slot.take_back_at <= now:
                self._replace_if_stuck(slot, now)
            else:
                self.staff.advance(slot, self._guard, now)
        while (job := self._expiring.pop_due(now)) is not None:
            self._expire(job)

    def forgive(self, seconds: float, now: float) -> None:
        """Push back the deadlines of running jobs: the supervisor was not there (stopped, or not scheduled)."""
        for slot in self.slots:
            self._guard.forgive(slot, seconds, now)
            slot.take_back_at += seconds
            if slot.state is SlotState.STARTING:
                self.staff.forgive(slot, seconds, now)

    def _expire(self, job: Job) -> None:
        if job.state in FINAL or job.state is JobState.RUNNING or job.attempt:
            return
        self._stop_waiting(job)
        job.advance(Event.EXPIRE)
        self._conclude(job, Verdict(Reason.EXPIRED, "JobExpired", f"{job_name(job)} had not started when it expired"))

    # Assigning ------------------------------------------------------------------------------------------------

    def assign(self, now: float) -> None:
        """Give waiting jobs to idle workers, tiny ones ahead to busy workers, and start workers that are missing."""
        if self.stopping:
            return
        if not self.paused:
            for generation in self.generations:
                if generation.queue:
                    self._assign_waiting(generation, now)
        self.staff.spawn_missing(now, paused=self.paused)

    def _assign_waiting(self, generation: Generation, now: float) -> None:
        queue, idle = generation.queue, generation.idle
        while queue and idle:
            job = queue.first()
            if job is None:
                return
            if job.key and self._keys.is_taken(job.key):
                queue.drop_first()
                self._keys.park(job)
            elif self._give(idle[-1], job, now):
                idle.pop()
            else:
                return
        if queue:
            self._send_ahead(generation, now)

    def _give(self, slot: Slot, job: Job, now: float) -> bool:
        """Send a job to a worker and take it out of the queue; False if the worker cannot take it."""
        job.attempt += 1
        if not self._engine.send(slot, job):
            job.attempt -= 1
            return False
        job.generation.queue.drop_first()
        job.state = _RUNNING  # advance(START), without the look-up: this runs for every job
        job.slot = slot
        if job.key:
            self._keys.take(job)
        slot.jobs.append(job)
        if len(slot.jobs) == 1:
            slot.state = _BUSY
            self._set_deadlines(slot, now)
        elif slot.take_back_at > now + TAKE_BACK_SECONDS:
            slot.take_back_at = now + TAKE_BACK_SECONDS
        return True

    def _send_ahead(self, generation: Generation, now: float) -> None:
        """Let tiny jobs lie before busy workers, so that none waits for the supervisor between two of them.

        Not those that print: whose output it is can only be told while a worker has one job.
        """
        if self._settings.max_jobs_per_worker is not None:
            return
        quick = [slot for slot in self.slots if slot.generation is generation and self._may_have_more(slot)]
        quick.sort(key=lambda slot: len(slot.jobs))
        for place, slot in enumerate(quick):
            share = -(-len(generation.queue) // (len(quick) - place))  # one that got all would leave the others idle
            most = min(len(slot.jobs) + share, AHEAD)
            while len(slot.jobs) < most:
                job = generation.queue.first()
                if job is None or not _is_tiny(job) or not self._give(slot, job, now):
                    break

    def _may_have_more(self, slot: Slot) -> bool:
        if slot.state is not _BUSY or slot.stop is not _NOT_STOPPED or slot.is_slow:
            return False
        return _is_tiny(slot.jobs[0]) and not self.staff.is_unwanted(slot)

    def _set_deadlines(self, slot: Slot, now: float) -> None:
        self._guard.watch(slot, now)
        slot.take_back_at = now + (TAKE_BACK_SECONDS if len(slot.jobs) > 1 else BEGIN_SECONDS)

    def _replace_if_stuck(self, slot: Slot, now: float) -> None:
        """Take the job from a worker that has not read it, and stop that worker: it would never read one."""
        slot.take_back_at = _NEVER
        if slot.jobs and slot.stop in {Stop.NONE, Stop.RETIRE} and not self._engine.has_begun(slot.jobs[0]):
            self._give_back(slot, self._engine.take_back(slot))
            if not slot.jobs:
                self._engine.log(f"worker {slot.number} has not taken its job for {BEGIN_SECONDS:g} s; it is replaced")
                self._guard.stop(slot, Stop.STUCK, now)

    # Taking back ----------------------------------------------------------------------------------------------

    def _take_back(self, slot: Slot, now: float, *, even_one: bool = False) -> bool:
        """Take back the jobs sent ahead of a busy worker; return whether it is still in a job.

        Where it had not read even the first one, it is idle after that. Either way it gets nothing ahead until it has
        answered: one that hangs is left with one job, which runs into its timeout.
        """
        slot.take_back_at = _NEVER
        slot.is_slow = True
        if slot.stop not in {Stop.NONE, Stop.RETIRE}:
            self._give_back(slot, self._engine.take_back(slot) if even_one else ())
        elif len(slot.jobs) > 1 or even_one:
            first = slot.jobs[0]
            self._give_back(slot, self._engine.take_back(slot))
            if slot.jobs and slot.jobs[-1] is not first:  # it has answered the first one, or never read it
                self._guard.watch(slot, now, last=True)
            elif not slot.jobs and slot.stop is Stop.NONE:
                self.staff.set_idle(slot, now)
            elif not slot.jobs:
                self.staff.await_end(slot, now)
        return bool(slot.jobs)

    def _take_back_all(self, slots: Iterable[Slot], now: float) -> None:
        """Take back from busy workers whatever they have not begun."""
        for slot in slots:
            if slot.state is SlotState.BUSY:
                self._take_back(slot, now, even_one=True)

    def _give_back(self, slot: Slot, job_ids: Iterable[bytes]) -> None:
        """Return jobs of a slot to the front of their queue, unstarted and in the order in which they were there."""
        unread = set(job_ids)
        for job in reversed(slot.jobs.copy() if unread else ()):
            if job.id in unread:
                slot.jobs.remove(job)
                job.advance(Event.TAKE_BACK)
                job.attempt -= 1
                job.slot = None
                self._release_key(job)
                self._wait_again(job)

    def _wait_again(self, job: Job) -> None:
        if self.stopping:
            self._give_up(job)
            return
        _follow(job)
        job.generation.queue.push_front(job)
        if job.expires_at and not job.attempt:
            self._expiring.add(job.expires_at, job)  # its turn may have come while it lay before a worker

    # Ends -----------------------------------------------------------------------------------------------------

    def _may_retry(self, job: Job) -> bool:
        return job.attempt <= job.kind.options.retries and not self.stopping

    def _retry(self, job: Job, reason: Reason, error: str, now: float) -> None:
        job.advance(Event.RETRY)
        self._engine.note_state(job, reason, error)
        job.slot = None
        if job.transcript is not None:
            job.transcript.begin_attempt()
        _follow(job)
        self._release_key(job)
        pause = backoff_pause(job.kind.options, job.attempt, self._jitter())
        self._delayed.add(now + pause, job)
        self.scheduled += 1

    def _stop_waiting(self, job: Job) -> None:
        """Count out a job that waits in the queue or in the timetable; it is dropped when its turn comes."""
        if job.state is not JobState.QUEUED:
            self.scheduled -= 1
        elif not self._keys.holds(job):
            job.generation.queue.forget()

    def _release_key(self, job: Job) -> None:
        if job.key:
            called = self._keys.release(job)
            if called is not None:
                called.generation.queue.push_front(called)

    def _settle(self, job: Job) -> None:
        job.slot = None
        if job.key:
            self._release_key(job)
        job.generation.unfinished -= 1
        self.finished += 1

    def _conclude(self, job: Job, verdict: Verdict) -> None:
        """Make the answer of a job that has none of its own."""
        self._settle(job)
        self.failed += job.state is JobState.FAILED
        frame = finished_frame(job.id, Outcome.VERDICT, verdict.reason, job.attempt, 0.0, verdict.to_json(job))
        self._engine.answer(job, verdict.reason, frame, None, verdict.message)

    def reject(self, job: Job, error: str, message: str, details: dict[str, Any]) -> None:
        """Answer a submission that is not taken."""
        job.generation.unfinished += 1
        job.advance(Event.REJECT)
        self._conclude(job, Verdict(Reason.REJECTED, error, message, details))


def backoff_pause(options: JobOptions, attempt: int, jitter: float) -> float:
    """Return the seconds to wait after this attempt: doubled each time, capped, shortened by up to a half."""
    pause = min(options.backoff * 2.0 ** min(attempt - 1, 60), options.max_backoff)
    return pause * (1.0 - jitter / 2)


def _is_tiny(job: Job) -> bool:
    kind = job.kind
    return kind.mean_seconds <= TINY_SECONDS and not kind.talks and not job.key


def _reason_of(answer: Finished) -> Reason:
    if answer.outcome != Outcome.RAISED:
        return Reason.PAYLOAD
    return Reason.TIMEOUT if answer.reason == Reason.TIMEOUT else Reason.RAISED


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


def _follow(job: Job) -> None:
    """Have a job that waits run on the newest code of its clients."""
    if job.state in FINAL:
        return
    while (successor := job.generation.successor) is not None:
        job.generation.unfinished -= 1
        successor.unfinished += 1
        job.generation = successor


def _drain(generation: Generation) -> Iterable[Job]:
    while (job := generation.queue.first()) is not None:
        generation.queue.drop_first()
        yield job
