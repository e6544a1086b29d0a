"""How jobs end: with their worker's answer, with a verdict of ours, or with another attempt. Pure.

A job gets exactly one answer, through `Engine.answer`, when it reaches a final state.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from procjobs.dispatch.failures import Verdict, describe_attempt, first_line, job_name, judge, quarantine
from procjobs.dispatch.model import Stop
from procjobs.dispatch.pending import follow
from procjobs.shared.states import Event, JobState, Reason
from procjobs.shared.wire import Finished, Outcome, finished_frame

if TYPE_CHECKING:
    from procjobs.dispatch.failures import How
    from procjobs.dispatch.model import Job, Slot
    from procjobs.dispatch.pending import Waiting
    from procjobs.dispatch.ports import Engine
    from procjobs.shared.config import JobOptions

# Looking up a member of an enum costs 40 ns; these are looked up for every job.
_NO_REASON, _SUCCEEDED, _RETURNED = Reason.NONE, JobState.SUCCEEDED, Outcome.RETURNED


class Endings:
    """Settles jobs, and counts how they ended. Once `stopping`, none is tried again."""

    def __init__(self, engine: Engine, waiting: Waiting, jitter: Callable[[], float] = random.random) -> None:
        self._engine = engine
        self._waiting = waiting
        self._jitter = jitter
        self.finished = self.failed = self.crashed = 0
        self.stopping = False
        self.stop_reason = ""

    # With the worker's answer -----------------------------------------------------------------------------------

    def settle_answered(self, job: Job, answer: Finished, frame: bytes, fd: int | None, now: float) -> int | None:
        """Act on a worker's answer; return the descriptor if it is not wanted."""
        if answer.outcome == _RETURNED:
            job.state = _SUCCEEDED  # advance(RETURN), without the look-up: this runs for every job, as its start does
            self._settle(job)
            self._engine.answer(job, _NO_REASON, frame, fd, "")
            return None
        reason, error = _reason_of(answer), first_line(answer.details)
        if answer.outcome == Outcome.RAISED and self._may_retry(job):
            self._note_attempt(job, reason, error)
            self._retry(job, reason, error, now)
            return fd
        job.advance(Event.FAIL)
        self._settle(job)
        self.failed += 1
        self._engine.answer(job, reason, frame, fd, error)
        return None

    def _settle(self, job: Job) -> None:
        job.slot = None
        if job.place is not None:
            self._waiting.lines.release(job)
            job.place = None
        job.generation.unfinished -= 1
        self.finished += 1

    # With its worker --------------------------------------------------------------------------------------------

    def settle_interrupted(self, job: Job, slot: Slot, how: How, now: float) -> None:
        """Decide about the job that a worker was in when it ended."""
        if slot.stop is Stop.CANCEL:
            self.cancel(job, f"{job_name(job)} was cancelled while it ran")
            return
        verdict = judge(job, slot, how, self._engine.account(job), self.stop_reason)
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

    def _note_attempt(self, job: Job, reason: Reason, error: str, how: How = (None, None)) -> None:
        """Add an attempt that failed to the job's history."""
        job.history = job.history or []
        job.history.append(describe_attempt(job, reason, error, how, self._engine.account(job)))

    # With another attempt ---------------------------------------------------------------------------------------

    def _may_retry(self, job: Job) -> bool:
        cut_off = 0 if job.durable is None else job.durable.cut_off  # these runs were not the job's to lose
        return job.attempt - cut_off <= job.kind.options.retries and not self.stopping

    def _retry(self, job: Job, reason: Reason, error: str, now: float) -> None:
        job.advance(Event.RETRY)
        self._engine.note_state(job, reason, error)
        job.slot = None
        if job.transcript is not None:
            job.transcript.begin_attempt()
        follow(job)
        self._waiting.lines.release(job)
        pause = backoff_pause(job.kind.options, job.attempt, self._jitter())
        self._waiting.add_until(now + pause, job)

    # With a verdict ---------------------------------------------------------------------------------------------

    def cancel(self, job: Job, message: str) -> None:
        """Answer a job that is cancelled."""
        job.advance(Event.CANCEL)
        self._conclude(job, Verdict(Reason.CANCELLED, "JobCancelled", message))

    def expire(self, job: Job) -> None:
        """Answer a job that was not started in time."""
        job.advance(Event.EXPIRE)
        self._conclude(job, Verdict(Reason.EXPIRED, "JobExpired", f"{job_name(job)} had not started when it expired"))

    def give_up(self, job: Job) -> None:
        """Answer a job that the pool will not start any more."""
        job.advance(Event.REJECT)
        self._conclude(job, Verdict(Reason.STOPPED, "PoolClosed", f"{job_name(job)} was not run: {self.stop_reason}"))

    def reject(self, job: Job, error: str, message: str, details: dict[str, Any]) -> None:
        """Answer a submission that is not taken."""
        job.generation.unfinished += 1
        job.advance(Event.REJECT)
        self._conclude(job, Verdict(Reason.REJECTED, error, message, details))

    def _conclude(self, job: Job, verdict: Verdict) -> None:
        """Make the answer of a job that has none of its own."""
        self._settle(job)
        self.failed += job.state is JobState.FAILED
        frame = finished_frame(job.id, Outcome.VERDICT, verdict.reason, job.attempt, 0.0, verdict.to_json(job))
        self._engine.answer(job, verdict.reason, frame, None, verdict.message)


def backoff_pause(options: JobOptions, attempt: int, jitter: float) -> float:
    """Return the seconds to wait after this attempt: doubled each time, capped, shortened by up to a half."""
    pause = min(options.backoff * 2.0 ** min(attempt - 1, 60), options.max_backoff)
    return pause * (1.0 - jitter / 2)


def _reason_of(answer: Finished) -> Reason:
    if answer.outcome != Outcome.RAISED:
        return Reason.PAYLOAD
    return Reason.TIMEOUT if answer.reason == Reason.TIMEOUT else Reason.RAISED
