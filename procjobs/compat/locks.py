"""Locks of which one process at a time works a database, such as the runner of a hopper or the sender of task queues.

They are released by the kernel or by the database server when their holder ends, however it ends. SQLite: flock(2) on a
file beside the database, DATABASE.HOLDER, which stays. PostgreSQL: an advisory lock of a session. A runner reads and writes
its tasks over the same session, so that one that has lost the lock cannot write.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from typing import IO, Any, Final, Protocol

from sqlalchemy import Connection, text

from procjobs.errors import ConfigurationError

_CLASS: Final = 7_226_111
"""The first half of the number of the advisory lock; the second one is that of the table (its oid)."""
_TRY: Final = """SELECT pg_try_advisory_lock(
    (CAST(:class AS bigint) << 32) | CAST(to_regclass(CAST(:table AS text)) AS oid)::bigint)"""
_HOLDER: Final = """SELECT a.application_name, a.client_addr::text, a.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()
    AND l.classid = :class AND l.objid = CAST(to_regclass(CAST(:table AS text)) AS oid) AND l.objsubid = 1"""


class Lock(Protocol):
    """A lock that at most one process of all those that work on a database holds."""

    is_of_session: bool
    """Whether it goes with the connection to the database."""

    def try_take(self, connection: Connection) -> bool:
        """Take it, or find that this process has it already; return whether that is so. Does not block."""

    def describe_holder(self, connection: Connection) -> str:
        """Return in words who has it."""

    def release(self) -> None:
        """Give it up, if it does not go with the connection."""


class FileLock:
    """See Lock. Children of the runner do not inherit the open file."""

    is_of_session = False

    def __init__(self, database: str, holder: str = "runner") -> None:
        self._path = f"{os.path.realpath(database)}.{holder}"
        self._holder = holder
        self._file: IO[Any] | None = None

    def try_take(self, _connection: Connection | None = None) -> bool:
        """See Lock."""
        if self._file is not None:
            return True
        try:
            file = open(self._path, "a+")  # noqa: SIM115 - it is open as long as the lock is held
        except OSError as error:
            raise ConfigurationError(f"the {self._holder}'s lock {self._path} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        except OSError as error:
            file.close()
            raise ConfigurationError(
                f"the {self._holder}'s lock {self._path} cannot be taken: {error.strerror}. Is it on a file system without "
                "locks?"
            ) from None
        self._file = file
        with contextlib.suppress(OSError):  # no space is left: it is for the message of another one alone
            file.truncate(0)
            file.write(f"{os.getpid()} on host {socket.gethostname()}\n")
            file.flush()
        return True

    def describe_holder(self, _connection: Connection) -> str:
        """See Lock."""
        try:
            with open(self._path) as file:
                return f"the {self._holder} {file.read(200).strip() or '(unknown)'}"
        except OSError:
            return f"a {self._holder}"

    def release(self) -> None:
        """See Lock."""
        if self._file is not None:
            self._file.close()
            self._file = None


class SessionLock:
    """See Lock."""

    is_of_session = True

    def __init__(self, number: int = _CLASS, table: str = "task_status") -> None:
        self._values = {"class": number, "table": table}

    def try_take(self, connection: Connection) -> bool:
        """See Lock. A session that has it already takes it once more, and that does no harm: the lock ends with it."""
        return bool(connection.scalar(text(_TRY), self._values))

    def describe_holder(self, connection: Connection) -> str:
        """See Lock."""
        row = connection.execute(text(_HOLDER), self._values).first()
        if row is None:
            return "a runner"
        return f"{row[0] or 'a runner'} at {row[1] or 'a local address'} (PostgreSQL's process {row[2]})"

    def release(self) -> None:
        """See Lock."""
