"""The database of the queues: one connection for each process, shared by its threads, made again in a child of a fork."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from procjobs.compat.taskqueue.errors import TransientError
from procjobs.compat.taskqueue.store import tables
from procjobs.errors import StoreUnavailable

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from procjobs.sql import OwnConnection

T = TypeVar("T")

_HINT: Final = (
    ". SQLite has one writer at a time. If that is a transaction of this thread, add its tasks with transactional=True, or "
    "after its commit"
)

__all__ = ["Database", "Transactions", "open_database"]


class Transactions(Protocol):
    """Where transactions are made: `Database` for applications, the connection of `open_database` for the sender."""

    def run(self, function: Callable[[Connection], T]) -> T:
        """Call a function within a transaction that is committed when it returns; return what it returns."""


class Database:
    """The queues of a store, for applications. It may be made before a fork, and used by any thread."""

    def __init__(self, url: str) -> None:
        """Open nothing; `url` is that of the store."""
        self.url = url

    def run(self, function: Callable[[Connection], T]) -> T:
        """See Transactions. Raise TransientError where the database cannot be used."""
        try:
            return open_database(self.url).run(function)
        except StoreUnavailable as error:
            hint = _HINT if "database is locked" in str(error) else ""
            raise TransientError(f"{error}{hint}") from error


def open_database(url: str) -> OwnConnection:
    """Return the connection of this process to the queues in a store; nothing is opened before the first transaction.

    `run(function)` of it calls a function with a connection, in one transaction, and once more where the database has
    refused it or its answer was lost. So a function has to find out by itself what the call before may have committed. It
    raises StoreUnavailable. An exception of the function closes the connection: what is expected is returned, not raised.
    """
    from procjobs.sql import connection_to

    connection = connection_to(url)
    connection.prepare(tables.prepare)
    return connection
