"""The ways in which an application gives its database, and how a task is added over each of them.

    a URL, an Engine                        the row is committed at once
    a Connection, a Session, scoped_session the row is a part of the transaction that is open there
    a DAL of pydal                          the same (see `dal`)
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

from sqlalchemy import URL, Connection, Engine, insert, select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session, scoped_session

from procjobs.compat.taskhopper import databases
from procjobs.compat.taskhopper.dal import DalWriter
from procjobs.compat.taskhopper.table import Task, task_status
from procjobs.errors import ConfigurationError


class Writer(Protocol):
    """Adds rows, and reads them."""

    def insert(self, values: dict[str, Any]) -> int:
        """Add a row and return its id."""

    def read(self, task_id: int) -> Task | None:
        """Return a row, None if there is none with this id."""


class EngineWriter:
    """Commits each row at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        _ensure_table(engine)

    def insert(self, values: dict[str, Any]) -> int:
        """See Writer."""
        try:
            with self._engine.begin() as connection:
                return _insert(connection, values)
        except (OperationalError, InterfaceError) as error:
            raise databases.away(error, self._engine.url) from None

    def read(self, task_id: int) -> Task | None:
        """See Writer."""
        with self._engine.connect() as connection:
            return _read(connection, task_id)


class TransactionWriter:
    """Adds rows to the transaction of the application, which commits them or rolls them back."""

    def __init__(self, source: Connection | Session | scoped_session[Any]) -> None:
        self._source = source
        bind = source if isinstance(source, Connection) else source.get_bind()
        _ensure_table(bind.engine)

    def insert(self, values: dict[str, Any]) -> int:
        """See Writer."""
        return _insert(self._source, values)

    def read(self, task_id: int) -> Task | None:
        """See Writer."""
        return _read(self._source, task_id)


def _ensure_table(engine: Engine) -> None:
    """Create the table in a transaction of its own: the application may roll its own transaction back."""
    try:
        with engine.begin() as connection:
            databases.ensure_table(connection)
    except (OperationalError, InterfaceError) as error:
        raise databases.away(error, engine.url) from None


def _insert(connection: Connection | Session | scoped_session[Any], values: dict[str, Any]) -> int:
    return int(connection.execute(insert(task_status).values(values).returning(task_status.c.id)).scalar_one())


def _read(connection: Connection | Session | scoped_session[Any], task_id: int) -> Task | None:
    row = connection.execute(select(task_status).where(task_status.c.id == task_id)).first()
    return None if row is None else Task(*row)


def open_writer(db: Any) -> Writer:
    """Return how rows are added to what an application has given; raise ConfigurationError if that is no database."""
    if isinstance(db, str | URL):
        return EngineWriter(databases.make_engine(databases.check_url(db)))
    if isinstance(db, Engine):
        return EngineWriter(db)
    if isinstance(db, Connection | Session | scoped_session):
        return TransactionWriter(db)
    pydal = sys.modules.get("pydal")
    if pydal is not None and isinstance(db, pydal.DAL):
        return DalWriter(db)
    raise ConfigurationError(
        f"db is of type {type(db).__name__}; expected a URL, or an Engine, a Connection or a Session of SQLAlchemy, or a "
        "DAL of pydal"
    )
