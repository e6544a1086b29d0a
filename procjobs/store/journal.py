"""Events of a supervisor as rows: `collect` and `write` take a batch into the database, within the transaction that is open.

1. To write an event again changes nothing. If a recorder is killed between a commit and its COMMITTED, its successor gets
   the same events again.
2. A row is changed only by its owner, under the epoch of its claim, and only while its job has not ended. An event that
   finds no such row, and was not written before, is fenced: the job is not this supervisor's any more, which is told so.
3. A submission that is to be the only one of its key is stored if no other job has the key, in the same transaction.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, select, update

from procjobs.clock import wall
from procjobs.errors import UnknownJob
from procjobs.shared.ids import from_text
from procjobs.shared.meta import unpack_meta
from procjobs.shared.recorder_wire import Checkpoint, End, EventWithFd, Free, Hooked, Kind, Retry, Start, Submit
from procjobs.store.changes import Changes, StoredKind
from procjobs.store.database import SLICE, slices
from procjobs.store.schema import jobs, outbox
from procjobs.store.statements import prepare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection, RowMapping

    from procjobs.store.claim import Claim


class Journal:
    """Writes the events of the supervisor that has the claim."""

    def __init__(self, claim: Claim) -> None:
        self._pool = claim.pool
        self._claim = claim
        self._kinds: dict[int, StoredKind] = {}

    def learn_kind(self, event: Kind) -> None:
        """Remember the meaning of a number in later events."""
        self._kinds[event.number] = StoredKind(self._pool, event.description, event.function)

    @property
    def known_kinds(self) -> set[int]:
        """The numbers of the kinds that are remembered."""
        return set(self._kinds)

    def forget_kinds(self, numbers: set[int]) -> None:
        """Drop kinds that no event refers to any more."""
        for number in numbers:
            self._kinds.pop(number, None)

    def forget_stored_kinds(self) -> None:
        """Write every kind again when it is needed: the transaction that had written it may not have been committed."""
        for kind in self._kinds.values():
            kind.is_stored = False

    def keep_kind(self, connection: Connection, number: int) -> StoredKind:
        """Return the kind of a number, which is in the database after this."""
        kind = self._kinds[number]
        if not kind.is_stored:
            prepare(connection.dialect).add_kinds.execute(connection, [self._row_of(kind)])
            kind.is_stored = True
        return kind

    def _no_changes(self) -> Changes:
        return Changes(self._pool, self._claim.owner, self._claim.epoch)

    def collect(self, events: list[EventWithFd]) -> Changes:
        """Return the rows that events lead to."""
        changes = self._no_changes()
        for event, fd in events:
            if isinstance(event, Submit):
                changes.submit(event, self._kinds[event.kind], None if fd is None else read_whole(fd))
            elif isinstance(event, End):
                changes.end(event, None if fd is None else read_whole(fd))
            elif isinstance(event, Start):
                changes.start(event)
            elif isinstance(event, Retry):
                changes.retry(event)
            elif isinstance(event, Free):
                changes.free(event)
            elif isinstance(event, Checkpoint):
                changes.checkpoint(event)
            elif isinstance(event, Hooked):
                changes.note_hooked(event)
        return changes

    def write(self, connection: Connection, changes: Changes) -> list[str]:
        """Write the collected rows; return the ids of jobs that are not this supervisor's any more.

        Raise IntegrityError where a job is in the store already.
        """
        statements = prepare(connection.dialect)
        statements.add_kinds.execute(connection, [self._row_of(kind) for kind in changes.kinds])
        statements.add_jobs.execute(connection, changes.jobs)
        statements.record_attempts.execute(connection, list(changes.attempts.values()))
        mine = {"b_owner": self._claim.owner, "b_epoch": self._claim.epoch}
        if changes.told:  # before the ends of these jobs, which nobody owns any more
            statements.mark_hooks.execute(connection, [{**row, **mine} for row in changes.told])
        statements.unmark_hooks.execute(connection, changes.hooked)
        if changes.checkpoints:  # this, too
            saved = [{**row, **mine} for row in changes.checkpoints.values()]
            statements.save_checkpoint.execute(connection, [row for row in saved if row["b_data"]])
            statements.drop_checkpoint.execute(connection, [row for row in saved if not row["b_data"]])
        fenced: list[str] = []
        for statement, rows in (
            (statements.set_running, changes.running), (statements.set_retrying, changes.retrying),
            (statements.set_ended, changes.ended), (statements.set_free, changes.freed),
            (statements.set_interrupted, changes.interrupted),
        ):  # fmt: skip
            changed = statement.execute(connection, [{**row, **mine} for row in rows.values()])
            if changed != len(rows):
                fenced += self._find_fenced(connection, rows, is_free=rows is changes.freed or rows is changes.interrupted)
        return fenced

    def _find_fenced(self, connection: Connection, rows: Mapping[str, Mapping[str, Any]], *, is_free: bool) -> Iterator[str]:
        """Yield those of these jobs whose rows are not as this supervisor has written them, now or an earlier time."""
        columns = jobs.c.id, jobs.c.owner, jobs.c.epoch, jobs.c.finished_at
        for part in slices(list(rows)):
            found = {row.id: row for row in connection.execute(select(*columns).where(jobs.c.id.in_(part)))}
            for job_id in part:
                row = found.get(job_id)
                if row is None or not self._is_own(row, is_free=is_free):
                    yield job_id

    def _is_own(self, row: Any, *, is_free: bool) -> bool:
        """Return whether this supervisor has written a row that its event did not change: it has ended, or was freed."""
        has_left = row.finished_at is not None or (is_free and not row.owner)
        return row.epoch == self._claim.epoch and (row.owner == self._claim.owner or has_left)

    def _row_of(self, kind: StoredKind) -> dict[str, Any]:
        return {
            "digest": kind.digest, "pool": self._pool, "name": kind.name, "description": kind.description,
            "function": kind.function,
        }  # fmt: skip

    def claim_known(self, connection: Connection, changes: Changes) -> dict[str, dict[str, Any]]:
        """Take those submissions out of the changes that are in the store already; return its rows of them, by job id.

        A job that waits there without an owner is this supervisor's from now on.
        """
        found: dict[str, dict[str, Any]] = {}
        ids = [row["id"] for row in changes.jobs]
        columns = jobs.c.id, jobs.c.pool, jobs.c.owner, jobs.c.state, jobs.c.attempt, jobs.c.cut_off, jobs.c.crashes
        for part in slices(ids):
            rows = connection.execute(select(*columns).where(jobs.c.id.in_(part)))
            found.update((row["id"], dict(row)) for row in rows.mappings())
        changes.jobs = [row for row in changes.jobs if row["id"] not in found]
        waiting = [{"b_id": job_id} for job_id, row in found.items() if not row["owner"] and row["pool"] == self._pool]
        if waiting:
            take = update(jobs).where(jobs.c.id == bindparam("b_id"), jobs.c.finished_at.is_(None))
            connection.execute(take.values(owner=self._claim.owner, epoch=self._claim.epoch), waiting)
        return found

    def take_out_duplicates(self, connection: Connection, changes: Changes) -> dict[str, str]:
        """Take those submissions out of the changes whose keys other jobs have; return the ids of these, by theirs."""
        duplicates: dict[str, str] = {}
        added: dict[bytes, str] = {}
        for row in changes.jobs:
            if row["unique_until"] is None:
                continue
            holder = added.get(row["key"]) or find_holder(connection, self._pool, row["key"], row["id"])
            if holder is None:
                added[row["key"]] = row["id"]
            else:
                duplicates[row["id"]] = holder
        if duplicates:
            changes.jobs = [row for row in changes.jobs if row["id"] not in duplicates]
        return duplicates

    def sweep_outbox(self, connection: Connection) -> int:
        """Make jobs of everything that transactions of users have left in the outbox; return the number of its rows."""
        count = 0
        while True:
            chosen = select(outbox).where(outbox.c.pool == self._pool).order_by(outbox.c.id).limit(SLICE)
            rows = connection.execute(chosen).mappings().all()
            changes = self._no_changes()
            for row, kind in self._new_jobs(connection, rows):
                changes.submit_from_outbox(dict(row), kind)
            self.write(connection, changes)
            if rows:
                connection.execute(delete(outbox).where(outbox.c.id.in_([row["id"] for row in rows])))
            count += len(rows)
            if len(rows) < SLICE:
                return count

    def _new_jobs(self, connection: Connection, rows: Sequence[RowMapping]) -> Iterator[tuple[RowMapping, StoredKind]]:
        """Yield the rows of the outbox that can become jobs. One that cannot must not keep the others there."""
        known = set(connection.scalars(select(jobs.c.id).where(jobs.c.id.in_([row["id"] for row in rows]))))
        for row in rows:
            try:
                from_text(row["id"])
                kind = StoredKind(self._pool, row["description"], row["function"])
                unpack_meta(row["meta"])
            except (UnknownJob, LookupError, TypeError, ValueError) as error:
                text = f"row {row['id']!r:.100} of {outbox.name} describes no job, and is dropped: {error!r}"
                print(f"recorder: {text}", flush=True)  # noqa: T201 - to the pool's log
            else:
                if row["id"] not in known:
                    yield row, kind


def find_holder(connection: Connection, pool: str, key: bytes, but: str) -> str | None:
    """Return the id of another job that has a key for itself: it has not ended, or its time is not over."""
    holds = jobs.c.finished_at.is_(None) | (jobs.c.unique_until > wall())
    of_key = (jobs.c.pool == pool) & (jobs.c.key == key) & jobs.c.unique_until.is_not(None) & (jobs.c.id != but)
    return connection.scalar(select(jobs.c.id).where(of_key & holds).order_by(jobs.c.id.desc()).limit(1))


def read_whole(fd: int) -> bytes:
    """Return the contents of a memory file, whose position others may have moved."""
    size, parts, position = os.fstat(fd).st_size, [], 0
    while position < size and (part := os.pread(fd, size - position, position)):
        parts.append(part)
        position += len(part)
    return b"".join(parts)
