"""The AsyncSessions of jobs that are coroutines, and where they come from.

A connection of asyncio is bound to the loop in which it was opened, and each job has a loop of its own. So no connection
outlives its job: the engine is emptied when the job ends. It has a pool all the same, for jobs that commit more than once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL

from procjobs.sql import connections

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker


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
        """Let go of everything that another process has opened; the database does not notice."""
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


def make_async_source(database: URL | AsyncEngine | async_sessionmaker[Any]) -> AsyncSessions:
    """Return the source of sessions for coroutines."""
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

    if isinstance(database, URL):
        database = create_async_engine(database)
    return AsyncSessions(database if isinstance(database, async_sessionmaker) else async_sessionmaker(database))
