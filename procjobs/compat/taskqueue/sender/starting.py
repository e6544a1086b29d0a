"""From a configuration to a pool that keeps a sender."""

from __future__ import annotations

import re
import warnings

from procjobs import CodeDiffers, Pool
from procjobs.compat.taskqueue.sender.destinations import DEFAULT_TIMEOUT
from procjobs.compat.taskqueue.sender.job import POOL, name_of, schedule_of, work


def start(store: str, pool: Pool | str | None = None) -> Pool:
    """Return a pool that keeps a sender for the queues of a store, a URL, for as long as a process uses them.

    Without a pool it is one of its own, with one worker, and with the `timeout` of the pool "taskqueue" in the settings. In
    one that is given, or named, the sender takes one of the workers for good. Blocks until the pool is there. Raise what
    `Pool.connect` and `Pool.schedule` raise.
    """
    call = schedule_of(store)
    if pool is None:
        # Workers are forked with the modules of the sender loaded: to import them takes most of a restart.
        _expect_other_environments(name_of(store))
        timeout = Pool(POOL).timeout
        own = Pool(name_of(store), workers=1, timeout=timeout, preload=[work.__module__], schedules=[call])
        return own.connect()
    if isinstance(pool, str):
        pool = Pool(pool)
    options = call.options
    pool.schedule(call.schedule.name, work, args=call.args, every=1, overlap="queue", **options)
    return pool


def _expect_other_environments(name: str) -> None:
    """Let no process be warned that its environment is not that of the sender's pool: the sender looks at no variable."""
    warnings.filterwarnings("ignore", f"<Pool {re.escape(name)}>: .* in another environment ", CodeDiffers)


def timeout_of(pool: Pool) -> float:
    """Return how long a request may take, in seconds: the `timeout` of the pool's jobs, ten minutes without one."""
    return DEFAULT_TIMEOUT if pool.timeout is None else pool.timeout
