"""Attempts that have failed, as readers by id are told of them: the fields of an `Attempt` (procjobs.errors)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from procjobs.dispatch.failures import describe_attempt
from procjobs.shared.states import Reason
from procjobs.shared.wire import WireError, limit_text, parse_json

if TYPE_CHECKING:
    from procjobs.dispatch.ports import Account
    from procjobs.supervisor.job import SupervisedJob

MAX_TRACEBACK_BYTES: Final = 16 * 1024


def attempt_that_failed(
    job: SupervisedJob, reason: Reason, error: str, details: bytes, account: Callable[[SupervisedJob], Account]
) -> dict[str, Any] | None:
    """Return the attempt that a job was in; None if that had ended before, and was noted then.

    `details` is the JSON in the answer of the job.
    """
    last = job.history[-1] if job.history else {"attempt": 0}
    if last["attempt"] != job.attempt:
        last = describe_attempt(job, reason, error, (None, None), account(job))
    elif last["reason"] != reason.text and reason is not Reason.QUARANTINED:
        return None
    return {**last, "traceback": traceback_of(job, details)}


def traceback_of(job: SupervisedJob, details: bytes) -> str | None:
    """Return the traceback in the answer of a job, or else its stack as it was when the job was stopped."""
    traceback = None
    if b'"traceback"' in details:
        try:
            traceback = parse_json(details).get("traceback")
        except WireError:  # of an attempt that is repeated: nobody has looked at this yet
            traceback = None
    text = traceback if isinstance(traceback, str) and traceback else job.stack
    return limit_text(text, MAX_TRACEBACK_BYTES) if text else None
