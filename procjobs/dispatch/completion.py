"""How jobs end: with their worker's answer, with a failure that the pool states, or with another attempt. Pure.

A job gets exactly one answer, through `Outcomes.finished`, when it reaches a final state. Retries are decided here, and so
are the pauses before them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from procjobs.dispatch.failures import (
    MAX_ATTEMPTS,
    Failure,
    How,
    describe_attempt,
    diagnose,
    first_line,
    job_name,
    quarantine,
)
from procjobs.dispatch.limits import Stop
from procjobs.dispatch.model import Job, Slot
from procjobs.dispatch.pending import PendingJobs, move_to_successor
from procjobs.dispatch.ports import Account, Outcomes
from procjobs.dispatch.waits import Waits
from procjobs.shared.config import JobOptions
from procjobs.shared.states import Event, JobState, Reason
from procjobs.shared.wire import Finished, Outcome

# Looking up a member of an enum costs 40 ns; these are looked up for every job.
_NO_REASON, _RETURN, _RETURNED = Reason.NONE, Event.RETURN, int(Outcome.RETURNED)


class Completion:
    """Ends jobs, and counts how they ended. Once `stopping`, no job is tried again."""

    def __init__(
        self, outcomes: Outcomes[Any], pending: PendingJobs, waits: Waits, jitter: Callable[[], float] = random.random
    ) -> None:
        self._outcomes = outcomes
        self._waits = waits
        self._pending = pending
        self._jitter = jitter
        self.finished = self.failed = self.crashed = 0
        self.stopping = False
        self._stop_reason = ""

    def begin_stop(self, reason: str) -> None:
        """Try no job again from now on; `reason` goes into the answers of the jobs that were not run to their end."""
        self.stopping = True
        self._stop_reason = reason

    # By the worker ----------------------------------------------------------------------------------------------

    def complete(self, job: Job, answer: Finished, frame: bytes, fd: int | None, now: float) -> int | None:
        """Act on a worker's answer; return the descriptor if it is not wanted."""
        if answer.outcome == _RETURNED:
            job.advance(_RETURN)
            self._settle(job)
            self._outcomes.finished(job, _NO_REASON, frame, fd, "")
            return None
        reason, error = _reason_of(answer), first_line(answer.details)
        if answer.outcome == Outcome.RAISED and self._may_retry(job):
            self._add_to_history(job, reason, error, (None, None), self._outcomes.account(job))
            self._retry(job, reason, error, answer.details, now)
            return fd
        job.advance(Event.FAIL)
        self._settle(job)
        self.failed += 1
        self._outcomes.finished(job, reason, frame, fd, error)
        return None

    def fail(self, job: Job, slot: Slot, how: How, now: float) -> None:
        """Decide about the job that a worker was in when it ended."""
        if slot.stop is Stop.CANCEL:
            self.cancel(job, f"{job_name(job)} was cancelled while it ran")
            return
        account = self._outcomes.account(job)
        if account.started_at is not None:
            seconds = max(account.ended_at - account.started_at, 0.0)
            job.kind.note_broken_run(seconds, now - seconds - job.queued_at)
        failure = diagnose(job, slot, how, account, self._stop_reason)
        self._add_to_history(job, failure.reason, failure.message, how, account)
        if failure.reason is Reason.CRASHED:
            self.crashed += 1
            job.crashes += 1
            if job.crashes >= job.kind.options.max_crashes:
                failure = quarantine(job, failure)
        if slot.stop is not Stop.SHUTDOWN and self._may_retry(job) and failure.reason is not Reason.QUARANTINED:
            self._outcomes.log(failure.message)  # its end, if it is one, is logged with the job's answer
            self._retry(job, failure.reason, failure.message, b"", now)
            return
        job.advance(Event.FAIL)
        self._conclude(job, failure)

    def _add_to_history(self, job: Job, reason: Reason, error: str, how: How, account: Account) -> None:
        job.history = [*(job.history or ())[1 - MAX_ATTEMPTS :], describe_attempt(job, reason, error, how, account)]

    # With another attempt ---------------------------------------------------------------------------------------

    def _may_retry(self, job: Job) -> bool:
        return job.attempt - job.interrupted <= job.kind.options.retries and not self.stopping

    def _retry(self, job: Job, reason: Reason, error: str, details: bytes, now: float) -> None:
        """Let a job wait for its next attempt. This is the one place that computes the pause before it."""
        due_at = now + backoff_pause(job.kind.options, job.attempt, self._jitter())
        job.advance(Event.RETRY)
        self._outcomes.retrying(job, reason, error, details, due_at)
        if self._waits.of:
            self._waits.end_attempt(job)
        job.slot = None
        move_to_successor(job)
        if job.shares_limits:
            self._pending.limiters.release(job)
        self._pending.add_delayed(due_at, job)

    # By the pool ------------------------------------------------------------------------------------------------

    def cancel(self, job: Job, message: str) -> None:
        """Answer a job that is cancelled."""
        job.advance(Event.CANCEL)
        self._conclude(job, Failure(Reason.CANCELLED, "JobCancelled", message))

    def expire(self, job: Job) -> None:
        """Answer a job that was not started in time."""
        job.advance(Event.EXPIRE)
        self._conclude(job, Failure(Reason.EXPIRED, "JobExpired", f"{job_name(job)} had not started when it expired"))

    def abandon(self, job: Job) -> None:
        """Answer a job that waits while the pool stops."""
        job.advance(Event.REJECT)
        text = f"{job_name(job)} was not run: {self._stop_reason}"
        self._conclude(job, Failure(Reason.STOPPED, "PoolClosed", text))

    def reject(self, job: Job, error: str, message: str, details: dict[str, Any]) -> None:
        """Answer a submission that is not taken."""
        job.generation.unfinished += 1
        job.advance(Event.REJECT)
        self._conclude(job, Failure(Reason.REJECTED, error, message, details))

    # All --------------------------------------------------------------------------------------------------------

    def _conclude(self, job: Job, failure: Failure) -> None:
        """Answer a job that gave no answer of its own."""
        self._settle(job)
        self.failed += job.state is JobState.FAILED
        self._outcomes.finished(job, failure.reason, failure.to_frame(job), None, failure.message)

    def _settle(self, job: Job) -> None:
        if self._waits.of:
            self._waits.settle(job)
        job.slot = None
        if job.shares_limits or job.expires_at:
            self._pending.settle(job)
        job.generation.unfinished -= 1
        self.finished += 1


def backoff_pause(options: JobOptions, attempt: int, jitter: float) -> float:
    """Return the seconds to wait after this attempt: doubled each time, capped, shortened by up to a half."""
    pause = min(options.backoff * 2.0 ** min(attempt - 1, 60), options.max_backoff)
    return pause * (1.0 - jitter / 2)


def _reason_of(answer: Finished) -> Reason:
    if answer.outcome != Outcome.RAISED:
        return Reason.PAYLOAD
    return Reason.TIMEOUT if answer.reason == Reason.TIMEOUT else Reason.RAISED
