"""Connections to the store, and the claim by which a pool has it for itself.

A claim goes with the process that holds it, however that ends: for SQLite it is a lock on a file beside the database (two
processes that write or checkpoint one WAL at the same instant can corrupt it, until SQLite 3.51.3), for PostgreSQL an
advisory lock of the session, one for each name of a pool.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sqlite3
from typing import Any, Final

from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from procjobs.errors import StoreUnavailable
from procjobs.shared.store_address import hide_password, split_options, sqlite_path
from procjobs.shared.wire import limit_text

_BUSY_SECONDS: Final = 2.0
"""How long another writer of the same SQLite file is waited for. What is longer is told, and tried again."""
_CONNECT_SECONDS: Final = 5
_STATEMENT_MILLISECONDS: Final = 60_000


def explain(error: Exception) -> str:
    """Return one line about what a database has said."""
    told = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = " ".join(clean(str(told)).split())
    return limit_text(text if isinstance(error, StoreUnavailable) else f"{type(told).__name__}: {text}", 1000)


def clean(text: str) -> str:
    """Return text as every database takes it: PostgreSQL has no zero characters, and neither takes lone surrogates."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def open_engine(url: str, *, read_only: bool = False) -> Engine:
    """Return an engine whose connections are not kept when they are given back; raise StoreUnavailable if none can be."""
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
            f"file:{quote(path)}?mode={mode}", uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        if not read_only:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={synchronous.upper()}")
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A reader that wants to become a writer is refused at once, whatever the timeout: it says so at the beginning.
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _postgresql_engine(url: str, *, read_only: bool) -> Engine:
    arguments: dict[str, Any] = {}
    if make_url(url).get_driver_name() in {"psycopg", "psycopg2"}:
        options = f"-c statement_timeout={_STATEMENT_MILLISECONDS}"
        arguments = {"connect_timeout": _CONNECT_SECONDS, "options": options, "application_name": "procjobs"}
    engine = create_engine(url, poolclass=NullPool, connect_args=arguments)
    return engine.execution_options(postgresql_readonly=True) if read_only else engine


class Claim:
    """The right of one pool to the store. Taken before anything is read, and kept for as long as the recorder lives."""

    def __init__(self, url: str, pool: str) -> None:
        self._url = url
        self._pool = pool
        self._lock: int | None = None

    def take(self, connection: Connection) -> None:
        """Take it, or keep it; raise StoreUnavailable where another process has it."""
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
        """Give it up; that of a session ends with its connection."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None
