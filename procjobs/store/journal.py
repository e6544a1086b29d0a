"""Events of a supervisor as rows: one call of `apply` writes what a batch says, within the transaction that is open.

1. To apply an event again changes nothing: a recorder that was killed leaves it to its successor to find out by that.
2. A row is changed only by its owner, and only while it has not ended: what a supervisor says too late changes nothing.
3. Of several changes of one job in a batch only the last is written; each attempt keeps a row of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, delete, select, update

from procjobs.errors import UnknownJob
from procjobs.shared.ids import from_text, to_text
from procjobs.shared.recorder_wire import End, Event, Free, Retry, Start, Submit
from procjobs.shared.states import JobState, Reason
from procjobs.shared.wire import HEADER, Outcome, finished_frame, parse_finished
from procjobs.store.database import clean
from procjobs.store.schema import jobs, outbox
from procjobs.store.statements import ACCOUNT, prepare

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, RowMapping

_SLICE: Final = 500
_STATES: Final = {int(state): state.text for state in JobState}
_REASONS: Final = {int(reason): reason.text for reason in Reason}
_UNKNOWN: Final = dict.fromkeys(ACCOUNT)
_TEXTS: Final = ("error", "progress", "log")


class KindOf:
    """A kind as the store knows it: `digest` is its key there."""

    __slots__ = ("description", "digest", "function", "is_stored", "name", "priority", "queue")

    def __init__(self, pool: str, description: bytes, function: bytes) -> None:
        told = json.loads(description)
        self.digest = blake2b(b"\0".join((pool.encode(), description, function)), digest_size=16).hexdigest()
        self.name = clean(told["name"])
        self.priority: int = told["options"]["priority"]
        self.queue: str | None = told["options"].get("queue")
        self.description = description
        self.function = function
        self.is_stored = False


class Changes:
    """What a batch comes to."""

    def __init__(self) -> None:
        self.kinds: list[KindOf] = []
        self.jobs: list[dict[str, Any]] = []
        self.attempts: dict[tuple[str, int], dict[str, Any]] = {}
        self.running: dict[str, dict[str, Any]] = {}
        self.retrying: dict[str, dict[str, Any]] = {}
        self.ended: dict[str, dict[str, Any]] = {}
        self.freed: dict[str, dict[str, Any]] = {}
        self.cut_off: dict[str, dict[str, Any]] = {}

    def replace(self, job_id: str, started_at: float | None) -> float | None:
        """Take back what was to be written of a job; return when it was first started, if it was not at `started_at`."""
        before = self.running.pop(job_id, None), self.retrying.pop(job_id, None)
        known = [change["b_started_at"] for change in before if change is not None]
        return next((moment for moment in known if moment is not None), started_at)

    def note_attempt(self, job_id: str, attempt: int, account: Mapping[str, Any]) -> None:
        """Add to what is known of an attempt; its end stays its end."""
        known = self.attempts.get((job_id, attempt), _UNKNOWN)
        if known["ended_at"] is not None:
            return
        row = self.attempts[job_id, attempt] = {**known, "job_id": job_id, "attempt": attempt}
        row.update((name, value) for name, value in account.items() if value is not None)
        for name in _TEXTS:
            if row[name] is not None:
                row[name] = clean(row[name])


class Journal:
    """Writes the events of one supervisor, `owner` being its id, for one pool."""

    def __init__(self, pool: str, owner: str) -> None:
        self._pool = pool
        self._owner = owner
        self._kinds: dict[int, KindOf] = {}

    def learn_kind(self, number: int, description: bytes, function: bytes) -> None:
        """Note what later events mean by a number."""
        self._kinds[number] = KindOf(self._pool, description, function)

    @property
    def known_kinds(self) -> set[int]:
        """The numbers that kinds are known by."""
        return set(self._kinds)

    def forget_kinds(self, numbers: set[int]) -> None:
        """Let go of kinds that no event refers to any more."""
        for number in numbers:
            self._kinds.pop(number, None)

    def forget_stored_kinds(self) -> None:
        """Write every kind again when it is needed: the transaction that had written it may not have been committed."""
        for kind in self._kinds.values():
            kind.is_stored = False

    def collect(self, events: list[tuple[Event, int | None]]) -> Changes:
        """Return what events, each with its descriptor, come to."""
        changes = Changes()
        for event, fd in events:
            if isinstance(event, Submit):
                self._submit(changes, event, fd)
            elif isinstance(event, End):
                self._end(changes, event, fd)
            elif isinstance(event, Start):
                self._start(changes, event)
            elif isinstance(event, Retry):
                self._retry(changes, event)
            elif isinstance(event, Free):
                self._free(changes, event)
        return changes

    def _submit(self, changes: Changes, event: Submit, fd: int | None) -> None:
        job_id, number, inline, _, submitted_at, not_before, expires_at, key, unique = event
        kind = self._kinds[number]
        if not kind.is_stored:
            changes.kinds.append(kind)
            kind.is_stored = True
        changes.jobs.append({
            "id": to_text(job_id), "pool": self._pool, "owner": self._owner, "name": kind.name, "kind": kind.digest,
            "queue": kind.queue, "priority": kind.priority, "key": key or None,
            "state": "scheduled" if not_before else "queued", "attempt": 0, "cut_off": 0, "crashes": 0,
            "submitted_at": submitted_at, "not_before": not_before or None, "expires_at": expires_at or None,
            "unique_until": unique, "call": inline, "call_data": None if fd is None else read_whole(fd),
        })  # fmt: skip

    @staticmethod
    def _start(changes: Changes, event: Start) -> None:
        raw_id, attempt, worker, pid, now = event
        job_id = to_text(raw_id)
        account = {"outcome": "running", "started_at": now, "worker": worker, "worker_pid": pid}
        changes.note_attempt(job_id, attempt, account)
        before = changes.retrying.get(job_id)
        crashes = before["b_crashes"] if before is not None else None
        started_at = changes.replace(job_id, now)
        changes.running[job_id] = {"b_id": job_id, "b_attempt": attempt, "b_started_at": started_at, "b_crashes": crashes}

    @staticmethod
    def _retry(changes: Changes, event: Retry) -> None:
        raw_id, attempt, account, not_before = event
        job_id = to_text(raw_id)
        changes.note_attempt(job_id, attempt, {**_usage(account.get("details", b"")), **account})
        started_at = changes.replace(job_id, account.get("started_at"))
        changes.retrying[job_id] = {
            "b_id": job_id, "b_attempt": attempt, "b_reason": account["outcome"], "b_error": clean(account["error"]),
            "b_not_before": not_before, "b_crashes": account["crashes"], "b_started_at": started_at,
        }  # fmt: skip

    @staticmethod
    def _end(changes: Changes, event: End, fd: int | None) -> None:
        raw_id, attempt, state, reason, frame, has_descriptor, now, error, account = event
        job_id = to_text(raw_id)
        finished = parse_finished(frame)
        started_at = changes.replace(job_id, now - finished.seconds if attempt else None)
        if attempt:
            ended = {"outcome": _REASONS[reason] or "succeeded", "error": error or None, "ended_at": now}
            if finished.seconds:
                ended["started_at"] = now - finished.seconds
            changes.note_attempt(job_id, attempt, {**ended, **_usage(finished.details), **(account or {})})
        data = read_whole(fd) if has_descriptor and fd is not None else None
        changes.ended[job_id] = {
            "b_id": job_id, "b_state": _STATES[state], "b_reason": _REASONS[reason], "b_attempt": attempt,
            "b_error": clean(error) or None, "b_finished_at": now, "b_answer": frame, "b_answer_data": data,
            "b_started_at": started_at,
        }  # fmt: skip

    @staticmethod
    def _free(changes: Changes, event: Free) -> None:
        raw_id, attempt, account = event
        job_id = to_text(raw_id)
        if account is not None:
            changes.note_attempt(job_id, attempt, account)
        changes.replace(job_id, None)
        freed = changes.freed if account is None else changes.cut_off
        freed[job_id] = {"b_id": job_id, "b_attempt": attempt}

    def write(self, connection: Connection, changes: Changes) -> None:
        """Write what was collected; raise IntegrityError where a job is in the store already."""
        statements = prepare(connection.dialect)
        statements.add_kinds.execute(connection, [self._row_of(kind) for kind in changes.kinds])
        statements.add_jobs.execute(connection, changes.jobs)
        statements.note_attempts.execute(connection, list(changes.attempts.values()))
        for statement, rows in (
            (statements.set_running, changes.running), (statements.set_retrying, changes.retrying),
            (statements.set_ended, changes.ended), (statements.set_free, changes.freed),
            (statements.set_cut_off, changes.cut_off),
        ):  # fmt: skip
            statement.execute(connection, [{**row, "b_owner": self._owner} for row in rows.values()])

    def sweep_outbox(self, connection: Connection) -> int:
        """Make jobs of what transactions of users have left in the outbox; return how many."""
        count = 0
        while True:
            chosen = select(outbox).where(outbox.c.pool == self._pool).order_by(outbox.c.id).limit(_SLICE)
            rows = connection.execute(chosen).mappings().all()
            changes = Changes()
            for row in self._new_ones(connection, rows):
                kind = KindOf(self._pool, row["description"], row["function"])
                changes.kinds.append(kind)
                copied = {name: row[name] for name in (
                    "id", "pool", "key", "submitted_at", "not_before", "expires_at", "call", "call_data")}
                changes.jobs.append({
                    **copied, "owner": "", "name": kind.name, "kind": kind.digest, "queue": kind.queue,
                    "priority": kind.priority, "unique_until": None,
                    "state": "scheduled" if row["not_before"] else "queued", "attempt": 0, "cut_off": 0, "crashes": 0,
                })  # fmt: skip
            self.write(connection, changes)
            if rows:
                connection.execute(delete(outbox).where(outbox.c.id.in_([row["id"] for row in rows])))
            count += len(rows)
            if len(rows) < _SLICE:
                return count

    def _new_ones(self, connection: Connection, rows: Sequence[RowMapping]) -> Iterator[RowMapping]:
        """Yield the rows of the outbox that can become jobs. One that cannot must not keep the others there."""
        known = set(connection.scalars(select(jobs.c.id).where(jobs.c.id.in_([row["id"] for row in rows]))))
        for row in rows:
            try:
                from_text(row["id"])
                KindOf(self._pool, row["description"], row["function"])
            except (UnknownJob, LookupError, TypeError, ValueError) as error:
                print(f"recorder: what is in {outbox.name} as {row['id']!r:.100} is no job: {error!r}", flush=True)  # noqa: T201 - the log
            else:
                if row["id"] not in known:
                    yield row

    def _row_of(self, kind: KindOf) -> dict[str, Any]:
        return {
            "digest": kind.digest, "pool": self._pool, "name": kind.name, "description": kind.description,
            "function": kind.function,
        }  # fmt: skip

    def claim_known(self, connection: Connection, changes: Changes) -> dict[str, dict[str, Any]]:
        """Take those submissions out of the changes that are in the store, and return what it knows of them.

        One that waits there for a supervisor is this one's from now on.
        """
        found: dict[str, dict[str, Any]] = {}
        ids = [row["id"] for row in changes.jobs]
        columns = jobs.c.id, jobs.c.pool, jobs.c.owner, jobs.c.state, jobs.c.attempt, jobs.c.cut_off, jobs.c.crashes
        for start in range(0, len(ids), 500):
            rows = connection.execute(select(*columns).where(jobs.c.id.in_(ids[start : start + 500])))
            found.update((row["id"], dict(row)) for row in rows.mappings())
        changes.jobs = [row for row in changes.jobs if row["id"] not in found]
        waiting = [{"b_id": job_id} for job_id, row in found.items() if not row["owner"] and row["pool"] == self._pool]
        if waiting:
            claim = update(jobs).where(jobs.c.id == bindparam("b_id"), jobs.c.finished_at.is_(None))
            connection.execute(claim.values(owner=self._owner), waiting)
        return found


def _usage(details: bytes) -> dict[str, Any]:
    """Return what a worker has told of the resources that an attempt took."""
    if b'"cpu_seconds"' not in details:
        return {}
    values = json.loads(details)
    return {name: values[name] for name in ("cpu_seconds", "peak_bytes") if isinstance(values.get(name), int | float)}


def _unknown(job_id: bytes, message: str) -> bytes:
    return finished_frame(job_id, Outcome.VERDICT, 0, 0, 0.0, {"error": "UnknownJob", "message": message})


def forgotten_frame(job_id: bytes) -> bytes:
    """Return the answer about a job whose result was kept for `result_ttl`, and is not any more."""
    return _unknown(job_id, f"the result of job {to_text(job_id)} is not kept any longer (result_ttl)")


def has_data(frame: bytes) -> bool:
    """Return whether a descriptor belongs to a FINISHED frame."""
    return bool(HEADER.unpack_from(frame)[2])


def read_whole(fd: int) -> bytes:
    """Return the contents of a memory file, whose position others may have moved."""
    size, parts, position = os.fstat(fd).st_size, [], 0
    while position < size and (part := os.pread(fd, size - position, position)):
        parts.append(part)
        position += len(part)
    return b"".join(parts)
