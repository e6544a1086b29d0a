"""The rows that a batch of events leads to. Pure: `journal` writes them.

1. Of several changes of one job in a batch only the last is written; each attempt keeps a row of its own.
2. An account of an attempt only grows, and its end stays its end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from procjobs.shared.ids import to_text
from procjobs.shared.recorder_wire import Checkpoint, End, Free, Hooked, Retry, Start, Submit
from procjobs.shared.states import JobState, Reason
from procjobs.shared.wire import limit_text, parse_finished
from procjobs.store.database import clean
from procjobs.store.statements import ACCOUNT

_STATES: Final = {int(state): state.text for state in JobState}
_REASONS: Final = {int(reason): reason.text for reason in Reason}
_UNKNOWN: Final = dict.fromkeys(ACCOUNT)
_TEXTS: Final = ("error", "progress", "log", "traceback")
_MAX_TRACEBACK_BYTES: Final = 16 * 1024
_COPIED_FROM_OUTBOX: Final = (
    "id", "pool", "key", "submitted_at", "not_before", "expires_at", "call", "call_data", "meta"
)  # fmt: skip


class StoredKind:
    """A kind as the store knows it: `digest` is its key there."""

    __slots__ = ("description", "digest", "function", "is_stored", "name", "priority", "queue")

    def __init__(self, pool: str, description: bytes, function: bytes) -> None:
        values = json.loads(description)
        self.digest = blake2b(b"\0".join((pool.encode(), description, function)), digest_size=16).hexdigest()
        self.name = clean(values["name"])
        self.priority: int = values["options"]["priority"]
        self.queue: str | None = values["options"].get("queue")
        self.description = description
        self.function = function
        self.is_stored = False


class Changes:
    """The rows of one batch: kinds and jobs to add, accounts of attempts, and by job id the change of its row.

    The names of a change begin with `b_`: SQLAlchemy keeps the columns' own names for the values of SET.
    """

    def __init__(self, pool: str, owner: str, epoch: int) -> None:
        self._pool = pool
        self._owner = owner
        self._epoch = epoch
        self.kinds: list[StoredKind] = []
        self.jobs: list[dict[str, Any]] = []
        self.attempts: dict[tuple[str, int], dict[str, Any]] = {}
        self.running: dict[str, dict[str, Any]] = {}
        self.retrying: dict[str, dict[str, Any]] = {}
        self.ended: dict[str, dict[str, Any]] = {}
        self.freed: dict[str, dict[str, Any]] = {}
        self.interrupted: dict[str, dict[str, Any]] = {}
        self.checkpoints: dict[str, dict[str, Any]] = {}
        self.told: list[dict[str, Any]] = []
        self.hooked: list[dict[str, Any]] = []

    def submit(self, event: Submit, kind: StoredKind, data: bytes | None) -> None:
        """Add a job, and its kind unless the store has it."""
        job_id, _, inline, _, submitted_at, not_before, expires_at, key, unique_until, extras = event
        meta, retry_of, schedule, scheduled_for = extras
        if not kind.is_stored:
            self.kinds.append(kind)
            kind.is_stored = True
        self.jobs.append({
            "id": to_text(job_id), "pool": self._pool, "owner": self._owner, "epoch": self._epoch, "name": kind.name,
            "kind": kind.digest, "queue": kind.queue, "priority": kind.priority, "key": key or None,
            "state": "scheduled" if not_before else "queued", "attempt": 0, "cut_off": 0, "crashes": 0,
            "submitted_at": submitted_at, "not_before": not_before or None, "expires_at": expires_at or None,
            "unique_until": unique_until, "call": inline, "call_data": data, "meta": meta.decode() or None,
            "retry_of": to_text(retry_of) if retry_of else None, "schedule": schedule.decode() or None,
            "scheduled_for": scheduled_for or None,
        })  # fmt: skip

    def submit_from_outbox(self, row: Mapping[str, Any], kind: StoredKind) -> None:
        """Add a job that a transaction of a user has left in the outbox; it waits in the store, without an owner."""
        self.kinds.append(kind)
        self.jobs.append({
            **{name: row[name] for name in _COPIED_FROM_OUTBOX},
            "owner": "", "epoch": self._epoch, "name": kind.name, "kind": kind.digest, "queue": kind.queue,
            "priority": kind.priority, "unique_until": None, "state": "scheduled" if row["not_before"] else "queued",
            "attempt": 0, "cut_off": 0, "crashes": 0, "retry_of": None, "schedule": None, "scheduled_for": None,
        })  # fmt: skip

    def start(self, event: Start) -> None:
        """Let a job run, and open the account of its attempt."""
        raw_id, attempt, worker, pid, time = event
        job_id = to_text(raw_id)
        account = {"outcome": "running", "started_at": time, "worker": worker, "worker_pid": pid}
        self._record_attempt(job_id, attempt, account)
        before = self.retrying.get(job_id)
        crashes = before["b_crashes"] if before is not None else None
        started_at = self._withdraw(job_id, time)
        self.running[job_id] = {"b_id": job_id, "b_attempt": attempt, "b_started_at": started_at, "b_crashes": crashes}

    def retry(self, event: Retry) -> None:
        """Let a job wait for its next attempt."""
        raw_id, attempt, account, not_before = event
        job_id = to_text(raw_id)
        self._record_attempt(job_id, attempt, {**_usage(account.get("details", b"")), **account})
        started_at = self._withdraw(job_id, account.get("started_at"))
        self.retrying[job_id] = {
            "b_id": job_id, "b_attempt": attempt, "b_reason": account["outcome"], "b_error": clean(account["error"]),
            "b_not_before": not_before, "b_crashes": account["crashes"], "b_started_at": started_at,
        }  # fmt: skip

    def end(self, event: End, data: bytes | None) -> None:
        """Give a job its answer, of which `data` is in a descriptor."""
        raw_id, attempt, state, reason, frame, _, ended_at, error, account, is_told = event
        job_id = to_text(raw_id)
        finished = parse_finished(frame)
        started_at = self._withdraw(job_id, ended_at - finished.seconds if attempt else None)
        if attempt:
            ended = {"outcome": _REASONS[reason] or "succeeded", "error": error or None, "ended_at": ended_at}
            if finished.seconds:
                ended["started_at"] = ended_at - finished.seconds
            self._record_attempt(job_id, attempt, {**ended, **_usage(finished.details), **(account or {})})
        self.ended[job_id] = {
            "b_id": job_id, "b_state": _STATES[state], "b_reason": _REASONS[reason], "b_attempt": attempt,
            "b_error": clean(error) or None, "b_finished_at": ended_at, "b_answer": frame, "b_answer_data": data,
            "b_started_at": started_at,
        }  # fmt: skip
        if is_told:
            self.told.append({"b_id": job_id})

    def note_hooked(self, event: Hooked) -> None:
        """Note that the hooks were called with a job."""
        self.hooked.append({"b_pool": self._pool, "b_id": to_text(event.job_id)})

    def checkpoint(self, event: Checkpoint) -> None:
        """Keep a job's last checkpoint."""
        job_id = to_text(event.job_id)
        self.checkpoints[job_id] = {"b_id": job_id, "b_saved_at": event.saved_at, "b_data": event.data}

    def free(self, event: Free) -> None:
        """Let a job wait in the store, without an owner."""
        raw_id, attempt, account = event
        job_id = to_text(raw_id)
        if account is not None:
            self._record_attempt(job_id, attempt, account)
        self._withdraw(job_id, None)
        freed = self.freed if account is None else self.interrupted
        freed[job_id] = {"b_id": job_id, "b_attempt": attempt}

    def _withdraw(self, job_id: str, started_at: float | None) -> float | None:
        """Drop earlier changes of a job, which a later one replaces; return its first start, or `started_at`."""
        before = self.running.pop(job_id, None), self.retrying.pop(job_id, None)
        known = [change["b_started_at"] for change in before if change is not None]
        return next((moment for moment in known if moment is not None), started_at)

    def _record_attempt(self, job_id: str, attempt: int, account: Mapping[str, Any]) -> None:
        known = self.attempts.get((job_id, attempt), _UNKNOWN)
        if known["ended_at"] is not None:
            return
        row = self.attempts[job_id, attempt] = {**known, "job_id": job_id, "attempt": attempt}
        row.update((name, value) for name, value in account.items() if value is not None)
        for name in _TEXTS:
            if row[name] is not None:
                row[name] = clean(row[name])


def _usage(details: bytes) -> dict[str, Any]:
    """Return the resources that an attempt took, as its worker has measured them, and the traceback of one that raised."""
    if b'"cpu_seconds"' not in details and b'"traceback"' not in details:
        return {}
    values = json.loads(details)
    usage = {name: values[name] for name in ("cpu_seconds", "peak_bytes") if isinstance(values.get(name), int | float)}
    if traceback := values.get("traceback"):
        usage["traceback"] = limit_text(str(traceback), _MAX_TRACEBACK_BYTES)
    return usage
