"""The handle of this process: the pool that its jobs go to."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from procjobs.errors import ConfigurationError

if TYPE_CHECKING:
    from procjobs import Pool

_lock = threading.RLock()
_worker: AsyncWorker | None = None


class NotStarted(ConfigurationError):
    """A job was handed over before `start_async_worker()` was called."""


class AsyncWorker:
    """The handle that `start_async_worker()` returns: the pool, under the names that the original's thread has."""

    daemon = True
    name = "procjobs.asyncjob"

    def __init__(self, facts: str, set_up: Callable[[str], None], hand_over: Callable[..., str]) -> None:
        """`facts` is JSON of the settings and the application; `set_up(facts)` makes a process a worker of the pool."""
        self._facts = facts
        self._set_up = set_up
        self._hand_over = hand_over
        self._pool: Pool | None = None

    @property
    def pool(self) -> Pool:
        """The pool: started, or attached to, when it is first asked for."""
        from procjobs import Pool

        with _lock:
            if self._pool is None:
                settings = dict(json.loads(self._facts)["settings"])
                settings.pop("session", None)
                self._pool = Pool(**settings, initializer=self._set_up, initargs=(self._facts,))
            return self._pool

    def is_alive(self) -> bool:
        """Return whether the pool's supervisor runs."""
        return bool(self.pool.stats().supervisor_pid)

    def perform(self, what: Any, args: Any, params: Any) -> str:
        """Hand a job over, as the original's `app_globals.asyncjob_queue.perform` does."""
        return self._hand_over(what, *(args or ()), **(params or {}))

    def __repr__(self) -> str:
        return f"<AsyncWorker {json.loads(self._facts)['settings']['name']}>"


def set_running(worker: AsyncWorker | None) -> None:
    """Make this the handle of the process."""
    global _worker
    _worker = worker


def try_running() -> AsyncWorker | None:
    """Return the handle, None if there is none yet."""
    return _worker


def running() -> AsyncWorker:
    """Return the handle; raise NotStarted if there is none."""
    if _worker is None:
        raise NotStarted(
            "asyncjob is not started in this process: call start_async_worker(), or plug it into the application with "
            "tgext.pluggable: plug(base_config, 'procjobs.compat.asyncjob')"
        )
    return _worker


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
