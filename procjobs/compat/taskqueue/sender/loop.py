"""The loop of the sender that has the lead: a turn at the database, then a rest until something is due.

1. One transaction at a time, in a thread of its own: requests go on while the database is slow or away.
2. The sender sleeps until the next eta, the next token, or the end of a request. It looks every POLL whether others have
   written. So an attempt is never early, and late by POLL and a turn at most.
3. A turn that the database did not answer is ordered again until it does, word for word: it may have been done.
4. When it ends it takes no more tasks, waits a little for requests that are under way, and has the others wait again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from procjobs.compat.taskqueue.sender.attempts import Attempts, now
from procjobs.compat.taskqueue.sender.claims import Order, Report, Superseded, give_up_lead, take_over, turn
from procjobs.compat.taskqueue.sender.destinations import Destinations
from procjobs.compat.taskqueue.sender.queue_state import QueueState
from procjobs.compat.taskqueue.settings.queues import QueueSettings
from procjobs.compat.taskqueue.store.rows import SLICE, remove_expired
from procjobs.compat.taskqueue.store.tables import now_usec
from procjobs.errors import StoreUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from procjobs.sql import OwnConnection

T = TypeVar("T")

POLL: Final = 0.05
"""Seconds between two looks at an SQLite file, whose changes cost microseconds to see."""
SLOW_POLL: Final = 0.2
"""The same for PostgreSQL, which is asked each time."""
_RATE_INTERVAL: Final = 0.5
"""Seconds between two records of a rate that recovers."""
_TIDY_INTERVAL: Final = 10.0
_GAP: Final = 1.0
"""A run does not end when a task is due within this time: nobody sends it between two runs. Seconds."""
_OVERTIME: Final = 1.0
"""How long a run goes on for that reason, in seconds. A task that is always due soon does not keep an unused pool."""
_OUTAGE_PAUSE: Final = 0.5
_LONGEST_OUTAGE: Final = 600.0
"""How long a run whose time is over waits for the database, to write what became of its requests: they are sent again if
it gives up. One that has nothing to write ends at once, and the next run waits. Seconds."""
_EMPTY_PAUSE: Final = 0.02
"""Seconds to wait after a claim that found its tasks locked by others."""
_PATIENCE: Final = 2.0
"""Seconds for which an ending sender waits for requests that are under way; a pool kills it after its grace period of 5."""
_SPARE_DESCRIPTORS: Final = 100

_log: Final = logging.getLogger("procjobs.taskqueue")


class Sender:
    """Works the queues of one database, from a takeover to the end of its run."""

    def __init__(self, database: OwnConnection, thread: ThreadPoolExecutor) -> None:
        self._database = database
        self._thread = thread
        self._queues: dict[str, QueueState] = {}
        self._interrupted: frozenset[str] = frozenset()
        self._destinations: Destinations | None = None
        self._told = ""
        self._generation = 0
        self._is_ending = threading.Event()
        self._wake = asyncio.Event()
        self._rates_due = self._tidy_due = self._gives_up_at = 0.0
        self._was_empty = False
        self._most = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_DESCRIPTORS, 1)

    async def run(self, until: float, is_kept: Callable[[], bool]) -> None:
        """Send tasks until the monotonic time `until`, and on while there is anything to do.

        Raise Superseded, and StoreUnavailable where the database is still away when the time is over.
        `is_kept` tells whether this process still has the lead; it may block, and is called now and then.
        """
        self._gives_up_at = until
        takeover = await self._call(self._persist, take_over)
        self._generation, self._interrupted = takeover.generation, takeover.interrupted
        attempts = Attempts(takeover.signing_key, self._wake.set)
        try:
            while not self._is_over(until, attempts):
                self._gives_up_at = until + (_LONGEST_OUTAGE if len(attempts) or attempts.has_endings else 0)
                await self._tidy()
                seen = self._revision()
                await self._take_turn(attempts)
                await self._rest(attempts, seen, until)
                if not await self._call(is_kept):
                    return
        finally:
            self._is_ending.set()
            await attempts.finish(_PATIENCE)
            with contextlib.suppress(StoreUnavailable, Superseded):
                order = self._order(attempts, wants=False)
                await self._call(self._database.run, lambda connection: give_up_lead(connection, order))

    def _is_over(self, until: float, attempts: Attempts) -> bool:
        overtime = time.monotonic() - until
        if overtime < 0 or len(attempts) or attempts.has_endings:
            return False
        due = self._seconds_until_due()
        return due is None or due > (_GAP if overtime < _OVERTIME else 0)

    async def _tidy(self) -> None:
        """Remove names that can be used again, and old counts."""
        if time.monotonic() >= self._tidy_due:
            removed = await self._call(self._persist, remove_expired)
            self._tidy_due = time.monotonic() + (0 if removed == SLICE else _TIDY_INTERVAL)

    # Turns ------------------------------------------------------------------------------------------------------

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call what blocks, in the one thread for that; it goes on there where this is cancelled."""
        called = asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        return await asyncio.shield(called)

    def _persist(self, function: Callable[[Connection], T]) -> T:
        """Call a function in a transaction, again and again until the database answers; raise when the sender is to end."""
        is_told = False
        while True:
            try:
                return self._database.run(function)
            except StoreUnavailable as error:
                if not is_told:
                    _log.warning("%s; the sender of the task queues waits for it", error)
                is_told = True
                if self._is_ending.wait(_OUTAGE_PAUSE) or time.monotonic() > self._gives_up_at:
                    raise

    async def _take_turn(self, attempts: Attempts) -> None:
        order = self._order(attempts, wants=True)
        calls = 0

        def do(connection: Connection) -> Report:
            nonlocal calls
            calls += 1
            return turn(connection, order, is_repeated=calls > 1)

        report = await self._call(self._persist, do)
        self._was_empty = bool(order.wanted) and not report.claimed
        self._take_settings(report)
        for claim in report.claimed:
            assert self._destinations is not None
            attempts.begin(claim, self._queues[claim.queue], self._destinations)

    def _order(self, attempts: Attempts, *, wants: bool) -> Order:
        moment, wall, left = now(), now_usec(), self._most - len(attempts)
        self._wake.clear()
        wanted = {}
        for name, queue in self._queues.items():
            queue.adjust(moment)
            is_due = wants and self._destinations is not None and queue.next_eta is not None and queue.next_eta <= wall
            count = min(queue.capacity(moment), left) if is_due else 0
            if count:
                wanted[name] = count
                left -= count
        levels = {
            name: queue.level(moment)
            for name, queue in self._queues.items()
            if name in wanted or queue.has_unkept_rate()
        }
        self._rates_due = time.monotonic() + _RATE_INTERVAL
        token = f"{self._generation}-{secrets.token_hex(8)}"
        return Order(self._generation, token, attempts.take_endings(), wanted, levels)

    def _take_settings(self, report: Report) -> None:
        moment, wall = now(), now_usec()
        present = set()
        for row in report.queues:
            queue = self._queues.get(row.name)
            if queue is not None:
                queue.update(row, moment)
            elif QueueSettings.from_json(row.settings).mode == "push":
                queue = QueueState(row, moment, wall, was_interrupted=row.name in self._interrupted)
                self._queues[row.name] = queue
            if queue is not None and queue.settings.mode == "push":
                present.add(row.name)
        for name in self._queues.keys() - present:
            del self._queues[name]
        if report.destinations is not None and report.destinations != self._told:
            self._told = report.destinations
            self._destinations = Destinations.from_json(report.destinations)

    # Rests ------------------------------------------------------------------------------------------------------

    def _revision(self) -> tuple[Any, ...] | None:
        """Return a value that differs once others have written; None where that cannot be seen without asking."""
        seen = self._database.revision()
        return seen and (seen[0], *seen[2:])  # not the number of own changes

    def _seconds_until_due(self) -> float | None:
        moment, wall = now(), now_usec()
        if self._destinations is None:
            return None
        delays = [queue.seconds_until_due(moment, wall) for queue in self._queues.values()]
        return min((delay for delay in delays if delay is not None), default=None)

    async def _rest(self, attempts: Attempts, seen: tuple[Any, ...] | None, until: float) -> None:
        """Return when a turn is to be taken, or the run is over."""
        if self._was_empty:
            await asyncio.sleep(_EMPTY_PAUSE)
        poll = SLOW_POLL if seen is None else POLL
        while not self._wake.is_set():
            due = self._seconds_until_due() if len(attempts) < self._most else None
            if due is not None and due <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(poll if due is None else min(due, poll)):
                    await self._wake.wait()
            if seen is None or self._revision() != seen or self._is_over(until, attempts):
                return
            is_due = time.monotonic() >= self._rates_due
            if is_due and any(self._has_moving_rate(queue) for queue in self._queues.values()):
                return

    @staticmethod
    def _has_moving_rate(queue: QueueState) -> bool:
        queue.adjust(now())
        return queue.has_unkept_rate()
