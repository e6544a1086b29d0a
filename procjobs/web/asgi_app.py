"""The ASGI shell: an application for uvicorn, or to mount in Starlette, FastAPI or any other ASGI framework.

It needs no lifespan, since frameworks do not run that of a mounted application. What belongs to an event loop is made when
the first request comes on it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

try:
    from anyio import CapacityLimiter, from_thread, to_thread
    from starlette.requests import Request as StarletteRequest
except ImportError as error:
    raise ImportError(f"{error}: pip install 'procjobs[web]'") from error

from procjobs.web.access.hosts import LOOPBACK
from procjobs.web.http import MAX_BODY_BYTES, SAFE_METHODS, Problem, Request, Response, parse_fields
from procjobs.web.routes import full_site, progress_site
from procjobs.web.site import Options, ShowArguments, Site
from procjobs.web.streams import EVENTS_PATH, Streams

if TYPE_CHECKING:
    from collections.abc import Awaitable, MutableMapping, Sequence

    from starlette.types import Receive, Scope, Send

    from procjobs.web.access.job_access import Access, AuthorizeJob
    from procjobs.web.access.permission import Authorize
    from procjobs.web.pools import PoolsGiven

_THREADS: Final = 8
"""Requests that may block at the same time: a stopped supervisor keeps no more of the application's threads than these."""


class AsgiApp:
    """Serves a site. It can be mounted more than once, and serve several event loops."""

    def __init__(self, site: Site) -> None:
        self.site: Final = site
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _OnLoop] = WeakKeyDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. A websocket is refused, and a lifespan has nothing to do."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = await _read_request(scope, receive)
        except Problem as problem:
            await _send(self.site.answer_error(problem, _bare_request(scope)), send)
            return
        if self.site.options.events and request.path == EVENTS_PATH:
            response = await self._on_loop().streams.serve(request, scope, receive, send)
        else:
            response = self.site.answer_fast(request)
            if response is None:
                response = await to_thread.run_sync(self.site.answer, request.blocking(), limiter=self._on_loop().threads)
        if response is not None:
            await _send(response, send)

    def _on_loop(self) -> _OnLoop:
        loop = asyncio.get_running_loop()
        there = self._loops.get(loop)
        if there is None:
            threads = CapacityLimiter(_THREADS)
            there = self._loops[loop] = _OnLoop(threads, Streams(self.site, threads))
        return there


class _OnLoop(NamedTuple):
    """What belongs to one event loop."""

    threads: CapacityLimiter
    streams: Streams


async def _read_request(scope: Scope, receive: Receive) -> Request:
    """Return a request that may not block."""
    bare = _bare_request(scope)
    body = b"" if bare.method in SAFE_METHODS else await _read_body(bare, receive)
    query = parse_fields(scope.get("query_string", b"").decode("latin-1"))
    return Request(
        bare.method, bare.path, bare.mount, query, bare.headers, body, bare.client, bare.is_secure,
        StarletteRequest(scope, _replay(body, receive)), may_block=False, wait=_wait,
    )  # fmt: skip


def _bare_request(scope: Scope) -> Request:
    """Return what of a request cannot be wrong."""
    mount = scope.get("root_path", "").rstrip("/")
    path = scope["path"]
    if mount and (path == mount or path.startswith(f"{mount}/")):
        path = path[len(mount) :]
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}; {text}" if key == "cookie" and key in headers else text
    client = scope.get("client")
    return Request(
        scope["method"], path.lstrip("/"), mount, headers=headers, client=None if not client else client[0],
        is_secure=scope.get("scheme") == "https",
    )  # fmt: skip


async def _read_body(bare: Request, receive: Receive) -> bytes:
    announced = bare.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise Problem(413, "Too large", f"A request may bring {MAX_BODY_BYTES} bytes.")
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "Cut off", "The request ended before its body did.")
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise Problem(413, "Too large", f"A request may bring {MAX_BODY_BYTES} bytes.")
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return what lets the application's own code read a body that was read here."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> MutableMapping[str, Any]:
        return left.pop() if left else await receive()

    return replay


async def _send(response: Response, send: Send) -> None:
    headers = [*response.headers]
    if response.status != 304 and response.header("Content-Length") is None:
        headers.append(("Content-Length", str(len(response.body))))
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": response.status, "headers": raw})
    await send({"type": "http.response.body", "body": response.body})


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _wait(awaitable: Awaitable[Any]) -> Any:
    """Return what something gives that has to be awaited on the event loop; called in a thread."""

    async def wait() -> Any:
        return await awaitable

    return from_thread.run(wait)


def progress(
    pool: PoolsGiven,
    *,
    access: Access = "signed",
    authorize_job: AuthorizeJob | None = None,
    cancel: bool = False,
    secret: bytes | str | None = None,
    events: bool = True,
    allow_hosts: Sequence[str] | None = None,
) -> AsgiApp:
    """Return an ASGI application with the progress of jobs, for the pages of end users; no dashboard.

    `pool` is a pool, several, or a callable that returns them. A page may look at a job for which it has a token of
    `procjobs.web.sign`; with `access="id"` also at one whose id it knows: whoever sees the URL of a request can look then.
    `authorize_job(request, job_id, meta)` decides about plain ids instead: it returns whether the visitor may look, or a set
    of "look" and "cancel"; it may be a coroutine function, is called in a thread otherwise, and gets Starlette's request.
    `cancel` lets those who may look at a job by its id cancel it. `secret` is that of the tokens, as in `sign`. Without
    `events` there are no streams, and pages poll. `allow_hosts` are the names in Host that are answered, None for all.

    Raise ConfigurationError for a secret that is too short, or another `access`.
    """
    options = Options(events=events, allow_hosts=None if allow_hosts is None else tuple(allow_hosts))
    site = progress_site(pool, options, access=access, authorize_job=authorize_job, cancel=cancel, secret=secret)
    return AsgiApp(site)


def app(
    pools: PoolsGiven,
    *,
    authorize: Authorize | None = None,
    read_only: bool = False,
    show_arguments: ShowArguments = False,
    events: bool = True,
    title: str | None = None,
    secret: bytes | str | None = None,
    allow_hosts: Sequence[str] | None = LOOPBACK,
    access: Access = "signed",
    authorize_job: AuthorizeJob | None = None,
) -> AsgiApp:
    """Return an ASGI application with the dashboard, the JSON API, and all that `progress` has.

    `pools` is one pool, several, or a callable that returns those that there are now. `authorize(request)` gets Starlette's
    request, and returns what the visitor may do: None, "read", "operate", "admin" (each includes those before), or a set of
    rights and actions ("read", "cancel"). It is called for every request, in a thread unless it is a coroutine function.
    Without it the dashboard and the API are closed. With `read_only` nobody can change anything. `show_arguments` is
    whether the arguments of jobs are shown, or a function (id, text) that returns the text to show. `allow_hosts` are the
    names in Host that are answered: those of this machine unless others are given; None for all.

    The others are as in `progress`. Raise ConfigurationError as that does.
    """
    options = Options(
        title or "procjobs", read_only, events, None if allow_hosts is None else tuple(allow_hosts), show_arguments
    )
    site = full_site(
        pools, options, authorize=authorize, access=access, authorize_job=authorize_job, secret=secret
    )
    return AsgiApp(site)
