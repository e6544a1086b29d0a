"""Connections that another process has opened, and connections that are given up in the middle of a statement.

A connection that a process got by a fork is never used, closed or collected by it: two processes that talk over one
connection destroy each other's conversation. A process that closes it ends the other's session on the server, or drops the
locks of a SQLite file. SQLAlchemy: "Using Connection Pools with Multiprocessing or os.fork()". So each connection is
marked with the process that has opened it; one with another's mark, or in a worker without any, is put aside when it is
checked out, and the engine opens a new one.

A connection whose statement was interrupted, above all by a soft timeout, is closed by SQLAlchemy. PostgreSQL notices that
only at the end of the statement, and keeps its locks until then; so the statement is cancelled.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Final

from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import Pool

_MARK: Final = "procjobs_pid"
_ACTIVE: Final = 1
"""libpq's PQTRANS_ACTIVE, as psycopg and psycopg2 have it: a command is in progress."""

_kept: list[Any] = []
"""Objects that must not be garbage-collected: a connection is closed with its last reference."""
_runs_jobs = False


def watch() -> None:
    """Mark, check and end the connections of all engines of this process in this way."""
    if not event.contains(Pool, "connect", _on_connect):
        event.listen(Pool, "connect", _on_connect)
        event.listen(Pool, "checkout", _on_checkout)
        event.listen(Pool, "checkin", _on_checkin)
        event.listen(Pool, "invalidate", _on_invalidate)


def say_that_jobs_run_here() -> None:
    """Treat connections without a mark as the template's: it may have opened them before it was watched."""
    global _runs_jobs
    _runs_jobs = True


def keep(value: Any) -> None:
    """Keep an inherited object until the process ends."""
    if value is not None:
        _kept.append(value)


def replace_pool(engine: Any) -> None:
    """Give an engine an empty pool, and leave the connections of the old one alone."""
    if isinstance(engine, Engine):
        keep(engine.pool)
        engine.dispose(close=False)


def _on_connect(_connection: Any, record: Any) -> None:
    record.info[_MARK] = os.getpid()


def _on_checkout(_connection: Any, record: Any, proxy: Any) -> None:
    opened_by = record.info.get(_MARK)
    if opened_by == os.getpid() or (opened_by is None and not _runs_jobs):
        return
    keep(record.dbapi_connection)
    record.dbapi_connection = proxy.dbapi_connection = None
    raise DisconnectionError(f"this connection belongs to process {opened_by}")


def _on_checkin(connection: Any, _record: Any) -> None:
    """Roll back a transaction that SQLAlchemy takes for ended: a COMMIT that SQLite refuses leaves it open.

    That happens where zope.sqlalchemy then closes the session by itself; the next job would commit the rest.
    """
    if _runs_jobs and getattr(connection, "in_transaction", False) is True:  # sqlite3's attribute
        connection.rollback()


def _on_invalidate(connection: Any, _record: Any, _error: Any) -> None:
    with contextlib.suppress(Exception):  # it is closed, or its driver has no such method
        if connection.info.transaction_status == _ACTIVE:
            connection.cancel()
