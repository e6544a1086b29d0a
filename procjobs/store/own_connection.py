"""The connection of this process to the database of a store: made when it is needed, used by one thread at a time, kept.

1. A transaction is one function. When anything comes between its begin and its commit, Ctrl-C too, the connection is closed,
   and the next transaction makes a new one. So no transaction finds what another one has left.
2. A function is called once more, over a new connection, if the database has refused it: the server may have been started
   again since. So functions are written so that it does no harm to do all of it twice.
3. A fork waits until no thread is in a transaction, at most for a moment. The child leaves the connection alone, and keeps
   it until it ends: to close it would end the parent's.
4. A file that was removed or replaced takes commits and loses them. So its identity is looked at before each transaction,
   and after it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from procjobs.errors import StoreUnavailable
from procjobs.shared import private_files
from procjobs.shared.passwords import hide
from procjobs.shared.store_address import sqlite_path
from procjobs.store.database import explain, may_be_shown, open_engine
from procjobs.store.holders import FileLocks, Locks, SessionLocks
from procjobs.store.schema import migrate

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

T = TypeVar("T")
_FORK_TIMEOUT: Final = 2.0
_CLOSE_TIMEOUT: Final = 1.0
_kept: list[Any] = []
"""What a child has of its parent's connections; it is not to be collected."""


class OwnConnection:
    """The connection to the database at `url`. `revision` tells whether anything may have changed since it was read."""

    def __init__(self, url: str) -> None:
        """Raise StoreUnavailable where the file of the database, or the one for its locks, cannot be made."""
        self._url = url
        self._path = sqlite_path(url)
        self._engine = open_engine(url)
        self._lock = threading.RLock()
        self._is_running = False
        self._connection: Connection | None = None
        self._file: tuple[int, int] | None = None
        self._times_opened = 0
        self._own_changes = 0
        self._preparations: list[Callable[[Connection], None]] = [migrate]
        self._holds = False
        self._is_locked_for_fork = False
        try:
            self.locks: Locks = SessionLocks() if self._path is None else FileLocks(f"{self._path}-holders")
        except OSError as error:
            raise self._unavailable(error) from error

    def run(self, function: Callable[[Connection], T]) -> T:
        """Call a function within a transaction that is committed when it returns; return what it returns.

        Raise StoreUnavailable where the database cannot be used, also in a signal handler that has interrupted another call.
        """
        with self._lock:
            if self._is_running:
                raise StoreUnavailable(
                    f"the store {hide(self._url)} is being used by the code that this signal handler has interrupted: "
                    "call it outside of signal handlers"
                )
            try:
                self._is_running = True
                return self._try_twice(function)
            finally:
                self._is_running = False

    def _try_twice(self, function: Callable[[Connection], T]) -> T:
        try:
            return self._run_once(function)
        except (SQLAlchemyError, OSError):
            pass
        try:
            return self._run_once(function)
        except (SQLAlchemyError, OSError) as error:
            raise self._unavailable(error) from may_be_shown(error, self._url)

    def _run_once(self, function: Callable[[Connection], T]) -> T:
        try:
            connection = self._open()
            self.locks.enter()
            try:
                with connection.begin():
                    result = function(connection)
            finally:
                self.locks.leave()
            self._check_file()
        except BaseException:
            self._discard()
            raise
        self._own_changes += 1
        return result

    def prepare(self, function: Callable[[Connection], None]) -> None:
        """Have this function called once in each new connection, in a transaction, before that is used for anything else.

        So tables are there also where the file was removed or replaced. It costs nothing to do this again.
        """
        with self._lock:
            if function not in self._preparations:
                self._preparations.append(function)
                if not self._is_running:
                    self._discard()

    def hold(self) -> None:
        """Have the lock of this process from now on, also over later connections."""
        if not self._holds:
            self.run(self.locks.hold)
            self._holds = True

    def peek(self, query: str, values: tuple[str, ...] = ()) -> tuple[Any, ...] | None:
        """Return the first row that a query finds in SQLite, () if it finds none; None where it cannot be asked like this.

        Takes some microseconds, and locks out no writer.
        """
        with self._lock:
            if self._is_running or self._path is None or self._connection is None or _identity(self._path) != self._file:
                return None
            try:
                raw: Any = self._connection.connection.driver_connection
                return raw.execute(query, values).fetchone() or ()
            except Exception:  # noqa: BLE001 - of the driver; the transaction that follows has better words for it
                return None

    def revision(self) -> tuple[Any, ...] | None:
        """Return a value that differs where the database may have changed since the last one; None where that is unknown."""
        changed = self.peek("PRAGMA data_version")
        return changed and (self._times_opened, self._own_changes, *changed)

    # Opening and closing ----------------------------------------------------------------------------------------

    def _open(self) -> Connection:
        if self._connection is not None and (self._path is None or _identity(self._path) == self._file):
            return self._connection
        self._discard()
        if self._path is not None and not os.path.exists(self._path):
            # Only then: to close a descriptor of the file would drop the locks of others in this process who have it open.
            os.close(private_files.open_or_create(self._path))
        self.locks.renew()
        connection = self._connection = self._engine.connect()
        self._times_opened += 1
        self.locks.enter()
        try:
            with connection.begin():
                for prepare in self._preparations:
                    prepare(connection)
                self.locks.prepare(connection)
                if self._holds:
                    self.locks.hold(connection)
        finally:
            self.locks.leave()
        self._file = None if self._path is None else _identity(self._path)
        return connection

    def _check_file(self) -> None:
        if self._path is not None and _identity(self._path) != self._file:
            raise OSError(f"the file {self._path} was removed or replaced while it was written")

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with contextlib.suppress(StoreUnavailable):
            self.locks.enter()  # the last connection to a file writes all of its log into it
        try:
            with contextlib.suppress(Exception):  # it is broken already
                connection.invalidate()
            with contextlib.suppress(Exception):
                connection.close()
        finally:
            self.locks.leave()

    def close(self) -> None:
        """Close the connection; the next call opens another one. Does nothing where a thread does not finish with it."""
        if self._lock.acquire(timeout=_CLOSE_TIMEOUT):
            try:
                if not self._is_running:
                    self._discard()
            finally:
                self._lock.release()

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"the store {hide(self._url)} cannot be used: {explain(error, self._url)}")

    # Forks ------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Wait until no thread is in a transaction; not for ever, and not for this thread itself."""
        self._is_locked_for_fork = self._lock.acquire(timeout=_FORK_TIMEOUT)

    def after_fork_in_parent(self) -> None:
        """Let the threads go on."""
        if self._is_locked_for_fork:
            self._is_locked_for_fork = False
            self._lock.release()

    def abandon(self) -> None:
        """Leave everything to the parent; this object is not used any more."""
        _kept.append(self)
        self.locks.forget()


_connections: dict[str, OwnConnection] = {}
_making = threading.Lock()


def connection_to(url: str) -> OwnConnection:
    """Return the connection of this process to a database, one for each file or URL."""
    path = sqlite_path(url)
    key = url if path is None else os.path.realpath(path)
    with _making:
        if key not in _connections:
            _connections[key] = OwnConnection(url)
        return _connections[key]


def close_all() -> None:
    """Close the connections of this process that are open; later calls open others. Nothing is given back."""
    for connection in list(_connections.values()):
        connection.close()


def forget_all() -> None:
    """Close everything that this process has open for its queues; later calls begin anew."""
    while _connections:
        _, connection = _connections.popitem()
        connection.close()
        connection.locks.forget()


def _before_fork() -> None:
    for connection in list(_connections.values()):
        connection.before_fork()


def _after_fork_in_parent() -> None:
    for connection in list(_connections.values()):
        connection.after_fork_in_parent()


def _after_fork_in_child() -> None:
    global _making
    _making = threading.Lock()
    while _connections:
        _connections.popitem()[1].abandon()


atexit.register(close_all)
os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)


def _identity(path: str) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None
