"""Tasks of a transaction: rows that are added over the connection of the application's own session.

So a task is there if and only if that transaction commits, whatever happens to the process; a savepoint that is rolled back
takes its tasks with it. Nothing is kept in memory but which rows a transaction has added, to count them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event, func, inspect, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.base import RootTransaction
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from procjobs.compat.taskqueue.constants import MAX_TASKS_PER_TRANSACTION, MAX_TRANSACTIONAL_REQUEST_SIZE_BYTES
from procjobs.compat.taskqueue.errors import (
    BadTransactionStateError,
    DatastoreError,
    InvalidTaskNameError,
    TooManyTasksError,
    TransactionalRequestTooLargeError,
)
from procjobs.compat.taskqueue.store import tables
from procjobs.compat.taskqueue.store.records import Added, NewTask
from procjobs.compat.taskqueue.store.rows import insert_tasks, name_all
from procjobs.errors import ConfigurationError

if TYPE_CHECKING:
    from procjobs.compat.taskqueue.store.database import Database

__all__ = ["TransactionFullError", "add", "check_source", "find_transaction"]

_OUTSIDE: Final = "a transactional task is added within a transaction: no session of this thread has begun one"
_tasks_of: weakref.WeakKeyDictionary[RootTransaction, set[int]] = weakref.WeakKeyDictionary()
"""The rows that each transaction has added. Those of savepoints that were rolled back are among them."""
_checked: weakref.WeakKeyDictionary[Engine, str] = weakref.WeakKeyDictionary()
"""Engines of sessions, each with the URL of the store that it was found to reach."""


class TransactionFullError(DatastoreError, BadTransactionStateError, TooManyTasksError):
    """A transaction would have more tasks than it may.

    The original raises a DatastoreError that its datastore has made up. Programs expect one of the others, too.
    """


def add(source: Any, database: Database, queue: str, new: Sequence[NewTask]) -> list[Added]:
    """Add tasks to the transaction that is open in `source`; return their names.

    source: a Session or Connection, a scoped_session, a sessionmaker that `check_source` has seen, or a function that
        returns one of them.

    Raise BadTransactionStateError where no transaction is open, InvalidTaskNameError for a task with a name,
    TransactionFullError for more than 5 tasks in one transaction, TransactionalRequestTooLargeError for more than 1 MiB,
    DatastoreError where the database refuses a row, and ConfigurationError if the session is not one of the database of the
    queues. Nothing is added then, and the transaction goes on, but for a DatastoreError.
    """
    connection = find_transaction(source)
    if any(task.name is not None for task in new):
        raise InvalidTaskNameError("a task of a transaction cannot have a name: one is chosen")
    try:
        _check_database(connection, database)
        return _insert(connection, queue, new)
    except SQLAlchemyError as error:
        raise DatastoreError(f"the database has refused a task of queue {queue}: {_words_of(error)}") from error


def _words_of(error: SQLAlchemyError) -> str:
    return " ".join(str(getattr(error, "orig", None) or error).split())


def _insert(connection: Connection, queue: str, new: Sequence[NewTask]) -> list[Added]:
    root = connection.get_transaction()
    assert isinstance(root, RootTransaction)
    ids = _tasks_of.setdefault(root, set())
    totals = select(func.count(), func.coalesce(func.sum(tables.tasks.c.size), 0)).where(tables.tasks.c.id.in_(ids))
    count, size = connection.execute(totals).one()
    if count + len(new) > MAX_TASKS_PER_TRANSACTION:
        raise TransactionFullError(
            f"a transaction can have {MAX_TASKS_PER_TRANSACTION} tasks: this one has {count}, and {len(new)} are added"
        )
    size += sum(task.size for task in new)
    if size > MAX_TRANSACTIONAL_REQUEST_SIZE_BYTES:
        raise TransactionalRequestTooLargeError(
            f"the tasks of a transaction can have {MAX_TRANSACTIONAL_REQUEST_SIZE_BYTES} bytes, and these have {size}"
        )
    call = secrets.token_hex(16)
    added = insert_tasks(connection, queue, name_all(new), call)
    names = [one.name for one in added]
    mine = (tables.tasks.c.queue == queue) & tables.tasks.c.name.in_(names)
    ids.update(connection.scalars(select(tables.tasks.c.id).where(mine)))
    return added


# The transaction ------------------------------------------------------------------------------------------------


class _OpenSessions(threading.local):
    """The sessions of this thread that sessionmakers have made, and that have a transaction; the last one is the newest."""

    def __init__(self) -> None:
        self.open: list[tuple[sessionmaker[Any], weakref.ref[Session]]] = []


_sessions = _OpenSessions()
_seen: weakref.WeakSet[sessionmaker[Any]] = weakref.WeakSet()


def check_source(source: Any) -> None:
    """Raise ConfigurationError if this can be no source of transactions; from now on, notice those of a sessionmaker."""
    if isinstance(source, sessionmaker):
        if source not in _seen:
            _seen.add(source)
            _watch(source)
        return
    if not isinstance(source, Session | Connection | scoped_session) and not callable(source):
        raise ConfigurationError(
            f"session={source!r}: expected a scoped_session, a sessionmaker, or a function that returns a Session"
        )


def _watch(maker: sessionmaker[Any]) -> None:
    """Have the open transactions of a sessionmaker's sessions in `_sessions`."""
    reference = weakref.ref(maker)

    def begin(session: Session, transaction: Any) -> None:
        found = reference()
        if transaction.parent is None and found is not None:
            _sessions.open.append((found, weakref.ref(session)))

    def finish(session: Session, transaction: Any) -> None:
        if transaction.parent is None:
            _sessions.open = [pair for pair in _sessions.open if pair[1]() not in {None, session}]

    event.listen(maker, "after_transaction_create", begin)
    event.listen(maker, "after_transaction_end", finish)


def find_transaction(source: Any) -> Connection:
    """Return the connection of the transaction that is open in a source.

    Raise BadTransactionStateError if none is, and DatastoreError if the session has no connection for it.
    """
    if isinstance(source, sessionmaker):
        found = [session for maker, reference in _sessions.open if maker is source and (session := reference())]
        source = found[-1] if found else None
    elif isinstance(source, scoped_session):
        source = source() if source.registry.has() else None
    elif callable(source) and not isinstance(source, Session | Connection):
        returned = source()
        if isinstance(returned, sessionmaker | scoped_session):
            check_source(returned)
            return find_transaction(returned)
        source = returned
    if source is None:
        raise BadTransactionStateError(_OUTSIDE)
    if not isinstance(source, Session | Connection):
        raise ConfigurationError(
            f"session= of configure() has returned {source!r}, and a Session is needed. In asyncio, add transactional "
            "tasks within `await session.run_sync(...)`, with the session that the function is given"
        )
    if not source.in_transaction():
        raise BadTransactionStateError(_OUTSIDE)
    try:
        return source if isinstance(source, Connection) else source.connection()
    except SQLAlchemyError as error:
        raise DatastoreError(f"the session has no connection for tasks: {_words_of(error)}") from error


# The database ---------------------------------------------------------------------------------------------------


def _check_database(connection: Connection, database: Database) -> None:
    """Raise ConfigurationError if the connection does not reach the tables of the queues."""
    if connection.dialect.name == "sqlite":
        row = connection.exec_driver_sql("PRAGMA database_list").first()
        is_right = row is not None and _is_same_file(database.url, row[2])
        if is_right:
            tables.prepare(connection)  # over another connection it could not be done: this one may have locked the file
    elif _checked.get(connection.engine) == database.url:
        return
    else:
        own = database.run(lambda other: tables.read_setting(other, tables.DATABASE_ID))
        has_tables = inspect(connection).has_table(tables.settings.name)
        is_right = has_tables and tables.read_setting(connection, tables.DATABASE_ID) == own
        if is_right:
            _checked[connection.engine] = database.url
    if not is_right:
        raise ConfigurationError(
            f"session= of configure() uses {connection.engine.url.render_as_string()}, where the queues are not: a task "
            "belongs to a transaction of the database that store= of configure() names"
        )


def _is_same_file(url: str, path: str) -> bool:
    own = url.partition("?")[0].removeprefix("sqlite:///")
    with contextlib.suppress(OSError):
        return os.path.samefile(own, path)
    return False
