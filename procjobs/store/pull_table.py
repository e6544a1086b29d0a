"""The rows of pull queues: what one transaction does with them. Nothing here commits, and nothing knows the process.

An item waits (no holder, no problem), is held, or has a problem and is handed to nobody. Its place in the order never
changes: an item that is given back comes first again. An item that is done has no row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import bindparam, case, delete, func, literal_column, select, update
from sqlalchemy.dialects import postgresql, sqlite

from procjobs.clock import wall
from procjobs.shared.store_address import split_options
from procjobs.store.database import clean
from procjobs.store.holders import Holder, Locks, parse_holder
from procjobs.store.schema import items
from procjobs.store.statements import Prepared

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Dialect

_MAX_PROBLEM: Final = 2000
_NOW: Final[Any] = literal_column("extract(epoch FROM clock_timestamp())")
"""The time of the PostgreSQL server, which all hosts share."""


class ItemRow(NamedTuple):
    """An item as it was taken; `tries` counts how often, this time included."""

    id: str
    queue: str
    value: bytes
    tries: int
    added_at: float


class QueueCounts(NamedTuple):
    """How many items of a queue wait, are held by consumers, and were set aside because they have a problem."""

    waiting: int
    held: int
    set_aside: int


def name_in_store(url: str, pool: str) -> str:
    """Return the name under which the items of a pool are in a store: all hosts share them.

    `?procjobs_host=` in the URL divides them, as it divides the jobs of a pool.
    """
    host = split_options(url)[1].get("procjobs_host")
    return f"{pool}@{host}" if host else pool


WAITING: Final = (
    "SELECT 1 FROM procjobs_items WHERE pool = ? AND queue = ? AND holder IS NULL AND problem IS NULL LIMIT 1"
)
"""Finds a row in SQLite where an item waits, for `OwnConnection.peek`; the values are the pool and the queue."""
HELD: Final = "SELECT 1 FROM procjobs_items WHERE pool = ? AND holder IS NOT NULL LIMIT 1"
"""The same where a consumer holds an item; the value is the pool."""


class _Statements:
    """The statements of each take, for one kind of database; as in procjobs.store.statements."""

    def __init__(self, dialect: Dialect) -> None:
        columns = items.c.place, items.c.id, items.c.value, items.c.tries, items.c.added_at
        of_queue = (items.c.pool == bindparam("b_pool")) & (items.c.queue == bindparam("b_queue"))
        waiting = of_queue & items.c.holder.is_(None) & items.c.problem.is_(None)
        oldest = select(*columns).where(waiting).order_by(items.c.place)
        oldest = oldest.limit(literal_column("1")).offset(literal_column("0"))
        self.find_oldest = Prepared(oldest.with_for_update(skip_locked=True), dialect)
        taken = {name: bindparam(f"b_{name}", type_=items.c[name].type) for name in ("holder", "held_since", "tries")}
        values = {**taken, "lost_at": literal_column("NULL")}
        self.take = Prepared(update(items).where(items.c.place == bindparam("b_place")).values(values), dialect)
        of_holder = (items.c.id == bindparam("b_id")) & (items.c.holder == bindparam("b_holder"))
        self.remove = Prepared(delete(items).where(of_holder), dialect)


_prepared: dict[str, _Statements] = {}


def prepare(dialect: Dialect) -> _Statements:
    """Return the statements for a kind of database, compiled when they are first asked for."""
    if dialect.name not in _prepared:
        _prepared[dialect.name] = _Statements(dialect)
    return _prepared[dialect.name]


class PullTable:
    """The items of one pool."""

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._of_pool = items.c.pool == pool

    def add(self, connection: Connection, rows: Iterable[tuple[str, str, bytes]]) -> None:
        """Add items, each an id, a queue and a value; nothing happens with those that are there already."""
        maker = postgresql if connection.dialect.name == "postgresql" else sqlite
        now = wall()
        values = [
            {"id": id_, "pool": self._pool, "queue": queue, "value": value, "added_at": now, "tries": 0}
            for id_, queue, value in rows
        ]
        connection.execute(maker.insert(items).on_conflict_do_nothing(index_elements=["id"]), values)

    def take(self, connection: Connection, queue: str, holder: str) -> ItemRow | None:
        """Give the oldest item that waits to a holder; None where none waits."""
        statements = prepare(connection.dialect)
        row = statements.find_oldest.first(connection, b_pool=self._pool, b_queue=queue)
        if row is None:
            return None
        tries = row.tries + 1
        taken = {"b_place": row.place, "b_holder": holder, "b_held_since": wall(), "b_tries": tries}
        statements.take.execute(connection, [taken])
        return ItemRow(row.id, queue, row.value, tries, row.added_at)

    def remove(self, connection: Connection, item: str, holder: str) -> bool:
        """Remove an item that is done; return whether this holder had it."""
        return prepare(connection.dialect).remove.execute(connection, [{"b_id": item, "b_holder": holder}]) > 0

    def give_back(self, connection: Connection, holder: str, item: str | None = None) -> int:
        """Let this item of a holder, or all of them, wait again; return how many there were."""
        found = self._of_pool & (items.c.holder == holder)
        if item is not None:
            found &= items.c.id == item
        waiting = {"holder": None, "held_since": None, "lost_at": None}
        return connection.execute(update(items).where(found).values(waiting)).rowcount

    def set_aside(self, connection: Connection, item: str, holder: str, problem: str) -> None:
        """Hand this item to nobody any more."""
        values = {"holder": None, "held_since": None, "lost_at": None, "problem": clean(problem)[:_MAX_PROBLEM]}
        connection.execute(update(items).where((items.c.id == item) & (items.c.holder == holder)).values(values))

    def restore(self, connection: Connection, queue: str, item: str | None) -> int:
        """Let this item that was set aside, or all of them, wait again at its old place; return how many there were."""
        found = self._of_pool & (items.c.queue == queue) & items.c.problem.is_not(None)
        if item is not None:
            found &= items.c.id == item
        return connection.execute(update(items).where(found).values({"problem": None})).rowcount

    def find_problems(self, connection: Connection, queue: str) -> dict[str, str]:
        """Return the ids of the items that were set aside, in their order, with their problems."""
        found = self._of_pool & (items.c.queue == queue) & items.c.problem.is_not(None)
        rows = connection.execute(select(items.c.id, items.c.problem).where(found).order_by(items.c.place))
        return {row.id: row.problem for row in rows}

    def count(self, connection: Connection, queue: str) -> QueueCounts:
        """Return how many items there are."""
        held = func.count(items.c.holder)
        aside = func.count(items.c.problem)
        row = connection.execute(
            select(func.count(), held, aside).where(self._of_pool & (items.c.queue == queue))
        ).one()
        return QueueCounts(row[0] - row[1] - row[2], row[1], row[2])

    # Holders that have ended ------------------------------------------------------------------------------------

    def reclaim(self, connection: Connection, locks: Locks) -> int:
        """Let the items of holders that have ended wait again; return how many there were."""
        held_items = select(items.c.holder).where(self._of_pool & items.c.holder.is_not(None))
        written = list(connection.scalars(held_items.distinct()))
        unseen: dict[str, Holder] = {}
        freed = 0
        for written_by in written:
            holder = parse_holder(written_by)
            has_ended = True if holder is None else holder.has_visibly_ended()
            if has_ended:
                freed += self.give_back(connection, written_by)
            elif has_ended is None and holder is not None:
                unseen[written_by] = holder
        if unseen:
            held = locks.find_held(connection, {holder.number for holder in unseen.values()})
            for written_by, holder in unseen.items():
                freed += self._judge(connection, written_by, is_held=holder.number in held, grace=locks.grace)
        return freed

    def _judge(self, connection: Connection, holder: str, *, is_held: bool, grace: float) -> int:
        """Give back the items of a holder whose lock was missing for `grace` seconds; otherwise note since when it is."""
        if not grace:
            return 0 if is_held else self.give_back(connection, holder)
        mine = self._of_pool & (items.c.holder == holder)
        if is_held:
            connection.execute(update(items).where(mine & items.c.lost_at.is_not(None)).values({"lost_at": None}))
            return 0
        long_ago = mine & (items.c.lost_at < _NOW - grace)
        waiting = {"holder": None, "held_since": None, "lost_at": None}
        freed = connection.execute(update(items).where(long_ago).values(waiting)).rowcount
        since: Any = case((items.c.lost_at.is_(None), _NOW), else_=items.c.lost_at)
        connection.execute(update(items).where(mine).values({"lost_at": since}))
        return freed

    def keep(self, connection: Connection, locks: Locks) -> None:
        """Take the lock of this process, and withdraw every note that it was missing."""
        locks.hold(connection)
        own = self._of_pool & items.c.holder.like(f"{locks.number}.%") & items.c.lost_at.is_not(None)
        connection.execute(update(items).where(own).values({"lost_at": None}))
