"""In words: how a job ended that gave no answer of its own, and who did it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from procjobs.errors import describe_signal
from procjobs.shared.ids import to_text
from procjobs.shared.states import Reason
from procjobs.shared.wire import WireError, parse_json
from procjobs.supervisor.jobs import Stop

if TYPE_CHECKING:
    from procjobs.supervisor.jobs import Job


class Verdict(NamedTuple):
    """Why a job ended; `error` names the exception that its client raises, `details` are that one's attributes."""

    reason: Reason
    error: str
    message: str
    details: dict[str, Any]


def judge(
    job: Job, stop: Stop, how: tuple[int | None, int | None], progress: str | None, stop_reason: str
) -> Verdict:
    """Return the verdict on a job whose worker ended: `how` is (signal, exit code), `stop` why we ended it, if we did."""
    number, code = how
    where = f"(attempt {job.attempt} of {1 + job.kind.options.retries}; last progress: {progress or 'none'})"
    details = {"signal": number, "exit_code": code, "last_progress": progress}
    if stop is Stop.TIMEOUT:
        text = f"{job_name(job)} ran longer than its timeout of {job.kind.options.timeout or 0:g} s and was stopped {where}"
        return Verdict(Reason.TIMEOUT, "JobTimeout", text, details)
    if stop is Stop.SHUTDOWN:
        text = f"{job_name(job)} was stopped while it ran: {stop_reason} {where}"
        return Verdict(Reason.STOPPED, "PoolClosed", text, details)
    text = f"{describe_end(number, code, 'the worker')} while it ran {job_name(job)} {where}{_hint(number)}"
    return Verdict(Reason.CRASHED, "WorkerCrashed", text, details)


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
