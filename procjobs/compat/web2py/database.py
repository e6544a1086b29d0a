"""Steps in the application's database: each is one transaction, and is tried again where the database was away.

A connection belongs to the thread that made it. The worker loop makes all its steps in the main thread, on the connection
of the DAL that the Scheduler was given. Tasks run in other programs, which have connections of their own.

In PostgreSQL a step waits at most four seconds for a lock: somebody's open transaction keeps no worker from its heartbeats
for ever, nor from seeing a signal.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

PATIENCE: Final = 300.0
"""Seconds for which a database may be away, as for a restart or an upgrade, before a worker gives up."""
_PASSING: Final = ("OperationalError", "InterfaceError", "InternalError", "IntegrityError")
"""What a driver raises for an outage, a lock, or a row that another worker has made at the same time."""
_SQLITE_ERROR: Final = 1
"""SQLite's code for a wrong statement, such as for a table that is not there; its driver has no other name for that."""
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0

logger = logging.getLogger(__package__)


class DatabaseAway(Exception):
    """The database has not answered for as long as a worker waits for it."""


def lock(db: Any, table: Any) -> Any:
    """Lock all rows of a table until the end of the transaction, of which this is the begin; return the rows by their id."""
    in_sqlite = db._adapter.dbengine == "sqlite"  # noqa: SLF001 - pydal has no public name for it
    if in_sqlite:
        db.executesql("BEGIN IMMEDIATE")
    return db(table.id > 0).select(table.ALL, orderby=table.id, **({} if in_sqlite else {"for_update": True}))


class Steps:
    """Runs steps in a database, and counts the outages."""

    def __init__(self, db: Any, *, patience: float = PATIENCE, pause: Callable[[float], None] = time.sleep) -> None:
        self._db = db
        self._patience = patience
        self._pause = pause
        self.outages = 0
        """How often the database was away. Observations that were made before an outage may be out of date."""

    def run(self, step: Callable[[], T]) -> T:
        """Run a step, commit, and return what it returns; after an error of the database, roll back and try again.

        Raise DatabaseAway when that has failed for `patience` seconds. Other exceptions are the caller's.
        """
        since = time.monotonic()
        delay = _FIRST_PAUSE
        while True:
            try:
                self._begin()
                result = step()
                self._db.commit()
            except Exception as error:
                self._give_back()
                if not (self.is_database_error(error, *_PASSING) or self._is_broken_off(error)):
                    raise
                self.outages += 1
                away = time.monotonic() - since
                if away > self._patience:
                    raise DatabaseAway(f"the database has failed for {away:.0f} s, at last with: {error}") from error
                logger.warning("the database failed, trying again: %s", str(error).strip())
                self._pause(delay)
                delay = min(delay * 2, _LONGEST_PAUSE)
            else:
                return result

    def _begin(self) -> None:
        if self._db._adapter.dbengine == "postgres":  # noqa: SLF001 - pydal has no public name for it
            self._db.executesql("SET LOCAL lock_timeout = '4s'")

    def _is_broken_off(self, error: Exception) -> bool:
        """Return whether this is what psycopg2 raises for a connection that ended within a query: the base class itself."""
        return type(error) is getattr(self._db._adapter.driver, "DatabaseError", None)  # noqa: SLF001 - as above

    def is_database_error(self, error: BaseException, *names: str) -> bool:
        """Return whether an exception is one of these classes of the database's driver, such as DataError."""
        driver = self._db._adapter.driver  # noqa: SLF001 - as above
        family = tuple(getattr(driver, name) for name in names if hasattr(driver, name))
        return isinstance(error, family) and getattr(error, "sqlite_errorcode", 0) != _SQLITE_ERROR

    def _give_back(self) -> None:
        """Roll back; drop a connection that cannot even do that. The next step makes a new one."""
        adapter = self._db._adapter  # noqa: SLF001 - as above
        try:
            self._db.rollback()
        except Exception:  # noqa: BLE001 - a broken connection may raise anything
            with contextlib.suppress(Exception):
                adapter.close(None)
            with contextlib.suppress(Exception):
                adapter.set_connection(None)
