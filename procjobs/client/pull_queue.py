"""Pull queues: consumers take items by themselves, from any process, when they have time for one.

A pull queue needs no supervisor: each process reads and writes the database (procjobs.store.consumers). So a pool need not
run for its pull queues, which only share its name, its settings and its store with it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from procjobs.client.connection.interruptible import came_from_outside
from procjobs.clock import NEVER, monotonic
from procjobs.errors import ConfigurationError, PayloadError, StoreUnavailable, SupervisorError
from procjobs.host import culprit, payload, rundir
from procjobs.settings.plan import make_plan
from procjobs.shared.config import UNSET, check_pool_name
from procjobs.shared.durations import Seconds, wait_seconds
from procjobs.shared.ids import new_id, to_text
from procjobs.shared.recorder_wire import MAX_STORED_BYTES

if TYPE_CHECKING:
    from procjobs.store.consumers import Consumers
    from procjobs.store.pull_table import ItemRow, QueueCounts

_MAX_NAME: Final = 100
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.25
_LONGEST_ASKING_PAUSE: Final = 0.5
"""Where the database has to be asked whether anything has changed, as PostgreSQL."""
_GROWTH: Final = 1.1
"""The pauses of a queue that is empty are as long as this after some three seconds, and after five for PostgreSQL."""
_LOOK_INTERVAL: Final = 1.0
_MAX_OUTAGE: Final = 30.0
"""How long a thread that waits for an item goes on while the database cannot be used."""


class PulledItem:
    """An item that a thread of this process has taken from a pull queue.

    `id` is what `put` has returned, `value` what was put. `tries` counts how often the item was taken, this time included;
    it is 2 or more where an earlier consumer has ended without `done`. `added_at` is a Unix time, `queue` the queue's name.
    """

    __slots__ = ("_consumers", "_holder", "added_at", "id", "queue", "tries", "value")

    def __init__(self, consumers: Consumers, row: ItemRow, value: Any) -> None:
        self.id = row.id
        self.queue = row.queue
        self.value = value
        self.tries = row.tries
        self.added_at = row.added_at
        self._consumers = consumers
        self._holder = consumers.holder()

    def done(self) -> bool:
        """Remove the item for good; return whether it still was this consumer's, as it is unless it was given back.

        Any thread of the process that has taken it may call this; a child of that process raises ProcjobsError. Raise
        StoreUnavailable where the database cannot be used.
        """
        return self._consumers.finish(self.id, self._holder)

    def give_back(self) -> bool:
        """Let another consumer have the item, at its old place in the order; return and raise as `done` does."""
        return self._consumers.give_back(self._holder, self.id)

    def __repr__(self) -> str:
        return f"<PulledItem {self.id} of queue {self.queue!r}>"


class PullQueue:
    """A queue from which consumers take items themselves, the oldest first; each item is held by one consumer at a time.

    A consumer is a thread, of any process. When it takes its next item of this pool, the item before is done. If it ends
    before that (it returns, its process exits or is killed), its item comes back within 6 seconds and keeps its place. There
    is no time limit as long as the thread lives, also while its process is stopped (SIGSTOP). A greenlet counts as a thread.

    To make a PullQueue opens nothing, and it works in a child of a fork, which has none of its parent's items. No supervisor
    is started. See docs/pull-queues.md.

    name: up to 100 characters. pool: the name of the pool whose settings hold (`store`), and which tells queues of the same
        name apart.
    store: a URL, True, or None, as in `Pool`. All hosts that use one PostgreSQL database share its items. Without a store
        they are in a file in the pool's runtime directory: it survives every process, and goes with a reboot.
    directory: as in `Pool`, for items without a store.

    The attribute `store` is the URL of the store, None if there is none.
    """

    def __init__(
        self,
        name: str = "default",
        *,
        pool: str,
        store: str | bool | None = UNSET,
        directory: str | None = None,
    ) -> None:
        self.name = _check_name(name)
        self.pool = check_pool_name(pool)
        self.store = make_plan(self.pool, {} if store is UNSET else {"store": store}).store
        self._given_directory = directory
        self._directory: rundir.RunDir | None = None

    def named(self, name: str) -> PullQueue:
        """Return another queue of the same pool, with its items in the same place."""
        other = copy.copy(self)
        other.name = _check_name(name)
        return other

    def __repr__(self) -> str:
        return f"<PullQueue {self.name!r} of pool {self.pool}>"

    # Items ------------------------------------------------------------------------------------------------------

    def put(self, value: Any) -> str:
        """Add an item and return its id. When this returns, the item survives every process; with a store, a reboot too.

        Raise PayloadError for a value that cannot be pickled or takes more than 64 MiB, and StoreUnavailable where the
        database cannot be used. Blocks for one commit.
        """
        return self.put_many([value])[0]

    def put_many(self, values: Iterable[Any]) -> list[str]:
        """Add items in this order, all of them or none; return their ids. Raise as `put` does."""
        rows = [(to_text(new_id()), self.name, self._dump(value)) for value in values]
        if rows:
            self._consumers().add(rows)
        return [row[0] for row in rows]

    def take(self, timeout: Seconds | None = 0.0) -> PulledItem | None:
        """Return the oldest item, which this thread holds from now on; None if there is none for `timeout` seconds.

        A timeout of None waits for ever. The item that this thread took before is done when this begins. Ctrl-C ends the
        waiting. A thread that waits looks for items often at first. Later it looks 4 times in a second in SQLite, and asks
        PostgreSQL twice.

        Raise PayloadError for an item that cannot be unpickled: it is set aside (see `problems`), and the next call has the
        next item. Raise StoreUnavailable where the database cannot be used; while it waits, after 30 seconds.
        """
        wait = wait_seconds(timeout)
        consumers = self._consumers()
        seen = consumers.revision()
        row = consumers.take(self.name)
        if row is None and wait != 0:
            row = self._wait(consumers, NEVER if wait is None else monotonic() + wait, seen)
        return None if row is None else self._deliver(consumers, row)

    def _wait(self, consumers: Consumers, deadline: float, seen: object) -> ItemRow | None:
        pause, looked_at, available_at = _FIRST_PAUSE, monotonic(), monotonic()
        bell = threading.Event()  # never rung: with gevent, other greenlets run meanwhile
        while (rest := deadline - monotonic()) > 0:
            bell.wait(min(pause, rest))
            current = consumers.revision()
            is_due = monotonic() >= looked_at + _LOOK_INTERVAL
            if is_due or current is None or current != seen:
                try:
                    row = consumers.take(self.name, looks=is_due)
                except StoreUnavailable:
                    if monotonic() > available_at + _MAX_OUTAGE:
                        raise
                    row = None
                else:
                    available_at = monotonic()
                if row is not None:
                    return row
                seen, looked_at = current, monotonic() if is_due else looked_at
            pause = min(pause * _GROWTH, _LONGEST_ASKING_PAUSE if current is None else _LONGEST_PAUSE)
        return None

    def _deliver(self, consumers: Consumers, row: ItemRow) -> PulledItem:
        try:
            value = payload.loads(row.value)
        except Exception as error:
            if came_from_outside(error):
                raise
            problem = f"{type(error).__name__}: {error}"
            consumers.set_aside(row, problem)
            consumers.deliver(None)
            raise PayloadError(
                f"item {row.id} of queue {self.name!r} (pool {self.pool}) cannot be unpickled here: {problem}. It is set "
                f"aside, and is not lost: PullQueue({self.name!r}, pool={self.pool!r}).restore() lets it wait again, for "
                "consumers that have its modules"
            ) from error
        item = PulledItem(consumers, row, value)
        consumers.deliver(row)
        return item

    # The whole queue --------------------------------------------------------------------------------------------

    def counts(self) -> QueueCounts:
        """Return how many items wait, are held, and are set aside: `.waiting`, `.held`, `.set_aside`."""
        return self._consumers().count(self.name)

    def problems(self) -> dict[str, str]:
        """Return the ids of the items that were set aside, oldest first, each with its problem in one line."""
        return self._consumers().find_problems(self.name)

    def restore(self, item_id: str | None = None) -> int:
        """Let an item that was set aside wait again at its old place, or all of them; return how many there were."""
        return self._consumers().restore(self.name, item_id)

    # Places -----------------------------------------------------------------------------------------------------

    def _dump(self, value: Any) -> bytes:
        try:
            data = payload.dump_inline(value)
        except Exception as error:
            if came_from_outside(error):
                raise
            why = culprit.explain(value, "the item", error, payload.dump_inline)
            raise PayloadError(f"an item for queue {self.name!r} cannot be pickled: {why}") from error
        if len(data) > MAX_STORED_BYTES:
            raise PayloadError(
                f"an item for queue {self.name!r}, of {len(data)} bytes, is larger than what a queue keeps "
                f"({MAX_STORED_BYTES} bytes): write it to a file, and put its path"
            )
        return data

    def _consumers(self) -> Consumers:
        from procjobs.store.consumers import consumers_of  # SQLAlchemy is loaded by processes that use a queue

        return consumers_of(self.store or self._file_url(), self.pool)

    def _file_url(self) -> str:
        """Return the URL of the file for items without a store, whose directory is made if it is not there."""
        if self._directory is None:
            self._directory = rundir.RunDir(rundir.find_base(self._given_directory), self.pool)
        place = self._directory
        if "?" in place.items:
            raise ConfigurationError(f"directory={place.base!r}: the path of a queue cannot have a question mark")
        try:
            rundir.make_items_directory(place)
        except OSError as error:
            raise SupervisorError(f"no directory for the items of pool {self.pool} can be made: {error}") from error
        return f"sqlite:///{place.items}/items.db"


def _check_name(name: object) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= _MAX_NAME or not name.isprintable():
        raise ConfigurationError(f"{name!r} cannot be the name of a queue: expected 1 to {_MAX_NAME} printable characters")
    return name
