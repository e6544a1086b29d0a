"""Which database the jobs of this process use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import URL, Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from procjobs.errors import ConfigurationError
from procjobs.sql import async_unit, changes, connections, unit
from procjobs.sql.async_sources import is_async, refuse_async_session
from procjobs.sql.sources import LateSource
from procjobs.sql.urls import check_url
from procjobs.worker.context import surround_jobs

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

Sessions: TypeAlias = Engine | sessionmaker[Any] | scoped_session[Any]
AnySessions: TypeAlias = "Sessions | AsyncEngine | async_sessionmaker[Any]"
Database: TypeAlias = "str | URL | AnySessions | Callable[[], AnySessions]"


def configure(database: Database | None = None, *, transaction_manager: Any = None) -> None:
    """Make every job of this process a transaction on this database; what is configured first is replaced.

    For a module that is preloaded or that the jobs are in, an initializer, or, without a pool, a test. `Pool(database=...)`
    does it in all workers of a pool.

    database: a URL, an Engine, a sessionmaker, a scoped_session, an AsyncEngine, an async_sessionmaker, or a function that
        returns one of these but a URL; it is called once in each worker. A scoped_session is committed and removed also
        when jobs use it directly. Those of asyncio are for jobs that are coroutine functions; a URL whose driver is for
        both, such as postgresql+psycopg, is for all.
    transaction_manager: what a job is begun, committed and aborted with, beside its session, such as
        `transaction.manager`. By default that one where zope.sqlalchemy is loaded; False for none.

    Raise ConfigurationError for what is neither.
    """
    if database is None and not transaction_manager:
        raise ConfigurationError("configure() needs a database (a URL, an Engine, a sessionmaker) or a transaction_manager")
    if transaction_manager not in (None, False):
        missing = [name for name in ("begin", "commit", "abort") if not hasattr(transaction_manager, name)]
        if missing:
            raise ConfigurationError(f"transaction_manager={transaction_manager!r} has no {', '.join(missing)}()")
    connections.watch()
    changes.watch()
    unit.use(None if database is None else LateSource(_check(database)), transaction_manager)
    surround_jobs(unit.transaction, async_unit.async_transaction)


def check_portable(database: Database) -> Database:
    """Return what another process can take the database from; raise ConfigurationError for what it cannot."""
    if isinstance(database, Engine | sessionmaker | scoped_session) or is_async(database):
        raise ConfigurationError(
            f"database={database!r} cannot go to the workers' processes; give Pool its URL, or a function that returns it "
            "(`database=lambda: myapp.model.DBSession`), or call procjobs.sql.configure() in a module that the jobs import"
        )
    return _check(database)


def configure_worker(database: Database) -> None:
    """Configure a worker of a pool with `database=`, and find out now whether that can be used."""
    configure(database)
    unit.prepare()


def _check(database: Database) -> Database:
    if isinstance(database, str | URL):
        return check_url(database)
    if isinstance(database, Session):
        raise ConfigurationError(f"{database!r} is one session; to make their own, jobs need a URL or a sessionmaker")
    refuse_async_session(database)
    if not callable(database) and not isinstance(database, Engine) and not is_async(database):
        raise ConfigurationError(
            f"database={database!r}: expected a URL, an Engine, a sessionmaker, a scoped_session, an AsyncEngine, an "
            "async_sessionmaker, or a function that returns one of them"
        )
    return database
