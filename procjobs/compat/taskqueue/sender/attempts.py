"""The requests that are under way, and the endings that are to be written."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from procjobs.compat.taskqueue.sender.claims import GIVEN_UP, Claim, Ending
from procjobs.compat.taskqueue.sender.destinations import Destinations
from procjobs.compat.taskqueue.sender.queue_state import Departure, QueueState
from procjobs.compat.taskqueue.sender.replies import OVERLOADED, Reply, end
from procjobs.compat.taskqueue.sender.requests import Client, build, explain
from procjobs.compat.taskqueue.store.tables import now_usec

_log: Final = logging.getLogger("procjobs.taskqueue")
_LONGEST_DEPARTURE: Final = 1.0
"""A request that has not left after this time counts as one that has: its token is not kept for a host that is silent."""


def now() -> int:
    """Return microseconds of a clock that does not step."""
    return time.monotonic_ns() // 1000


class Attempts:
    """Runs one attempt for each claim. `on_end` is called at the end of each."""

    def __init__(self, key: bytes, on_end: Callable[[], None]) -> None:
        self._key = key
        self._on_end = on_end
        self._client = Client()
        self._under_way: set[asyncio.Task[None]] = set()
        self._endings: list[Ending] = []

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def has_endings(self) -> bool:
        """Whether there are endings to write."""
        return bool(self._endings)

    def take_endings(self) -> list[Ending]:
        """Return the endings that are to be written, once."""
        taken, self._endings = self._endings, []
        return taken

    def begin(self, claim: Claim, queue: QueueState, destinations: Destinations) -> None:
        """Send the request of a claim."""
        queue.begin(1)
        departure = queue.departure(now)
        attempt = asyncio.create_task(self._attempt(claim, queue, destinations, departure))
        self._under_way.add(attempt)
        attempt.add_done_callback(self._under_way.discard)

    async def _attempt(
        self, claim: Claim, queue: QueueState, destinations: Destinations, departure: Departure
    ) -> None:
        late = asyncio.get_running_loop().call_later(_LONGEST_DEPARTURE, departure)
        try:
            reply = await self._send(claim, queue, destinations, departure)
        finally:
            late.cancel()
            departure()
            queue.running -= 1
            self._on_end()
        if reply.status == OVERLOADED:
            queue.slow_down(now())
        ending = end(claim, queue.settings, reply, now_usec())
        if ending.outcome == GIVEN_UP:
            _log.warning(
                "task %s of queue %s has failed %d times (%s) and is given up",
                claim.name, claim.queue, claim.retry_count + 1, reply.reason,
            )  # fmt: skip
        self._endings.append(ending)

    async def _send(
        self, claim: Claim, queue: QueueState, destinations: Destinations, departure: Departure
    ) -> Reply:
        timeout = destinations.timeout if claim.deadline_usec is None else claim.deadline_usec / 1_000_000
        try:
            request = build(claim, destinations.base_of(claim.target, queue.settings.target), self._key)
            return await self._client.send(request, timeout, departure)
        except Exception as error:  # noqa: BLE001 - whatever a task has for a url or headers, the attempt has to end
            return Reply(None, explain(error))

    async def finish(self, patience: float) -> None:
        """Wait up to `patience` seconds for requests that are under way; drop those that are left, without an ending."""
        under_way = list(self._under_way)
        if under_way:
            await asyncio.wait(under_way, timeout=patience)
        for attempt in under_way:
            attempt.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._client.close()
