"""Reads for any process: nothing here writes, and no connection outlives its call.

So a store can be read while its pool is down, and no connection is carried over a fork.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, cast, exists, func, inspect, literal, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError

from procjobs.errors import StoreUnavailable, UnknownJob
from procjobs.shared.meta import pack_meta, unpack_meta
from procjobs.shared.passwords import hide
from procjobs.shared.records import JobRecord, JobStatus, Run
from procjobs.store.database import explain, may_be_shown, open_engine, slices
from procjobs.store.schema import attempts, jobs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection, Row
    from sqlalchemy.sql import ColumnElement


@contextmanager
def _reading(url: str) -> Iterator[Connection]:
    try:
        with open_engine(url, read_only=True).connect() as connection:
            yield connection
    except SQLAlchemyError as error:
        why = "no pool has used it yet: it has no tables of procjobs" if _is_unused(url) else explain(error, url)
        raise StoreUnavailable(f"the store {hide(url)} cannot be read: {why}") from may_be_shown(error, url)


def _is_unused(url: str) -> bool:
    try:
        with open_engine(url, read_only=True).connect() as connection:
            return not inspect(connection).has_table(jobs.name)
    except SQLAlchemyError:
        return False


def find_status(url: str, job_id: str) -> JobStatus:
    """Return a job as the store knows it; raise UnknownJob, or StoreUnavailable if it cannot be read."""
    with _reading(url) as connection:
        row = connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
        if row is None:
            raise _unknown(job_id)
        key = (attempts.c.job_id == job_id) & (attempts.c.attempt == row.attempt)
        pid = connection.scalar(select(attempts.c.worker_pid).where(key))
    return JobStatus(
        row.id, row.name, row.state, row.reason, row.attempt, None, row.submitted_at, row.started_at, row.finished_at, pid,
        row.error, unpack_meta(row.meta), row.retry_of, None,
    )  # fmt: skip


def find_log(url: str, job_id: str) -> str:
    """Return the kept output of a job, all attempts together; raise as `find_status` does."""
    logs = select(attempts.c.log).where(attempts.c.job_id == job_id).order_by(attempts.c.attempt)
    with _reading(url) as connection:
        if connection.scalar(select(jobs.c.id).where(jobs.c.id == job_id)) is None:
            raise _unknown(job_id)
        return "".join(log for log in connection.scalars(logs) if log)


def find_history(
    url: str,
    pool: str,
    *,
    state: str | None = None,
    name: str | None = None,
    since: float | None = None,
    meta: Mapping[str, Any] | None = None,
    job_id: str | None = None,
    limit: int,
) -> list[JobRecord]:
    """Return jobs of a pool with their attempts, the newest first; `name` may have SQL's wildcards."""
    chosen = select(jobs).where(jobs.c.pool == pool)
    if state is not None:
        chosen = chosen.where(jobs.c.state == state)
    if name is not None:
        chosen = chosen.where(jobs.c.name.like(name) if "%" in name else jobs.c.name == name)
    if since is not None:
        chosen = chosen.where(jobs.c.submitted_at >= since)
    if job_id is not None:
        chosen = chosen.where(jobs.c.id == job_id)
    with _reading(url) as connection:
        for key, value in (meta or {}).items():
            chosen = chosen.where(_has_meta(connection.dialect.name, key, value))
        rows = connection.execute(chosen.order_by(jobs.c.id.desc()).limit(limit)).all()
        runs = _find_runs(connection, [row.id for row in rows])
    return [_record(row, tuple(runs[row.id])) for row in rows]


def _has_meta(dialect: str, key: str, value: Any) -> ColumnElement[bool]:
    """Return the condition that a job's meta has this value for a key: equal as JSON, so that 7 is 7.0 and not "7"."""
    wanted = pack_meta({"": value}).decode()[4:-1]
    if dialect == "postgresql":
        found: ColumnElement[Any] = cast(jobs.c.meta, postgresql.JSONB)[key]
        return found == cast(literal(wanted, String), postgresql.JSONB)
    entry = func.json_each(jobs.c.meta).table_valued("key", "value", "type")
    if isinstance(value, bool | None):
        is_equal: ColumnElement[bool] = entry.c.type == wanted
    elif isinstance(value, int | float):  # SQLite has no larger whole numbers
        number = value if abs(value) < 2**63 else float(value)
        is_equal = entry.c.type.in_(["integer", "real"]) & (entry.c.value == literal(number))
    else:
        is_text = isinstance(value, str)
        kind = "text" if is_text else "array" if isinstance(value, list) else "object"
        is_equal = (entry.c.type == kind) & (entry.c.value == literal(value if is_text else wanted))
    return exists(select(entry.c.key).where(entry.c.key == literal(key), is_equal))


def _find_runs(connection: Connection, job_ids: list[str]) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = defaultdict(list)
    for part in slices(job_ids):
        of_these = select(attempts).where(attempts.c.job_id.in_(part)).order_by(attempts.c.job_id, attempts.c.attempt)
        for row in connection.execute(of_these).mappings():
            values = {field: row[field] for field in Run._fields}
            if values["peak_bytes"] is not None:
                values["peak_bytes"] = int(values["peak_bytes"])
            runs[row["job_id"]].append(Run(**values))
    return runs


def _unknown(job_id: str) -> UnknownJob:
    return UnknownJob(f"job {job_id} is not known to this pool, nor to its store")


def _record(row: Row[Any], runs: tuple[Run, ...]) -> JobRecord:
    return JobRecord(
        row.id, row.name, row.state, row.reason, row.error, row.queue, row.priority, row.attempt, row.cut_off,
        row.submitted_at, row.started_at, row.finished_at, runs, unpack_meta(row.meta), row.retry_of,
    )  # fmt: skip
