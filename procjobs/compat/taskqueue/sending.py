"""A process that adds push tasks sees to it that a pool sends them: once, and again when the configuration changes."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

from procjobs.compat.taskqueue.errors import TransientError
from procjobs.errors import ConfigurationError, ProcjobsError

if TYPE_CHECKING:
    from procjobs import Pool
    from procjobs.compat.taskqueue.settings.configuration import Configuration


class _Started:
    """What this process has done for which configuration. The pool is kept: its idle clients start it again when it ends."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.published: Configuration | None = None
        self.started: Configuration | None = None
        self.pool: Pool | None = None


_state: Final = _Started()


def ensure(current: Configuration) -> None:
    """Have a pool that sends the tasks of this configuration; do nothing where it is known where to send none.

    It blocks where the pool has to be started. Raise TransientError where the pool or the database cannot be used.
    """
    if (current.base_url is None and not current.targets) or _state.started == current:
        return
    try:
        from procjobs.compat.taskqueue import sender
    except ModuleNotFoundError as error:
        if error.name != "httpx":
            raise
        raise ConfigurationError("to send tasks, httpx is needed: pip install 'procjobs[taskqueue]'") from None
    with _state.lock:
        try:
            pool = sender.start(current.store, current.pool)
            if _state.published != current:
                destinations = sender.Destinations(current.base_url or "", current.targets, sender.timeout_of(pool))
                queues = current.queues.values()
                current.database.run(lambda connection: sender.publish(connection, destinations, queues))
        except ConfigurationError:
            raise
        except (ProcjobsError, OSError) as error:
            raise TransientError(f"the pool that sends tasks cannot be started: {error}") from error
        _state.pool, _state.published, _state.started = pool, current, current


def _after_fork_in_child() -> None:
    """A child is a client of its own; what is published holds for it, too."""
    _state.lock = threading.Lock()
    _state.started = None


os.register_at_fork(after_in_child=_after_fork_in_child)
