"""How many bytes all tasks take, for the `total_storage_limit` of queue.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import func, inspect, select
from sqlalchemy.orm import Session

from procjobs.compat.taskqueue.errors import TransientError
from procjobs.compat.taskqueue.store.tables import ENDED, payloads, tasks

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from procjobs.compat.taskqueue.store.records import NewTask


def stored_bytes(connection: Connection) -> int:
    """Return the bytes of all tasks that have not ended, as their limits count them, with their large payloads."""
    if not inspect(connection).has_table(tasks.name):
        return 0
    own = connection.scalar(select(func.sum(tasks.c.size)).where(tasks.c.state != ENDED))
    large = connection.scalar(select(func.sum(func.length(payloads.c.data))))
    return int(own or 0) + int(large or 0)


def stored_bytes_within(transaction: Session | Connection) -> int:
    """Return the same as an open transaction sees it."""
    return stored_bytes(transaction.connection() if isinstance(transaction, Session) else transaction)


def refuse_overflow(limit: int, used: int, new: Sequence[NewTask]) -> None:
    """Raise TransientError if new tasks do not fit beside what is there: they do when others have ended."""
    size = sum(task.size + (0 if task.stored is None else len(task.stored[1])) for task in new)
    if used + size > limit:
        raise TransientError(
            f"the total_storage_limit of queue.yaml is {limit} bytes: all tasks together take {used}, and these {size} more"
        )
