"""What an earlier supervisor of the pool has left: the unfinished is taken over, and loaded as there is room; the old goes.

1. Only the holder of the pool's claim does this, and every other supervisor's id in `owner` is that of a dead one.
2. A run that was cut off is counted, once, by comparing and setting state and attempt; it is not one of the `1 + retries`.
3. What has been cut off MAX_INTERRUPTED times is not started again: it may be what kills the host.
4. A row with an empty owner waits in the database alone. Loading it sets the owner; nobody else's memory has it then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, delete, select, update

from procjobs.clock import NEVER, wall
from procjobs.shared.ids import from_text, to_text
from procjobs.shared.recorder_wire import Load
from procjobs.shared.wire import Outcome, finished_frame
from procjobs.store.schema import attempts, jobs, kinds

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, RowMapping

MAX_INTERRUPTED: Final = 10
_LEFT_OUT_SECONDS: Final = 5.0
"""When to ask again for jobs of a queue of which many wait in memory."""
_SLICE: Final = 500
_SENT_AGAIN_SECONDS: Final = 60.0
"""How long what has ended stays in any case: a client that has not heard of its commit sends it again, by its id."""
_DROPPED: Final = 2000
"""How many old jobs are dropped in one transaction, for which others wait."""


def take_over(connection: Connection, pool: str, owner: str, begun: Mapping[str, int]) -> int:
    """Make what dead supervisors of this pool have left wait for this one; return how many runs were cut off.

    `begun` are the attempts that workers had marked as begun in the last supervisor's table: the events that tell of them
    may have died with it.
    """
    now = wall()
    unfinished = (jobs.c.pool == pool) & jobs.c.finished_at.is_(None) & jobs.c.owner.not_in(["", owner])
    columns = jobs.c.id, jobs.c.name, jobs.c.state, jobs.c.attempt, jobs.c.cut_off
    suspects = unfinished if begun else unfinished & (jobs.c.state == "running")
    rows = connection.execute(select(*columns).where(suspects)).all()
    cut_off = [row for row in rows if row.state == "running" or begun.get(row.id, 0) > row.attempt]
    for row in cut_off:
        _count_cut_off(connection, row, max(row.attempt, begun.get(row.id, 0)), now)
    connection.execute(update(jobs).where(unfinished).values(owner=""))
    return len(cut_off)


def _count_cut_off(connection: Connection, row: Any, attempt: int, now: float) -> None:
    seen = (jobs.c.id == row.id) & (jobs.c.state == row.state) & (jobs.c.attempt == row.attempt)
    values: dict[str, Any] = {"owner": "", "state": "queued", "attempt": attempt, "cut_off": row.cut_off + 1}
    if row.cut_off + 1 >= MAX_INTERRUPTED:
        values |= _verdict(row, attempt, now)
    if not connection.execute(update(jobs).where(seen).values(values)).rowcount:
        return  # stale: somebody else has changed it since it was read
    told = {"outcome": "cut off", "ended_at": now, "error": "the supervisor or the host went down while it ran"}
    earlier = (attempts.c.job_id == row.id) & (attempts.c.attempt < attempt) & attempts.c.ended_at.is_(None)
    unseen = {"outcome": "unknown", "ended_at": now, "error": "how it ended was lost with the supervisor"}
    connection.execute(update(attempts).where(earlier).values(unseen))
    key = (attempts.c.job_id == row.id) & (attempts.c.attempt == attempt)
    if not connection.execute(update(attempts).where(key, attempts.c.ended_at.is_(None)).values(told)).rowcount:
        exists = connection.execute(select(attempts.c.attempt).where(key)).first()
        if exists is None:
            connection.execute(attempts.insert().values(job_id=row.id, attempt=attempt, **told))


def _verdict(row: Any, attempt: int, now: float) -> dict[str, Any]:
    text = (
        f"job {row.id} {row.name} was running {row.cut_off + 1} times when its supervisor or the host went down, and is not "
        "started again"
    )
    details = {"error": "JobQuarantined", "message": text}
    frame = finished_frame(from_text(row.id), Outcome.VERDICT, 0, attempt, 0.0, details)
    return {
        "state": "failed", "reason": "quarantined", "error": text, "finished_at": now, "answer": frame, "call": None,
        "call_data": None,
    }  # fmt: skip


def give_back_unknown(connection: Connection, pool: str, owner: str, known: Collection[bytes]) -> None:
    """Let wait what a killed recorder had claimed for this supervisor, and not told it any more."""
    mine = (jobs.c.pool == pool) & (jobs.c.owner == owner) & jobs.c.finished_at.is_(None)
    kept = {to_text(job_id) for job_id in known}
    lost = [{"b_id": job_id} for job_id in connection.scalars(select(jobs.c.id).where(mine)) if job_id not in kept]
    if lost:
        connection.execute(update(jobs).where(mine, jobs.c.id == bindparam("b_id")).values(owner=""), lost)


def load(connection: Connection, pool: str, owner: str, wanted: Load) -> tuple[list[RowMapping], float]:
    """Claim the jobs that a supervisor wants: those that may run by priority, those that wait for a time by that.

    Return those that were claimed, and in how many seconds another one may run: 0 for at
    once, infinity where none is left.
    """
    most, later, left_out = wanted
    now = wall()
    unclaimed = (jobs.c.pool == pool) & (jobs.c.owner == "") & jobs.c.finished_at.is_(None)
    waiting = unclaimed & (jobs.c.queue.is_(None) | jobs.c.queue.not_in(left_out)) if left_out else unclaimed
    may_run = jobs.c.not_before.is_(None) | (jobs.c.not_before <= now)
    chosen = select(jobs.c.id).where(waiting, may_run).order_by(jobs.c.priority.desc(), jobs.c.id).limit(most + 1)
    ids = list(connection.scalars(chosen))
    seconds = 0.0
    if len(ids) <= most:
        of_later = select(jobs.c.id, jobs.c.not_before).where(waiting, jobs.c.not_before > now)
        others = connection.execute(of_later.order_by(jobs.c.not_before).limit(later + 1)).all()
        ids += [row.id for row in others[:later]]
        most, seconds = len(ids), others[later].not_before - now if len(others) > later else NEVER
    if left_out and connection.execute(select(jobs.c.id).where(unclaimed, jobs.c.queue.in_(left_out)).limit(1)).first():
        seconds = min(seconds, _LEFT_OUT_SECONDS)
    rows: list[RowMapping] = []
    for part in _slices(ids[:most]):
        connection.execute(update(jobs).where(jobs.c.id.in_(part)).values(owner=owner))
        query = select(jobs, kinds.c.description, kinds.c.function).join_from(jobs, kinds, jobs.c.kind == kinds.c.digest)
        found = {row["id"]: row for row in connection.execute(query.where(jobs.c.id.in_(part))).mappings()}
        rows += [found[job_id] for job_id in part if job_id in found]
    return rows, seconds


def _slices(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _SLICE):
        yield ids[start : start + _SLICE]


def cancel(connection: Connection, pool: str, job_id: str) -> tuple[bool, bool]:
    """Cancel a job that waits in the database alone; return whether there is such a job, and whether it was cancelled."""
    details = {"error": "JobCancelled", "message": f"job {job_id} was cancelled before it ran"}
    frame = finished_frame(from_text(job_id), Outcome.VERDICT, 0, 0, 0.0, details)
    of_pool = (jobs.c.id == job_id) & (jobs.c.pool == pool)
    values = {"state": "cancelled", "reason": "cancelled", "finished_at": wall(), "answer": frame, "call": None,
              "call_data": None}  # fmt: skip
    waits = of_pool & (jobs.c.owner == "") & jobs.c.finished_at.is_(None)
    if connection.execute(update(jobs).where(waits).values(values)).rowcount:
        return True, True
    return connection.execute(select(jobs.c.id).where(of_pool)).first() is not None, False


def find_holder(connection: Connection, pool: str, key: bytes) -> str | None:
    """Return the id of the job that has a key for itself: it has not ended, or its time is not over."""
    holds = jobs.c.finished_at.is_(None) | (jobs.c.unique_until > wall())
    of_key = (jobs.c.pool == pool) & (jobs.c.key == key) & jobs.c.unique_until.is_not(None)
    return connection.scalar(select(jobs.c.id).where(of_key & holds).order_by(jobs.c.id.desc()).limit(1))


def drop_results(connection: Connection, pool: str, result_ttl: float) -> None:
    """Drop the answers of jobs that ended longer ago."""
    old = (jobs.c.pool == pool) & (jobs.c.finished_at < wall() - result_ttl) & jobs.c.answer.is_not(None)
    connection.execute(update(jobs).where(old).values(answer=None, answer_data=None))


def drop_jobs(connection: Connection, pool: str, history_ttl: float, history_limit: int) -> bool:
    """Drop a slice of the jobs that ended longer ago, or are more than so many; return whether there may be more."""
    ended = select(jobs.c.id, jobs.c.finished_at).where(jobs.c.pool == pool, jobs.c.finished_at.is_not(None))
    before = wall() - history_ttl
    surplus = connection.execute(ended.order_by(jobs.c.finished_at.desc()).offset(history_limit).limit(1)).first()
    if surplus is not None:
        before = max(before, surplus.finished_at)
    before = min(before, wall() - _SENT_AGAIN_SECONDS)
    old = ended.where(jobs.c.finished_at <= before).order_by(jobs.c.finished_at).limit(_DROPPED)
    ids = list(connection.scalars(old))
    for part in _slices(ids):
        connection.execute(delete(attempts).where(attempts.c.job_id.in_(part)))
        connection.execute(delete(jobs).where(jobs.c.id.in_(part)))
    return len(ids) == _DROPPED


def drop_kinds(connection: Connection, pool: str) -> None:
    """Drop the functions that no job refers to."""
    used = select(jobs.c.kind).where(jobs.c.pool == pool)
    connection.execute(delete(kinds).where(kinds.c.pool == pool, kinds.c.digest.not_in(used)))
