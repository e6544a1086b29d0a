"""One sender works the queues of a database at a time; others wait until it has ended, however it ends.

A lock says who: flock(2) on DATABASE.sender beside an SQLite file, an advisory lock of a session in PostgreSQL. A process
that was stopped (SIGSTOP), or has lost its session, may believe that it has the lock when another one has it already. So
each new leader takes the next generation, and every transaction of the sender looks at that first (`claims`).
"""

from __future__ import annotations

import contextlib
from typing import Final

from sqlalchemy import Connection, Engine, make_url, text
from sqlalchemy.exc import DBAPIError

from procjobs.compat.locks import FileLock, SessionLock
from procjobs.compat.taskhopper.databases import make_engine
from procjobs.compat.taskqueue.store import tables

_NUMBER: Final = 7_226_112
"""The first half of the number of the advisory lock; the second one is that of the table (its oid)."""

_SESSION: Final = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}
"""The server frees the lock of a host that has gone without a word after some ten seconds."""


class FileLeadership:
    """The leadership of an SQLite file."""

    def __init__(self, path: str) -> None:
        self._lock = FileLock(path, "sender")

    def try_take(self) -> bool:
        """Take the lead if nobody has it; return whether this process has it now."""
        return self._lock.try_take()

    def is_kept(self) -> bool:
        """Return whether this process still has the lead."""
        return True

    def release(self) -> None:
        """Let another process have it."""
        self._lock.release()


class SessionLeadership:
    """The leadership of a PostgreSQL database, over a connection that does nothing else."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._lock = SessionLock(_NUMBER, tables.tasks.name)
        self._connection: Connection | None = None

    def try_take(self) -> bool:
        """See FileLeadership. An unreachable database is nobody's."""
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
                for name, value in _SESSION.items():
                    self._connection.execute(text("SELECT set_config(:name, :value, false)"), {"name": name, "value": value})
            return self._lock.try_take(self._connection)
        except DBAPIError:
            self.release()
            return False

    def is_kept(self) -> bool:
        """See FileLeadership. The lock goes with its session."""
        try:
            if self._connection is not None:
                self._connection.execute(text("SELECT 1"))
        except DBAPIError:
            self.release()
        return self._connection is not None

    def release(self) -> None:
        """See FileLeadership."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(DBAPIError):
                connection.close()


Leadership = FileLeadership | SessionLeadership


def leadership_of(store: str) -> Leadership:
    """Return the leadership of the database at this URL, not taken yet."""
    url = make_url(store)
    if url.get_backend_name() == "sqlite":
        return FileLeadership(str(url.database))
    own = [name for name in url.query if name.startswith("procjobs_")]  # of the store, not of the driver
    return SessionLeadership(make_engine(url.difference_update_query(own)))
