"""The frame of every call of the API: from a request to checked values, and from a result or an error to JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from procjobs.errors import ConfigurationError, ProcjobsError, QueueFull, ReloadFailed
from procjobs.web.api.parameters import Parameter, given_by, read_job_id, read_values, text
from procjobs.web.api.pool_state import pool_document
from procjobs.web.api.shapes import job_document
from procjobs.web.http import Problem, Response, check_next, json_response, see_other
from procjobs.web.problems import problem_of
from procjobs.web.site import Right, Route
from procjobs.web.text import MAX_LOG, MAX_MESSAGE, clean, clean_lines

if TYPE_CHECKING:
    from procjobs import JobStatus
    from procjobs.web.access.permission import Visitor
    from procjobs.web.http import Request
    from procjobs.web.site import Site

JSON: Final = "application/json"
POOL: Final = text("pool", "The name of the pool; needed only where there are several.")
NEXT: Final = text("next", "For forms: the path below the mount to which the answer leads (303).", longest=2000)


class Call(NamedTuple):
    """A request whose parameters are read. `values` has each parameter of the endpoint by its name."""

    site: Site
    request: Request
    values: Mapping[str, Any]
    path: Mapping[str, str]

    @property
    def pool(self) -> Any:
        """The pool that is meant; raise a Problem (404, or 400 where there are several and none is named)."""
        return self.site.pools.pick(self.values["pool"] or "")[1]

    @property
    def pool_name(self) -> str:
        """The name of the pool that is meant."""
        return self.site.pools.pick(self.values["pool"] or "")[0]

    @property
    def job_id(self) -> str:
        """The id of the job that the path names."""
        return self.path["id"]


class Endpoint(NamedTuple):
    """A call of the API: a row of the table of which the routes and the OpenAPI document are made.

    `answer` names the schema of what `handle` returns; without a `handle`, the call is only described here, and its route is
    elsewhere. `is_of_pool`: the call is about one pool.
    """

    method: Literal["GET", "POST"]
    path: str
    right: Right
    handle: Callable[[Call], Any] | None
    about: str
    answer: str
    parameters: tuple[Parameter, ...] = ()
    is_of_pool: bool = True
    media_type: str = JSON

    @property
    def all_parameters(self) -> tuple[Parameter, ...]:
        """The parameters of this call, with those that all such calls have."""
        return (*self.parameters, *((POOL,) if self.is_of_pool else ()), *((NEXT,) if self.method == "POST" else ()))

    def route(self) -> Route:
        """Return the route that answers this call."""
        action = self.path.rpartition("/")[2] if self.method == "POST" else None
        assert self.handle is not None, f"{self.path} is answered elsewhere"
        return Route(self.method, self.path, self.right, partial(_answer, self, self.handle), action=action)


class NotDone(Problem):
    """An error with what is known all the same, such as the state of a job whose supervisor does not answer."""

    def __init__(self, problem: Problem, **known: Any) -> None:
        super().__init__(problem.status, problem.title, problem.detail, problem.headers)
        self.known = known

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of it: the error, and beside it what is known."""
        return {**super().as_dict(), **self.known}


def _answer(
    endpoint: Endpoint, handle: Callable[[Call], Any], site: Site, request: Request, _who: Visitor, **path: str
) -> Response:
    values = read_values(given_by(request), endpoint.all_parameters)
    leads_to = values.get("next")
    if leads_to is not None:
        check_next(leads_to)  # before anything is done
    call = Call(site, request, values, path if "id" not in path else {**path, "id": _checked_id(path["id"])})
    try:
        document = handle(call)
    except ProcjobsError as error:
        problem = _refusal(error) or problem_of(error, request)
        raise (NotDone(problem, **_known(call)) if problem.status == 503 else problem) from error
    finally:
        if endpoint.method == "POST":
            site.scans.forget()  # who has done something wants to see it
    return json_response(document) if leads_to is None else see_other(request, leads_to)


def _checked_id(text: str) -> str:
    try:
        return read_job_id(text)
    except ValueError:
        raise Problem(404, "No such job", f"{text[:60]!r} is not the id of a job: an id is a UUID.") from None


def _known(call: Call) -> dict[str, Any]:
    """Return what shared memory has about the pool and the job of a call that could not be asked; asks nobody."""
    known: dict[str, Any] = {}
    with contextlib.suppress(ProcjobsError, Problem, OSError):
        pool = call.pool
        known["pool"] = pool_document(call.pool_name, pool)
        if "id" in call.path:
            # A glance leaves out what a killed supervisor's table says of jobs that had not ended.
            found = call.site.scans.read(("known", call.pool_name, call.job_id), partial(_left_of, pool, call.job_id))
            known |= {"job": job_document(found[0])} if found else {}
    return known


def _left_of(pool: Any, job_id: str) -> list[JobStatus]:
    return [status for status in pool.jobs(limit=1, search=job_id, data=False) if status.id == job_id]


def _refusal(error: ProcjobsError) -> Problem | None:
    """Return the answer to an error that is about this one call, None for any other one."""
    if isinstance(error, ConfigurationError):
        return Problem(400, "Not possible", clean(str(error), MAX_MESSAGE))
    if isinstance(error, QueueFull):
        return Problem(503, "The pool is full", clean(str(error), MAX_MESSAGE), (("Retry-After", str(error.retry_after)),))
    if isinstance(error, ReloadFailed):
        first, *others = [line for line in clean_lines(str(error), MAX_LOG).splitlines() if line.strip()]
        last = f" {clean(others[-1], MAX_MESSAGE)}." if others else ""
        return Problem(409, "Not reloaded", f"{clean(first, MAX_MESSAGE)}{last} The pool's log has the whole traceback.")
    return None
