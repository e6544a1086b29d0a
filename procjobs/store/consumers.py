"""The threads of this process that take items from pull queues.

1. A thread holds one item at most. When it takes the next one, the one before is done: both in one transaction.
2. What a thread has taken and not seen, because something came between (Ctrl-C, a broken connection), waits again when it
   takes the next one.
3. When a thread ends, its item waits again. The thread itself sees to that with its last act. If it cannot, or if the
   process ends, others find its holder ended (procjobs.store.holders) when they look: at most once in a second, and always
   before they hear that there is nothing.
4. A child of a fork has no item of its parent.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from procjobs.clock import monotonic
from procjobs.errors import ProcjobsError
from procjobs.store import own_connection
from procjobs.store.holders import SessionLocks, describe_thread
from procjobs.store.own_connection import OwnConnection, connection_to
from procjobs.store.pull_table import HELD, WAITING, PullTable, name_in_store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import Connection

    from procjobs.store.pull_table import ItemRow, QueueCounts

LOOK_INTERVAL: Final = 1.0
"""How often a process looks for holders that have ended, in seconds."""
_KEEP_INTERVAL: Final = 1.0
_KEEPS_IDLE: Final = 5
"""The thread that renews a session ends when nothing was held for this number of intervals."""


class _ThreadState:
    """A thread that takes items. `delivered` is the item that it was given; `is_unsure` says that it may hold another one.

    It is deleted when the thread ends.
    """

    def __init__(self, consumers: Consumers, holder: str) -> None:
        self.holder = holder
        self.delivered: str | None = None
        self.is_unsure = False
        self._consumers = consumers
        self._pid = os.getpid()

    def __del__(self) -> None:
        if self._pid == os.getpid() and not sys.is_finalizing() and (self.delivered or self.is_unsure):
            with contextlib.suppress(Exception):  # others will find the thread ended
                self._consumers.give_back(self.holder)


class _OfThread(threading.local):
    """What each thread has of its own."""

    state: _ThreadState | None = None

    def begin(self, state: _ThreadState) -> _ThreadState:
        """Have this state until the thread ends."""
        self.state = state
        return state


class Consumers:
    """The threads of this process that take items of one pool from one database."""

    def __init__(self, url: str, pool: str) -> None:
        self._database = connection_to(url)
        self._pool = name_in_store(url, pool)
        self._table = PullTable(self._pool)
        self._serials = itertools.count(1)
        self._local = _OfThread()
        self._pid = os.getpid()
        self._looked_at = float("-inf")
        self._keeper = _Keeper(self._database, self._table) if isinstance(self._database.locks, SessionLocks) else None

    # Items ------------------------------------------------------------------------------------------------------

    def add(self, rows: Iterable[tuple[str, str, bytes]]) -> None:
        """Add items, each an id, a queue and a value, all or none."""
        rows = list(rows)
        self._database.run(lambda connection: self._table.add(connection, rows))

    def take(self, queue: str, *, looks: bool = True) -> ItemRow | None:
        """Take the oldest item of a queue for this thread, whose item before is done; None where there is none.

        With `looks`, items whose holders have ended are found before None is returned. The caller calls `deliver` when it
        has made something of the item.
        """
        state = self._state()
        if state.delivered is None and not state.is_unsure and self._sees_nothing(queue, looks=looks):
            return None
        row = self._database.run(lambda connection: self._take(connection, state, queue, looks=looks))
        if row is None:
            self.deliver(None)
        return row

    def _sees_nothing(self, queue: str, *, looks: bool) -> bool:
        """Return whether it is certain, without a transaction, that there is nothing to take."""
        if self._database.peek(WAITING, (self._pool, queue)) != ():
            return False
        return not looks or self._database.peek(HELD, (self._pool,)) == ()

    def _take(self, connection: Connection, state: _ThreadState, queue: str, *, looks: bool) -> ItemRow | None:
        if state.delivered is not None:
            self._table.remove(connection, state.delivered, state.holder)
        if state.is_unsure:
            self._table.give_back(connection, state.holder)
        if self._is_due():
            self._reclaim(connection)
        state.is_unsure = True
        row = self._table.take(connection, queue, state.holder)
        if row is None and looks and self._reclaim(connection):
            row = self._table.take(connection, queue, state.holder)
        return row

    def deliver(self, row: ItemRow | None) -> None:
        """Note that this thread has what `take` has returned."""
        state = self._state()
        state.delivered = None if row is None else row.id
        state.is_unsure = False
        if self._keeper is not None:
            self._keeper.note(state.holder, holds=row is not None)

    def holder(self) -> str:
        """Return the text that says in the database that this thread has an item."""
        return self._state().holder

    def finish(self, item: str, holder: str) -> bool:
        """Remove an item that is done; return whether the holder still had it."""
        self._check_process(item)
        was_held = self._database.run(lambda connection: self._table.remove(connection, item, holder))
        self._note_released(item, holder)
        return was_held

    def give_back(self, holder: str, item: str | None = None) -> bool:
        """Let an item of a holder, or all of them, wait again; return whether it still had one."""
        self._check_process(item)
        given = self._database.run(lambda connection: self._table.give_back(connection, holder, item))
        self._note_released(item, holder)
        return given > 0

    def set_aside(self, row: ItemRow, problem: str) -> None:
        """Hand an item that this thread has taken to nobody any more."""
        holder = self.holder()
        self._database.run(lambda connection: self._table.set_aside(connection, row.id, holder, problem))

    def _note_released(self, item: str | None, holder: str) -> None:
        if self._keeper is not None:
            self._keeper.note(holder, holds=False)
        state = self._local.state
        if state is not None and state.holder == holder and state.delivered == item:
            state.delivered = None

    # A whole queue ----------------------------------------------------------------------------------------------

    def restore(self, queue: str, item: str | None) -> int:
        """Let items that were set aside wait again; return how many there were."""
        return self._database.run(lambda connection: self._table.restore(connection, queue, item))

    def find_problems(self, queue: str) -> dict[str, str]:
        """Return the items that were set aside, with their problems."""
        return self._database.run(lambda connection: self._table.find_problems(connection, queue))

    def count(self, queue: str) -> QueueCounts:
        """Return how many items a queue has; those of holders that have ended count as waiting."""

        def count(connection: Connection) -> QueueCounts:
            self._reclaim(connection)
            return self._table.count(connection, queue)

        return self._database.run(count)

    def revision(self) -> tuple[Any, ...] | None:
        """Return a value that differs where there may be other items than before; None where that is not known."""
        return self._database.revision()

    # This process -----------------------------------------------------------------------------------------------

    def _state(self) -> _ThreadState:
        state = self._local.state
        if state is None:
            self._database.hold()
            holder = describe_thread(self._database.locks.number, next(self._serials))
            state = self._local.begin(_ThreadState(self, str(holder)))
        return state

    def _is_due(self) -> bool:
        return monotonic() >= self._looked_at + LOOK_INTERVAL

    def _reclaim(self, connection: Connection) -> int:
        freed = self._table.reclaim(connection, self._database.locks)
        self._looked_at = monotonic()
        return freed

    def stop(self) -> None:
        """End the thread that renews the session, if there is one."""
        if self._keeper is not None:
            self._keeper.stop()

    def _check_process(self, item: str | None) -> None:
        if self._pid != os.getpid():
            raise ProcjobsError(
                f"item {item} was taken by process {self._pid}, and this is its child {os.getpid()}: only the process that "
                "took an item can say that it is done"
            )


class _Keeper:
    """A thread that renews the session of this process while it holds items: its lock ends with a connection that breaks.

    Processes of other hosts see that lock alone.
    """

    def __init__(self, database: OwnConnection, table: PullTable) -> None:
        self._database = database
        self._table = table
        self._holders: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ends = threading.Event()

    def stop(self) -> None:
        """End the thread, and wait for that."""
        self._ends.set()
        thread = self._thread
        if thread is not None:
            thread.join()

    def note(self, holder: str, *, holds: bool) -> None:
        """Note that a thread has an item now, or has none."""
        with self._lock:
            if not holds:
                self._holders.discard(holder)
                return
            self._holders.add(holder)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="procjobs-consumer", daemon=True)
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        idle = 0
        while idle < _KEEPS_IDLE and not self._ends.wait(_KEEP_INTERVAL):
            with contextlib.suppress(ProcjobsError):  # the database is away; once more in a second
                self._database.run(lambda connection: self._table.keep(connection, self._database.locks))
            with self._lock:
                idle = 0 if self._holders else idle + 1
                if idle >= _KEEPS_IDLE:
                    self._thread = None


_consumers: dict[tuple[str, str], Consumers] = {}
_kept: list[Any] = []
_making = threading.Lock()


def consumers_of(url: str, pool: str) -> Consumers:
    """Return the consumers of this process for a pool and a database: one for each, as long as the process runs."""
    with _making:
        if (url, pool) not in _consumers:
            _consumers[url, pool] = Consumers(url, pool)
        return _consumers[url, pool]


def forget_all() -> None:
    """Give back everything that threads of this process hold, and close what is open; later calls begin anew."""
    with _making:
        while _consumers:
            _consumers.popitem()[1].stop()
        own_connection.forget_all()


def _after_fork_in_child() -> None:
    global _making
    _making = threading.Lock()
    while _consumers:
        _kept.append(_consumers.popitem()[1])


os.register_at_fork(after_in_child=_after_fork_in_child)
