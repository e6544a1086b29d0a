"""The scheduling core: which job runs when, on which worker, how often, and for how long.

It does no I/O and reads no clock: it is told events and the monotonic time, and calls an Engine. What always holds:

1. A job that was submitted gets exactly one answer, through `Engine.answer`, when it reaches a final state.
2. A job is started at most 1 + retries times. A start that is taken back before the worker began does not count.
3. A job with work behind it is in one place: one queue, one timetable, or one slot.
4. Higher priority starts first, then first come, first served, within one generation of code.
5. No worker is idle while a job of its generation waits, unless the pool is paused.
6. A worker that is being stopped gets no job, and its jobs are settled when it has gone, not before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from procjobs.config import JobOptions, PoolSettings
from procjobs.shared.states import FINAL, Event, JobState, Reason
from procjobs.shared.wire import Finished, Outcome, finished_frame
from procjobs.supervisor.engine import Engine
from procjobs.supervisor.jobs import Generation, Job, Slot, SlotState, Stop
from procjobs.supervisor.queue import Timetable
from procjobs.supervisor.verdicts import describe_end, first_line, job_name, judge

_NEVER = float("inf")

AHEAD = 16
"""The most tiny jobs that lie before one worker."""
TINY_SECONDS = 0.000_3
"""A kind whose runs take less on average is worth sending ahead: a trip over two pipes takes 0.03 to 0.2 ms."""
TAKE_BACK_SECONDS = 0.002
"""How long the first of several jobs may take before those behind it are taken back."""
FORGIVEN_SECONDS = 1.0
"""The least that a running job has left when the supervisor finds that it was itself away at a deadline."""


class Dispatcher:
    """Queue, slots, deadlines and retries of one pool."""

    def __init__(self, engine: Engine, settings: PoolSettings, *, jitter: Callable[[], float] = random.random) -> None:
        self._engine = engine
        self._settings = settings
        self._jitter = jitter
        self._delayed = Timetable()
        self._expiring = Timetable()
        self.least, self.most = settings.workers
        self.slots: list[Slot] = []
        self.generations: list[Generation] = []
        self.paused = False
        self.stopping = False
        self._stop_reason = ""
        self.scheduled = 0
        self.finished = self.failed = self.crashed = self.restarts = 0

    # What the pool is told --------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """How many jobs could run now and wait for a worker."""
        return sum(len(generation.queue) for generation in self.generations)

    @property
    def unfinished(self) -> int:
        """How many jobs have not been answered."""
        return sum(generation.unfinished for generation in self.generations)

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
        self._conclude(job, Reason.CANCELLED, "JobCancelled", f"{job_name(job)} was cancelled before it ran")
        return True

    def _cancel_running(self, job: Job, slot: Slot, now: float) -> bool:
        if slot.stop in {Stop.NONE, Stop.RETIRE}:
            if slot.jobs[-1] is not job:
                return False  # the worker reads a job when it has answered the one before
            self._stop(slot, Stop.CANCEL, now)
        elif slot.jobs[0] is job:
            slot.stop = Stop.CANCEL  # it is being stopped for another reason, which might have let it run again
        else:
            return False
        return True

    def resize(self, least: int, most: int, now: float) -> None:
        """Change the number of workers: more at once, fewer as their jobs end."""
        self.least, self.most = least, most
        for slot in self.slots[most:]:
            if slot.state is SlotState.IDLE:
                self._retire(slot, now)
        self.assign(now)

    def close_queue(self, reason: str) -> None:
        """Give up every job that has not been started."""
        self.stopping = True
        self._stop_reason = reason
        waiting = [job for generation in self.generations for job in _drain(generation)]
        while (delayed := self._delayed.pop_due(_NEVER)) is not None:
            if delayed.state in {JobState.SCHEDULED, JobState.RETRYING}:
                self.scheduled -= 1
                delayed.advance(Event.DUE)
                waiting.append(delayed)
        for job in waiting:
            self._give_up(job)

    def _give_up(self, job: Job) -> None:
        job.advance(Event.REJECT)
        self._conclude(job, Reason.STOPPED, "PoolClosed", f"{job_name(job)} was not run: {self._stop_reason}")

    def stop_running(self, now: float) -> None:
        """Stop every worker: idle ones end, busy ones are terminated and, after the grace period, killed."""
        for slot in self.slots:
            if slot.state in {SlotState.EMPTY, SlotState.STOPPING}:
                continue
            if slot.state is SlotState.IDLE:
                self._retire(slot, now)
            elif slot.state is SlotState.STARTING or self._take_back(slot, now):
                self._stop(slot, Stop.SHUTDOWN, now)
            elif slot.stop is Stop.NONE:
                self._retire(slot, now)

    # What workers do ------------------------------------------------------------------------------------------

    def on_ready(self, slot: Slot, now: float) -> None:
        """Take note of a worker that has started and can be given jobs."""
        assert slot.generation is not None
        slot.generation.problem = ""
        if slot.stop is not Stop.NONE or slot.state is not SlotState.STARTING:
            return
        self._set_idle(slot, now)
        if slot.number >= self.most:
            self._retire(slot, now)

    def on_finished(self, slot: Slot, answer: Finished, frame: bytes, fd: int | None, now: float) -> int | None:
        """Take a worker's answer to a job; return the descriptor if it is not wanted."""
        if slot.stop in {Stop.TIMEOUT, Stop.CANCEL, Stop.SHUTDOWN} and slot.jobs and slot.jobs[0].id == answer.job_id:
            return fd  # too late: its end is decided, and told when the worker has gone
        job = _pick(slot, answer.job_id)
        if job is None:
            self._engine.log(f"worker {slot.number} answered for a job that it was not given")
            return fd
        slot.jobs_done += 1
        if slot.jobs_done == 1:
            job.generation.budget.add_success()
        slot.is_slow = False
        job.kind.observe(answer.seconds)
        if answer.outcome == Outcome.RETURNED:
            job.advance(Event.RETURN)
            self._settle(job)
            self._engine.answer(job, Reason.NONE, frame, fd, "")
            fd = None
        elif answer.outcome == Outcome.RAISED and self._may_retry(job):
            self._retry(job, now)
        else:
            reason = Reason.RAISED if answer.outcome == Outcome.RAISED else Reason.PAYLOAD
            job.advance(Event.FAIL)
            self._settle(job)
            self.failed += 1
            self._engine.answer(job, reason, frame, fd, first_line(answer.details))
            fd = None
        self._after_job(slot, now)
        return fd

    def _after_job(self, slot: Slot, now: float) -> None:
        if slot.stop not in {Stop.NONE, Stop.RETIRE}:
            return
        if slot.jobs:
            self._set_deadlines(slot, now)
            return
        if slot.stop is Stop.RETIRE:
            self._await_end(slot, now)
            return
        limit = self._settings.max_jobs_per_worker
        if (limit is not None and slot.jobs_done >= limit) or slot.number >= self.most:
            self._retire(slot, now)
        else:
            self._set_idle(slot, now)

    def on_exit(self, slot: Slot, how: tuple[int | None, int | None], unread: Iterable[bytes], now: float) -> None:
        """Settle a worker that has gone: (signal, exit code), and the ids of jobs that it had not read."""
        self._give_back(slot, unread)
        if slot.jobs and slot.stop in {Stop.NONE, Stop.RETIRE} and not self._engine.has_begun(slot.jobs[-1]):
            self._give_back(slot, [slot.jobs[-1].id])
        stop, generation = slot.stop, slot.generation
        starting, guilty, untried = slot.state is SlotState.STARTING, bool(slot.jobs), not slot.jobs_done
        while slot.jobs:
            self._settle_interrupted(slot.jobs.popleft(), stop, how, now)
        assert generation is not None
        if slot.state is SlotState.IDLE:
            generation.idle.remove(slot)
        generation.slots -= 1
        slot.clear()
        if stop is Stop.NONE:
            self.restarts += 1
            if starting:
                self.add_start_failure(generation, f"a worker ended before it was ready ({describe_end(*how)})", now)
            elif not guilty:
                self._engine.log(f"worker {slot.number} ended while idle ({describe_end(*how)}); it is replaced")
                if untried:  # one that never gets as far as a job must not be replaced as fast as the host can fork
                    generation.budget.add_failure(now)

    def add_start_failure(self, generation: Generation, problem: str, now: float) -> None:
        """Count a worker or template that did not start; past the budget, the reason becomes the pool's problem."""
        generation.budget.add_failure(now)
        if generation.budget.spent or not generation.slots:
            generation.problem = generation.problem or problem
        self._engine.log(f"generation {generation.number}: {problem}")

    def on_spawn_failed(self, slot: Slot, problem: str, now: float) -> None:
        """Settle a slot whose worker could not be forked."""
        assert slot.generation is not None
        generation = slot.generation
        generation.slots -= 1
        slot.clear()
        self.add_start_failure(generation, problem, now)

    def _settle_interrupted(self, job: Job, stop: Stop, how: tuple[int | None, int | None], now: float) -> None:
        """Decide about the job that a worker was in when it ended."""
        if stop is Stop.CANCEL:
            job.advance(Event.CANCEL)
            self._conclude(job, Reason.CANCELLED, "JobCancelled", f"{job_name(job)} was cancelled while it ran")
            return
        verdict = judge(job, stop, how, self._engine.last_progress(job), self._stop_reason)
        self.crashed += verdict.reason is Reason.CRASHED
        if stop is not Stop.SHUTDOWN:
            self._engine.log(verdict.message)
            if self._may_retry(job):
                self._retry(job, now)
                return
        job.advance(Event.FAIL)
        self._conclude(job, *verdict)

    # Time -----------------------------------------------------------------------------------------------------

    def next_deadline(self, now: float) -> float:
        """Return the monotonic time at which `advance` has something to do, infinity when it has nothing."""
        deadline = min(self._delayed.next_time(), self._expiring.next_time())
        for slot in self.slots:
            deadline = min(deadline, slot.deadline, slot.kill_at, slot.take_back_at)
            if slot.state is SlotState.IDLE and self._is_surplus(slot):
                deadline = min(deadline, self._idle_until(slot))
        for generation in self.generations:
            if generation.ready and generation.budget.not_before > now:
                deadline = min(deadline, generation.budget.not_before)
        return deadline

    def advance(self, now: float) -> None:
        """Do what is due: queue delayed jobs, stop the overdue, kill the stubborn, take back, shrink, expire."""
        while (job := self._delayed.pop_due(now)) is not None:
            if job.state in {JobState.SCHEDULED, JobState.RETRYING}:
                self.scheduled -= 1
                job.advance(Event.DUE)
                job.generation.queue.push(job)
        for slot in self.slots:
            self._advance_slot(slot, now)
        while (job := self._expiring.pop_due(now)) is not None:
            self._expire(job)

    def _advance_slot(self, slot: Slot, now: float) -> None:
        if slot.kill_at <= now:
            slot.kill_at = now + 1.0
            self._engine.kill(slot)
        elif slot.deadline <= now:
            self._stop_overdue(slot, now)
        elif slot.take_back_at <= now:
            self._take_back(slot, now)
        elif slot.state is SlotState.IDLE and self._is_surplus(slot) and self._idle_until(slot) <= now:
            self._retire(slot, now)

    def _stop_overdue(self, slot: Slot, now: float) -> None:
        if self._take_back(slot, now) and slot.deadline <= now:
            self._stop(slot, Stop.TIMEOUT, now)

    def _idle_until(self, slot: Slot) -> float:
        return slot.idle_since + self._settings.worker_idle

    def forgive(self, seconds: float, now: float) -> None:
        """Push back the deadlines of running jobs: the supervisor was not there (stopped, or not scheduled)."""
        for slot in self.slots:
            if slot.deadline < _NEVER:
                slot.deadline = max(slot.deadline + seconds, now + FORGIVEN_SECONDS)
            if slot.kill_at < _NEVER:
                slot.kill_at += seconds

    def _expire(self, job: Job) -> None:
        if job.state in FINAL or job.state is JobState.RUNNING or job.attempt:
            return
        self._stop_waiting(job)
        job.advance(Event.EXPIRE)
        self._conclude(job, Reason.EXPIRED, "JobExpired", f"{job_name(job)} had not started when it expired")

    # Assigning ------------------------------------------------------------------------------------------------

    def assign(self, now: float) -> None:
        """Give waiting jobs to idle workers, tiny ones ahead to busy workers, and start workers that are missing."""
        if not self.paused and not self.stopping:
            for generation in self.generations:
                if generation.queue:
                    self._assign_waiting(generation, now)
        self._spawn_missing(now)

    def _assign_waiting(self, generation: Generation, now: float) -> None:
        queue, idle = generation.queue, generation.idle
        while queue and idle:
            slot = idle[-1]
            job = queue.first()
            if job is None or not self._give(slot, job, now):
                return
            idle.pop()
        if queue:
            self._send_ahead(generation, now)

    def _give(self, slot: Slot, job: Job, now: float) -> bool:
        """Send a job to a worker and take it out of the queue; False if the worker cannot take it."""
        job.attempt += 1
        if not self._engine.send(slot, job):
            job.attempt -= 1
            return False
        job.generation.queue.drop_first()
        job.state = JobState.RUNNING  # advance(START), without the look-up: this line runs for every job
        job.slot = slot
        slot.jobs.append(job)
        if len(slot.jobs) == 1:
            slot.state = SlotState.BUSY
            self._set_deadlines(slot, now)
        elif slot.take_back_at == _NEVER:
            slot.take_back_at = now + TAKE_BACK_SECONDS
        return True

    def _send_ahead(self, generation: Generation, now: float) -> None:
        """Let tiny jobs lie before busy workers, so that none waits for the supervisor between two of them."""
        for slot in self.slots:
            if slot.generation is not generation or slot.state is not SlotState.BUSY or slot.stop is not Stop.NONE:
                continue
            if slot.is_slow or slot.number >= self.most:
                continue
            if slot.jobs[0].kind.mean_seconds > TINY_SECONDS or self._settings.max_jobs_per_worker is not None:
                continue
            while len(slot.jobs) < AHEAD:
                job = generation.queue.first()
                if job is None or job.kind.mean_seconds > TINY_SECONDS or not self._give(slot, job, now):
                    break

    def _set_deadlines(self, slot: Slot, now: float) -> None:
        slot.deadline = _overdue_at(slot.jobs[0], now)
        slot.take_back_at = now + TAKE_BACK_SECONDS if len(slot.jobs) > 1 else _NEVER

    def _set_idle(self, slot: Slot, now: float) -> None:
        slot.state = SlotState.IDLE
        slot.idle_since = now
        slot.deadline = slot.take_back_at = _NEVER
        assert slot.generation is not None
        slot.generation.idle.append(slot)

    def _spawn_missing(self, now: float) -> None:
        """Keep the pool at its size: at least `least` workers, more up to `most` while jobs wait for one."""
        if self.stopping:
            return
        while len(self.slots) < self.most:
            self.slots.append(Slot(len(self.slots)))
        live = sum(slot.state is not SlotState.EMPTY for slot in self.slots)
        for generation in self._needy(now):
            starting = sum(s.generation is generation and s.state is SlotState.STARTING for s in self.slots)
            wanted = len(generation.queue) - starting - len(generation.idle)
            while live < self.least or (wanted > 0 and live < self.most):
                if not self._spawn(generation, now):
                    return
                live, wanted = live + 1, wanted - 1
            if wanted > 0 and not starting and not self.paused:
                self._make_room(generation, now)

    def _needy(self, now: float) -> Iterable[Generation]:
        """Yield the generations that may start workers: first those whose jobs have none, the current one last."""
        ready = [g for g in self.generations if g.ready and g.budget.not_before <= now]
        waiting = sorted((g for g in ready if g.queue), key=lambda g: (g.slots, g.started_at))
        current = self.generations[-1:] if self.generations and self.generations[-1] in ready else ready[-1:]
        return [*waiting, *(g for g in current if g not in waiting)]

    def _spawn(self, generation: Generation, now: float) -> bool:
        slot = next(s for s in self.slots if s.state is SlotState.EMPTY)
        slot.state = SlotState.STARTING
        slot.generation = generation
        slot.started_at = now
        generation.slots += 1
        if self._engine.spawn(slot):
            generation.started_at = now
            return True
        generation.slots -= 1
        slot.clear()
        return False

    def _make_room(self, needy: Generation, now: float) -> None:
        """Let a worker of other code end when all places are taken: an idle one, or one of those that have several."""
        if needy.slots and not any(g.idle for g in self.generations if g is not needy):
            return
        if any(slot.state is SlotState.STOPPING or slot.stop is Stop.RETIRE for slot in self.slots):
            return
        for slot in self.slots:
            if slot.generation is not needy and slot.state is SlotState.IDLE:
                self._retire(slot, now)
                return
        for slot in self.slots:
            if slot.generation is not needy and slot.state is SlotState.BUSY and slot.stop is Stop.NONE:
                slot.stop = Stop.RETIRE  # it ends after the jobs that it has: taken back at once, none might ever be run
                self._engine.retire(slot)
                return

    def _is_surplus(self, slot: Slot) -> bool:
        if slot.generation is not None and slot.generation.queue:
            return False  # it is about to get a job
        staying = sum(s.state is not SlotState.EMPTY and s.stop is Stop.NONE for s in self.slots)
        return staying > self.least

    # Stopping -------------------------------------------------------------------------------------------------

    def _stop(self, slot: Slot, why: Stop, now: float) -> None:
        """Begin the ladder: SIGTERM now, SIGKILL after the grace period.

        Of several jobs the worker is in the last one: it becomes the first, and the others' answers find them by id.
        """
        slot.jobs.rotate(1)
        grace = slot.jobs[0].kind.options.grace_period if slot.jobs else self._settings.job_defaults.grace_period
        slot.stop = why
        slot.state = SlotState.STOPPING
        slot.deadline = slot.take_back_at = _NEVER
        slot.kill_at = now + grace
        self._engine.terminate(slot)

    def _retire(self, slot: Slot, now: float) -> None:
        """Let a worker without a job end by itself."""
        assert slot.generation is not None
        if slot.state is SlotState.IDLE:
            slot.generation.idle.remove(slot)
        slot.stop = Stop.RETIRE
        self._await_end(slot, now)
        self._engine.retire(slot)

    def _await_end(self, slot: Slot, now: float) -> None:
        slot.state = SlotState.STOPPING
        slot.deadline = slot.take_back_at = _NEVER
        slot.kill_at = now + self._settings.job_defaults.grace_period

    def retire_generation(self, generation: Generation, now: float) -> None:
        """Let the idle workers of a generation end."""
        for slot in list(generation.idle):
            self._retire(slot, now)

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
                slot.deadline = _overdue_at(slot.jobs[-1], now)
            elif not slot.jobs and slot.stop is Stop.NONE:
                self._set_idle(slot, now)
            elif not slot.jobs:
                self._await_end(slot, now)
        return bool(slot.jobs)

    def _give_back(self, slot: Slot, job_ids: Iterable[bytes]) -> None:
        """Return jobs of a slot to the front of their queue, unstarted and in the order in which they were there."""
        unread = set(job_ids)
        for job in reversed(slot.jobs.copy() if unread else ()):
            if job.id in unread:
                slot.jobs.remove(job)
                job.advance(Event.TAKE_BACK)
                job.attempt -= 1
                job.slot = None
                self._wait_again(job)

    def _wait_again(self, job: Job) -> None:
        if self.stopping:
            self._give_up(job)
            return
        job.generation.queue.push_front(job)
        if job.expires_at and not job.attempt:
            self._expiring.add(job.expires_at, job)  # its turn may have come while it lay before a worker

    # Ends -----------------------------------------------------------------------------------------------------

    def _may_retry(self, job: Job) -> bool:
        return job.attempt <= job.kind.options.retries and not self.stopping

    def _retry(self, job: Job, now: float) -> None:
        job.advance(Event.RETRY)
        job.slot = None
        pause = backoff_pause(job.kind.options, job.attempt, self._jitter())
        self._delayed.add(now + pause, job)
        self.scheduled += 1

    def _stop_waiting(self, job: Job) -> None:
        """Count out a job that waits in the queue or in the timetable; it is dropped when its turn comes."""
        if job.state is JobState.QUEUED:
            job.generation.queue.forget()
        else:
            self.scheduled -= 1

    def _settle(self, job: Job) -> None:
        job.slot = None
        job.generation.unfinished -= 1
        self.finished += 1

    def _conclude(
        self, job: Job, reason: Reason, error: str, message: str, details: dict[str, Any] | None = None
    ) -> None:
        """Make the answer of a job that has none of its own."""
        self._settle(job)
        self.failed += job.state is JobState.FAILED
        verdict = {"error": error, "message": message, **(details or {})}
        frame = finished_frame(job.id, Outcome.VERDICT, reason, job.attempt, 0.0, verdict)
        self._engine.answer(job, reason, frame, None, message)

    def reject(self, job: Job, error: str, message: str) -> None:
        """Answer a submission that is not taken."""
        job.generation.unfinished += 1
        job.advance(Event.REJECT)
        self._conclude(job, Reason.REJECTED, error, message)


def backoff_pause(options: JobOptions, attempt: int, jitter: float) -> float:
    """Return the seconds to wait after this attempt: doubled each time, capped, shortened by up to a half."""
    pause = min(options.backoff * 2.0 ** min(attempt - 1, 60), options.max_backoff)
    return pause * (1.0 - jitter / 2)


def _overdue_at(job: Job, started: float) -> float:
    timeout = job.kind.options.timeout
    return started + timeout if timeout is not None else _NEVER


def _pick(slot: Slot, job_id: bytes) -> Job | None:
    """Take the job that was answered out of the slot: the first one, but for a job that is being cancelled."""
    for job in slot.jobs:
        if job.id == job_id:
            slot.jobs.remove(job)
            return job
    return None


def _drain(generation: Generation) -> Iterable[Job]:
    while (job := generation.queue.first()) is not None:
        generation.queue.drop_first()
        yield job
