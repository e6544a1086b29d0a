"""Cancelling or retrying many jobs at once: first how many there are, then, with that number confirmed, the deed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procjobs.errors import ProcjobsError, RetryRefused, SupervisorError, UnknownJob
from procjobs.web.api import parameters, shapes
from procjobs.web.api.endpoint import Call, Endpoint, NotDone
from procjobs.web.api.listing import FILTERS, list_jobs
from procjobs.web.http import Problem
from procjobs.web.problems import problem_of
from procjobs.web.text import clean_lines

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_JOBS: Final = parameters.MAX_IDS
_IDS: Final = parameters.job_id("ids", f"The ids of the jobs, at most {MAX_JOBS}.")._replace(is_many=True)
_CONFIRM: Final = parameters.integer(
    "confirm", "The number of jobs, as the answer without it has said: then it is done.", least=0, most=MAX_JOBS
)


class Action(NamedTuple):
    """What is done to each job: in these states there is something to do."""

    name: str
    states: tuple[str, ...]
    act: Callable[[Any, str], str | None]


class Chosen(NamedTuple):
    """The jobs that a filter or a list of ids means; `has_more`: others match too, which are left for another time."""

    ids: list[str]
    has_more: bool


def _cancel(pool: Any, job_id: str) -> str | None:
    return job_id if pool.cancel(job_id) else None


def _retry(pool: Any, job_id: str) -> str | None:
    new_id: str = pool.retry(job_id).id
    return new_id


CANCEL: Final = Action("cancel", ("queued", "scheduled", "running", "retrying"), _cancel)
RETRY: Final = Action("retry", ("failed", "cancelled", "expired"), _retry)


def choose(call: Call, action: Action) -> Chosen:
    """Return the jobs of a call that the action is for, the newest first; raise a Problem (400) if it names none."""
    values = call.values
    if values["ids"]:
        return Chosen(list(dict.fromkeys(values["ids"])), has_more=False)
    if all(values[one.name] is None for one in FILTERS):
        names = ", ".join(one.name for one in FILTERS)
        raise Problem(400, "No jobs named", f"ids: give the ids of the jobs, or a filter: {names}.")
    state = values["state"]
    if state is not None and state not in action.states:
        raise Problem(400, "Bad parameter", f"state: to {action.name} a job it must be {' or '.join(action.states)}.")
    states = action.states if state is None else (state,)
    found = [job.id for one in states for job in list_jobs(call, {**values, "state": one}, limit=MAX_JOBS + 1)]
    found.sort(reverse=True)
    return Chosen(found[:MAX_JOBS], has_more=len(found) > MAX_JOBS)


def _handle(call: Call, action: Action) -> dict[str, Any]:
    chosen, confirmed = choose(call, action), call.values["confirm"]
    document = {"action": action.name, "count": len(chosen.ids), "has_more": chosen.has_more}
    if confirmed is None:
        return {**document, "is_done": False, "jobs": []}
    if confirmed != len(chosen.ids):
        problem = Problem(
            409, "Not confirmed",
            f"confirm: {confirmed} jobs were confirmed, and there are {len(chosen.ids)} now. Nothing was done.",
        )  # fmt: skip
        raise NotDone(problem, **document)
    outcomes: list[dict[str, Any]] = []
    for job_id in chosen.ids:
        try:
            outcomes.append(_act(call.pool, action, job_id))
        except SupervisorError as error:
            raise NotDone(problem_of(error, call.request), **document, jobs=outcomes) from error
    return {**document, "is_done": True, "jobs": outcomes}


def _act(pool: Any, action: Action, job_id: str) -> dict[str, Any]:
    """Return what has become of one job: the others go on whatever that is, unless nobody answers any more."""
    try:
        result = action.act(pool, job_id)
    except SupervisorError:
        raise
    except (UnknownJob, RetryRefused) as error:
        outcome = "unknown" if isinstance(error, UnknownJob) else "refused"
        return {"id": job_id, "outcome": outcome, "new_id": None, "detail": clean_lines(str(error), 500)}
    except ProcjobsError as error:
        return {"id": job_id, "outcome": "failed", "new_id": None, "detail": clean_lines(str(error), 500)}
    if result is None:
        return {"id": job_id, "outcome": "ended", "new_id": None, "detail": None}
    outcome, new_id = ("cancelled", None) if action is CANCEL else ("retried", result)
    return {"id": job_id, "outcome": outcome, "new_id": new_id, "detail": None}


def _cancel_many(call: Call) -> dict[str, Any]:
    return _handle(call, CANCEL)


def _retry_many(call: Call) -> dict[str, Any]:
    return _handle(call, RETRY)


_PARAMETERS: Final = (_IDS, *FILTERS, _CONFIRM)
ENDPOINTS: Final = (
    Endpoint("POST", "api/1/jobs/cancel", "operate", _cancel_many, "Cancel many jobs", "Bulk", _PARAMETERS),
    Endpoint("POST", "api/1/jobs/retry", "operate", _retry_many, "Retry many jobs", "Bulk", _PARAMETERS),
)
SCHEMAS: Final = {
    "Outcome": lambda: shapes.object_of(
        "What has become of one job: `new_id` is that of a retried one, `ended` had ended before.",
        id=shapes.ID,
        outcome={"type": "string", "enum": ["cancelled", "retried", "ended", "unknown", "refused", "failed"]},
        new_id={"type": ["string", "null"], "format": "uuid"},
        detail={"type": ["string", "null"]},
    ),
    "Bulk": lambda: shapes.object_of(
        f"How many jobs are meant: `count`, at most {MAX_JOBS}, the newest; `has_more`: others match too. Without `confirm` "
        "nothing is done. With `confirm` = `count` it is, and `jobs` has the outcome of each.",
        action={"type": "string", "enum": ["cancel", "retry"]},
        count={"type": "integer"},
        has_more={"type": "boolean"},
        is_done={"type": "boolean"},
        jobs=shapes.list_of("Outcome"),
    ),
}
