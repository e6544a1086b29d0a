"""In words: how a job ended that gave no answer of its own, and who did it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procjobs.dispatch.model import Stop
from procjobs.errors import describe_signal
from procjobs.shared.ids import to_text
from procjobs.shared.states import Reason
from procjobs.shared.wire import WireError, limit_text, parse_json

if TYPE_CHECKING:
    from procjobs.dispatch.model import Job, Slot
    from procjobs.dispatch.ports import Account

How = tuple[int | None, int | None]
"""How a process ended: (signal, exit code), one of them None."""
_MAX_ATTEMPTS: Final = 10
"""The attempts of a job's history that go into its answer: the last ones."""
_MEBIBYTE: Final = 2**20


class Verdict(NamedTuple):
    """Why a job ended; `error` names the exception that its client raises, `details` are that one's attributes."""

    reason: Reason
    error: str
    message: str
    details: dict[str, Any] = {}

    def to_json(self, job: Job) -> dict[str, Any]:
        """Return what goes into the answer."""
        values = {"error": self.error, "message": self.message, **self.details}
        if job.stack:
            values["stack"] = job.stack
        if job.history:
            values["history"] = job.history[-_MAX_ATTEMPTS:]
        return values


def judge(job: Job, slot: Slot, how: How, account: Account, stop_reason: str) -> Verdict:
    """Return the verdict on a job whose worker ended; the slot says why we ended it, if we did."""
    number, code = how
    options = job.kind.options
    where = f"(attempt {job.attempt} of {1 + options.retries}; last progress: {account.progress or 'none'})"
    who, progress = job_name(job), {"last_progress": account.progress}
    if slot.stop is Stop.TIMEOUT:
        text = f"{who} ran longer than its timeout of {options.timeout or 0:g} s and was stopped {where}"
        return Verdict(Reason.TIMEOUT, "JobTimeout", text, progress)
    if slot.stop is Stop.STALL:
        text = (
            f"{who} neither reported progress nor used any CPU time for its stall_timeout of "
            f"{options.stall_timeout or 0:g} s and was stopped {where}"
        )
        return Verdict(Reason.STALLED, "JobStalled", text, progress)
    if slot.stop is Stop.MEMORY:
        used, most = slot.used_bytes, options.max_rss or 0
        text = (
            f"{who} and the processes that it started used {used / _MEBIBYTE:.1f} MiB of memory, more than its max_rss "
            f"of {most / _MEBIBYTE:.1f} MiB, and were killed {where}"
        )
        details = {**progress, "used_bytes": used, "max_rss": most}
        return Verdict(Reason.MEMORY, "MemoryLimitExceeded", text, details)
    if slot.stop is Stop.SHUTDOWN:
        text = f"{who} was stopped while it ran: {stop_reason} {where}"
        return Verdict(Reason.STOPPED, "PoolClosed", text)
    text = f"{describe_end(number, code, 'the worker')} while it ran {who} {where}{_hint(number)}"
    details = {**progress, "signal": number, "exit_code": code, "stderr": limit_text(account.stderr, 4096)}
    return Verdict(Reason.CRASHED, "WorkerCrashed", text, details)


def quarantine(job: Job, verdict: Verdict) -> Verdict:
    """Return the verdict on a job that has killed as many workers as one may."""
    text = (
        f"{job_name(job)} has killed {job.crashes} workers (max_crashes={job.kind.options.max_crashes}) and is not started "
        f"again, whatever its retries. The last time: {verdict.message}"
    )
    return Verdict(Reason.QUARANTINED, "JobQuarantined", text, verdict.details)


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
    }


def describe_end(number: int | None, code: int | None, who: str = "it") -> str:
    """Return how a process ended, in words."""
    if number is not None:
        return f"{who} was killed by {describe_signal(number)}"
    return f"{who} ended with exit code {code}"


def _hint(number: int | None) -> str:
    return ". If the host was short of memory, the kernel log says so" if number == 9 else ""


def job_name(job: Job) -> str:
    """Return what a job is called in messages."""
    return f"job {to_text(job.id)} {job.kind.name.decode(errors='replace')}"


def first_line(details: bytes) -> str:
    """Return `Type: message` from the JSON of a failure; it comes from a worker, so anything may be in it."""
    try:
        values = parse_json(details)
    except WireError:
        return "the worker's account of the failure cannot be read"
    kind, message = values.get("type"), str(values.get("message", "")).strip()
    return f"{kind}: {message}".splitlines()[0] if kind else (message.splitlines() or [""])[0]
