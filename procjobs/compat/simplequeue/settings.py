"""Where the items are: settled by `configure`, or by the first call, for the whole process and its children."""

from __future__ import annotations

import os
import threading
from typing import Final

from procjobs import PullQueue
from procjobs.errors import ConfigurationError

_POOL: Final = "simplequeue"

_lock = threading.Lock()
_base: PullQueue | None = None
_queues: dict[str, PullQueue] = {}


def configure(*, store: str | bool | None = None, pool: str = _POOL) -> None:
    """Say where the items are, before the first `enqueue` or `dequeue` of this process; every process says the same.

    store: a database that keeps them, also over a reboot: a URL such as "sqlite:///queue.db" or "postgresql+psycopg://...",
        or True for the pool's file in the user's state directory. Where it is not given, the settings of the pool hold
        (docs/settings.md); without a store the items are in a file that every process survives, and no reboot.
    pool: a name of up to 40 letters, digits, dots, dashes and underscores. Two applications have two names.

    Raise ConfigurationError for values that can be no store or no name, and for others than those that hold already.
    """
    global _base
    given = PullQueue(pool=pool) if store is None else PullQueue(pool=pool, store=store)
    with _lock:
        if _base is not None and (_base.pool, _base.store) != (given.pool, given.store):
            raise ConfigurationError(
                f"the queue is in use already, with {_describe(_base)}, and cannot be changed to {_describe(given)}: call "
                "configure() once, before the first enqueue() or dequeue() of the process"
            )
        _base = _base or given


def _describe(queue: PullQueue) -> str:
    """Return settings in words, without the URL, which may have a password."""
    return f"pool={queue.pool!r} and {'no store' if queue.store is None else 'a store'}"


def queue_of(name: str) -> PullQueue:
    """Return the pull queue of this name, where the settings of this process have it."""
    global _base
    with _lock:
        if name not in _queues:
            _base = _base or PullQueue(pool=_POOL)
            _queues[name] = _base.named(name)
        return _queues[name]


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
