"""Errors as answers: which status an error of procjobs is, and what a person reads of it. No traceback leaves the server."""

from __future__ import annotations

import logging
from html import escape
from typing import TYPE_CHECKING, Final

from procjobs.errors import (
    PoolClosed,
    PoolNotRunning,
    ReloadFailed,
    RetryRefused,
    StoreUnavailable,
    SupervisorError,
    SupervisorLost,
    UnknownJob,
    UnknownSchedule,
)
from procjobs.web.http import Problem, Response, html_response, json_response
from procjobs.web.text import MAX_MESSAGE, clean

if TYPE_CHECKING:
    from procjobs.web.http import Request

_log = logging.getLogger(__package__)
RETRY_AFTER: Final = 2
_KINDS: Final[tuple[tuple[type[Exception], int, str], ...]] = (
    (UnknownJob, 404, "No such job"),
    (UnknownSchedule, 404, "No such schedule"),
    (RetryRefused, 409, "Not retried"),
    (ReloadFailed, 409, "Not reloaded"),
    (StoreUnavailable, 503, "The store does not answer"),
    (PoolNotRunning, 503, "The pool is not running"),
    (PoolClosed, 503, "The pool was shut down"),
    (SupervisorLost, 503, "The pool does not answer"),
    (SupervisorError, 503, "The pool does not answer"),
)
_PAGE: Final = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<title>{title}</title><main><h1>{title}</h1><p>{detail}</p></main></html>"
)


def problem_of(error: Exception, request: Request) -> Problem:
    """Return an error as an answer. One that nobody foresaw is logged, and tells the visitor nothing."""
    if isinstance(error, Problem):
        return error
    for kind, status, title in _KINDS:
        if isinstance(error, kind):
            again = (("Retry-After", str(RETRY_AFTER)),) if status == 503 else ()
            return Problem(status, title, clean(str(error), MAX_MESSAGE), again)
    _log.error("%s %s failed", request.method, request.path, exc_info=error)
    return Problem(500, "Something broke", "The server could not answer; its log says why.")


def problem_response(problem: Problem, request: Request) -> Response:
    """Return the answer: JSON for programs and scripts, a page for people."""
    if request.wants_json:
        return json_response(problem.as_dict(), problem.status, *problem.headers)
    page = _PAGE.format(title=escape(problem.title), detail=escape(problem.detail))
    return html_response(page, problem.status, *problem.headers)
