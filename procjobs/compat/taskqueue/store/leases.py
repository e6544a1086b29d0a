"""Pull queues: leasing tasks, and changing a lease.

1. A lease is a time: until then, `tasks.eta_usec`, nobody else gets the task. Nothing has to happen for its end.
2. A row is locked, or in SQLite the whole database, from the look to the commit: two processes never get the same task.
3. A call whose answer was lost is made once more, and gets what it has leased by `tasks.run`.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import select, update

from procjobs.compat.taskqueue.errors import Error, InvalidQueueModeError, TaskLeaseExpiredError, TombstonedTaskError
from procjobs.compat.taskqueue.settings.queues import QueueSettings, RetryParameters
from procjobs.compat.taskqueue.store.records import LeasedTask
from procjobs.compat.taskqueue.store.rows import end, note_executions, remove_expired, slices
from procjobs.compat.taskqueue.store.tables import ENDED, WAITING, now_usec, tasks

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from procjobs.compat.taskqueue.store.database import Transactions

__all__ = ["USED_UP", "Wish", "lease", "modify"]

USED_UP: Final = "leases used up"
_MAX_REMOVED: Final = 500
_CLEANING_INTERVAL: Final = 10.0
"""Every so many seconds the leases of a queue remove some expired names: a database of pull queues alone has no sender."""
_cleaned_at: dict[str, float] = {}
"""When this process has done that last, on time.monotonic(), for each queue that it leases from."""
_T: Final = tasks.c


class Wish(NamedTuple):
    """What to lease: at most `max_tasks`, for `seconds`.

    With `by_tag`, tasks of one tag only: `tag`, or where that is None, the tag of the task that is due first, which may have
    none.
    """

    seconds: float
    max_tasks: int
    by_tag: bool = False
    tag: str | None = None


def lease(database: Transactions, queue: QueueSettings, wish: Wish) -> list[LeasedTask]:
    """Lease the tasks that are due, the one with the earliest eta first; return them in this order.

    A task that was leased `task_retry_limit` times is not leased again: it is dropped. With an age limit beside it there is
    no limit, as in the original, which takes no task of a pull queue for too old. Raise InvalidQueueModeError for a push
    queue.
    """
    _check_mode(queue)
    call = _Call(queue, wish)
    return database.run(call.run)


def _check_mode(queue: QueueSettings) -> None:
    if queue.mode != "pull":
        raise InvalidQueueModeError(f"queue {queue.name} is a push queue: only tasks of pull queues are leased")


class _Call:
    """One call of `lease`, which may run twice."""

    def __init__(self, queue: QueueSettings, wish: Wish) -> None:
        self._queue = queue
        self._wish = wish
        self._run = secrets.token_hex(16)
        self._is_repeated = False

    def run(self, connection: Connection) -> list[LeasedTask]:
        """Lease in the open transaction."""
        if self._is_repeated:
            found = list(connection.execute(self._select().where(_T.run == self._run)))
            if found:
                return [_leased(row) for row in found]
        self._is_repeated = True
        now = now_usec()
        until = now + round(self._wish.seconds * 1_000_000)
        rows = self._take(connection, now)
        for numbers in slices([row.id for row in rows]):
            values = {"eta_usec": until, "retry_count": _T.retry_count + 1, "run": self._run}
            connection.execute(update(tasks).where(_T.id.in_(numbers)).values(values))
        if rows:
            note_executions(connection, self._queue.name, len(rows))
        self._clean(connection)
        return [_leased(row)._replace(eta_usec=until, retry_count=row.retry_count + 1) for row in rows]

    def _clean(self, connection: Connection) -> None:
        now = time.monotonic()
        if now >= _cleaned_at.get(self._queue.name, float("-inf")) + _CLEANING_INTERVAL:
            remove_expired(connection, _MAX_REMOVED)
            _cleaned_at[self._queue.name] = now

    def _take(self, connection: Connection, now: int) -> list[Any]:
        """Return the locked rows to lease; drop those whose leases are used up."""
        due = self._select().where(_T.eta_usec <= now)
        if self._wish.by_tag:
            tag = self._wish.tag
            if tag is None:
                oldest = connection.execute(due.limit(1).with_for_update(skip_locked=True)).first()
                if oldest is None:
                    return []
                tag = oldest.tag
            due = due.where(_T.tag == tag)  # IS NULL for None
        taken: list[Any] = []
        while len(taken) < self._wish.max_tasks:
            query = due.limit(self._wish.max_tasks - len(taken)).with_for_update(skip_locked=True)
            if taken:
                last = taken[-1]
                query = query.where((_T.eta_usec > last.eta_usec) | ((_T.eta_usec == last.eta_usec) & (_T.id > last.id)))
            found = list(connection.execute(query))
            used_up = [row for row in found if not self._may_lease(row)]
            taken += [row for row in found if self._may_lease(row)]
            if not used_up:
                break
            for numbers in slices([row.id for row in used_up]):
                end(connection, _T.id.in_(numbers), USED_UP)
        return taken

    def _select(self) -> Any:
        columns = _T.id, _T.name, _T.payload, _T.tag, _T.eta_usec, _T.retry_count, _T.retry
        query = select(*columns).where(_T.queue == self._queue.name, _T.state == WAITING)
        return query.order_by(_T.eta_usec, _T.id)

    def _may_lease(self, row: Any) -> bool:
        limits = self._queue.retry if row.retry is None else RetryParameters.from_json(row.retry)
        if limits.task_retry_limit is None or limits.task_age_limit is not None:
            return True
        return bool(row.retry_count < limits.task_retry_limit)


def _leased(row: Any) -> LeasedTask:
    return LeasedTask(row.name, row.payload or b"", row.tag, row.eta_usec, row.retry_count)


def modify(database: Transactions, queue: QueueSettings, name: str, eta_usec: int, seconds: float) -> int:
    """Let the lease of a task end `seconds` from now; with 0 others may have the task at once. Return its new eta.

    `eta_usec` is the end of the lease as the caller knows it. Raise TaskLeaseExpiredError if it ended, or is not the one of
    the task any more, TombstonedTaskError for a task that has ended, Error for an unknown one, and InvalidQueueModeError for
    a push queue.
    """
    _check_mode(queue)
    until = 0

    def change(connection: Connection) -> Error | None:
        nonlocal until
        query = select(_T.id, _T.state, _T.eta_usec).where(_T.queue == queue.name, _T.name == name)
        row = connection.execute(query.with_for_update()).first()
        if row is None:
            return Error(f"queue {queue.name} has no task {name!r}")
        if row.state == ENDED:
            return TombstonedTaskError(f"task {name!r} of queue {queue.name} has ended: there is no lease to change")
        if until and row.eta_usec == until:  # the call before has changed it
            return None
        now = now_usec()
        if row.eta_usec != eta_usec or row.eta_usec < now:
            return TaskLeaseExpiredError(
                f"the lease of task {name!r} of queue {queue.name} has ended, or another lease has begun since"
            )
        until = now + round(seconds * 1_000_000)
        connection.execute(update(tasks).where(_T.id == row.id).values(eta_usec=until))
        return None

    error = database.run(change)
    if error is not None:
        raise error
    return until
