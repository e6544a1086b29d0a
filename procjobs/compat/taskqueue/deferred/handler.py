"""The handler of /_ah/queue/deferred: makes the calls of the requests that the queue has signed."""

from __future__ import annotations

import http
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from procjobs.compat.taskqueue.deferred.calls import run
from procjobs.compat.taskqueue.deferred.errors import PermanentTaskFailure, SingularTaskFailure, UnloadableCallError
from procjobs.compat.taskqueue.web.gate import MARK

__all__ = ["Handler", "application", "set_log_level"]

Response = tuple[str, http.HTTPStatus, list[tuple[str, str]]]

_HEADERS: Final = [("Content-Type", "text/plain")]
_log: Final = logging.getLogger(__package__)
_level = logging.INFO


def set_log_level(log_level: int) -> None:
    """Set the level of the line that each deferred call writes to the log when it begins: `logging.DEBUG`, say."""
    global _level
    _level = log_level


class Handler:
    """A WSGI application that makes deferred calls. For another path than /_ah/queue/deferred, route that to it.

    The application has to be wrapped with `wrap_wsgi_app`: it is from there that the handler knows a request of the queue,
    and any other is answered with 403.

        STATUS  WHEN
        200     the call has returned, or has raised PermanentTaskFailure: the task ends
        403     the request is not the queue's
        405     it is no POST
        408     the call has raised SingularTaskFailure: tried again
        500     the call has raised anything else, or cannot be loaded: tried again, with a line in the log

    drop_unloadable: end calls that the code of this process cannot load, with 200 and a line in the log.
    """

    def __init__(self, *, drop_unloadable: bool = False) -> None:
        self._drops_unloadable = drop_unloadable

    def run_from_request(self, environ: dict[str, Any]) -> Response:
        """Make the call of a request, and return text, status and headers of the answer; raise what the call raises."""
        if environ.get(MARK) is not True:
            reason = (
                "the queue has not signed it"
                if MARK in environ
                else "the application is not wrapped with wrap_wsgi_app or wrap_asgi_app, which verifies the signatures"
            )
            _log.error("A request for a deferred call was refused: %s", reason)
            return "This request is not from the task queue", http.HTTPStatus.FORBIDDEN, list(_HEADERS)
        _log.log(_level, "Deferred call: %s", _describe(environ))
        length = int(environ.get("CONTENT_LENGTH") or 0)
        run(environ["wsgi.input"].read(length))
        return "Success", http.HTTPStatus.OK, list(_HEADERS)

    def post(self, environ: dict[str, Any]) -> Response:
        """Make the call of a POST request, and return the answer as a handler of your own may pass it on.

        Raise what the call raises, but for the failures that the original knows and calls that cannot be loaded.
        """
        try:
            return self.run_from_request(environ)
        except SingularTaskFailure:
            _log.debug("Tried again: %s has raised SingularTaskFailure", _describe(environ))
            return "SingularTaskFailure", http.HTTPStatus.REQUEST_TIMEOUT, list(_HEADERS)
        except UnloadableCallError as error:
            return self._unloadable(environ, error)
        except PermanentTaskFailure:
            _log.exception("Ended for good: %s", _describe(environ))
            return "PermanentTaskFailure", http.HTTPStatus.OK, list(_HEADERS)

    def _unloadable(self, environ: dict[str, Any], error: UnloadableCallError) -> Response:
        if self._drops_unloadable:
            _log.error("Dropped: %s, which the code of this process cannot load: %s", _describe(environ), error)
            return "PermanentTaskFailure", http.HTTPStatus.OK, list(_HEADERS)
        queue, task = (environ.get(f"HTTP_X_APPENGINE_{name}", "") for name in ("QUEUENAME", "TASKNAME"))
        _log.error(
            "Tried again later: %s, which the code of this process cannot load: %s. Deploy code that has it; or drop this "
            "task with taskqueue.Queue(%r).delete_tasks_by_name(%r), or all such with drop_unloadable=True of wrap_wsgi_app "
            "or wrap_asgi_app",
            _describe(environ), error, queue, task,
        )  # fmt: skip
        return "The call cannot be loaded", http.HTTPStatus.INTERNAL_SERVER_ERROR, list(_HEADERS)

    def respond(self, environ: dict[str, Any]) -> Response:
        """Answer a request of any method; never raise an exception of the call."""
        if environ["REQUEST_METHOD"] != "POST":
            return "", http.HTTPStatus.METHOD_NOT_ALLOWED, [*_HEADERS, ("Allow", "POST")]
        try:
            return self.post(environ)
        except Exception:  # noqa: BLE001 - the user's function: it is tried again
            _log.exception("Failed, and tried again: %s", _describe(environ))
            return "The call has failed", http.HTTPStatus.INTERNAL_SERVER_ERROR, list(_HEADERS)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request, as WSGI has it."""
        text, status, headers = self.respond(environ)
        body = text.encode()
        start_response(f"{status.value} {status.phrase}", [*headers, ("Content-Length", str(len(body)))])
        return [body]


application: Final = Handler()
"""A handler to route to, where `use_deferred` is not used."""


def _describe(environ: dict[str, Any]) -> str:
    values = {name: environ.get(f"HTTP_X_APPENGINE_{name}", "?") for name in ("QUEUENAME", "TASKNAME", "TASKRETRYCOUNT")}
    return "task {TASKNAME} of queue {QUEUENAME}, retry {TASKRETRYCOUNT}".format(**values)
