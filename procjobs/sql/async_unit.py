"""The transaction around a coroutine that is a job, within the job's event loop; as in procjobs.sql.unit otherwise.

It is ENTERED within the transaction of an ordinary job, which begins and ends the application's transaction manager. The
first `async_session()` opens it. It is COMMITTED, or rolled back, and LEFT before the loop ends.
"""

from __future__ import annotations

import contextlib
import os
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from procjobs.errors import ConfigurationError, OutsideJob
from procjobs.sql import connections, unit
from procjobs.sql.async_sources import AsyncSessions
from procjobs.worker.context import JobContext, current_job, is_left_over

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

_current: _AsyncUnit | None = None


def async_session() -> AsyncSession:
    """Return the AsyncSession of the coroutine that is running as a job: made now if it is the first call.

    Do not close it, and commit it only where an earlier part of the job is to stay if a later one fails. As every
    AsyncSession it is for one task at a time. Raise OutsideJob where no job is running, and ConfigurationError in an
    ordinary function, and where the pool has no database with a driver for asyncio.
    """
    if _current is None or is_left_over():
        _refuse()
    return _current.session()


class async_transaction(contextlib.AbstractAsyncContextManager[None, None]):  # noqa: N801 - it is called like a function
    """The transaction of a job around your own block: commits at the end of the block, rolls back if it raises.

    It is for awaiting a job's coroutine function in your own process, above all in tests.
    """

    async def __aenter__(self) -> None:
        global _current
        if _current is not None:
            raise ConfigurationError(
                "procjobs.sql.async_transaction() is around this code already: a job has one transaction"
            )
        database = unit.configured()
        _current = _AsyncUnit(database.resolve_async() if database is not None else None)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _current
        own, _current = _current, None
        if own is None:  # the job has come back in a process that it has forked
            return
        try:
            if error is None:
                await own.commit()
            else:
                await own.roll_back()
        finally:
            await own.close()


class around_coroutine(async_transaction):  # noqa: N801 - as above
    """The same as the wrapper of procjobs.sql around coroutines."""

    def __init__(self, _job: JobContext) -> None:
        """Take note of nothing."""


class _AsyncUnit:
    """One attempt's session."""

    def __init__(self, source: AsyncSessions | None) -> None:
        self._source = source

    def session(self) -> AsyncSession:
        if self._source is not None:
            return self._source.open()
        database = unit.configured()
        if database is None:
            raise ConfigurationError(f"{unit.name_job()} asked for a session, but procjobs.sql.configure() got no database")
        raise ConfigurationError(
            f"{unit.name_job()} asked for async_session(), but its database {database} has no driver for asyncio; use "
            "session(), or give a URL such as postgresql+asyncpg, postgresql+psycopg or sqlite+aiosqlite"
        )

    async def commit(self) -> None:
        """Commit; raise CommitFailed, with all rolled back, if that is not possible."""
        session = self._opened()
        if session is None or not session.in_transaction():
            return
        try:
            await session.commit()
        except Exception as error:
            await self.roll_back()
            raise unit.describe_failure(error) from error
        except BaseException:
            await self.roll_back()
            raise

    async def roll_back(self) -> None:
        """Roll back; never raise an Exception, for the job has its own error already, which must arrive."""
        session = self._opened()
        if session is None or not session.in_transaction():
            return
        try:
            await session.rollback()
        except Exception as error:  # noqa: BLE001 - the job's own error must arrive; this connection is not used again
            unit.warn("a session could not roll back, and its connections are closed", error)
            with unit.logged("they could not even be closed"):
                await session.invalidate()

    async def close(self) -> None:
        if self._source is not None:
            with unit.logged("a session could not be closed"):
                await self._source.close()

    def _opened(self) -> AsyncSession | None:
        return self._source.opened() if self._source is not None else None


def _refuse() -> NoReturn:
    """Say why there is no AsyncSession here."""
    job = current_job()
    if job is None:
        raise OutsideJob(
            "procjobs.sql.async_session() is for the code of a job, and none is running in this process; use a session of "
            "your own here, or await the job's function within `async with procjobs.sql.async_transaction():`"
        )
    unit.current_unit()  # raises where the pool has no database
    raise ConfigurationError(
        f"job {job.id} {job.name} asked for async_session(), and is an ordinary function; make it an `async def`, or use "
        "session()"
    )


def _after_fork_in_child() -> None:
    global _current
    connections.keep(_current)
    _current = None


os.register_at_fork(after_in_child=_after_fork_in_child)
