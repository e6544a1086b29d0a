"""The API of single jobs and of lists of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from procjobs.errors import ProcjobsError, UnknownJob
from procjobs.web.api import parameters, shapes
from procjobs.web.api.endpoint import Call, Endpoint
from procjobs.web.api.listing import FILTERS, list_jobs
from procjobs.web.text import MAX_LOG, clean_end, clean_lines

if TYPE_CHECKING:
    from procjobs import JobStatus

MAX_ARGUMENTS: Final = 2048
_PAGE: Final = (
    parameters.job_id("before", "Only jobs with smaller ids: the `next` of the page before. Ids grow with time."),
    parameters.integer("limit", "At most this many jobs.", least=1, most=parameters.MAX_LIMIT, default=100),
)


def _find(call: Call) -> JobStatus:
    """Return the job that the path names; raise UnknownJob. Nothing of it is unpickled."""
    job_id = call.job_id
    status: JobStatus | None = call.pool.look_up([job_id])[job_id]
    if status is None:
        raise UnknownJob(f"job {job_id} is not known to pool {call.pool_name!r}: it never was, or its record was evicted")
    return status


def _list(call: Call) -> dict[str, Any]:
    limit: int = call.values["limit"]
    found = list_jobs(call, call.values, limit=limit + 1)
    shown = found[:limit]
    return {
        "jobs": [shapes.job_document(status) for status in shown],
        "next": shown[-1].id if len(found) > limit else None,
    }


def _show(call: Call) -> dict[str, Any]:
    status = _find(call)
    details = status.error_details
    return {
        **shapes.job_document(status),
        "error_details": None if details is None else clean_end(details, MAX_LOG),
        **_attempts(call, status),
        "arguments": _arguments(call, status),
    }


def _attempts(call: Call, status: JobStatus) -> dict[str, Any]:
    """Return the attempts, and why they are not there: those of a store are out of reach where it, or the pool, has gone."""
    try:
        found = call.pool.attempts(status.id)
    except ProcjobsError as error:
        return {"attempts": None, "attempts_problem": clean_lines(str(error), 500)}
    return {"attempts": [shapes.ATTEMPT.document(one) for one in found], "attempts_problem": None}


def _arguments(call: Call, status: JobStatus) -> str | None:
    """Return the arguments as the worker has written them down, if this site shows them; a function of it may mask them."""
    shows = call.site.options.show_arguments
    if not shows:
        return None
    try:
        text: str | None = call.pool.arguments(status.id)
    except ProcjobsError:
        return None
    if text is not None and callable(shows):
        text = shows(status.id, text)
    return None if text is None else clean_lines(str(text), MAX_ARGUMENTS)


def _log(call: Call) -> dict[str, Any]:
    return {"id": call.job_id, "text": clean_end(call.pool.logs(call.job_id), MAX_LOG)}


def _stack(call: Call) -> dict[str, Any]:
    text = call.pool.stack(call.job_id)
    return {"id": call.job_id, "text": None if text is None else clean_end(text, MAX_LOG)}


def _processes(call: Call) -> dict[str, Any]:
    status = _find(call)
    found = call.pool.processes(status.id)
    return {"id": status.id, "processes": [shapes.PROCESS.document(one) for one in found]}


def _cancel(call: Call) -> dict[str, Any]:
    return {"id": call.job_id, "cancelled": call.pool.cancel(call.job_id)}


def _retry(call: Call) -> dict[str, Any]:
    return {"id": call.pool.retry(call.job_id).id, "retry_of": call.job_id}


ENDPOINTS: Final = (
    Endpoint("GET", "api/1/jobs", "read", _list, "Jobs, the newest first", "Jobs", (*FILTERS, *_PAGE)),
    Endpoint("GET", "api/1/jobs/{id}", "read", _show, "One job: its state, its attempts, its error", "JobDetails"),
    Endpoint("GET", "api/1/jobs/{id}/log", "read", _log, "The end of what a job has printed and logged", "Text"),
    Endpoint("GET", "api/1/jobs/{id}/stack", "read", _stack, "Where a running job is: the stacks of its threads", "Text"),
    Endpoint("GET", "api/1/jobs/{id}/processes", "read", _processes, "The processes of a running job", "Processes"),
    Endpoint("POST", "api/1/jobs/{id}/cancel", "operate", _cancel, "Cancel a job, waiting or running", "Cancelled"),
    Endpoint("POST", "api/1/jobs/{id}/retry", "operate", _retry, "Submit a job again that has not succeeded", "Retried"),
)

SCHEMAS: Final = {
    "Progress": lambda: shapes.PROGRESS_SCHEMA,
    "Job": shapes.job_schema,
    "Attempt": shapes.ATTEMPT.schema,
    "Process": shapes.PROCESS.schema,
    "Jobs": lambda: shapes.object_of(
        "A page of jobs. `next` is the `before` of the next page, null on the last one.",
        jobs=shapes.list_of("Job"), next={"type": ["string", "null"], "format": "uuid"},
    ),
    "JobDetails": lambda: shapes.extended(
        shapes.job_schema(),
        "A job with its attempts. `attempts` is null where they cannot be read now, and `attempts_problem` says why. "
        "`arguments` is null unless the site shows them and the pool records them.",
        error_details={"type": ["string", "null"]},
        attempts={"anyOf": [shapes.list_of("Attempt"), {"type": "null"}]},
        attempts_problem={"type": ["string", "null"]},
        arguments={"type": ["string", "null"]},
    ),
    "Text": lambda: shapes.object_of(
        "A text about a job, null if there is none.", id=shapes.ID, text={"type": ["string", "null"]}
    ),
    "Processes": lambda: shapes.object_of(
        "The processes of a job: its worker first, then those that it has started; empty if it does not run.",
        id=shapes.ID, processes=shapes.list_of("Process"),
    ),
    "Cancelled": lambda: shapes.object_of(
        "`cancelled` is false for a job that had ended.", id=shapes.ID, cancelled={"type": "boolean"}
    ),
    "Retried": lambda: shapes.object_of("The new job, and the one that it repeats.", id=shapes.ID, retry_of=shapes.ID),
}  # fmt: skip
