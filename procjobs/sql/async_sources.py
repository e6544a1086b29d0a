"""Where the AsyncSessions of coroutines come from.

A connection of asyncio is bound to the loop that it was opened in, and each job has a loop of its own. So none outlives its
job: the engine is emptied when that ends. It has a pool all the same, for jobs that commit more than once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL

from procjobs.errors import ConfigurationError
from procjobs.sql import connections

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

_EXTENSION = "sqlalchemy.ext.asyncio"
"""Where this is not loaded, there are no such objects; to load it takes asyncio."""


class AsyncSessions:
    """Makes one session for each job."""

    def __init__(self, maker: async_sessionmaker[Any]) -> None:
        self._maker = maker
        self._session: AsyncSession | None = None

    def open(self) -> AsyncSession:
        """Return the session of the job that runs; a new one the first time it asks."""
        if self._session is None:
            self._session = self._maker()
        return self._session

    def opened(self) -> AsyncSession | None:
        """Return the job's session, None if it has asked for none."""
        return self._session

    async def close(self) -> None:
        """Close the job's session, and all connections of its engines."""
        session, self._session = self._session, None
        if session is None:
            return
        try:
            await session.close()
        finally:
            for engine in self._engines():
                await engine.dispose()

    def give_up_inherited(self) -> None:
        """Let go of what another process has opened, without a word to the database."""
        connections.keep(self._session)
        self._session = None
        for engine in self._engines():
            connections.replace_pool(engine.sync_engine)

    def _engines(self) -> Iterator[AsyncEngine]:
        from sqlalchemy.ext.asyncio import AsyncEngine

        options = self._maker.kw
        for bind in (options.get("bind"), *(options.get("binds") or {}).values()):
            if isinstance(bind, AsyncEngine):
                yield bind


def is_async(database: object) -> bool:
    """Return whether this is an AsyncEngine or an async_sessionmaker."""
    extension = sys.modules.get(_EXTENSION)
    return extension is not None and isinstance(database, extension.AsyncEngine | extension.async_sessionmaker)


def refuse_async_session(database: object) -> None:
    """Raise ConfigurationError for what is a session already."""
    extension = sys.modules.get(_EXTENSION)
    if extension is None:
        return
    if isinstance(database, extension.AsyncSession):
        raise ConfigurationError(f"{database!r} is one session; to make their own, jobs need a URL or an async_sessionmaker")
    if isinstance(database, extension.async_scoped_session):
        raise ConfigurationError(
            f"{database!r} gives each task a session, and a job has one for all of its tasks; give its session_factory, the "
            "async_sessionmaker that it was made of"
        )


def make_async_source(database: URL | AsyncEngine | async_sessionmaker[Any]) -> AsyncSessions:
    """Return where the sessions of coroutines come from."""
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

    if isinstance(database, URL):
        database = create_async_engine(database)
    return AsyncSessions(database if isinstance(database, async_sessionmaker) else async_sessionmaker(database))
