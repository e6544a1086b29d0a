"""The sessions of jobs, and where they come from.

An engine or a sessionmaker makes one for each job; an application's scoped_session has its own. The sessions of coroutines
are in procjobs.sql.async_sources; a URL such as postgresql+psycopg is good for both.
"""

from __future__ import annotations

from typing import Any, Protocol

from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from procjobs.errors import ConfigurationError
from procjobs.sql import connections
from procjobs.sql.async_sources import AsyncSessions, make_async_source
from procjobs.sql.databases import Database, Sessions, is_async, is_sync
from procjobs.sql.urls import has_async_driver, has_sync_driver, show


class Source(Protocol):
    """Makes the session of a job, and closes it."""

    def open(self) -> Session:
        """Return the session of the job that runs; a new one the first time it asks."""

    def opened(self) -> Session | None:
        """Return the job's session, None if nothing has used one."""

    def close(self) -> None:
        """Close the job's session; its connection goes back to the engine's pool."""

    def give_up_inherited(self) -> None:
        """Let go of everything that another process has opened; the database does not notice."""


class OwnSessions:
    """Sessions that only procjobs hands out."""

    def __init__(self, maker: sessionmaker[Any]) -> None:
        self._maker = maker
        self._session: Session | None = None

    def open(self) -> Session:
        """See Source."""
        if self._session is None:
            self._session = self._maker()
        return self._session

    def opened(self) -> Session | None:
        """See Source."""
        return self._session

    def close(self) -> None:
        """See Source."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def give_up_inherited(self) -> None:
        """See Source."""
        connections.keep(self._session)
        self._session = None
        connections.replace_pool(self._maker.kw.get("bind"))


class ScopedSessions:
    """The sessions of an application's registry, which jobs may use without asking procjobs."""

    def __init__(self, registry: scoped_session[Any]) -> None:
        self._sessions = registry

    def open(self) -> Session:
        """See Source."""
        session: Session = self._sessions()
        return session

    def opened(self) -> Session | None:
        """See Source."""
        return self.open() if self._sessions.registry.has() else None

    def close(self) -> None:
        """See Source."""
        self._sessions.remove()

    def give_up_inherited(self) -> None:
        """See Source."""
        if self._sessions.registry.has():
            connections.keep(self.open())
            self._sessions.registry.clear()
        maker = self._sessions.session_factory
        connections.replace_pool(maker.kw.get("bind") if isinstance(maker, sessionmaker) else None)


def make_engine(url: URL | str) -> Engine:
    """Return an engine for jobs. Connections live on between jobs; a ping finds those that the server has closed."""
    return create_engine(url, pool_pre_ping=True)


def make_source(database: Sessions | URL) -> Source:
    """Return the source of the Sessions of jobs."""
    sessions: Any = make_engine(database) if isinstance(database, URL) else database
    if isinstance(sessions, Engine):
        sessions = sessionmaker(sessions)
    return ScopedSessions(sessions) if isinstance(sessions, scoped_session) else OwnSessions(sessions)


class LateSource:
    """Sources that are made when they are needed: a user's function may make objects that do not survive a fork."""

    def __init__(self, database: Database) -> None:
        self._database: Any = database
        self._source: Source | None = None
        self._async_source: AsyncSessions | None = None
        if is_sync(database):
            self.resolve()
        elif is_async(database):
            self.resolve_async()

    def __str__(self) -> str:
        """Return its name in a message."""
        return show(self._database) if isinstance(self._database, URL) else repr(self._database)

    def resolve(self) -> Source | None:
        """Return the source of Sessions, None where the database is for asyncio."""
        if self._source is None:
            database = self._called()
            if has_sync_driver(database) if isinstance(database, URL) else is_sync(database):
                self._source = make_source(database)
        return self._source

    def resolve_async(self) -> AsyncSessions | None:
        """Return the source of AsyncSessions, None where the database is not for asyncio."""
        if self._async_source is None:
            database = self._called()
            if has_async_driver(database) if isinstance(database, URL) else is_async(database):
                self._async_source = make_async_source(database)
        return self._async_source

    def _called(self) -> Any:
        """Return the database; for a function, the object that its first call returns."""
        database = self._database
        if isinstance(database, URL) or is_sync(database) or is_async(database):
            return database
        made = database()
        if not is_sync(made) and not is_async(made):
            raise ConfigurationError(
                f"the function given as database returned {made!r}: expected an Engine, a sessionmaker, a scoped_session, "
                "an AsyncEngine or an async_sessionmaker"
            )
        self._database = made
        return made

    def give_up_inherited(self) -> None:
        """Let go of everything that the parent has opened; for a process that was just forked."""
        for source in (self._source, self._async_source):
            if source is not None:
                source.give_up_inherited()
