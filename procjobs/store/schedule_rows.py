"""The schedules of a pool, and which periods of them were run.

1. A period of a schedule has one row in `procjobs_periods`, whose key is unique. It is written in one transaction with the
   row of its job and with the cursor: there are all three, or none.
2. Every period up to the cursor is decided. The supervisor decides; here the cursor is what it says, forwards or backwards.
3. Each of these writes can be done twice: counts and cursors are whole numbers and not steps, and a period that has this
   very job is made already.
4. The rows of periods outlive their schedule: one that is made again under its old name repeats no period.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete, func, insert, literal, select, update

from procjobs.clock import NEVER, wall
from procjobs.shared.ids import to_text
from procjobs.shared.moments import MICROS
from procjobs.shared.scheduled import pack_origin
from procjobs.store.schema import jobs, kinds, periods, schedules

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.sql import ColumnElement

    from procjobs.shared.recorder_wire import Fire, NoteSchedule, PutSchedule
    from procjobs.store.changes import StoredKind
    from procjobs.store.claim import Claim

MAX_RUNNING: Final = 1000
"""The most jobs of a schedule that have not ended of which the supervisor is told, the newest ones."""
_MAX_BYTES: Final = 100_000
"""About how many bytes of schedules go into one answer, which is one frame of at most 256 KiB."""
_MAX_SCHEDULES: Final = 200
_MAX_SPEC_CHARACTERS: Final = 16_000
_COPIED: Final = "pool", "kind", "queue", "priority", "key", "meta", "call", "call_data"
_TOLD: Final = "cursor", "is_paused", "skipped", "missed", "last_period", "last_job"
_of_state: Final = select(
    *(schedules.c[name] for name in ("pool", "name", "spec", "is_declared", *_TOLD)), kinds.c.name.label("call")
).join_from(schedules, kinds, kinds.c.digest == schedules.c.kind)


def put(connection: Connection, pool: str, event: PutSchedule, kind: StoredKind, data: bytes | None) -> dict[str, Any]:
    """Store a schedule; return {"is_new"} and its state, as `find_all` has it.

    The same rule keeps its cursor, and everything but a new schedule its counts. `is_new` may be False when a recorder that
    was killed had written it.
    """
    rule, expires = _read_spec(event.spec)
    pack_origin(event.name, event.cursor)  # as a job of it will have them, or an error
    now = wall()
    values = {
        "spec": event.spec, "is_declared": int(event.is_declared), "kind": kind.digest, "queue": kind.queue,
        "priority": kind.priority, "key": event.key or None, "meta": event.meta.decode() or None, "call": event.inline,
        "call_data": data, "expires": expires,
    }  # fmt: skip
    of_name = _of_name(pool, event.name)
    row = connection.execute(select(schedules).where(of_name)).mappings().first()
    if row is None:
        begun = {"is_paused": 0, "cursor": event.cursor, "skipped": 0, "missed": 0, "created_at": now, "changed_at": now}
        connection.execute(insert(schedules).values(pool=pool, name=event.name, **values, **begun))
    elif any(row[name] != value for name, value in values.items()):  # all web workers of a host declare it as they start
        if _rule_of(row["spec"]) != rule:
            values["cursor"] = event.cursor
        connection.execute(update(schedules).where(of_name).values(changed_at=now, **values))
    return {"is_new": row is None, **_state_of(connection, connection.execute(_of_state.where(of_name)).one())}


def _read_spec(spec: str) -> tuple[dict[str, Any], float | None]:
    """Return the rule of a schedule, and after how many seconds its jobs expire; raise ValueError for what is none."""
    values = json.loads(spec)
    if not isinstance(values, dict) or not isinstance(values.get("rule"), dict) or len(spec) > _MAX_SPEC_CHARACTERS:
        raise ValueError("this is no description of a schedule")
    expires = values.get("expires")
    if expires is not None and (type(expires) not in {int, float} or not 0 < expires < NEVER):
        raise ValueError("this is no time after which jobs expire")
    return values["rule"], expires


def _rule_of(spec: str) -> dict[str, Any] | None:
    """Return the rule of a stored schedule, None where others have written something there that is none."""
    try:
        return _read_spec(spec)[0]
    except (TypeError, ValueError):
        return None


def drop(connection: Connection, pool: str, name: str) -> bool:
    """Drop a schedule; return whether there was one. The periods that were run are still remembered."""
    return bool(connection.execute(delete(schedules).where(_of_name(pool, name))).rowcount)


def note(connection: Connection, pool: str, event: NoteSchedule) -> None:
    """Note how far a schedule is, and what it has left out."""
    values: dict[str, Any] = {"cursor": event.cursor, "skipped": event.skipped, "missed": event.missed}
    if event.is_paused >= 0:
        values["is_paused"] = event.is_paused
    connection.execute(update(schedules).where(_of_name(pool, event.name)).values(values))


def fire(connection: Connection, claim: Claim, event: Fire) -> dict[str, Any]:
    """Make the job of a period, which waits in the database; return {"made", "known"}.

    Nothing is made where another job has the period. In either case it is decided, and the cursor moves.
    """
    of_name = _of_name(claim.pool, event.name)
    job_id = to_text(event.job_id)
    source = schedules.join(kinds, kinds.c.digest == schedules.c.kind)
    row = connection.execute(select(schedules.c.expires, kinds.c.name).select_from(source).where(of_name)).first()
    if row is None:
        return {"made": False, "known": False}
    period = {"pool": claim.pool, "schedule": event.name, "period": event.period}
    holder = connection.scalar(select(periods.c.job_id).filter_by(**period))
    changes: dict[str, Any] = {"cursor": event.cursor}
    if holder is None:  # and there is none until the commit, since nobody else writes under this claim
        connection.execute(insert(periods).values(**period, job_id=job_id, recorded_at=wall()))
        _make_job(connection, claim, event, row)
        changes |= {"last_period": event.period, "last_job": job_id}
    connection.execute(update(schedules).where(of_name).values(changes))
    return {"made": holder in {None, job_id}, "known": True}


def _make_job(connection: Connection, claim: Claim, event: Fire, schedule: Any) -> None:
    values: dict[str, Any] = {
        "id": to_text(event.job_id), "owner": "", "epoch": claim.epoch, "name": schedule.name, "state": "queued",
        "attempt": 0, "cut_off": 0, "crashes": 0, "submitted_at": wall(), "schedule": event.name,
        "scheduled_for": event.scheduled_for,
        "expires_at": None if schedule.expires is None else event.period / MICROS + schedule.expires,
    }  # fmt: skip
    literals = [literal(value, jobs.c[name].type) for name, value in values.items()]
    chosen = select(*literals, *(schedules.c[name] for name in _COPIED)).where(_of_name(claim.pool, event.name))
    connection.execute(insert(jobs).from_select([*values, *_COPIED], chosen))


def find_all(connection: Connection, pool: str, after: str) -> dict[str, Any]:
    """Return {"schedules", "has_more"}: those of a pool whose names come after this one, as many as fit into an answer.

    Each has {"name", "spec", "is_declared"} and its state: {"call", "cursor", "is_paused", "skipped", "missed",
    "last_period", "last_job", "last_state", "last_error", "running", "ended_at"}. `call` is the name of its jobs,
    `last_state` is None when the row of the job has gone, `running` are the ids of jobs that have not ended, and `ended_at`
    is when the last one ended, in microseconds.
    """
    found: list[dict[str, Any]] = []
    size = 0
    of_pool = _of_state.where(schedules.c.pool == pool, schedules.c.name > after).order_by(schedules.c.name)
    for row in connection.execute(of_pool.limit(_MAX_SCHEDULES + 1)).all():
        values = {"name": row.name, "spec": row.spec, "is_declared": bool(row.is_declared), **_state_of(connection, row)}
        size += len(json.dumps(values))
        if found and (size > _MAX_BYTES or len(found) == _MAX_SCHEDULES):
            return {"schedules": found, "has_more": True}
        found.append(values)
    return {"schedules": found, "has_more": False}


def _state_of(connection: Connection, row: Any) -> dict[str, Any]:
    of_schedule = (jobs.c.pool == row.pool) & (jobs.c.schedule == row.name)
    running = select(jobs.c.id).where(of_schedule, jobs.c.finished_at.is_(None)).order_by(jobs.c.id.desc())
    ended_at = connection.scalar(select(func.max(jobs.c.finished_at)).where(of_schedule))
    last = None
    if row.last_job is not None:
        last = connection.execute(select(jobs.c.state, jobs.c.error).where(jobs.c.id == row.last_job)).first()
    return {
        **{name: getattr(row, name) for name in (*_TOLD, "call")}, "is_paused": bool(row.is_paused),
        "last_state": None if last is None else last.state, "last_error": None if last is None else last.error,
        "running": list(connection.scalars(running.limit(MAX_RUNNING))),
        "ended_at": None if ended_at is None else int(ended_at * MICROS),
    }  # fmt: skip


def _of_name(pool: str, name: str) -> ColumnElement[bool]:
    return (schedules.c.pool == pool) & (schedules.c.name == name)
