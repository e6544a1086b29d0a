"""Reads for any process: nothing here writes, so a store can be read while its pool is down.

There is one engine for each database. That of an SQLite file keeps no connection: to open one takes 0.1 ms, and one that
stayed open would keep the write-ahead log from being put away. That of PostgreSQL keeps one, for this process alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import LargeBinary, String, cast, exists, func, inspect, literal, or_, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError

from procjobs.clock import NEVER
from procjobs.errors import Attempt, StoreUnavailable, UnknownJob
from procjobs.shared.ids import from_text, made_at, to_text
from procjobs.shared.job_keys import key_text
from procjobs.shared.meta import pack_meta, unpack_meta
from procjobs.shared.passwords import hide
from procjobs.shared.records import JobRecord, JobStatus, Run
from procjobs.shared.scheduled import name_of, pack_origin, seconds_of
from procjobs.store.database import explain, may_be_shown, slices
from procjobs.store.engines import engine_of
from procjobs.store.schema import attempts, jobs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection, Row
    from sqlalchemy.sql import ColumnElement


@contextmanager
def _reading(url: str) -> Iterator[Connection]:
    try:
        with engine_of(url).connect() as connection:
            yield connection
    except SQLAlchemyError as error:
        why = "no pool has used it yet: it has no tables of procjobs" if _is_unused(url) else explain(error, url)
        raise StoreUnavailable(f"the store {hide(url)} cannot be read: {why}") from may_be_shown(error, url)


def _is_unused(url: str) -> bool:
    try:
        with engine_of(url).connect() as connection:
            return not inspect(connection).has_table(jobs.name)
    except SQLAlchemyError:
        return False


_OF_STATUS: Final = (
    "id", "name", "state", "reason", "attempt", "submitted_at", "started_at", "finished_at", "error", "meta", "retry_of",
    "schedule", "scheduled_for", "queue", "key",
)  # fmt: skip
_last_attempt: Final = (attempts.c.job_id == jobs.c.id) & (attempts.c.attempt == jobs.c.attempt)
with_pid: Final = select(*(jobs.c[name] for name in _OF_STATUS), attempts.c.worker_pid, attempts.c.traceback).select_from(
    jobs.outerjoin(attempts, _last_attempt)
)


def find_statuses(url: str, job_ids: list[bytes]) -> list[JobStatus]:
    """Return those of these jobs that the store knows; raise StoreUnavailable if it cannot be read."""
    found: list[JobStatus] = []
    with _reading(url) as connection:
        for part in slices([to_text(job_id) for job_id in job_ids]):
            rows = connection.execute(with_pid.where(jobs.c.id.in_(part)))
            found += [status_of(row) for row in rows]
    return found


def status_of(row: Any) -> JobStatus:
    """Return the status of a job from its row of `with_pid`."""
    return JobStatus(
        row.id, row.name, row.state, row.reason, row.attempt, None, row.submitted_at, row.started_at, row.finished_at,
        row.worker_pid, row.error, _meta_of(row), row.retry_of, row.traceback, None, *_origin_of(row),
        queue=row.queue, key=key_text(row.key),
    )  # fmt: skip


def _meta_of(row: Any) -> dict[str, Any]:
    """Return the meta of a job, {} where others have written something there that is none."""
    try:
        return unpack_meta(row.meta)
    except ValueError:
        return {}


def _origin_of(row: Any) -> tuple[str | None, float | None]:
    """Return the name of a job's schedule and its moment, None where others have written something there that is none."""
    try:
        schedule, scheduled_for = pack_origin(row.schedule, row.scheduled_for)
    except ValueError:
        return None, None
    return name_of(schedule), seconds_of(scheduled_for)


def find_oldest(url: str) -> float:
    """Return when the id of the oldest job in the store was made (Unix time), infinity if there is no job."""
    with _reading(url) as connection:
        oldest = connection.scalar(select(func.min(jobs.c.id)))
    return NEVER if oldest is None else made_at(from_text(oldest)) or 0.0


def find_attempts(url: str, job_id: str) -> list[Attempt]:
    """Return the attempts of a job that are kept, in their order."""
    with _reading(url) as connection:
        runs = _find_runs(connection, [job_id])[job_id]
    return [
        Attempt(
            run.attempt, None if run.outcome in {"running", "succeeded"} else run.outcome, run.error or "", run.started_at,
            run.ended_at, run.signal, run.exit_code, run.progress, "", run.worker, run.worker_pid, run.traceback,
        )
        for run in runs
    ]  # fmt: skip


def find_log(url: str, job_id: str) -> str:
    """Return the kept output of a job, all attempts together; raise UnknownJob, or StoreUnavailable."""
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
    search: str | None = None,
    before: str | None = None,
    limit: int,
) -> list[JobRecord]:
    """Return jobs of a pool with their attempts, the newest first; `name` may have SQL's wildcards.

    `search` is a part of id, name or queue, in upper or lower case, or of the key as it is; `before` is an id, of
    which only earlier ones count.
    """
    chosen = select(jobs).where(jobs.c.pool == pool)
    if state is not None:
        chosen = chosen.where(jobs.c.state == state)
    if name is not None:
        chosen = chosen.where(jobs.c.name.like(name) if "%" in name else jobs.c.name == name)
    if since is not None:
        chosen = chosen.where(jobs.c.submitted_at >= since)
    if job_id is not None:
        chosen = chosen.where(jobs.c.id == job_id)
    if before is not None:
        chosen = chosen.where(jobs.c.id < before)
    with _reading(url) as connection:
        if search:
            chosen = chosen.where(_has_text(connection.dialect.name, search))
        for key, value in (meta or {}).items():
            chosen = chosen.where(_has_meta(connection.dialect.name, key, value))
        rows = connection.execute(chosen.order_by(jobs.c.id.desc()).limit(limit)).all()
        runs = _find_runs(connection, [row.id for row in rows])
    return [_record(row, tuple(runs[row.id])) for row in rows]


def _has_text(dialect: str, search: str) -> ColumnElement[bool]:
    """Return the condition that a job has this text in one of those by which it is known."""
    texts = (jobs.c.id, jobs.c.name, jobs.c.queue)
    found = [text.icontains(search, autoescape=True) for text in texts]
    return or_(*found, _has_in_key(dialect, search.encode(errors="replace")))


def _has_in_key(dialect: str, part: bytes) -> ColumnElement[bool]:
    """Return the condition that a job's key has these bytes in it: it is no text for the database."""
    if dialect == "postgresql":
        place: ColumnElement[int] = func.position(literal(part, LargeBinary).op("IN")(jobs.c.key))
        return place > 0
    return func.instr(jobs.c.key, literal(part, LargeBinary)) > 0


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
        row.submitted_at, row.started_at, row.finished_at, runs, _meta_of(row), row.retry_of,
        *_origin_of(row), key_text(row.key),
    )  # fmt: skip
