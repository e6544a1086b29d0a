"""Databases of tasks: which ones can be used, their engines, and the creation of the table."""

from __future__ import annotations

import os
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from procjobs.compat.taskhopper import table
from procjobs.compat.taskhopper.errors import DatabaseAway
from procjobs.errors import ConfigurationError

_EXPECTED: Final = "expected one such as sqlite:////srv/app/app.db or postgresql+psycopg://user:password@host/name"
_CREATION_LOCK: Final = 7_226_110
"""The advisory lock of PostgreSQL under which the table is created: two processes that come at once would both do it."""
_LIBPQ: Final = {"psycopg", "psycopg2"}
_SOCKET: Final = {"connect_timeout": 5, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
                  "tcp_user_timeout": 8000}  # fmt: skip
"""Settings of libpq: a server that went away without a word is noticed within some ten seconds."""
_LOCK_TIMEOUT: Final = 10.0
"""How long to wait for another writer of a SQLite file. Seconds."""


def check_url(given: str | URL) -> URL:
    """Return the URL of a database of tasks; raise ConfigurationError if it is none. No message has its password."""
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        raise ConfigurationError(f"the database is not a URL that SQLAlchemy understands; {_EXPECTED}") from None
    shown, backend = show(url), url.drivername.partition("+")[0]
    if backend == "sqlite":
        return _check_sqlite(url, shown)
    if backend != "postgresql":
        hint = "; write postgresql instead of postgres" if backend == "postgres" else ""
        raise ConfigurationError(f"database {shown}: tasks are kept in SQLite or PostgreSQL{hint}; {_EXPECTED}")
    try:
        is_async = url.get_dialect().is_async
    except (NoSuchModuleError, ImportError) as error:
        raise ConfigurationError(f"database {shown}: {error}; {_EXPECTED}") from None
    if is_async:
        raise ConfigurationError(f"database {shown}: its driver is for asyncio alone; {_EXPECTED}")
    return url


def _check_sqlite(url: URL, shown: str) -> URL:
    if url.host:
        raise ConfigurationError(
            f"database {shown}: a URL of SQLite has the path after three slashes, four if it is absolute (pydal looks for "
            f"sqlite://{url.host} in its folder): sqlite:////PATH/{url.host}"
        )
    if url.database in {None, "", ":memory:"} or str(url.database).startswith("file:"):
        raise ConfigurationError(f"database {shown}: the runner, another process, needs the path of a file; {_EXPECTED}")
    return url.set(database=os.path.abspath(str(url.database)))


def show(url: URL) -> str:
    """Return the URL without its password."""
    return url.set(query={}).render_as_string(hide_password=True)


def make_engine(url: URL) -> Engine:
    """Return an engine that keeps no connection open, so that none is carried over a fork."""
    options: dict[str, Any] = {"timeout": _LOCK_TIMEOUT} if url.get_backend_name() == "sqlite" else {}
    try:
        if url.get_driver_name() in _LIBPQ:
            options = {key: value for key, value in _SOCKET.items() if key not in url.query}
        return create_engine(url, poolclass=NullPool, connect_args=options)
    except ImportError as error:
        raise ConfigurationError(
            f"database {show(url)}: its driver is not installed ({error}); pip install 'procjobs[postgresql]'"
        ) from None


def ensure_table(connection: Connection) -> None:
    """Create the table in the open transaction if it is not there; raise ConfigurationError if another one is."""
    dialect = connection.dialect
    if dialect.name not in table.COLUMNS_QUERIES:
        raise ConfigurationError(f"tasks are kept in SQLite or PostgreSQL, and this database is {dialect.name}")
    query = text(table.COLUMNS_QUERIES[dialect.name])
    if table.check_columns(set(connection.scalars(query)), show(connection.engine.url)):
        return
    if dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATION_LOCK})
        if set(connection.scalars(query)):
            return
    for statement in table.creation(dialect):
        connection.execute(text(statement))


def away(error: DBAPIError, url: URL) -> DatabaseAway:
    """Return the error of a database that does not answer: its driver's words in one line."""
    words = " ".join(str(error.orig).split())
    password = url.password
    if password:
        words = words.replace(str(password), "***")
    return DatabaseAway(f"the database {show(url)} does not answer: {words}")
