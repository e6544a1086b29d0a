"""Waiting for a row that another transaction is about to commit, most often the request that has started the job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Executable, GenerativeSelect
from sqlalchemy.orm import Query, Session

from procjobs.clock import monotonic, sleep
from procjobs.errors import ConfigurationError
from procjobs.shared.durations import Seconds, check_required
from procjobs.sql import async_unit, changes, unit

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession  # needs greenlet, which is not there everywhere

_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 1.0


def wait_for(query: Query[Any] | Executable, timeout: Seconds = 60.0, *, session: Session | None = None) -> Any:
    """Return the first row of a query as soon as there is one, None if there is none within `timeout` seconds.

    Looks at once, again after 10 ms, and then at intervals that double up to a second. Each look is a transaction of its
    own: it sees all that is committed by then, under every isolation level. Between looks nothing is locked and no
    transaction is open. The transaction of the last look stays open: the job goes on in it.

    Returns the same as `Query.first()`; for a Select of one entity or column, the entity or value itself.

    session: for a Select outside a job; in a job it is the job's. Raise ConfigurationError if the session has changes,
    which the end of its transaction would lose: wait first, or commit.
    """
    if isinstance(query, Query):
        session = query.session if session is None else session
    elif session is None:
        session = unit.session()
    if not isinstance(session, Session):
        raise ConfigurationError(
            f"session={session!r} is no Session; with an AsyncSession, use `await procjobs.sql.async_wait_for(...)`"
        )
    changes.watch()
    _refuse_changes(session)
    for pause in _pauses(timeout):
        found = _look(session, query)
        if found:
            return found[0]
        if not changes.has_changes(session):  # a look may have set off code of the application
            _renew(session)
        sleep(pause)
    return next(iter(_look(session, query)), None)


async def async_wait_for(query: Executable, timeout: Seconds = 60.0, *, session: AsyncSession | None = None) -> Any:
    """Wait as `wait_for` does, with a session of asyncio, by default the job's: other tasks go on between the looks."""
    import asyncio

    if session is None:
        session = async_unit.async_session()
    changes.watch()
    _refuse_changes(session.sync_session)
    for pause in _pauses(timeout):
        found = await session.run_sync(_look, query)
        if found:
            return found[0]
        await session.rollback()
        await asyncio.sleep(pause)
    return next(iter(await session.run_sync(_look, query)), None)


def _pauses(timeout: Seconds) -> Iterator[float]:
    """Yield the pauses between looks; the last one ends when the time is out."""
    deadline = monotonic() + check_required("timeout", timeout, zero=True)
    pause = _FIRST_PAUSE
    while (left := deadline - monotonic()) > 0:
        yield min(pause, left)
        pause = min(pause * 2, _LONGEST_PAUSE)


def _look(session: Session, query: Query[Any] | Executable) -> list[Any]:
    """Return the first row, or nothing; the value of a column may be None and is a row all the same."""
    if isinstance(query, Query):
        row = query.first()
        return [] if row is None else [row]
    if isinstance(query, GenerativeSelect):
        query = query.limit(1)
    row = session.execute(query).first()
    if row is None:
        return []
    return [row[0] if len(row) == 1 else row]


def _refuse_changes(session: Session) -> None:
    if changes.has_changes(session):
        raise ConfigurationError(
            "wait_for() ends the transaction between two looks, and this session has changes that would be lost; call it "
            "before the changes, commit them first, or pass another session"
        )


def _renew(session: Session) -> None:
    """Roll back; through the job's transaction manager if this is the job's session."""
    own = unit.try_unit_of(session)
    if own is None:
        session.rollback()
    else:
        own.renew(session)
