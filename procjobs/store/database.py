"""Connections to the store, and the claim by which a pool has it for itself.

A claim ends with the process that holds it, whatever ends that process. For SQLite it is a lock on a file beside the
database, for two processes that write or checkpoint one WAL at the same instant can corrupt it (until SQLite 3.51.3).
For PostgreSQL it is an advisory lock of the session, one for each name of a pool.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from procjobs.errors import StoreUnavailable
from procjobs.shared.store_address import hide_password, split_options, sqlite_path
from procjobs.shared.wire import limit_text

SLICE: Final = 500
"""The most rows of one statement: SQLite and PostgreSQL limit its parameters."""
_LOCK_TIMEOUT: Final = 2.0
"""How long to wait for another writer of the same SQLite file. After that the lock is an error like others: it is reported,
and the transaction is tried again."""
_CONNECT_TIMEOUT: Final = 5
_STATEMENT_TIMEOUT_MS: Final = 60_000


def explain(error: Exception) -> str:
    """Return an error of a database as one line, in the words of its driver."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = " ".join(clean(str(cause)).split())
    return limit_text(text if isinstance(error, StoreUnavailable) else f"{type(cause).__name__}: {text}", 1000)


def clean(text: str) -> str:
    """Return text as every database takes it: PostgreSQL refuses zero characters, and both refuse lone surrogates."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def slices(ids: list[str]) -> Iterator[list[str]]:
    """Yield parts of a list that are small enough for the parameters of one statement."""
    for start in range(0, len(ids), SLICE):
        yield ids[start : start + SLICE]


def open_engine(url: str, *, read_only: bool = False) -> Engine:
    """Return an engine that keeps no connections for later; raise StoreUnavailable if there is no driver for the URL."""
    plain, options = split_options(url)
    path = sqlite_path(plain)
    try:
        if path is None:
            return _postgresql_engine(plain, read_only=read_only)
        return _sqlite_engine(path, options.get("procjobs_synchronous", "normal"), read_only=read_only)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise StoreUnavailable(
            f"the store {hide_password(url)} cannot be opened: {error}. Is its driver installed, such as psycopg for "
            "postgresql+psycopg://?"
        ) from error


def _sqlite_engine(path: str, synchronous: str, *, read_only: bool) -> Engine:
    from urllib.parse import quote

    def connect() -> sqlite3.Connection:
        mode = "ro" if read_only else "rwc"
        connection = sqlite3.connect(
            f"file:{quote(path)}?mode={mode}", uri=True, timeout=_LOCK_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        if not read_only:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={synchronous.upper()}")
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # SQLite refuses a reader that becomes a writer at once, whatever the timeout: so a writer is one from its beginning.
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _postgresql_engine(url: str, *, read_only: bool) -> Engine:
    arguments: dict[str, Any] = {}
    if make_url(url).get_driver_name() in {"psycopg", "psycopg2"}:
        options = f"-c statement_timeout={_STATEMENT_TIMEOUT_MS}"
        arguments = {"connect_timeout": _CONNECT_TIMEOUT, "options": options, "application_name": "procjobs"}
    engine = create_engine(url, poolclass=NullPool, connect_args=arguments)
    return engine.execution_options(postgresql_readonly=True) if read_only else engine


class Claim:
    """The right of one pool to the store, taken before anything is read, and kept for as long as the recorder lives."""

    def __init__(self, url: str, pool: str) -> None:
        self._url = url
        self._pool = pool
        self._lock: int | None = None

    def take(self, connection: Connection) -> None:
        """Take the claim, or keep it; raise StoreUnavailable where another process has it."""
        path = sqlite_path(self._url)
        if path is None:
            self._take_session_lock(connection)
        elif self._lock is None:
            self._lock = self._lock_file(f"{path}.lock")

    def _lock_file(self, path: str) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 200, 0).decode(errors="replace") or "another process"
            os.close(fd)
            raise StoreUnavailable(
                f"the store {self._url} is in use by {holder}. An SQLite file belongs to one pool: give this one another "
                "file, or let all processes use one named pool"
            ) from None
        except BaseException:
            os.close(fd)
            raise
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"pool {self._pool} (recorder {os.getpid()})".encode(), 0)
        return fd

    def _take_session_lock(self, connection: Connection) -> None:
        number = int.from_bytes(hashlib.sha256(f"procjobs {self._pool}".encode()).digest()[:8], "big", signed=True)
        if not connection.scalar(text("SELECT pg_try_advisory_lock(:number)"), {"number": number}):
            raise StoreUnavailable(
                f"the jobs of pool {self._pool} in the store {hide_password(self._url)} are in use by another supervisor: "
                "is the pool running twice, with different runtime directories? Stop one, or give it another name"
            )

    def close(self) -> None:
        """Give the claim up; that of a session ends with its connection."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None
