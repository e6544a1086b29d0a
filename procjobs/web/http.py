"""Requests and responses as the handlers of the web face see them, whatever server stands in front. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MAX_BODY_BYTES: Final = 1 << 20
"""What a request may bring: forms and short JSON documents. A shell answers 413 to more."""
MAX_FIELDS: Final = 2_000
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
SAFE_METHODS: Final = frozenset({"GET", "HEAD"})


class Problem(Exception):
    """An answer that is an error: its HTTP status, a title of a few words, and a sentence for the person who asked."""

    def __init__(self, status: int, title: str, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.headers = headers

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of it."""
        return {"error": {"title": self.title, "detail": self.detail, "status": self.status}}


class WouldBlock(Exception):
    """Raised by a `fast` handler that finds it has to ask somebody: the shell calls it again in a thread."""


def refuse_to_wait(_: Awaitable[Any]) -> Any:
    """Raise TypeError: nothing here could await it."""
    raise TypeError("a callable of this application has to be awaited, and there is no event loop to do that")


@dataclass(frozen=True)
class Request:
    """One request. Names of headers are in lower case; `path` is below the mount, without a slash at its beginning.

    `mount` is the path at which the web face is mounted, without a slash at its end: "" for the root. `client` is the
    address of the peer, None for one on a Unix socket. `native` is the request object of the framework in front (Starlette,
    Flask, Django), under plain WSGI the `environ`. `may_block` is False on an event loop; `wait`
    waits, in a thread, for something that has to be awaited on the loop of the application.
    """

    method: str
    path: str
    mount: str = ""
    query: dict[str, list[str]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    client: str | None = None
    is_secure: bool = False
    native: Any = None
    may_block: bool = True
    wait: Callable[[Awaitable[Any]], Any] = refuse_to_wait

    @property
    def host(self) -> str:
        """The Host header, "" without one."""
        return self.headers.get("host", "")

    @property
    def theirs(self) -> Any:
        """What callables of the application get: the request of its framework; under plain WSGI, this object."""
        return self if self.native is None or isinstance(self.native, dict) else self.native

    @property
    def wants_json(self) -> bool:
        """Whether errors are to be JSON: below `api/`, but not where a browser shows the answer as a page."""
        return self.path.startswith("api/") and not (self.method == "POST" and self.one("next"))

    @cached_property
    def form(self) -> dict[str, list[str]]:
        """The fields of a form's body; {} for bodies of another kind. Raise Problem 400 for one that is none."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            return {}
        try:
            return parse_fields(self.body.decode())
        except UnicodeDecodeError:
            raise Problem(400, "Bad form", "The form is not UTF-8.") from None

    @cached_property
    def cookies(self) -> dict[str, str]:
        """The cookies by name; {} if the header cannot be read."""
        try:
            return {name: morsel.value for name, morsel in SimpleCookie(self.headers.get("cookie", "")).items()}
        except CookieError:
            return {}

    def all(self, name: str) -> list[str]:
        """Return all values of a field, those of the URL first, then those of the form."""
        return [*self.query.get(name, ()), *self.form.get(name, ())]

    def one(self, name: str, default: str = "") -> str:
        """Return the first value of a field of the URL or the form."""
        return next(iter(self.all(name)), default)

    def json(self) -> Any:
        """Return the value of a JSON body; raise Problem 400 if it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise Problem(400, "Bad JSON", "The body of the request is not JSON.") from None

    def link(self, path: str) -> str:
        """Return the absolute path of something below the mount: `link("job")` is "/jobs/job" for a mount at /jobs."""
        return f"{quote(self.mount)}/{path}"

    def blocking(self) -> Request:
        """Return the same request, for a thread, where a handler may block."""
        return replace(self, may_block=True)


@dataclass(frozen=True)
class Response:
    """One answer. A body of a stream is not one of these: see `procjobs.web.streams`."""

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()

    def with_headers(self, *headers: tuple[str, str]) -> Response:
        """Return it with these headers where it has none of that name."""
        known = {name.lower() for name, _ in self.headers}
        added = [pair for pair in headers if pair[0].lower() not in known]
        return Response(self.body, self.status, (*self.headers, *added))

    def header(self, name: str) -> str | None:
        """Return the value of a header, None if there is none."""
        return next((value for known, value in self.headers if known.lower() == name.lower()), None)


def parse_fields(text: str) -> dict[str, list[str]]:
    """Return the fields of a query or a form; raise Problem 400 for more than 2,000."""
    try:
        return parse_qs(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Problem(400, "Too many fields", f"A request may have at most {MAX_FIELDS} fields.") from None


def encode_json(value: object) -> bytes:
    """Return a value as compact JSON in UTF-8."""
    return _encode(value).encode("utf-8", "replace")


def json_response(value: object, status: int = 200, *headers: tuple[str, str]) -> Response:
    """Return an answer in JSON, which no cache keeps."""
    kind = ("Content-Type", "application/json; charset=utf-8")
    return Response(encode_json(value), status, (kind, *headers)).with_headers(("Cache-Control", "no-store"))


def html_response(text: str, status: int = 200, *headers: tuple[str, str]) -> Response:
    """Return a page, which no cache keeps."""
    kind = ("Content-Type", "text/html; charset=utf-8")
    return Response(text.encode("utf-8", "replace"), status, (kind, *headers)).with_headers(("Cache-Control", "no-store"))


def see_other(request: Request, path: str) -> Response:
    """Return the answer to a form that has done something: the browser goes to a page below the mount.

    Raise Problem 400 if `path` would lead anywhere else: `//host`, `https://host`, `../x`, a control character.
    """
    return Response(b"", 303, (("Location", request.link(check_next(path))), ("Cache-Control", "no-store")))


def check_next(path: str) -> str:
    """Return a path below the mount as it may stand in a Location header; raise Problem 400 for any other text."""
    place, mark, rest = path.partition("?")
    parts = place.split("/")
    is_odd = not path.isprintable() or not path.isascii() or "\\" in path or ":" in place or " " in path
    if is_odd or ".." in parts or "." in parts or "" in parts[:-1]:
        raise Problem(400, "Bad next", "The field `next` must be a path below this one, such as `job?id=...`.")
    return f"{place}{mark}{rest}"
