"""How long the store keeps ended jobs: their answers for `result_ttl`, their rows for `history_ttl`, as in the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, select, update

from procjobs.clock import wall
from procjobs.shared.recorder_wire import Open
from procjobs.store.database import slices
from procjobs.store.journal import Journal
from procjobs.store.schema import attempts, jobs, kinds

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from procjobs.store.claim import Claim

_DROP_INTERVAL: Final = 30.0
_DROP_KINDS_INTERVAL: Final = 3600.0
"""Functions are dropped less often than jobs: it takes a look at every job."""
_RESUBMISSION_TIME: Final = 60.0
"""How long an ended job stays in any case: a client that has not heard of its commit sends it again, by its id."""
_DROP_SLICE: Final = 2000
"""How many old jobs are dropped in one transaction, for which others wait."""


class Retention:
    """Drops old jobs of a pool now and then."""

    def __init__(self, settings: Open, claim: Claim, journal: Journal) -> None:
        self._settings = settings
        self._claim = claim
        self._journal = journal
        self._next_at = self._next_kinds_at = 0.0

    def drop(self, connection: Connection, now: float) -> bool:
        """Drop a slice, in a transaction of its own, if it is time; return whether the next slice should follow at once."""
        if now < self._next_at:
            return False
        self._next_at = now + _DROP_INTERVAL
        pool = self._settings.pool
        with connection.begin():
            self._claim.verify(connection)
            drop_results(connection, pool, self._settings.result_ttl)
            if drop_jobs(connection, pool, self._settings.history_ttl, self._settings.history_limit):
                self._next_at = now
                return True
            if now >= self._next_kinds_at:
                self._next_kinds_at = now + _DROP_KINDS_INTERVAL
                drop_kinds(connection, pool)
                self._journal.forget_stored_kinds()
        return False


def drop_results(connection: Connection, pool: str, result_ttl: float) -> None:
    """Drop the answers of jobs that ended longer ago."""
    old = (jobs.c.pool == pool) & (jobs.c.finished_at < wall() - result_ttl) & jobs.c.answer.is_not(None)
    connection.execute(update(jobs).where(old).values(answer=None, answer_data=None))


def drop_jobs(connection: Connection, pool: str, history_ttl: float, history_limit: int) -> bool:
    """Drop a slice of the jobs that ended longer ago, or exceed the limit; return whether there may be more."""
    ended = select(jobs.c.id, jobs.c.finished_at).where(jobs.c.pool == pool, jobs.c.finished_at.is_not(None))
    before = wall() - history_ttl
    surplus = connection.execute(ended.order_by(jobs.c.finished_at.desc()).offset(history_limit).limit(1)).first()
    if surplus is not None:
        before = max(before, surplus.finished_at)
    before = min(before, wall() - _RESUBMISSION_TIME)
    old = ended.where(jobs.c.finished_at <= before).order_by(jobs.c.finished_at).limit(_DROP_SLICE)
    ids = list(connection.scalars(old))
    for part in slices(ids):
        connection.execute(delete(attempts).where(attempts.c.job_id.in_(part)))
        connection.execute(delete(jobs).where(jobs.c.id.in_(part)))
    return len(ids) == _DROP_SLICE


def drop_kinds(connection: Connection, pool: str) -> None:
    """Drop the functions that no job refers to."""
    used = select(jobs.c.kind).where(jobs.c.pool == pool)
    connection.execute(delete(kinds).where(kinds.c.pool == pool, kinds.c.digest.not_in(used)))
