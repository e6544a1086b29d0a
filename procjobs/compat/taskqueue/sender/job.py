"""The job of a pool that is the sender, and its schedule.

Why a schedule, and which: a schedule is what a pool without a store starts again by itself. Its supervisor makes the next
run when a worker has ended, however it ended, and an idle client that has declared it starts a killed pool again, at once
and without any call (docs/schedules.md). With `overlap="queue"` the next run waits behind the one that is at work, so it
begins within milliseconds when that ends, and within a second after a pool was started. A job with retries would be lost
with its supervisor, or need a store of the pool; it would use up its retries, and be quarantined after a few kills.

The tasks need no store of the pool: their table is the truth, and has what a kill leaves.

A run ends by itself after RUN seconds, as soon as nothing is under way. So a pool that nobody uses any more ends, for which
it waits for its last run, and settings of the pool are taken over.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from procjobs import ScheduledCall
from procjobs.compat.taskqueue.sender.claims import Superseded
from procjobs.compat.taskqueue.sender.leader import leadership_of
from procjobs.compat.taskqueue.sender.loop import Sender
from procjobs.compat.taskqueue.store.database import open_database
from procjobs.errors import StoreUnavailable

POOL: Final = "taskqueue"
"""The name under which the settings say how long a request may take, where no pool is given."""
RUN: Final = 15.0
"""How long a run lasts while there is little to do. Seconds."""
_STANDBY_INTERVAL: Final = 0.25
"""Seconds between two attempts to take the lead from a sender of another pool."""
_LOOK_INTERVAL: Final = 1.0
"""Seconds between two looks at the lock."""
_NO_LIMITS: Final[dict[str, Any]] = {
    "timeout": None, "soft_timeout": None, "stall_timeout": None, "slow_after": None, "retries": 0
}  # fmt: skip


async def work(store: str, seconds: float = RUN) -> None:
    """Send the tasks of the queues in a store for one run; wait for the lead first, if another process has it."""
    until = time.monotonic() + seconds
    leadership = leadership_of(store)
    next_look = 0.0

    def is_kept() -> bool:
        nonlocal next_look
        if time.monotonic() < next_look:
            return True
        next_look = time.monotonic() + _LOOK_INTERVAL
        # After a moment without the database nobody else may have it yet. The generation tells whether anybody had.
        return leadership.is_kept() or leadership.try_take()

    with _quiet_client(), ThreadPoolExecutor(1, "taskqueue") as thread:
        take = asyncio.get_running_loop().run_in_executor
        try:
            while not await take(thread, leadership.try_take):
                if time.monotonic() > until:
                    return
                await asyncio.sleep(_STANDBY_INTERVAL)
            await Sender(open_database(store), thread).run(until, is_kept)
        except (Superseded, StoreUnavailable):  # the second was told; the next run looks again
            return
        finally:
            leadership.release()


@contextlib.contextmanager
def _quiet_client() -> Iterator[None]:
    """Keep the lines of the client, one for each request and with its query, out of the job's output."""
    client = logging.getLogger("httpx")
    level = client.level
    client.setLevel(logging.WARNING)
    try:
        yield
    finally:
        client.setLevel(level)


def schedule_of(store: str) -> ScheduledCall:
    """Return the schedule by which a pool keeps a sender for this store."""
    return ScheduledCall(name_of(store), work, args=[store], every=1, overlap="queue", **_NO_LIMITS)


def name_of(store: str) -> str:
    """Return the name of the schedule, and of the pool where no other one is given: each store has its own."""
    return f"taskqueue-{hashlib.sha256(store.encode()).hexdigest()[:12]}"
