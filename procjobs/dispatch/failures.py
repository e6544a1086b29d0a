"""In words: how a job ended that gave no answer of its own, and by whose doing. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from procjobs.dispatch.limits import Stop
from procjobs.dispatch.model import Job, Slot
from procjobs.dispatch.ports import Account
from procjobs.errors import describe_signal
from procjobs.shared.ids import to_text
from procjobs.shared.states import Reason
from procjobs.shared.wire import NO_PIPES_STATUS, WireError, failure_frame, limit_text, parse_json

How = tuple[int | None, int | None]
"""How a process ended: (signal, exit code), one of them None."""
MAX_ATTEMPTS: Final = 10
"""The attempts of a job's history that are kept, and go into its answer: the last ones."""
_MEBIBYTE: Final = 2**20


class Failure(NamedTuple):
    """Why a job ended; `error` names the exception that its client raises, `details` are the attributes of that one."""

    reason: Reason
    error: str
    message: str
    details: dict[str, Any] = {}

    def to_frame(self, job: Job) -> bytes:
        """Return the answer of the job: this failure, where the job was last seen, and its attempts before."""
        details = dict(self.details)
        if job.stack:
            details["stack"] = job.stack
        if job.history:
            details["history"] = job.history[-MAX_ATTEMPTS:]
        return failure_frame(job.id, self.error, self.message, reason=self.reason, attempt=job.attempt, details=details)


def diagnose(job: Job, slot: Slot, how: How, account: Account, stop_reason: str) -> Failure:
    """Return why a job failed whose worker has ended; the slot says why the worker was stopped, if it was."""
    options, who = job.kind.options, job_name(job)
    where = f"({_which_attempt(job)}; last progress: {account.progress or 'none'})"
    details = {"last_progress": account.progress}
    if slot.stop is Stop.TIMEOUT:
        text = f"{who} ran longer than its timeout of {options.timeout or 0:g} s and was stopped {where}"
        return Failure(Reason.TIMEOUT, "JobTimeout", text, details)
    if slot.stop is Stop.STALL:
        text = (
            f"{who} neither reported progress nor used any CPU time for its stall_timeout of "
            f"{options.stall_timeout or 0:g} s and was stopped {where}"
        )
        return Failure(Reason.STALLED, "JobStalled", text, details)
    if slot.stop is Stop.MEMORY:
        used, limit = slot.used_bytes, options.max_rss or 0
        text = (
            f"{who} and the processes that it started used {used / _MEBIBYTE:.1f} MiB of memory, more than its max_rss "
            f"of {limit / _MEBIBYTE:.1f} MiB, and were killed {where}"
        )
        return Failure(Reason.MEMORY, "MemoryLimitExceeded", text, {**details, "used_bytes": used, "max_rss": limit})
    if slot.stop is Stop.SHUTDOWN:
        return Failure(Reason.STOPPED, "PoolClosed", f"{who} was stopped while it ran: {stop_reason} {where}")
    return _diagnose_crash(who, where, how, account)


def _which_attempt(job: Job) -> str:
    """Return which attempt this is. Interrupted ones are not counted among the `1 + retries`, and are told apart."""
    counted = f"attempt {job.attempt - job.interrupted} of {1 + job.kind.options.retries}"
    if not job.interrupted:
        return counted
    others = "1 that was" if job.interrupted == 1 else f"{job.interrupted} that were"
    return f"{counted}, without {others} interrupted by the end of the pool or its host"


def _diagnose_crash(who: str, where: str, how: How, account: Account) -> Failure:
    number, code = how
    details = {
        "last_progress": account.progress, "signal": number, "exit_code": code, "stderr": limit_text(account.stderr, 4096)
    }  # fmt: skip
    if code == NO_PIPES_STATUS:
        text = (
            f"the job closed the worker's descriptors, or opened others in their place, so there is no answer to {who} "
            f"{where}. Code that closes everything (os.closerange, daemon libraries) belongs into a process of its own"
        )
        return Failure(Reason.CRASHED, "WorkerCrashed", text, details)
    hint = ". If the host was short of memory, the kernel log says so" if number == 9 else ""
    text = f"{describe_end(number, code, 'the worker')} while it ran {who} {where}{hint}"
    return Failure(Reason.CRASHED, "WorkerCrashed", text, details)


def quarantine(job: Job, failure: Failure) -> Failure:
    """Return the failure of a job that has killed as many workers as `max_crashes` allows."""
    text = (
        f"{job_name(job)} has killed {job.crashes} workers (max_crashes={job.kind.options.max_crashes}) and is not started "
        f"again, whatever its retries. The last time: {failure.message}"
    )
    return Failure(Reason.QUARANTINED, "JobQuarantined", text, failure.details)


def describe_attempt(job: Job, reason: Reason, error: str, how: How, account: Account) -> dict[str, Any]:
    """Return the fields of an `Attempt` (procjobs.errors)."""
    return {
        "attempt": job.attempt,
        "reason": reason.text,
        "error": limit_text(error, 1000),
        "started_at": account.started_at,
        "ended_at": account.ended_at,
        "signal": how[0],
        "exit_code": how[1],
        "last_progress": account.progress,
        "stderr": limit_text(account.stderr, 1000),
        "worker": account.worker,
        "worker_pid": account.worker_pid,
    }


def describe_end(number: int | None, code: int | None, who: str = "it") -> str:
    """Return how a process ended, in words."""
    if number is not None:
        return f"{who} was killed by {describe_signal(number)}"
    return f"{who} ended with exit code {code}"


def job_name(job: Job) -> str:
    """Return how messages name a job."""
    return f"job {to_text(job.id)} {job.kind.name.decode(errors='replace')}"


def first_line(details: bytes) -> str:
    """Return `Type: message` from the JSON of a failure; it comes from a worker, so anything may be in it."""
    try:
        values = parse_json(details)
    except WireError:
        return "the worker's account of the failure cannot be read"
    kind, message = values.get("type"), str(values.get("message", "")).strip()
    return f"{kind}: {message}".splitlines()[0] if kind else (message.splitlines() or [""])[0]
