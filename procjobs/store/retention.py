"""How long the store keeps ended jobs: their answers for `result_ttl`, their rows for `history_ttl`, as in the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, select, tuple_, update

from procjobs.clock import boottime, wall
from procjobs.shared.moments import MICROS
from procjobs.shared.recorder_wire import Open
from procjobs.store.database import slices
from procjobs.store.journal import Journal
from procjobs.store.schema import attempts, checkpoints, hooks, jobs, kinds, periods, schedules

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from procjobs.store.claim import Claim

_DROP_INTERVAL: Final = 30.0
_DROP_KINDS_INTERVAL: Final = 3600.0
"""Functions are dropped less often than jobs: it takes a look at every job."""
_RESUBMISSION_TIME: Final = 60.0
"""How long an ended job stays in any case: a client that has not heard of its commit sends it again, by its id."""
_MAX_DRIFT: Final = 60.0
"""A clock that gains more than this between two looks was set. To be slewed (adjtimex(2)) takes it much longer."""
_DOUBT_TIME: Final = 3600.0
_DROP_SLICE: Final = 2000
"""How many old jobs, or periods, are dropped in one transaction, for which others wait."""
MIN_PERIODS_TTL: Final = 32 * 86_400.0
"""How long a period that was run is remembered in any case: a clock that was set back may come to it again."""


class BelievedTime:
    """The wall time, except that a step of it forward is believed only when it has held for an hour.

    A wrong clock would make all jobs old at once, and nothing brings them back. Until the step is believed, time goes on
    from before it. A step backwards makes no job older, and is believed at once.
    """

    def __init__(self, moment: float, steady: float) -> None:
        """`moment` is the wall time, and `steady` that of a clock that never steps, at the same instant."""
        self._offset = moment - steady
        self._doubted_offset = self._offset
        self._doubted_at = steady

    def now(self, moment: float, steady: float) -> float:
        """Return the time to reckon with, to be asked about every _DROP_INTERVAL."""
        offset = moment - steady
        if offset <= self._offset + _MAX_DRIFT:
            self._offset = self._doubted_offset = offset
            return moment
        if abs(offset - self._doubted_offset) > _MAX_DRIFT:
            self._doubted_at = steady
        self._doubted_offset = offset
        if steady - self._doubted_at >= _DOUBT_TIME:
            self._offset = offset
        return self._offset + steady


class Retention:
    """Drops old jobs of a pool now and then."""

    def __init__(self, settings: Open, claim: Claim, journal: Journal) -> None:
        self._settings = settings
        self._claim = claim
        self._journal = journal
        self._next_at = self._next_kinds_at = 0.0
        self._believed = BelievedTime(wall(), boottime())

    def drop(self, connection: Connection, now: float) -> bool:
        """Drop a slice, in a transaction of its own, if it is time; return whether the next slice should follow at once."""
        if now < self._next_at:
            return False
        self._next_at = now + _DROP_INTERVAL
        pool, moment = self._settings.pool, self._believed.now(wall(), boottime())
        with connection.begin():
            self._claim.verify(connection)
            drop_results(connection, pool, self._settings.result_ttl, moment)
            drop_calls(connection, pool, self._settings.retry_ttl, moment)
            has_more = drop_periods(connection, pool, self._settings.history_ttl, moment)
            if drop_jobs(connection, pool, self._settings.history_ttl, self._settings.history_limit, moment) or has_more:
                self._next_at = now
                return True
            if now >= self._next_kinds_at:
                self._next_kinds_at = now + _DROP_KINDS_INTERVAL
                drop_kinds(connection, pool)
                self._journal.forget_stored_kinds()
        return False


def drop_results(connection: Connection, pool: str, result_ttl: float, moment: float) -> None:
    """Drop the answers of jobs that ended longer ago than that; `moment` is the time now."""
    old = (jobs.c.pool == pool) & (jobs.c.finished_at < moment - result_ttl) & jobs.c.answer.is_not(None)
    connection.execute(update(jobs).where(old).values(answer=None, answer_data=None))


def drop_calls(connection: Connection, pool: str, retry_ttl: float, moment: float) -> None:
    """Drop the calls and checkpoints of jobs that ended, otherwise than well, longer ago than that."""
    old = (jobs.c.pool == pool) & (jobs.c.finished_at < moment - retry_ttl) & jobs.c.call.is_not(None)
    connection.execute(delete(checkpoints).where(checkpoints.c.job_id.in_(select(jobs.c.id).where(old))))
    connection.execute(update(jobs).where(old).values(call=None, call_data=None))


def drop_jobs(connection: Connection, pool: str, history_ttl: float, history_limit: int, moment: float) -> bool:
    """Drop a slice of the jobs that ended longer ago, or exceed the limit; return whether there may be more."""
    ended = select(jobs.c.id, jobs.c.finished_at).where(jobs.c.pool == pool, jobs.c.finished_at.is_not(None))
    before = moment - history_ttl
    surplus = connection.execute(ended.order_by(jobs.c.finished_at.desc()).offset(history_limit).limit(1)).first()
    if surplus is not None:
        before = max(before, surplus.finished_at)
    before = min(before, moment - _RESUBMISSION_TIME)
    old = ended.where(jobs.c.finished_at <= before).order_by(jobs.c.finished_at).limit(_DROP_SLICE)
    ids = list(connection.scalars(old))
    for part in slices(ids):
        connection.execute(delete(attempts).where(attempts.c.job_id.in_(part)))
        connection.execute(delete(checkpoints).where(checkpoints.c.job_id.in_(part)))
        connection.execute(delete(hooks).where(hooks.c.pool == pool, hooks.c.job_id.in_(part)))
        connection.execute(delete(jobs).where(jobs.c.id.in_(part)))
    return len(ids) == _DROP_SLICE


def drop_periods(connection: Connection, pool: str, history_ttl: float, moment: float) -> bool:
    """Drop a slice of the periods that were run longer ago, and are over for that long; return whether there may be more."""
    before = moment - max(history_ttl, MIN_PERIODS_TTL)
    key = periods.c.schedule, periods.c.period
    is_old = (periods.c.recorded_at < before) & (periods.c.period < int((moment - MIN_PERIODS_TTL) * MICROS))
    old = select(*key).where(periods.c.pool == pool, is_old).limit(_DROP_SLICE)
    dropped = connection.execute(delete(periods).where(periods.c.pool == pool, tuple_(*key).in_(old)))
    return dropped.rowcount == _DROP_SLICE


def drop_kinds(connection: Connection, pool: str) -> None:
    """Drop the functions that neither a job nor a schedule refers to."""
    of_jobs = select(jobs.c.kind).where(jobs.c.pool == pool)
    used = of_jobs.union_all(select(schedules.c.kind).where(schedules.c.pool == pool))
    connection.execute(delete(kinds).where(kinds.c.pool == pool, kinds.c.digest.not_in(used)))
