"""The WSGI shell: an application for gunicorn, or to mount in any WSGI framework. Pages poll: it has no streams.

A stream would keep one worker of the server for as long as a page is open: two of them end a site that has two workers.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from procjobs.web.access.hosts import LOOPBACK
from procjobs.web.http import MAX_BODY_BYTES, SAFE_METHODS, Problem, Request, Response, parse_fields
from procjobs.web.routes import full_site, progress_site, refuse_async_callables
from procjobs.web.site import Options, ShowArguments, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from wsgiref.types import StartResponse, WSGIEnvironment

    from procjobs.web.access.job_access import Access, AuthorizeJob
    from procjobs.web.access.permission import Authorize
    from procjobs.web.pools import PoolsGiven


class WsgiApp:
    """Serves a site, in the thread that calls it."""

    def __init__(self, site: Site) -> None:
        self.site: Final = site

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        response = answer(self.site, environ)
        start_response(f"{response.status} {HTTPStatus(response.status).phrase}", with_length(response))
        return [response.body]


def answer(
    site: Site,
    environ: WSGIEnvironment,
    *,
    native: Any = None,
    mount: str | None = None,
    path: str | None = None,
    read_body: Callable[[], bytes] | None = None,
) -> Response:
    """Return the answer to a request of a WSGI server.

    `native` is the request object of a framework in front, which says itself what is the `mount`, what the `path` below it,
    and what the body.
    """
    bare = Request(
        environ["REQUEST_METHOD"],
        (_decode(environ.get("PATH_INFO", "")) if path is None else path).lstrip("/"),
        (_decode(environ.get("SCRIPT_NAME", "")) if mount is None else mount).rstrip("/"),
        headers=_headers(environ),
        client=environ.get("REMOTE_ADDR") or None,
        is_secure=environ.get("wsgi.url_scheme") == "https",
        native=environ if native is None else native,
    )
    try:
        body = b"" if bare.method in SAFE_METHODS else _read_body(environ, read_body)
        request = replace(bare, query=parse_fields(environ.get("QUERY_STRING", "")), body=body)
    except Problem as problem:
        return site.answer_error(problem, bare)
    return site.answer(request)


def with_length(response: Response) -> list[tuple[str, str]]:
    """Return the headers of a response, its length among them."""
    has_length = response.status == 304 or response.header("Content-Length") is not None
    return [*response.headers] if has_length else [*response.headers, ("Content-Length", str(len(response.body)))]


def _headers(environ: WSGIEnvironment) -> dict[str, str]:
    headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            headers[name.replace("_", "-").lower()] = environ[name]
    return headers


def _read_body(environ: WSGIEnvironment, read_body: Callable[[], bytes] | None) -> bytes:
    """Return the body; raise Problem for one that is too large. Without a length there is one only if the server ends it."""
    text = environ.get("CONTENT_LENGTH") or ("" if environ.get("wsgi.input_terminated") else "0")
    if text and not text.isdigit():
        raise Problem(400, "Bad length", "Content-Length is not a number.")
    length = int(text) if text else MAX_BODY_BYTES + 1
    body = b""
    if not text or length <= MAX_BODY_BYTES:
        body = environ["wsgi.input"].read(length) if read_body is None else read_body()
    if length > MAX_BODY_BYTES and (text or len(body) > MAX_BODY_BYTES):
        raise Problem(413, "Too large", f"A request may bring {MAX_BODY_BYTES} bytes.")
    return body


def _decode(text: str) -> str:
    """Return a path as it was meant: WSGI has its bytes as Latin-1."""
    return text.encode("latin-1", "replace").decode("utf-8", "replace")


def progress_wsgi(
    pool: PoolsGiven,
    *,
    access: Access = "signed",
    authorize_job: AuthorizeJob | None = None,
    cancel: bool = False,
    secret: bytes | str | None = None,
    allow_hosts: Sequence[str] | None = None,
) -> WsgiApp:
    """Return a WSGI application with the progress of jobs, for the pages of end users, which poll; no dashboard.

    Everything is as in `procjobs.web.progress`; there are no events, and `authorize_job` is a plain function, which gets a
    `procjobs.web.Request`: `headers`, `cookies`, and the `environ` as `native`. Raise ConfigurationError as that does, and
    for a coroutine function.
    """
    refuse_async_callables(None, authorize_job)
    options = Options(events=False, allow_hosts=None if allow_hosts is None else tuple(allow_hosts))
    site = progress_site(pool, options, access=access, authorize_job=authorize_job, cancel=cancel, secret=secret)
    return WsgiApp(site)


def wsgi(
    pools: PoolsGiven,
    *,
    authorize: Authorize | None = None,
    read_only: bool = False,
    show_arguments: ShowArguments = False,
    title: str | None = None,
    secret: bytes | str | None = None,
    allow_hosts: Sequence[str] | None = LOOPBACK,
    access: Access = "signed",
    authorize_job: AuthorizeJob | None = None,
) -> WsgiApp:
    """Return a WSGI application with the dashboard, the JSON API, and all that `progress_wsgi` has.

    Everything is as in `procjobs.web.app`; `authorize` is a plain function, which gets a `procjobs.web.Request`: `headers`,
    `cookies`, and the `environ` as `native`. Raise ConfigurationError as that does, and for a coroutine function.
    """
    refuse_async_callables(authorize, authorize_job)
    hosts = None if allow_hosts is None else tuple(allow_hosts)
    options = Options(title or "procjobs", read_only, False, hosts, show_arguments)
    site = full_site(pools, options, authorize=authorize, access=access, authorize_job=authorize_job, secret=secret)
    return WsgiApp(site)
