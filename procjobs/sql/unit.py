"""The transaction around a job.

ENTERED   before the job is called. Nothing is opened.
OPENED    by the first `session()`, or by the application's own use of its scoped_session.
COMMITTED when the job has returned and its result is pickled.
ROLLED BACK by every other end of the job; a connection that cannot even do that is closed.
LEFT      the session is closed, in every case.

A process that a job has forked does none of this: the transaction is its parent's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from procjobs.errors import CommitFailed, ConfigurationError, OutsideJob
from procjobs.sql import connections
from procjobs.sql.sources import LateSource, Source
from procjobs.worker.context import JobContext, current_job, is_left_over

_log: Final = logging.getLogger(__package__)


_database: LateSource | None = None
_manager: Any = None
_current: _Unit | None = None


def use(database: LateSource | None, manager: Any) -> None:
    """Use these for the next units."""
    global _database, _manager
    _database, _manager = database, manager


def configured() -> LateSource | None:
    """Return the database of this process."""
    return _database


def prepare() -> None:
    """Make the source of sessions now; an exception of the user's function passes through."""
    if _database is not None and _database.resolve() is None:
        _database.resolve_async()


def try_unit_of(session: Session) -> _Unit | None:
    """Return the unit whose session this is."""
    return _current if _current is not None and _current.owns(session) else None


def session() -> Session:
    """Return the session of the job that is running: made now if it is the first call, the same one after that.

    Do not close it, and commit it only where an earlier part of the job is to stay if a later one fails. It is for the
    thread of the job. Raise OutsideJob where no job is running, and ConfigurationError where the pool has no database.
    """
    return current_unit().session()


def current_unit() -> _Unit:
    """Return the unit that this process is in; raise OutsideJob or ConfigurationError if it is in none."""
    if _current is not None and not is_left_over():
        return _current
    job = current_job()
    if job is None:
        raise OutsideJob(
            "procjobs.sql.session() is for the code of a job, and none is running in this process; use a session of your "
            "own here, or call the job's function within `with procjobs.sql.transaction():`"
        )
    raise ConfigurationError(
        f"job {job.id} {job.name} asked for a session, but its pool has no database; give it one with "
        "Pool(..., database=...) or procjobs.sql.configure(...) in a module that the job imports"
    )


class transaction(contextlib.AbstractContextManager[None]):  # noqa: N801 - it is called like a function
    """The transaction of a job around your own block: commits at the end of the block, rolls back if it raises.

    It is for calling a job's function in your own process, above all in tests.
    """

    def __enter__(self) -> None:
        global _current
        if _current is not None:
            raise ConfigurationError("procjobs.sql.transaction() is around this code already: a job has one transaction")
        unit = _Unit(_database.resolve() if _database is not None else None, _manager)
        unit.begin()
        _current = unit

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _current
        unit = _current
        if unit is None:  # the job has come back in a process that it has forked
            return
        _current = None
        try:
            if error is None:
                unit.commit()
            else:
                unit.roll_back()
        finally:
            unit.close()


def around_job(_job: JobContext) -> transaction:
    """Return the transaction around a job, the wrapper of procjobs.sql."""
    return transaction()


class _Unit:
    """One attempt's session and, where there is one, the application's transaction manager."""

    def __init__(self, source: Source | None, manager: Any) -> None:
        self._source = source
        self._explicit_manager = manager

    def begin(self) -> None:
        """Start clean: close the session that an interrupted end of the job before may have left open."""
        if current_job() is not None:
            connections.say_that_jobs_run_here()
        if self._source is not None and self._source.opened() is not None:
            self.close()
        manager = self._manager()
        if manager is not None:
            manager.begin()

    def session(self) -> Session:
        if self._source is None and _database is not None:
            raise ConfigurationError(
                f"{name_job()} asked for session(), but its database {_database} is for asyncio; make it an `async def` "
                "that uses async_session(), or give a URL with a driver that blocks, such as postgresql+psycopg or sqlite"
            )
        if self._source is None:
            raise ConfigurationError("a transaction_manager was configured, but no database: there is no session to ask for")
        return self._source.open()

    def owns(self, session: Session) -> bool:
        return self._opened() is session

    def renew(self, session: Session) -> None:
        """End the transaction, which has done nothing, so that the next look sees later commits of others."""
        manager = self._manager()
        if manager is None:
            session.rollback()
        else:  # a session that has joined a transaction manager must be ended by it
            manager.abort()
            manager.begin()
            session.rollback()

    def commit(self) -> None:
        """Commit; raise CommitFailed, with all rolled back, if that is not possible."""
        try:
            manager = self._manager()
            if manager is not None:
                manager.commit()
            session = self._opened()
            if session is not None and session.in_transaction():  # one that has joined the manager is through by now
                session.commit()
        except Exception as error:
            self.roll_back()
            raise describe_failure(error) from error
        except BaseException:
            self.roll_back()
            raise

    def roll_back(self) -> None:
        """Roll back; never raise, for the job has its own error already, which must arrive."""
        manager = self._manager()
        if manager is not None:
            with logged("the transaction manager could not abort"):
                manager.abort()
        session = self._opened()
        if session is None or not session.in_transaction():
            return
        try:
            session.rollback()
        except Exception as error:  # noqa: BLE001 - the job's own error must arrive; this connection is not used again
            warn("a session could not roll back, and its connections are closed", error)
            with logged("they could not even be closed"):
                session.invalidate()

    def close(self) -> None:
        if self._source is not None:
            with logged("a session could not be closed"):
                self._source.close()

    def _opened(self) -> Session | None:
        return self._source.opened() if self._source is not None else None

    def _manager(self) -> Any:
        """Return the transaction manager: the one configured, or the application's if it has one for SQLAlchemy."""
        if self._explicit_manager is False:
            return None
        if self._explicit_manager is None and "zope.sqlalchemy" in sys.modules:
            return sys.modules["transaction"].manager
        return self._explicit_manager


@contextlib.contextmanager
def logged(what: str) -> Iterator[None]:
    """Log an exception instead of raising it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the job has an outcome of its own already
        warn(what, error)


def warn(what: str, error: Exception) -> None:
    """Log a problem at the end of a job, beside the job's own outcome."""
    _log.warning("%s: %s", what, error)


def name_job() -> str:
    """Return the name of the code within the transaction, for messages."""
    job = current_job()
    return f"job {job.id} {job.name}" if job is not None else "the block"


def describe_failure(error: Exception) -> CommitFailed:
    """Return the error of a job whose commit has failed."""
    job = current_job()
    in_doubt = isinstance(error, DBAPIError) and error.connection_invalidated
    outcome = (
        "The connection broke meanwhile, so look whether it has been applied."
        if in_doubt
        else "Nothing of it is in the database."
    )
    return CommitFailed(
        f"{name_job()} returned, but its transaction could not be committed: {type(error).__name__}: {error}\n{outcome}",
        job_id=job.id if job is not None else None,
        attempt=job.attempt if job is not None else None,
        in_doubt=in_doubt,
    )


def _after_fork_in_child() -> None:
    global _current
    connections.keep(_current)
    _current = None
    if _database is not None:
        _database.give_up_inherited()


os.register_at_fork(after_in_child=_after_fork_in_child)
