"""The middleware of the application that handles the tasks: `app = wrap_wsgi_app(app)`, or `wrap_asgi_app`.

1. X-AppEngine-* headers reach the application in requests of the queue alone, and only those that the queue has signed. So a
   handler may trust them, as behind App Engine's front end.
2. A request that is not the queue's is passed on without them. Its body is not read.
3. The body of a request of the queue is read, to verify it, and passed on unchanged. One with another body than the queue
   has signed is answered with 400: it was changed on its way, or cut off, as when the pool was killed while it sent it.
4. With `use_deferred=True`, the middleware itself answers /_ah/queue/deferred: it runs deferred calls of the queue, and
   refuses any other request with 403, unread. What is unpickled there has been signed.
5. A signature that cannot be verified, because the database is away, is answered with 503: the queue tries again.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from procjobs.compat.taskqueue import signing
from procjobs.compat.taskqueue.deferred.handler import Handler
from procjobs.compat.taskqueue.store.stored import load_signing_key
from procjobs.compat.taskqueue.web.gate import MARK, Gate, is_deferred

__all__ = ["wrap_asgi_app", "wrap_wsgi_app"]

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WSGIApplication = Callable[[Environ, StartResponse], Iterable[bytes]]
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApplication = Callable[[Scope, Receive, Send], Awaitable[None]]

_SIGNATURE: Final = "HTTP_" + signing.HEADER.upper().replace("-", "_")
_SIGNATURE_BYTES: Final = signing.HEADER.lower().encode()
_PLAIN: Final = ("Content-Type", "text/plain; charset=utf-8")
_UNAVAILABLE: Final = b"The signature of this request cannot be verified now.\n"
_INCOMPLETE: Final = b"The body of this request is not the one that was signed.\n"
_READ_BYTES: Final = 64 * 1024

_log: Final = logging.getLogger(__package__)


def wrap_wsgi_app(
    app: WSGIApplication,
    use_legacy_context_mode: bool = True,
    use_deferred: bool = False,
    *,
    drop_unloadable: bool = False,
) -> WSGIApplication:
    """Return a WSGI application that passes X-AppEngine-* headers on to `app` in requests of the queue only.

    use_legacy_context_mode: is accepted for Google's signature, and does nothing.
    use_deferred: answer POST requests to /_ah/queue/deferred with a `deferred.Handler`.
    drop_unloadable: with `use_deferred`, end deferred calls whose function is not there in the code of this process.
        Otherwise they are tried again, as the code may come with the next deploy.
    """
    return _WSGI(app, Handler(drop_unloadable=drop_unloadable) if use_deferred else None)


def wrap_asgi_app(app: ASGIApplication, use_deferred: bool = False, *, drop_unloadable: bool = False) -> ASGIApplication:
    """Return an ASGI application that does what that of `wrap_wsgi_app` does; deferred calls run in a thread."""
    return _ASGI(app, Handler(drop_unloadable=drop_unloadable) if use_deferred else None)


class _WSGI:
    def __init__(self, app: WSGIApplication, handler: Handler | None) -> None:
        self._app = app
        self._handler = handler
        self._gate = Gate(load_signing_key)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        family = {name: key for name in environ if (key := _canonical(name)) is not None}
        value = environ.pop(_SIGNATURE, None)
        signature: signing.Signature | None = None
        if value is not None:
            try:
                signature = self._verified(value, environ, family)
            except Exception:  # noqa: BLE001 - whatever the database's driver raises
                _log.exception("The signature of a request to %r cannot be verified", environ.get("PATH_INFO"))
                return _refuse(start_response, "503 Service Unavailable", _UNAVAILABLE)
        if signature is not None and not _has_signed_body(environ, signature):
            _log.warning("A request of a task queue to %r was refused: its body is not whole", environ.get("PATH_INFO"))
            return _refuse(start_response, "400 Bad Request", _INCOMPLETE)
        for name, key in family.items():
            if signature is None or key not in signature.names:
                del environ[name]
        environ[MARK] = signature is not None
        if self._handler is not None and is_deferred(_paths(environ), signature):
            return self._handler(environ, start_response)
        return self._app(environ, start_response)

    def _verified(self, value: str, environ: Environ, family: dict[str, str]) -> signing.Signature | None:
        """Return the signature of a request of the queue, whose body is not verified yet; None for any other."""
        request = signing.Received(
            environ["REQUEST_METHOD"],
            _paths(environ),
            environ.get("QUERY_STRING", "").encode("latin-1"),
            {key: environ[name] for name, key in family.items()},
        )
        return self._gate.signature_of(value, request)


def _has_signed_body(environ: Environ, signature: signing.Signature) -> bool:
    """Read the body, and put it where the application reads it; return whether it is the one that was signed."""
    length = environ.get("CONTENT_LENGTH") or ""
    is_chunked = not length and environ.get("wsgi.input_terminated", False)  # a proxy between may send it in chunks
    if not is_chunked and (length or "0") != str(signature.length):
        return False
    body = _read(environ["wsgi.input"], signature.length + is_chunked)
    environ["wsgi.input"] = io.BytesIO(body)
    if is_chunked:
        environ["CONTENT_LENGTH"] = str(len(body))  # no application would read it otherwise
    return signing.is_body(signature, body)


def _refuse(start_response: StartResponse, status: str, text: bytes) -> list[bytes]:
    start_response(status, [_PLAIN, ("Content-Length", str(len(text)))])
    return [text]


def _canonical(name: str) -> str | None:
    return signing.canonical(name[5:]) if name[:5].upper() in {"HTTP_", "HTTP-"} else None


def _paths(environ: Environ) -> tuple[bytes, ...]:
    path, folder = (environ.get(name, "").encode("latin-1") for name in ("PATH_INFO", "SCRIPT_NAME"))
    return (path, folder + path)


def _read(stream: Any, length: int) -> bytes:
    """Return this many bytes, or those that are there when the client has gone."""
    parts = []
    while length > 0 and (part := stream.read(min(length, _READ_BYTES))):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


class _ASGI:
    def __init__(self, app: ASGIApplication, handler: Handler | None) -> None:
        self._app = app
        self._handler = handler
        self._gate = Gate(load_signing_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        values = [value for name, value in scope["headers"] if name.lower() == _SIGNATURE_BYTES]
        signature: signing.Signature | None = None
        body = b""
        if scope["type"] == "http" and len(values) == 1:
            try:
                signature = await self._verify(values[0].decode("latin-1"), scope)
            except Exception:  # noqa: BLE001 - whatever the database's driver raises
                _log.exception("The signature of a request to %r cannot be verified", scope["path"])
                await _answer(send, 503, [_PLAIN], _UNAVAILABLE)
                return
        if signature is not None:
            messages, body = await _collect(receive, signature.length)
            if not signing.is_body(signature, body):
                _log.warning("A request of a task queue to %r was refused: its body is not whole", scope["path"])
                await _answer(send, 400, [_PLAIN], _INCOMPLETE)
                return
            receive = _replay(messages, receive)
        headers = [pair for pair in scope["headers"] if _may_pass(pair[0], signature)]
        scope = {**scope, "headers": headers, MARK: signature is not None}
        if self._handler is not None and scope["type"] == "http" and is_deferred(_paths_of(scope), signature):
            await self._run_deferred(self._handler, scope, body, send)
        else:
            await self._app(scope, receive, send)

    async def _verify(self, value: str, scope: Scope) -> signing.Signature | None:
        """Return the signature of a request of the queue, whose body is not verified yet; None for any other."""
        pairs = [(name.decode("latin-1"), text.decode("latin-1")) for name, text in scope["headers"]]
        request = signing.Received(
            scope["method"], _paths_of(scope), bytes(scope.get("query_string") or b""), signing.family(pairs)
        )
        signature, is_settled = self._gate.try_signature_of(value, request)
        return signature if is_settled else await asyncio.to_thread(self._gate.signature_of, value, request)

    @staticmethod
    async def _run_deferred(handler: Handler, scope: Scope, body: bytes, send: Send) -> None:
        """Have the handler run the call in a thread, with the parts of an environ that it looks at."""
        environ: Environ = {
            "REQUEST_METHOD": scope["method"], "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body),
            MARK: scope[MARK],
        }  # fmt: skip
        for name, value in scope["headers"]:
            environ["HTTP_" + name.decode("latin-1").upper().replace("-", "_")] = value.decode("latin-1")
        text, status, headers = await asyncio.to_thread(handler.respond, environ)
        await _answer(send, status.value, headers, text.encode())


def _may_pass(name: bytes, signature: signing.Signature | None) -> bool:
    if name.lower() == _SIGNATURE_BYTES:
        return False
    key = signing.canonical(name.decode("latin-1"))
    return key is None or (signature is not None and key in signature.names)


def _paths_of(scope: Scope) -> tuple[bytes, ...]:
    """Return the ways to understand the path; servers differ in whether it begins with the folder, `root_path`."""
    raw = scope.get("raw_path")
    path = unquote_to_bytes(raw.partition(b"?")[0]) if raw else scope["path"].encode("utf-8", "surrogateescape")
    folder = (scope.get("root_path") or "").encode("utf-8", "surrogateescape")
    return (path, path.removeprefix(folder), folder + path)


async def _collect(receive: Receive, limit: int) -> tuple[list[Message], bytes]:
    """Return the messages with the body of a request, and the body; they stop where it is longer than the limit."""
    messages, body, more = [], b"", True
    while more and len(body) <= limit:
        message = await receive()
        messages.append(message)
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    return messages, body


def _replay(messages: list[Message], receive: Receive) -> Receive:
    async def again() -> Message:
        return messages.pop(0) if messages else await receive()

    return again


async def _answer(send: Send, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
