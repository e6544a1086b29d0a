"""Connections to the store; and errors, texts and long lists as databases take them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import create_engine, event
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from procjobs.errors import StoreUnavailable
from procjobs.shared.passwords import hide, hide_in
from procjobs.shared.store_address import split_options, sqlite_path
from procjobs.shared.wire import limit_text

SLICE: Final = 500
"""The most rows of one statement: SQLite and PostgreSQL limit its parameters."""
_LOCK_TIMEOUT: Final = 2.0
"""How long to wait for another writer of the same SQLite file. After that the lock is an error like others: it is reported,
and the transaction is tried again."""
_CONNECT_TIMEOUT: Final = 4
_POSTGRESQL: Final = {
    "statement_timeout": "60s",
    "lock_timeout": "4s",  # a table that is locked is an error that is told, and tried again
    "client_connection_check_interval": "2s",  # what a recorder was doing that was killed ends with it
}
"""Settings of a session."""
_SOCKET: Final = {
    "connect_timeout": _CONNECT_TIMEOUT, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
    "tcp_user_timeout": 8000,
}  # fmt: skip
"""Settings of libpq: a server that went away without a word is noticed within some ten seconds."""


def explain(error: Exception, url: str = "") -> str:
    """Return an error of a database as one line, in the words of its driver, without the passwords of its URL."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = " ".join(hide_in(clean(str(cause)), url).split())
    return limit_text(text if isinstance(error, StoreUnavailable) else f"{type(cause).__name__}: {text}", 1000)


def may_be_shown(error: Exception, url: str) -> Exception | None:
    """Return an error as the cause of one of ours, None if its text has a password: a traceback would show it."""
    return error if hide_in(str(error), url) == str(error) else None


def clean(text: str) -> str:
    """Return text as every database takes it: PostgreSQL refuses zero characters, and both refuse lone surrogates."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def slices(ids: list[str]) -> Iterator[list[str]]:
    """Yield parts of a list that are small enough for the parameters of one statement."""
    for start in range(0, len(ids), SLICE):
        yield ids[start : start + SLICE]


def open_engine(url: str, *, read_only: bool = False) -> Engine:
    """Return an engine; one to read PostgreSQL with keeps a connection for later, and others none.

    Raise StoreUnavailable if there is no driver for the URL.
    """
    plain, options = split_options(url)
    path = sqlite_path(plain)
    try:
        if path is None:
            return _postgresql_engine(plain, read_only=read_only)
        return _sqlite_engine(path, options.get("procjobs_synchronous", "normal"), read_only=read_only)
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError, TypeError) as error:
        raise StoreUnavailable(
            f"the store {hide(url)} cannot be opened: {explain(error, url)}. Is its driver installed, such as psycopg for "
            "postgresql+psycopg://? In a password, @ is written as %40, / as %2F, and ? as %3F."
        ) from may_be_shown(error, url)


def _sqlite_engine(path: str, synchronous: str, *, read_only: bool) -> Engine:
    from urllib.parse import quote

    def connect() -> sqlite3.Connection:
        mode = "ro" if read_only else "rw"  # the file is made by procjobs.store.sqlite_file, for this user alone
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
        options = " ".join(f"-c {name}={value}" for name, value in _POSTGRESQL.items())
        arguments = {**_SOCKET, "options": options, "application_name": "procjobs"}
    if not read_only:
        return create_engine(url, poolclass=NullPool, connect_args=arguments)
    # A connection that the server has closed meanwhile is not used.
    engine = create_engine(url, pool_size=1, pool_pre_ping=True, connect_args=arguments)
    return engine.execution_options(postgresql_readonly=True)
