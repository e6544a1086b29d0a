"""A mounted web face: what it serves, to whom, and the one chain that a request goes through.

A module with handlers has a table of them:

    ROUTES: Final = [Route("POST", "api/1/jobs/{id}/cancel", "operate", cancel, action="cancel")]

    def cancel(site: Site, request: Request, who: Visitor, id: str) -> Response: ...

A handler is called in a thread, may block, returns a `Response` or raises: `Problem`, or any error of procjobs, which
problems.py turns into an answer. A route with `fast=True` is called on the event loop first, with `request.may_block` False:
it reads memory, or raises `WouldBlock` to be called again in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from procjobs.web.access.headers import SAFE_HEADERS
from procjobs.web.access.hosts import check_host
from procjobs.web.access.origin import check_origin
from procjobs.web.access.permission import NOBODY, Visitor
from procjobs.web.http import Problem, Request, Response, WouldBlock
from procjobs.web.moments import wall
from procjobs.web.problems import problem_of, problem_response
from procjobs.web.scanning import Scans

if TYPE_CHECKING:
    from procjobs.web.access.job_access import JobAccess
    from procjobs.web.access.permission import Permission
    from procjobs.web.pools import Pools

Right: TypeAlias = Literal["public", "read", "operate", "admin"]
ShowArguments: TypeAlias = "bool | Callable[[str, str], str]"
"""Whether arguments are shown; or a function (id of the job, text) that returns the text to show."""
Handler: TypeAlias = Callable[..., Response]


@dataclass(frozen=True)
class Route:
    """What one method of one path does. `pattern` is below the mount; `{name}` in it stands for one part of a path.

    "public" routes decide about each job themselves. With `action`, a visitor who has that alone may come as well.
    """

    method: Literal["GET", "POST"]
    pattern: str
    right: Right
    handler: Handler
    action: str | None = None
    fast: bool = False


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes: Final = tuple(routes)
        plain = [route for route in self.routes if "{" not in route.pattern]
        self._plain: dict[tuple[str, str], Route] = {(route.method, route.pattern): route for route in plain}
        self._patterned = [(route, route.pattern.split("/")) for route in self.routes if "{" in route.pattern]

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """Return the route and the parts of the path that its pattern names; raise Problem 404 or 405."""
        wanted = "GET" if method == "HEAD" else method
        plain = self._plain.get((wanted, path))
        if plain is not None:
            return plain, {}
        found = [(route, parts) for route, pattern in self._patterned if (parts := _match(pattern, path)) is not None]
        for route, parts in found:
            if route.method == wanted:
                return route, parts
        allowed = sorted({route.method for route, _ in found} | {m for m, pattern in self._plain if pattern == path})
        if allowed:
            allow = ", ".join(["HEAD", *allowed] if "GET" in allowed else allowed)
            raise Problem(405, "Wrong method", f"This path answers to {allow}.", (("Allow", allow),))
        raise Problem(404, "Not found", "There is nothing under this address.")


def _match(pattern: list[str], path: str) -> dict[str, str] | None:
    parts = path.split("/")
    if len(parts) != len(pattern):
        return None
    found = {}
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted.startswith("{"):
            found[wanted[1:-1]] = part
        elif wanted != part:
            return None
    return found if all(found.values()) else None


@dataclass(frozen=True)
class Options:
    """What an application says of its web face beyond who may come in."""

    title: str = "procjobs"
    read_only: bool = False
    events: bool = True
    allow_hosts: tuple[str, ...] | None = None
    show_arguments: ShowArguments = False


class Site:
    """One mounted web face. Nothing of it is shared with another one in the same process."""

    def __init__(
        self, pools: Pools, router: Router, options: Options, *, permission: Permission, jobs: JobAccess
    ) -> None:
        self.pools: Final = pools
        self.router: Final = router
        self.options: Final = options
        self.permission: Final = permission
        self.jobs: Final = jobs
        self.scans: Final = Scans(wall)

    def answer(self, request: Request) -> Response:
        """Return the answer to a request. Blocks; raises nothing."""
        try:
            self.check(request)
            route, parts = self.router.find(request.method, request.path)
            who = NOBODY if route.right == "public" else self.permission.ask(request)
            if not who.may(route.right, route.action):
                raise Problem(403, "Not allowed", f"This needs the right to {route.action or route.right!s}.")
            response = route.handler(self, request, who, **parts)
        except Exception as error:  # noqa: BLE001 - the edge around one request: whatever it was, it is answered
            return self.answer_error(error, request)
        return _finish(response, request)

    def answer_fast(self, request: Request) -> Response | None:
        """Return the answer to a request that may not block; None if `answer` has to be called with it in a thread."""
        if self.jobs.asks_application:
            return None
        try:
            self.check(request)
            route, parts = self.router.find(request.method, request.path)
            if not (route.fast and route.right == "public"):
                return None
            response = route.handler(self, request, NOBODY, **parts)
        except WouldBlock:
            return None
        except Exception as error:  # noqa: BLE001 - as in `answer`
            return self.answer_error(error, request)
        return _finish(response, request)

    def check(self, request: Request) -> None:
        """Raise Problem unless a request is for this host, and from this site if it changes something."""
        check_host(request.host, self.options.allow_hosts)
        check_origin(request)

    def answer_error(self, error: Exception, request: Request) -> Response:
        """Return the answer to a request that failed."""
        return _finish(problem_response(problem_of(error, request), request), request)


def _finish(response: Response, request: Request) -> Response:
    if request.method == "HEAD":
        response = Response(b"", response.status, (*response.headers, ("Content-Length", str(len(response.body)))))
    return response.with_headers(*SAFE_HEADERS)


__all__ = ["Handler", "Options", "Right", "Route", "Router", "Site", "Visitor"]
