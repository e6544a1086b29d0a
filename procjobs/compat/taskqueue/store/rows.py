"""Tasks as rows: adding, deleting, purging and counting them.

1. A call is one transaction, purging apart. What it has found out about each task is its answer, in the order of the tasks.
2. The unique index of the names decides between two processes that add the same name at once.
3. A call whose answer was lost is made once more (see `database`). It finds its own tasks by `tasks.call`, and they are
   added, as they were.
4. A task that has ended keeps its name, and nothing else: `end` is the only way to there.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import case, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from procjobs.compat.taskqueue.constants import TOMBSTONE_SECONDS
from procjobs.compat.taskqueue.errors import Error, TaskAlreadyExistsError, TombstonedTaskError
from procjobs.compat.taskqueue.settings.queues import QueueSettings
from procjobs.compat.taskqueue.store.records import Added, Deleted, NewTask, Statistics
from procjobs.compat.taskqueue.store.tables import (
    ENDED,
    RUNNING,
    WAITING,
    executions,
    now_usec,
    payloads,
    queues,
    tasks,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from procjobs.compat.taskqueue.store.database import Transactions

__all__ = [
    "DELETED", "PURGED", "SLICE", "add", "configure", "delete_tasks", "end", "fetch_statistics", "insert_tasks", "name_all",
    "note_executions", "purge", "remove_expired", "slices", "worst_error",
    "write_queues",
]  # fmt: skip

SLICE: Final = 500
"""The most rows that one statement names."""
DELETED: Final = "deleted"
PURGED: Final = "purged"
_TOMBSTONE_USEC: Final = TOMBSTONE_SECONDS * 1_000_000
_MINUTE_USEC: Final = 60_000_000
_MAX_RACES: Final = 5
_T: Final = tasks.c


# Adding ---------------------------------------------------------------------------------------------------------


def add(database: Transactions, queue: str, new: Sequence[NewTask]) -> list[Added]:
    """Add a batch of at most 100 tasks with different names; return what has become of each.

    Those that can be added are, whatever has become of the others. `Added.name` is the chosen one for a task without.
    """
    call = secrets.token_hex(16)
    named = name_all(new)
    return database.run(lambda connection: insert_tasks(connection, queue, named, call))


def worst_error(added: Iterable[Added]) -> Error | None:
    """Return the error of a batch that the original raises, None if all tasks were added.

    It is the first that is no matter of names; else the last one.
    """
    worst: Error | None = None
    for one in added:
        if one.error is not None and (worst is None or isinstance(worst, TaskAlreadyExistsError | TombstonedTaskError)):
            worst = one.error
    return worst


def name_all(new: Sequence[NewTask]) -> list[NewTask]:
    """Return the tasks with names for those that have none: unique, in the order in which they were chosen."""
    prefix = f"task-{now_usec():x}-{secrets.token_hex(6)}"
    return [
        task if task.name is not None else task._replace(name=f"{prefix}-{number:03}")
        for number, task in enumerate(new)
    ]


def insert_tasks(connection: Connection, queue: str, named: Sequence[NewTask], call: str) -> list[Added]:
    """Add tasks that have names, as the call of this random text; return what has become of each."""
    now = now_usec()
    rest = {str(task.name): task for task in named}
    errors: dict[str, Error] = {}
    for _ in range(_MAX_RACES):
        for name, number in _try_insert(connection, [_values(queue, task, call, now) for task in rest.values()]):
            stored = rest.pop(name).stored
            if stored is not None:
                connection.execute(insert(payloads).values(id=stored[0], task=number, data=stored[1]))
        if not rest:
            break
        for row in _find(connection, queue, rest):
            if _is_expired(row, now):
                connection.execute(delete(tasks).where(_T.id == row.id))
                continue
            del rest[row.name]
            if row.call != call:
                errors[row.name] = _refusal(queue, row)
        if not rest:
            break
    for name in rest:  # others add and remove it all the time
        errors[name] = TaskAlreadyExistsError(f"queue {queue} has a task {name!r} already")
    return [Added(str(task.name), errors.get(str(task.name))) for task in named]


def _try_insert(connection: Connection, values: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Add the rows whose names are free; return their names and ids."""
    maker: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    # In one order for all: two processes that wait for each other's names would both be refused.
    values.sort(key=lambda row: str(row["name"]))
    statement = maker.insert(tasks).on_conflict_do_nothing(index_elements=["queue", "name"]).returning(_T.name, _T.id)
    return [(name, number) for name, number in connection.execute(statement, values)]


def _values(queue: str, task: NewTask, call: str, now: int) -> dict[str, Any]:
    return {
        "queue": queue, "name": task.name, "state": WAITING, "mode": task.mode, "method": task.method, "url": task.url,
        "target": task.target, "headers": json.dumps(task.headers), "payload": task.payload, "tag": task.tag,
        "eta_usec": task.eta_usec, "posted_eta_usec": task.eta_usec, "added_usec": now, "retry_count": 0,
        "execution_count": 0, "retry": None if task.retry is None else task.retry.to_json(),
        "deadline_usec": task.deadline_usec, "call": call, "size": task.size,
    }  # fmt: skip


def _find(connection: Connection, queue: str, names: Iterable[str]) -> list[Any]:
    columns = _T.id, _T.name, _T.state, _T.call, _T.added_usec, _T.ended_usec, _T.outcome
    query = select(*columns).where(_T.queue == queue, _T.name.in_(list(names)))
    return list(connection.execute(query))


def _is_expired(row: Any, now: int) -> bool:
    return bool(row.state == ENDED and row.ended_usec <= now - _TOMBSTONE_USEC)


def _refusal(queue: str, row: Any) -> Error:
    if row.state != ENDED:
        return TaskAlreadyExistsError(
            f"queue {queue} has a task {row.name!r} already: it was added at {_iso(row.added_usec)} and has not ended"
        )
    return TombstonedTaskError(
        f"queue {queue} had a task {row.name!r}, which ended at {_iso(row.ended_usec)} ({row.outcome}): the name cannot be "
        f"used again until {_iso(row.ended_usec + _TOMBSTONE_USEC)}"
    )


def _iso(usec: int) -> str:
    return datetime.fromtimestamp(usec // 1_000_000, UTC).isoformat()


# Ending ---------------------------------------------------------------------------------------------------------


def end(connection: Connection, condition: Any, outcome: str, call: str | None = None) -> list[str]:
    """End the tasks that a condition on `tasks` finds and that have not ended; return their names.

    `outcome` is a word for `tasks.outcome`, `call` is kept in `tasks.run`. An attempt that is under way writes nothing any
    more.
    """
    nothing = {"payload": None, "headers": "[]", "retry": None, "tag": None}
    values = {"state": ENDED, "ended_usec": now_usec(), "outcome": outcome, "run": call, **nothing}
    statement = update(tasks).where(condition, _T.state.in_([WAITING, RUNNING])).values(values)
    ended = list(connection.execute(statement.returning(_T.id, _T.name)))
    for numbers in slices([row.id for row in ended]):
        connection.execute(delete(payloads).where(payloads.c.task.in_(numbers)))
    return [row.name for row in ended]


def slices(numbers: list[int]) -> Iterator[list[int]]:
    """Yield parts of a list that are small enough for one statement."""
    for start in range(0, len(numbers), SLICE):
        yield numbers[start : start + SLICE]


def delete_tasks(database: Transactions, queue: str, names: Sequence[str]) -> list[Deleted]:
    """Delete tasks by their names; return for each whether this call has deleted it: not if it is unknown or has ended.

    A task whose request is under way is deleted, too: whatever comes of the request, it does not run again.
    """
    call = secrets.token_hex(16)

    def delete_them(connection: Connection) -> set[str]:
        deleted: set[str] = set()
        for start in range(0, len(names), SLICE):
            of_slice = (_T.queue == queue) & _T.name.in_(list(names[start : start + SLICE]))
            end(connection, of_slice, DELETED, call)
            deleted.update(connection.scalars(select(_T.name).where(of_slice, _T.run == call)))
        return deleted

    deleted = database.run(delete_them)
    return [Deleted(name, name in deleted) for name in names]


def purge(database: Transactions, queue: str) -> int:
    """End all tasks that are in a queue now, those whose requests are under way apart; return how many there were.

    Leased tasks of a pull queue are purged, too. In several transactions: after an error some of them may be left.
    """
    newest = database.run(lambda connection: connection.scalar(select(func.max(_T.id)).where(_T.queue == queue)))
    if newest is None:
        return 0
    waiting = select(_T.id).where(_T.queue == queue, _T.state == WAITING, _T.id <= newest).limit(SLICE)

    def purge_some(connection: Connection) -> int:
        found = list(connection.scalars(waiting))
        return len(end(connection, _T.id.in_(found) & (_T.state == WAITING), PURGED)) if found else -1

    purged = 0
    while (some := database.run(purge_some)) >= 0:
        purged += some
    return purged


def remove_expired(connection: Connection, limit: int = SLICE) -> int:
    """Remove up to `limit` of the names that can be used again, and old counts; return how many names there were."""
    now = now_usec()
    old = select(_T.id).where(_T.ended_usec <= now - _TOMBSTONE_USEC).order_by(_T.ended_usec).limit(limit)
    numbers = list(connection.scalars(old.with_for_update(skip_locked=True)))
    for some in slices(numbers):
        connection.execute(delete(payloads).where(payloads.c.task.in_(some)))
        connection.execute(delete(tasks).where(_T.id.in_(some)))
    connection.execute(delete(executions).where(executions.c.at_usec <= now - _MINUTE_USEC))
    return len(numbers)


# Queues ---------------------------------------------------------------------------------------------------------


def configure(database: Transactions, given: Iterable[QueueSettings]) -> None:
    """Write what is configured for queues, as `write_queues`, in a transaction of its own."""
    wanted = list(given)
    database.run(lambda connection: write_queues(connection, wanted))


def write_queues(connection: Connection, given: Iterable[QueueSettings]) -> None:
    """Write what is configured for queues, where it differs. The rate at which a changed queue is worked begins anew."""
    wanted = {one.name: one.to_json() for one in given}
    known = {row.name: row.settings for row in connection.execute(select(queues.c.name, queues.c.settings))}
    changed = sorted(name for name, text in wanted.items() if known.get(name) != text)
    if not changed:
        return
    values = [{"name": name, "settings": wanted[name], "configured_usec": now_usec()} for name in changed]
    maker: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = maker.insert(queues)
    fresh = {"settings": statement.excluded.settings, "configured_usec": statement.excluded.configured_usec}
    written = statement.on_conflict_do_update(index_elements=["name"], set_={**fresh, "enforced_rate": None})
    connection.execute(written, values)


def note_executions(connection: Connection, queue: str, count: int) -> None:
    """Note that tasks of a queue were begun, or leased, now."""
    connection.execute(insert(executions).values(queue=queue, at_usec=now_usec(), count=count))


def fetch_statistics(database: Transactions, wanted: Sequence[QueueSettings]) -> list[Statistics]:
    """Return the state of queues, of one moment, in their order."""
    return database.run(lambda connection: _count(connection, wanted))


def _count(connection: Connection, wanted: Sequence[QueueSettings]) -> list[Statistics]:
    names = [one.name for one in wanted]
    since = now_usec() - _MINUTE_USEC
    running = func.sum(case((_T.state == RUNNING, 1), else_=0))
    left = select(_T.queue, func.count(), func.min(_T.eta_usec), running)
    left = left.where(_T.queue.in_(names), _T.state.in_([WAITING, RUNNING])).group_by(_T.queue)
    counts = {queue: values for queue, *values in connection.execute(left)}
    begun = select(executions.c.queue, func.sum(executions.c.count))
    begun = begun.where(executions.c.queue.in_(names), executions.c.at_usec > since).group_by(executions.c.queue)
    executed = {queue: int(count) for queue, count in connection.execute(begun)}
    enforced = select(queues.c.name, queues.c.enforced_rate).where(queues.c.name.in_(names))
    rates = {row.name: row.enforced_rate for row in connection.execute(enforced)}
    found = []
    for one in wanted:
        left_over, oldest, in_flight = counts.get(one.name, (0, None, 0))
        rate = rates.get(one.name)
        is_push = one.mode == "push"
        found.append(Statistics(
            left_over, oldest, executed.get(one.name, 0), int(in_flight) if is_push else None,
            (one.rate if rate is None else rate) if is_push else None,
        ))  # fmt: skip
    return found
