"""Answers to the questions of a supervisor about stored jobs, from within the open transaction."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import select, update

from procjobs.clock import wall
from procjobs.errors import UnknownJob
from procjobs.shared.ids import from_text, to_text
from procjobs.shared.meta import unpack_meta
from procjobs.shared.recorder_wire import (
    LOADED,
    WINDOW,
    Cancel,
    DropSchedule,
    Event,
    Find,
    Fire,
    Hooks,
    Load,
    NoteSchedule,
    PutSchedule,
    RecorderFrame,
    Repeat,
    Schedules,
    Submit,
    Sweep,
)
from procjobs.shared.scheduled import pack_origin
from procjobs.shared.states import FINAL, JobState
from procjobs.shared.wire import U32
from procjobs.store import hook_marks, rescue, schedule_rows
from procjobs.store.database import slices
from procjobs.store.frames import forgotten_frame, has_data
from procjobs.store.journal import Journal, read_whole
from procjobs.store.repetition import repeat
from procjobs.store.schema import checkpoints, jobs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection, RowMapping

    from procjobs.store.claim import Claim

SCHEDULING: Final = frozenset({PutSchedule, DropSchedule, NoteSchedule, Fire, Schedules})
"""The events of schedules, acted on in their order: each depends on those before it, also on those that ask nothing."""
QUESTIONS: Final = frozenset({Find, Cancel, Sweep, Load, Repeat, Hooks})
_STATES: Final = {state.text: state for state in JobState}
_ENDED: Final = {state.text for state in FINAL}


class Answer(NamedTuple):
    """A frame to be sent after the commit; `data` goes with it, in a memory file."""

    kind: RecorderFrame
    body: bytes
    data: bytes | None = None


class Questions:
    """Answers the questions of the supervisor that has the claim."""

    def __init__(self, claim: Claim, journal: Journal) -> None:
        self._pool = claim.pool
        self._claim = claim
        self._journal = journal

    def answer(self, connection: Connection, question: Event) -> list[Answer]:
        """Return the frames that answer one of QUESTIONS."""
        match question:
            case Find():
                swept = [] if self._knows(connection, question.job_id) else self.sweep_outbox(connection)
                return [*swept, self._find(connection, question.job_id)]
            case Cancel():
                known, cancelled = cancel(connection, self._claim, to_text(question.job_id))
                return [_told({"token": question.token, "known": known, "cancelled": cancelled})]
            case Repeat():
                told = repeat(connection, self._claim, to_text(question.job_id), to_text(question.new_id))
                return [_told({"token": question.token, **told}), Answer(RecorderFrame.WINDOW, WINDOW.pack(0.0))]
            case Hooks():
                told = hook_marks.load(connection, self._pool, question.max_jobs)
                return [_told({"token": question.token, **told})]
            case Sweep():
                return self.sweep_outbox(connection)
            case Load():
                return self._load(connection, question)
        raise TypeError(f"{question!r} asks nothing")

    def schedule(self, connection: Connection, event: Event, fd: int | None) -> list[Answer]:
        """Act on one of SCHEDULING, of which `fd` has the large part of the arguments; return the frames that answer it."""
        match event:
            case PutSchedule():
                kind = self._journal.keep_kind(connection, event.kind)
                data = None if fd is None else read_whole(fd)
                told = schedule_rows.put(connection, self._pool, event, kind, data)
            case DropSchedule():
                told = {"known": schedule_rows.drop(connection, self._pool, event.name)}
            case Fire():
                told = schedule_rows.fire(connection, self._claim, event)
            case Schedules():
                told = schedule_rows.find_all(connection, self._pool, event.after)
            case NoteSchedule():
                schedule_rows.note(connection, self._pool, event)
                return []
            case _:
                raise TypeError(f"{event!r} is about no schedule")
        answers = [_told({"token": event.token, **told})]
        return [*answers, Answer(RecorderFrame.WINDOW, WINDOW.pack(0.0))] if told.get("made") else answers

    def answer_resubmissions(self, connection: Connection, known: Mapping[str, Mapping[str, Any]]) -> list[Answer]:
        """Return frames about the submissions that are in the store already; `known` has their rows, by job id."""
        answers: list[Answer] = []
        for job_id, row in known.items():
            if row["owner"] == self._claim.owner:
                continue  # written by a recorder that was killed before it could send COMMITTED
            if row["pool"] != self._pool:
                text = f"job {job_id} is in the store already, as one of pool {row['pool']}"
                answers.append(Answer(RecorderFrame.REFUSED, from_text(job_id) + text.encode()))
            elif row["state"] in _ENDED:
                answers.append(self._find(connection, from_text(job_id)))
            else:
                values = {name: row[name] for name in ("attempt", "cut_off", "crashes")}
                answers += find_checkpoints(connection, [job_id])
                answers.append(Answer(RecorderFrame.HELD, from_text(job_id) + json.dumps(values).encode()))
        return answers

    def sweep_outbox(self, connection: Connection) -> list[Answer]:
        """Make jobs of the outbox; return the frame that has the supervisor load them, if there are any."""
        return [Answer(RecorderFrame.WINDOW, WINDOW.pack(0.0))] if self._journal.sweep_outbox(connection) else []

    def _knows(self, connection: Connection, job_id: bytes) -> bool:
        return connection.scalar(select(jobs.c.id).where(jobs.c.id == to_text(job_id))) is not None

    def _find(self, connection: Connection, job_id: bytes) -> Answer:
        columns = jobs.c.state, jobs.c.finished_at, jobs.c.answer, jobs.c.answer_data
        of_pool = (jobs.c.id == to_text(job_id)) & (jobs.c.pool == self._pool)
        row = connection.execute(select(*columns).where(of_pool)).first()
        frame, data = b"", None
        if row is not None and row.finished_at is not None:
            frame, data = row.answer or forgotten_frame(job_id), row.answer_data
            if data is None and has_data(frame):
                frame = forgotten_frame(job_id)
        text = json.dumps({"state": None if row is None else int(_STATES[row.state])}).encode()
        body = job_id + U32.pack(len(text)) + text + frame
        return Answer(RecorderFrame.FOUND, body, data if frame and has_data(frame) else None)

    def _load(self, connection: Connection, wanted: Load) -> list[Answer]:
        rows, seconds = rescue.load(connection, self._claim, wanted)
        saved = find_checkpoints(connection, [row["id"] for row in rows])
        return [*saved, *map(_loaded, rows), Answer(RecorderFrame.WINDOW, WINDOW.pack(seconds))]


def find_checkpoints(connection: Connection, job_ids: list[str]) -> list[Answer]:
    """Return a frame for each of these jobs that has a checkpoint."""
    found: list[Answer] = []
    for part in slices(job_ids):
        of_these = select(checkpoints.c.job_id, checkpoints.c.data).where(checkpoints.c.job_id.in_(part))
        found += [Answer(RecorderFrame.RESTORE, from_text(row.job_id), row.data) for row in connection.execute(of_these)]
    return found


def refuse(event: Event, text: str) -> list[Answer]:
    """Return the frame that tells the supervisor of an event that the database does not take, where it waits for one."""
    if isinstance(event, Submit):
        return [Answer(RecorderFrame.REFUSED, event.job_id + text.encode())]
    if isinstance(event, PutSchedule | DropSchedule | Fire | Schedules):
        return [_told({"token": event.token, "problem": text})]
    return []


def _told(values: dict[str, Any]) -> Answer:
    return Answer(RecorderFrame.TOLD, json.dumps(values, ensure_ascii=False).encode(errors="replace"))


def _extras_of(row: RowMapping) -> tuple[bytes, bytes]:
    """Return the meta of a job and the id of the one that it repeats, without what is none: others may write there."""
    try:
        unpack_meta(row["meta"])
        return (row["meta"] or "").encode(), from_text(row["retry_of"]) if row["retry_of"] else b""
    except (ValueError, UnknownJob):
        return b"", b""


def _origin_of(row: RowMapping) -> tuple[bytes, int]:
    """Return the name of the schedule that has made a job, and for which moment; nothing for what is none."""
    try:
        return pack_origin(row["schedule"], row["scheduled_for"])
    except ValueError:
        return b"", 0


def _loaded(row: RowMapping) -> Answer:
    key, description, function, call = row["key"] or b"", row["description"], row["function"], row["call"] or b""
    meta, retry_of = _extras_of(row)
    schedule, moment = _origin_of(row)
    head = LOADED.pack(
        from_text(row["id"]), row["attempt"], row["cut_off"], row["crashes"], row["submitted_at"], row["not_before"] or 0.0,
        row["expires_at"] or 0.0, retry_of, moment, len(key), len(meta), len(schedule), len(description), len(function),
    )  # fmt: skip
    return Answer(RecorderFrame.LOADED, b"".join((head, key, meta, schedule, description, function, call)), row["call_data"])


def cancel(connection: Connection, claim: Claim, job_id: str) -> tuple[bool, bool]:
    """Cancel a job that waits in the database alone; return whether there is such a job, and whether it was cancelled.

    A job that its supervisor has in memory gets a note, which `rescue.take_over` obeys if that one is killed before it can
    end the job.
    """
    of_pool = (jobs.c.id == job_id) & (jobs.c.pool == claim.pool)
    unfinished = of_pool & jobs.c.finished_at.is_(None)
    waits = update(jobs).where(unfinished, jobs.c.owner == "")
    if connection.execute(waits.values(rescue.cancelled(job_id, "before it ran", wall()))).rowcount:
        return True, True
    mine = (jobs.c.owner == claim.owner) & (jobs.c.epoch == claim.epoch)
    connection.execute(update(jobs).where(unfinished, mine).values(reason=rescue.CANCELLED))
    return connection.execute(select(jobs.c.id).where(of_pool)).first() is not None, False
