"""From the answer that has arrived to a result or an exception. Here, and only here, a client unpickles."""

from __future__ import annotations

import concurrent.futures
from typing import Any, Final

from procjobs import errors
from procjobs.client.connection.interruptible import came_from_outside
from procjobs.errors import Attempt, JobError, PayloadError, ProcjobsError, RemoteTraceback
from procjobs.host.payload import Received
from procjobs.shared.ids import ID_BYTES, to_text
from procjobs.shared.wire import BODY, Finished, Outcome, finished_payload, parse_finished, parse_json

OUTCOME_AT: Final = BODY + ID_BYTES
"""Where a FINISHED frame has its outcome."""
RETURNED: Final = int(Outcome.RETURNED)


def decode(raw: bytes, received: Received | None, name: str) -> tuple[Any, BaseException | None]:
    """Return (result, None) or (None, exception); runs whatever code the unpickling runs."""
    if received is None:
        received = Received(finished_payload(raw), None)
    if raw[OUTCOME_AT] == RETURNED:
        try:
            return received.load(), None
        except Exception as error:
            if came_from_outside(error):
                raise
            who = f"job {to_text(raw[BODY : BODY + ID_BYTES])} {name}"
            text = f"the result of {who} could not be unpickled here: {type(error).__name__}: {error}"
            return None, _with_cause(PayloadError(text), error)
    finished = parse_finished(raw)
    job_id = to_text(finished.job_id)
    details = parse_json(finished.details)
    if finished.outcome == Outcome.VERDICT:
        return None, _verdict(details, job_id, finished.attempt)
    trace = RemoteTraceback(details.get("traceback", ""))
    if finished.outcome == Outcome.UNPICKLABLE:
        return None, _with_cause(PayloadError(f"job {job_id}: {details['message']}"), trace)
    who = f"job {job_id} {name}"
    raised = _with_cause(_raised(details, received, who), trace)
    return None, _for_caller(raised, details, who, finished)


def _for_caller(error: BaseException, details: dict[str, Any], who: str, finished: Finished) -> BaseException:
    """Return the exception of a job, or one around it where the caller would take the job's own for its own affair.

    Futures and generators refuse StopIteration, and loops end with it. A CancelledError would cancel the task that awaits
    the job; KeyboardInterrupt, SystemExit and their like would end it, its event loop or its thread.
    """
    text = f"{who} raised {details['type']}: {details['message']}".removesuffix(": ")
    if isinstance(error, (StopIteration, StopAsyncIteration)):
        return _with_cause(RuntimeError(text), error)
    if isinstance(error, Exception) and not isinstance(error, concurrent.futures.CancelledError):
        return error
    return _with_cause(JobError(text, job_id=to_text(finished.job_id), attempt=finished.attempt), error)


def _raised(details: dict[str, Any], received: Received, who: str) -> BaseException:
    """Return the exception that a job raised, or a PayloadError that describes it."""
    described = f"{who} raised {details['type']}: {details['message']}; the exception itself could not be"
    if "unpicklable" in details:
        return PayloadError(f"{described} pickled: {details['unpicklable']}")
    try:
        error = received.load()
    except Exception as problem:
        if came_from_outside(problem):
            raise
        return PayloadError(f"{described} unpickled here: {problem!r}")
    if not isinstance(error, BaseException):
        return PayloadError(f"{described} unpickled here: it became {type(error).__name__}")
    return error


def _with_cause(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def _verdict(details: dict[str, Any], job_id: str, attempt: int) -> ProcjobsError:
    kind: type[ProcjobsError] = getattr(errors, str(details.pop("error", None)), ProcjobsError)
    message = str(details.pop("message", None))
    stack, history = details.pop("stack", None), tuple(Attempt(**entry) for entry in details.pop("history", ()))
    if issubclass(kind, JobError):
        return kind(message, job_id=job_id, attempt=attempt, stack=stack, history=history, **details)
    return kind(message, **details)
