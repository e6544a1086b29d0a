"""The requests of tasks: their headers, and the one client that sends them.

A request is done when its response is complete: its body is read, and dropped as it comes, so that the connection can be
used again and the handler counts as running for as long as it answers. Redirects are not followed, proxies and passwords of
the environment are not used.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from procjobs.compat.taskqueue import signing
from procjobs.compat.taskqueue.sender.claims import Claim
from procjobs.compat.taskqueue.sender.replies import Reply

USER_AGENT: Final = "AppEngine-Google; (+http://code.google.com/appengine)"
"""What handlers of the original see."""
_DEFAULT_CONTENT_TYPE: Final = "application/octet-stream"
_OF_CONNECTION: Final = {"connection", "content-length", "transfer-encoding", "upgrade", signing.HEADER.lower()}
"""Headers that belong to the request as it is sent, whatever its task says."""
_KEPT: Final = 50
_KEPT_FOR: Final = 1.0
"""Seconds for which a connection waits for another request. Web servers close theirs after two seconds and more; a request
that met the end of its connection would have failed."""


def build(claim: Claim, base_url: str, key: bytes) -> httpx.Request:
    """Return the signed request of a task. Raise ValueError or httpx.InvalidURL for a url or header that cannot be sent."""
    url = httpx.URL(base_url.rstrip("/") + claim.url)
    own = _own_headers(claim)
    given = [(name, value) for name, value in claim.header_pairs() if not _is_reserved(name)]
    names = {name.lower() for name, _ in given}
    if "user-agent" not in names:
        own.append(("User-Agent", USER_AGENT))
    if claim.payload is not None and "content-type" not in names:
        own.append(("Content-Type", _DEFAULT_CONTENT_TYPE))
    body = claim.payload or b""
    prefix = urlsplit(base_url).path
    own.append((signing.HEADER, signing.sign(key, claim.method, url.raw_path, own, body, prefix=prefix)))
    headers = [(name.encode("ascii"), _as_bytes(value)) for name, value in [*given, *own]]
    return httpx.Request(claim.method, url, headers=headers, content=body or None)


def _own_headers(claim: Claim) -> list[tuple[str, str]]:
    eta = f"{claim.eta_usec // 1_000_000}.{claim.eta_usec % 1_000_000:06}"
    headers = [
        ("X-AppEngine-QueueName", claim.queue),
        ("X-AppEngine-TaskName", claim.name),
        ("X-AppEngine-TaskRetryCount", str(claim.retry_count)),
        ("X-AppEngine-TaskExecutionCount", str(claim.execution_count)),
        ("X-AppEngine-TaskETA", eta),
    ]
    if claim.retry_count and claim.previous_response is not None:
        headers.append(("X-AppEngine-TaskPreviousResponse", str(claim.previous_response)))
    if claim.retry_count and claim.retry_reason:
        headers.append(("X-AppEngine-TaskRetryReason", claim.retry_reason))
    return headers


def _is_reserved(name: str) -> bool:
    return name.lower() in _OF_CONNECTION or signing.canonical(name) is not None


def _as_bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")  # as `NewTask.headers` has made texts of bytes


class Client:
    """Sends requests over kept connections; used in one event loop."""

    def __init__(self) -> None:
        self._clients: dict[str, httpx.AsyncClient] = {}

    def _client_for(self, scheme: str) -> httpx.AsyncClient:
        if scheme not in self._clients:
            # To load the certificates of the host takes longer than many requests.
            context = ssl.create_default_context() if scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=_KEPT, keepalive_expiry=_KEPT_FOR)
            self._clients[scheme] = httpx.AsyncClient(
                verify=context, trust_env=False, follow_redirects=False, limits=limits,
                timeout=None,  # noqa: S113 - each request has a limit for all of it
            )  # fmt: skip
        return self._clients[scheme]

    async def send(self, request: httpx.Request, timeout: float, on_left: Callable[[], None]) -> Reply:
        """Send a request within `timeout` seconds, and wait as long again for the end of its response; raise nothing.

        So a handler has its whole time, however long the connection has taken. `on_left` is called when the whole request
        was handed to the network.
        """
        limit = asyncio.timeout(timeout)

        async def trace(event: str, _facts: Any) -> None:
            if event.endswith("send_request_body.complete"):
                on_left()
                limit.reschedule(asyncio.get_running_loop().time() + timeout)

        request.extensions["trace"] = trace
        try:
            async with limit:
                return await self._send(request)
        except TimeoutError:
            return Reply(None, f"no response within {timeout:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return Reply(None, explain(error))

    async def _send(self, request: httpx.Request) -> Reply:
        response = await self._client_for(request.url.scheme).send(request, stream=True)
        try:
            async for _ in response.aiter_raw():
                pass
            return Reply(response.status_code)
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()


def explain(error: Exception) -> str:
    """Return an error as one line of plain characters, as a header can have them."""
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return " ".join(words.encode("ascii", "replace").decode().split())[:200]
