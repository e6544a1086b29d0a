"""Which database the jobs of this process use."""

from __future__ import annotations

from typing import Any

from procjobs.errors import ConfigurationError
from procjobs.sql import async_unit, changes, connections, unit
from procjobs.sql.databases import Database, check_database, is_async, is_sync
from procjobs.sql.sources import LateSource
from procjobs.worker.wrappers import add_outermost

__all__ = ["Database", "check_portable", "configure", "configure_worker"]


def configure(database: Database | None = None, *, transaction_manager: Any = None) -> None:
    """Make every job of this process a transaction on this database; an earlier configuration is replaced.

    For a module that is preloaded or that has the jobs, for an initializer, or, without a pool, for a test.
    `Pool(database=...)` does it in all workers of a pool.

    database: a URL, an Engine, a sessionmaker, a scoped_session, an AsyncEngine, an async_sessionmaker, or a function that
        returns one of these except a URL; it is called once in each worker. A scoped_session is committed and removed also
        when jobs use it directly. Those of asyncio are for jobs that are coroutine functions; a URL whose driver is for
        both, such as postgresql+psycopg, is for all.
    transaction_manager: an object whose begin, commit and abort are called for each job, beside its session, such as
        `transaction.manager`. By default it is that one where zope.sqlalchemy is loaded; False for none.

    Raise ConfigurationError for anything else.
    """
    if database is None and not transaction_manager:
        raise ConfigurationError("configure() needs a database (a URL, an Engine, a sessionmaker) or a transaction_manager")
    if transaction_manager not in (None, False):
        missing = [name for name in ("begin", "commit", "abort") if not hasattr(transaction_manager, name)]
        if missing:
            raise ConfigurationError(f"transaction_manager={transaction_manager!r} has no {', '.join(missing)}()")
    connections.watch()
    changes.watch()
    unit.use(None if database is None else LateSource(check_database(database)), transaction_manager)
    add_outermost(unit.around_job, async_unit.around_coroutine)


def check_portable(database: Database) -> Database:
    """Return the database in a form that can be sent to workers; raise ConfigurationError if there is none."""
    if is_sync(database) or is_async(database):
        raise ConfigurationError(
            f"database={database!r} cannot go to the workers' processes; give Pool its URL, or a function that returns it "
            "(`database=lambda: myapp.model.DBSession`), or call procjobs.sql.configure() in a module that the jobs import"
        )
    return check_database(database)


def configure_worker(database: Database) -> None:
    """Configure a worker of a pool with `database=`, and find out now whether that database can be used."""
    configure(database)
    unit.prepare()
