"""Jobs for which hooks (`on_failure`) are still to be called: each has a row in `procjobs_hooks`, its mark.

1. A mark is written in one transaction with the end of its job, and dropped when every hook was called with the job, or
   given up. So a supervisor that is killed in between leaves it to the next one: each call is made at least once.
2. `tries` counts the supervisors that have read a mark. One that so many could not get rid of is dropped: a hook may be the
   cause of their deaths.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete, select, update

from procjobs.errors import UnknownJob
from procjobs.shared.ids import from_text
from procjobs.shared.wire import limit_text
from procjobs.store.reading import status_of, with_pid
from procjobs.store.schema import hooks, jobs

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

MAX_TRIES: Final = 10
_MAX_ERROR_BYTES: Final = 4096
_MAX_BYTES: Final = 100_000
"""Of an answer: it goes into one frame, of at most 256 KiB."""


def load(connection: Connection, pool: str, max_jobs: int) -> dict[str, Any]:
    """Return {"records", "has_more"}: the fields of a JobStatus of each job, the oldest first, and whether others wait."""
    of_pool = select(hooks.c.job_id, hooks.c.tries).where(hooks.c.pool == pool)
    marks = connection.execute(of_pool.order_by(hooks.c.job_id).limit(max_jobs + 1)).all()
    if not marks:
        return {"records": [], "has_more": False}
    tries = {mark.job_id: mark.tries for mark in marks[:max_jobs]}
    given_up = {job_id for job_id, count in tries.items() if count >= MAX_TRIES}
    for job_id in sorted(given_up):
        _log(f"the hooks (on_failure) for job {job_id} are given up: {MAX_TRIES} supervisors could not call them")
    ended = jobs.c.id.in_(list(tries)) & (jobs.c.pool == pool) & jobs.c.finished_at.is_not(None)
    rows = connection.execute(with_pid.where(ended))
    known = {row.id: record for row in rows if (record := _record(row)) is not None}
    _drop(connection, pool, given_up | (tries.keys() - known.keys()))
    wanted = [known[job_id] for job_id in tries if job_id in known and job_id not in given_up]
    records = _that_fit(wanted)
    read = [record["id"] for record in records]
    of_these = (hooks.c.pool == pool) & hooks.c.job_id.in_(read)
    connection.execute(update(hooks).where(of_these).values(tries=hooks.c.tries + 1))
    return {"records": records, "has_more": len(marks) > max_jobs or len(records) < len(wanted)}


def _drop(connection: Connection, pool: str, job_ids: set[str]) -> None:
    if job_ids:
        connection.execute(delete(hooks).where(hooks.c.pool == pool, hooks.c.job_id.in_(job_ids)))


def _record(row: Any) -> dict[str, Any] | None:
    """Return the fields of a JobStatus, None where others have written something into the row that is none."""
    record = status_of(row)._asdict()
    try:
        from_text(row.id)
        record["error"] = limit_text(row.error or "", _MAX_ERROR_BYTES)
        if _size(record) > _MAX_BYTES:
            record |= {"error_details": None, "meta": {}}
    except (UnknownJob, AttributeError, TypeError, ValueError) as error:
        _log(f"row {row.id!r:.100} of {jobs.name} describes no job that hooks could be called with: {error!r}")
        return None
    return record


def _size(record: dict[str, Any]) -> int:
    return len(json.dumps(record, ensure_ascii=False).encode(errors="replace"))


def _that_fit(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first records, as many as fit into one answer."""
    size, count = 0, 0
    for record in records:
        size += _size(record)
        if count and size > _MAX_BYTES:
            break
        count += 1
    return records[:count]


def _log(text: str) -> None:
    print(f"recorder: {text}", flush=True)  # noqa: T201 - to the pool's log
