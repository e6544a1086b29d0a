"""Jobs that are repeated: a new row out of that of a job which ended otherwise than well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert, literal, select

from procjobs.clock import wall
from procjobs.store.journal import find_holder
from procjobs.store.schema import checkpoints, jobs

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from procjobs.store.claim import Claim

_COPIED: Final = "pool", "name", "kind", "queue", "priority", "key", "meta", "schedule", "scheduled_for", "call", "call_data"
_ASKED: Final = "id", "pool", "name", "state", "key", "unique_until", "finished_at"
_UNSUCCESSFUL: Final = frozenset({"failed", "cancelled", "expired"})


def repeat(connection: Connection, claim: Claim, job_id: str, new_id: str) -> dict[str, Any]:
    """Make a new job of a stored one, which waits in the database; return {"known", "refusal", "name"}.

    Nothing happens where the new job is there already: its client asks once more.
    """
    columns = [*(jobs.c[name] for name in _ASKED), jobs.c.call.is_(None).label("is_dropped")]
    row = connection.execute(select(*columns).where(jobs.c.id == job_id, jobs.c.pool == claim.pool)).first()
    if row is None:
        return {"known": False, "refusal": "", "name": ""}
    refusal = ""
    if connection.scalar(select(jobs.c.id).where(jobs.c.id == new_id)) is None:
        refusal = _refusal(connection, row, new_id)
        if not refusal:
            _copy(connection, claim, row, new_id)
    return {"known": True, "refusal": refusal, "name": row.name}


def _refusal(connection: Connection, row: Any, new_id: str) -> str:
    who = f"job {row.id} {row.name}"
    if row.finished_at is None or row.state not in _UNSUCCESSFUL:
        return f"{who} is {row.state}: only jobs that failed, expired or were cancelled are repeated"
    if row.is_dropped:
        return f"the call of {who} is not kept any more (retry_ttl)"
    if row.unique_until is not None:
        holder = find_holder(connection, row.pool, row.key, new_id)
        if holder is not None and holder != row.id:
            return f"job {holder} has the key of {who}, which is to be the only one that has it"
    return ""


def _copy(connection: Connection, claim: Claim, row: Any, new_id: str) -> None:
    values: dict[str, Any] = {
        "id": new_id, "retry_of": row.id, "owner": "", "epoch": claim.epoch, "state": "queued", "attempt": 0, "cut_off": 0,
        "crashes": 0, "submitted_at": wall(), "unique_until": None if row.unique_until is None else 0.0,
    }  # fmt: skip
    literals = [literal(value, jobs.c[name].type) for name, value in values.items()]
    chosen = select(*literals, *(jobs.c[name] for name in _COPIED))
    connection.execute(insert(jobs).from_select([*values, *_COPIED], chosen.where(jobs.c.id == row.id)))
    last = select(literal(new_id), checkpoints.c.saved_at, checkpoints.c.data).where(checkpoints.c.job_id == row.id)
    connection.execute(insert(checkpoints).from_select(["job_id", "saved_at", "data"], last))
