"""Jobs that an earlier supervisor of the pool has left: they are taken over, and loaded as there is room for them.

1. Only the holder of the pool's claim does this, so every other supervisor's id in `owner` is that of one that runs no more.
   Each row that is taken over or loaded gets the epoch of the claim.
2. An interrupted attempt is counted, once, by comparing and setting state and attempt; it is not one of the `1 + retries`.
3. A job that was interrupted MAX_INTERRUPTED times is not started again: it may be the cause of the host's deaths.
4. A job that was cancelled, and had not ended, is not started again.
5. A row with an empty owner waits in the database alone. Loading it sets the owner; no other process has it in memory then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, insert, select, update

from procjobs.clock import NEVER, wall
from procjobs.shared.ids import from_text, to_text
from procjobs.shared.recorder_wire import Load
from procjobs.shared.wire import failure_frame
from procjobs.store.database import slices
from procjobs.store.schema import attempts, hooks, jobs, kinds

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, RowMapping
    from sqlalchemy.sql import ColumnElement

    from procjobs.store.claim import Claim

CANCELLED: Final = "cancelled"
"""The reason of a job that was cancelled; in a row that has not ended, the note that it was."""
MAX_INTERRUPTED: Final = 10
_EXCLUDED_INTERVAL: Final = 5.0
"""How soon to ask again for jobs of a queue that was excluded because many of its jobs wait in memory."""


def take_over(
    connection: Connection, claim: Claim, started_attempts: Mapping[str, int], *, has_hooks: bool = False
) -> int:
    """Let the jobs of this pool's earlier supervisors wait for this one; return the number of interrupted attempts.

    `started_attempts` are those that workers had marked as started in the last supervisor's table: their START events may
    have died with it. A pool that `has_hooks` calls them with the jobs that end by this.
    """
    now = wall()
    unfinished = (jobs.c.pool == claim.pool) & jobs.c.finished_at.is_(None) & jobs.c.owner.not_in(["", claim.owner])
    columns = jobs.c.id, jobs.c.name, jobs.c.state, jobs.c.attempt, jobs.c.cut_off
    suspects = unfinished if started_attempts else unfinished & (jobs.c.state == "running")
    rows = connection.execute(select(*columns).where(suspects)).all()
    interrupted = [row for row in rows if row.state == "running" or started_attempts.get(row.id, 0) > row.attempt]
    for row in interrupted:
        count_interruption(connection, claim, row, max(row.attempt, started_attempts.get(row.id, 0)), now)
    if has_hooks:
        _mark_quarantined(connection, claim.pool, [row.id for row in interrupted if row.cut_off + 1 >= MAX_INTERRUPTED])
    connection.execute(update(jobs).where(unfinished).values(owner="", epoch=claim.epoch))
    _end_cancelled(connection, claim.pool, now)
    return len(interrupted)


def cancelled(job_id: str, when: str, now: float) -> dict[str, Any]:
    """Return the columns of a job that ends as cancelled."""
    frame = failure_frame(from_text(job_id), "JobCancelled", f"job {job_id} was cancelled {when}")
    return {
        "state": "cancelled", "reason": CANCELLED, "finished_at": now, "answer": frame
    }  # fmt: skip


def _end_cancelled(connection: Connection, pool: str, now: float) -> None:
    noted = (jobs.c.pool == pool) & (jobs.c.owner == "") & (jobs.c.reason == CANCELLED) & jobs.c.finished_at.is_(None)
    for job_id in connection.scalars(select(jobs.c.id).where(noted)).all():
        values = cancelled(job_id, "and its supervisor went down before it had ended", now)
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))


def count_interruption(connection: Connection, claim: Claim, row: Any, attempt: int, now: float) -> None:
    """Let an interrupted job wait for its next attempt, or fail; nothing happens where its row has changed since."""
    seen = (jobs.c.id == row.id) & (jobs.c.state == row.state) & (jobs.c.attempt == row.attempt)
    values: dict[str, Any] = {
        "owner": "", "epoch": claim.epoch, "state": "queued", "attempt": attempt, "cut_off": row.cut_off + 1
    }  # fmt: skip
    if row.cut_off + 1 >= MAX_INTERRUPTED:
        values |= _quarantine(row, attempt, now)
    if connection.execute(update(jobs).where(seen).values(values)).rowcount:
        _end_attempts(connection, row.id, attempt, now)


def _mark_quarantined(connection: Connection, pool: str, job_ids: list[str]) -> None:
    for part in slices(job_ids):
        ended = jobs.c.id.in_(part) & jobs.c.finished_at.is_not(None)
        found = connection.scalars(select(jobs.c.id).where(ended)).all()
        if found:
            connection.execute(insert(hooks), [{"pool": pool, "job_id": job_id, "tries": 0} for job_id in found])


def _end_attempts(connection: Connection, job_id: str, attempt: int, now: float) -> None:
    """Note the end of an interrupted attempt, and of those before it whose ends have died with the supervisor."""
    earlier = (attempts.c.job_id == job_id) & (attempts.c.attempt < attempt) & attempts.c.ended_at.is_(None)
    unseen = {"outcome": "unknown", "ended_at": now, "error": "how it ended was lost with the supervisor"}
    connection.execute(update(attempts).where(earlier).values(unseen))
    ended = {"outcome": "cut off", "ended_at": now, "error": "the supervisor or the host went down while it ran"}
    key = (attempts.c.job_id == job_id) & (attempts.c.attempt == attempt)
    if not connection.execute(update(attempts).where(key, attempts.c.ended_at.is_(None)).values(ended)).rowcount:
        exists = connection.execute(select(attempts.c.attempt).where(key)).first()
        if exists is None:
            connection.execute(attempts.insert().values(job_id=job_id, attempt=attempt, **ended))


def _quarantine(row: Any, attempt: int, now: float) -> dict[str, Any]:
    text = (
        f"job {row.id} {row.name} was running {row.cut_off + 1} times when its supervisor or the host went down, and is not "
        "started again"
    )
    frame = failure_frame(from_text(row.id), "JobQuarantined", text, attempt=attempt)
    return {
        "state": "failed", "reason": "quarantined", "error": text, "finished_at": now, "answer": frame,
    }  # fmt: skip


def requeue_unknown(connection: Connection, claim: Claim, known: Collection[bytes]) -> None:
    """Let those jobs wait again that a killed recorder had claimed for this supervisor, which does not know of them."""
    mine = (jobs.c.pool == claim.pool) & (jobs.c.owner == claim.owner) & jobs.c.finished_at.is_(None)
    kept = {to_text(job_id) for job_id in known}
    lost = [{"b_id": job_id} for job_id in connection.scalars(select(jobs.c.id).where(mine)) if job_id not in kept]
    if lost:
        connection.execute(update(jobs).where(mine, jobs.c.id == bindparam("b_id")).values(owner=""), lost)
        _end_cancelled(connection, claim.pool, wall())


def load(connection: Connection, claim: Claim, wanted: Load) -> tuple[list[RowMapping], float]:
    """Claim jobs for a supervisor; return their rows, and the seconds until another one may run.

    0 is at once, infinity where no other job waits.
    """
    unclaimed = (jobs.c.pool == claim.pool) & (jobs.c.owner == "") & jobs.c.finished_at.is_(None)
    ids, seconds = _choose(connection, unclaimed, wanted)
    rows: list[RowMapping] = []
    for part in slices(ids):
        connection.execute(update(jobs).where(jobs.c.id.in_(part)).values(owner=claim.owner, epoch=claim.epoch))
        query = select(jobs, kinds.c.description, kinds.c.function).join_from(jobs, kinds, jobs.c.kind == kinds.c.digest)
        found = {row["id"]: row for row in connection.execute(query.where(jobs.c.id.in_(part))).mappings()}
        rows += [found[job_id] for job_id in part if job_id in found]
    return rows, seconds


def _choose(connection: Connection, unclaimed: ColumnElement[bool], wanted: Load) -> tuple[list[str], float]:
    """Return the ids of jobs that may run now, by priority, then of those that wait for a time, by that; and as `load`."""
    now, max_due, max_later, excluded = wall(), *wanted
    waiting = unclaimed & (jobs.c.queue.is_(None) | jobs.c.queue.not_in(excluded)) if excluded else unclaimed
    may_run = jobs.c.not_before.is_(None) | (jobs.c.not_before <= now)
    chosen = select(jobs.c.id).where(waiting, may_run).order_by(jobs.c.priority.desc(), jobs.c.id).limit(max_due + 1)
    ids, seconds = list(connection.scalars(chosen)), 0.0
    if len(ids) > max_due:
        del ids[max_due:]
    else:
        later = select(jobs.c.id, jobs.c.not_before).where(waiting, jobs.c.not_before > now)
        others = connection.execute(later.order_by(jobs.c.not_before).limit(max_later + 1)).all()
        ids += [row.id for row in others[:max_later]]
        seconds = others[max_later].not_before - now if len(others) > max_later else NEVER
    if excluded and connection.execute(select(jobs.c.id).where(unclaimed, jobs.c.queue.in_(excluded)).limit(1)).first():
        seconds = min(seconds, _EXCLUDED_INTERVAL)
    return ids, seconds
