"""Live events of jobs: `GET api/1/events?id=...`, a stream of Server-Sent Events (HTML standard, section 9.2).

    retry: 3000                 at once, so that the page knows that it is connected
    event: status               one for each job at once, then one whenever it changes; data: the document of the job
    event: end                  all jobs have ended: the stream closes, and the page should, too
    : ping                      every 15 seconds, since proxies close what is silent for a minute

A proxy must not collect or compress the stream: `X-Accel-Buffering` and `Content-Encoding` say so.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Final

try:
    from anyio import to_thread
    from sse_starlette import EventSourceResponse, ServerSentEvent
    from sse_starlette.sse import SendTimeoutError
except ImportError as error:
    raise ImportError(f"{error}: pip install 'procjobs[web]'") from error

from procjobs.web.access.headers import SAFE_HEADERS
from procjobs.web.documents import job_document
from procjobs.web.http import SAFE_METHODS, Problem, Request, Response, WouldBlock
from procjobs.web.problems import problem_of
from procjobs.web.seeing import Seen, asked_tokens, see
from procjobs.web.watching import Watcher, encode_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from anyio import CapacityLimiter
    from starlette.types import Message, Receive, Scope, Send

    from procjobs.web.site import Site
    from procjobs.web.watching import Subscription

EVENTS_PATH: Final = "api/1/events"
PING_INTERVAL: Final = 15
CHECK_INTERVAL: Final = 60.0
"""After so many seconds it is asked again whether the page may still look."""
SEND_TIMEOUT: Final = 60.0
"""A page that takes nothing for so long is given up: it would keep its place from others."""
MAX_STREAMS: Final = 2_000
MAX_STREAMS_PER_CLIENT: Final = 8
RETRY_AFTER: Final = 10
_FIRST: Final = b"retry: 3000\n\n"
_END: Final = b"event: end\ndata: {}\n\n"
_HEADERS: Final = {
    **dict(SAFE_HEADERS),
    "Cache-Control": "no-store, no-transform",
    "Content-Encoding": "identity",
    "X-Accel-Buffering": "no",
}


class Streams:
    """The streams of a site on one event loop, and their one watcher."""

    def __init__(self, site: Site, threads: CapacityLimiter) -> None:
        self._site = site
        self._threads = threads
        self._watcher = Watcher(site.pools)
        self._clients: Counter[str | None] = Counter()

    async def serve(self, request: Request, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """Send the events of a request until its jobs have ended; return the answer instead if there is to be no stream."""
        with ExitStack() as held:
            try:
                self._site.check(request)
                _check_method(request)
                held.enter_context(self._place(request.client))
                tokens = asked_tokens(request)
                seen = await self._see(request, tokens)
            except Exception as error:  # noqa: BLE001 - the edge around one request, as in Site.answer
                return self._site.answer_error(error, request)
            subscription = held.enter_context(closing(self._subscribe(seen, request.headers.get("last-event-id", ""))))
            response = EventSourceResponse(
                self._events(subscription, request, tokens), headers=_HEADERS, ping=PING_INTERVAL, sep="\n",
                ping_message_factory=lambda: ServerSentEvent(comment="ping", sep="\n"), send_timeout=SEND_TIMEOUT,
            )  # fmt: skip
            body = _Body(send)
            with suppress(SendTimeoutError):  # the server closes what was not ended
                await response(scope, receive, body.send)
                await body.end()
        return None

    async def _see(self, request: Request, tokens: list[str]) -> list[Seen]:
        if not self._site.jobs.asks_application:
            try:
                return see(self._site, request, tokens)
            except WouldBlock:
                pass
        return await to_thread.run_sync(see, self._site, request.blocking(), tokens, limiter=self._threads)

    def _subscribe(self, seen: list[Seen], skipped: str) -> Subscription:
        known = {one.grant.key: one.found for one in seen if one.grant.rights and one.trouble is None}
        lost = [one.grant.key for one in seen if one.trouble is not None]
        refused = [one.grant for one in seen if not one.grant.rights and one.trouble is None]
        said = {grant.key: _refusal_event(grant.key, grant.refusal) for grant in refused}
        return self._watcher.subscribe(known, lost, skipped, said)

    async def _events(self, subscription: Subscription, request: Request, tokens: list[str]) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        check_at = loop.time() + CHECK_INTERVAL
        yield _FIRST
        while True:
            try:
                async with asyncio.timeout_at(check_at):
                    events = await subscription.next_events()
            except TimeoutError:
                await self._check(subscription, request, tokens)
                check_at = loop.time() + CHECK_INTERVAL
                continue
            if events is None:
                break
            yield events
        yield _END

    async def _check(self, subscription: Subscription, request: Request, tokens: list[str]) -> None:
        """Have a stream end for the jobs that the page may not look at any more."""
        refusals: dict[str, str | None]
        try:
            seen = await self._see(request, tokens)
        except Exception as error:  # noqa: BLE001 - whatever the application's code raised: who is not let in is kept out
            problem = problem_of(error, request)
            refusals = {token.partition(".")[0]: problem.detail for token in tokens}
        else:
            refusals = {one.grant.key: one.grant.refusal for one in seen if not one.grant.rights}
        for key, refusal in refusals.items():
            subscription.push(key, _refusal_event(key, refusal))
        subscription.drop(refusals.keys())

    @contextmanager
    def _place(self, client: str | None) -> Iterator[None]:
        """Take a place for a stream; raise Problem 503 if there is none. A reverse proxy on this host has any number."""
        limit = MAX_STREAMS if client is None or _is_loopback(client) else MAX_STREAMS_PER_CLIENT
        if self._clients[client] >= limit or self._clients.total() >= MAX_STREAMS:
            raise Problem(503, "Too many streams", "Ask for the status instead.", (("Retry-After", str(RETRY_AFTER)),))
        self._clients[client] += 1
        try:
            yield
        finally:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]


class _Body:
    """Ends the body of a stream that is cut short because its server ends: else the server logs an error for each page."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_open = False

    async def send(self, message: Message) -> None:
        """Pass on a message of the response."""
        await self._send(message)
        self._is_open = message["type"] == "http.response.start" or bool(message.get("more_body"))

    async def end(self) -> None:
        """Send the end of the body, if it was not sent."""
        if self._is_open:
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})


def _check_method(request: Request) -> None:
    if request.method not in SAFE_METHODS:
        raise Problem(405, "Wrong method", "This path answers to HEAD, GET.", (("Allow", "HEAD, GET"),))


def _refusal_event(key: str, refusal: str | None) -> bytes:
    return encode_event(key, "refused", job_document(key, None, refusal))


def _is_loopback(client: str) -> bool:
    try:
        return ipaddress.ip_address(client).is_loopback
    except ValueError:  # a name that a server made up for a Unix socket
        return True
