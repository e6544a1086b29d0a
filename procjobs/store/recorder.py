"""The recorder: the one process of a pool that talks to its database.

1. It is a fresh interpreter with one thread, and the only process of the pool that imports SQLAlchemy.
2. It does what the supervisor says over one socketpair, in that order, and what has arrived together in one transaction.
3. It says COMMITTED after the commit, never before. What it was not said to have, it is sent again, if need be by a
   successor of this process; so every write can be done twice.
4. A database that is away, locked or full is told to the supervisor and tried again, with pauses that grow; meanwhile
   nothing more is read, and what is waiting is the supervisor's to bound.
5. It ends when the supervisor's end of the socketpair is closed, after it has committed all that had arrived: what a
   killed supervisor had said before its death counts. No signal ends it but SIGKILL.
"""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
import traceback
from collections import deque
from typing import Any, Final

from sqlalchemy import select as select_rows
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from procjobs.clock import monotonic
from procjobs.errors import StoreUnavailable
from procjobs.host import payload, process
from procjobs.shared import wire
from procjobs.shared.ids import from_text, to_text
from procjobs.shared.recorder_wire import (
    LOADED,
    WINDOW,
    BatchReader,
    Cancel,
    Event,
    Find,
    Forget,
    Key,
    Kind,
    Load,
    Open,
    RecorderFrame,
    Submit,
    Sweep,
)
from procjobs.shared.states import JobState
from procjobs.shared.wire import HEADER, Outcome, finished_frame
from procjobs.store import rescue
from procjobs.store.changes import Changes
from procjobs.store.database import Claim, explain, open_engine
from procjobs.store.journal import Journal
from procjobs.store.schema import jobs, migrate

SOCKET_FD: Final = 3
_READ_BYTES: Final = 256 * 1024
_FD_SPACE: Final = socket.CMSG_SPACE(253 * 4)
_MAX_EVENTS: Final = 4000
"""About how many events one transaction takes: so many take some 0.1 s."""
_MANY_EVENTS: Final = 32
_GATHER_SECONDS: Final = 0.003
_SHORTEST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0
_FAREWELL_SECONDS: Final = 5.0
"""How long a recorder whose supervisor has gone tries to reach a database that is away."""
_SWEEP_SECONDS: Final = 5.0
"""How often the outbox is looked into: what nobody has told of was left by a process that died after its commit."""
_DROP_SECONDS: Final = 30.0
_DROP_KINDS_SECONDS: Final = 3600.0
"""Functions are dropped less often than jobs: it takes a look at every job."""
_NOT_TAKEN: Final = (IntegrityError, DataError, LookupError, TypeError, ValueError)
"""What events raise that are known, that a database does not take, or that are nonsense by a bug: one such event must
not keep all others out of the database for ever."""
_STATE_TEXTS: Final = {state.text: state for state in JobState}


Numbered = tuple[list[tuple[Event, int | None]], int]
"""Events with their descriptors, and the number of the last one."""


class SupervisorLink:
    """The socket to the supervisor."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._reader = BatchReader()
        self._fds: deque[int] = deque()
        self.has_ended = False

    def read(self, timeout: float | None, *, is_busy: bool = False) -> list[Numbered]:
        """Return the batches that have arrived, waiting for the first one; none when time is out or all has ended.

        While much is going on, a moment is waited for others to come along: a transaction costs as much as ten of its jobs.
        """
        found: list[Numbered] = []
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        count = 0
        while not self.has_ended and count < _MAX_EVENTS and poll.poll(0 if found else _milliseconds(timeout)):
            self._receive()
            while (batch := self._reader.next()) is not None:
                events, last, has_descriptor = batch
                fds: list[int | None] = [None] * len(events)
                if has_descriptor:
                    fds[-1] = self._fds.popleft()
                found.append((list(zip(events, fds, strict=True)), last))
                count += len(events)
            if not found and timeout is not None:
                break
            if is_busy:
                is_busy = False
                self.wait_for_end(_GATHER_SECONDS)
        return found

    def _receive(self) -> None:
        try:
            data, ancillary, _, _ = self.socket.recvmsg(_READ_BYTES, _FD_SPACE, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:  # it was killed with something of ours unread: what it had said before is still there
            return
        for _, _, content in ancillary:
            self._fds.extend(array.array("i", content[: len(content) // 4 * 4]))
        self._reader.feed(data)
        self.has_ended = not data

    def wait_for_end(self, seconds: float) -> bool:
        """Wait so long, or until the supervisor has gone; return whether it has."""
        poll = select.poll()
        poll.register(self.socket, 0)  # POLLHUP alone: what there is to read has to wait
        return bool(poll.poll(seconds * 1000))

    def say(self, kind: RecorderFrame, body: bytes, fd: int | None = None) -> None:
        """Send a frame; where the supervisor has gone, nobody misses it."""
        data = wire.HEADER.pack(wire.HEADER.size + len(body), kind, fd is not None, 0) + body
        try:
            if fd is None:
                self.socket.sendall(data)
            else:
                sent = socket.send_fds(self.socket, [data], [fd])
                self.socket.sendall(data[sent:])
        except (BrokenPipeError, ConnectionResetError):
            self.has_ended = True
        finally:
            if fd is not None:
                os.close(fd)


def _milliseconds(timeout: float | None) -> float | None:
    return None if timeout is None else max(timeout, 0.0) * 1000


Answer = tuple[RecorderFrame, bytes, "bytes | None"]
"""A frame that is to be said after the commit, and what goes into a memory file with it."""


class Recorder:
    """Takes batches, writes them, says what was committed."""

    def __init__(self, link: SupervisorLink, settings: Open) -> None:
        self._link = link
        self._settings = settings
        self._engine = None
        self._connection: Connection | None = None
        self._claim = Claim(settings.url, settings.pool)
        self._journal = Journal(settings.pool, settings.owner)
        self._is_first = settings.is_first
        self._is_busy = False
        self._is_opened = False
        self._problem: str | None = None  # nothing has been said yet
        self._gives_up_at: float | None = None
        self._sweeps_at = self._drops_at = self._drops_kinds_at = 0.0

    def run(self, batches: list[Numbered]) -> None:
        """Serve until the supervisor has gone, and what it had said is written; `batches` came with the first one."""
        if not self._persist(lambda _: []):
            return
        while True:
            batches = batches or self._link.read(max(self._sweeps_at - monotonic(), 0.0), is_busy=self._is_busy)
            if batches:
                events = [pair for numbered, _ in batches for pair in numbered]
                self._is_busy = len(events) >= _MANY_EVENTS
                if not self._take(events):
                    return
                self._link.say(RecorderFrame.COMMITTED, wire.U64.pack(batches[-1][1]))
                batches = []
            elif self._link.has_ended:
                return
            if monotonic() >= self._sweeps_at:
                self._sweep()

    def close(self) -> None:
        """Give the database up."""
        self._disconnect()
        self._claim.close()

    def _take(self, events: list[tuple[Event, int | None]]) -> bool:
        """Write events and answer questions; return False where the supervisor has gone and the database cannot be had."""
        forgotten: set[int] = set()  # after this, for events that came before may refer to them
        for event, _ in events:
            if isinstance(event, Kind):
                self._journal.learn_kind(event)
                forgotten.discard(event.number)
            elif isinstance(event, Forget):
                forgotten = self._journal.known_kinds
        try:
            return self._persist(lambda connection: self._apply(connection, events))
        finally:
            self._journal.forget_kinds(forgotten)
            for _, fd in events:
                if fd is not None:
                    os.close(fd)

    def _apply(self, connection: Connection, events: list[tuple[Event, int | None]]) -> list[Answer]:
        try:
            with connection.begin():
                return self._write(connection, self._journal.collect(events), events)
        except _NOT_TAKEN:
            self._journal.forget_stored_kinds()
        try:
            with connection.begin():
                changes = self._journal.collect(events)
                known = self._journal.claim_known(connection, changes)
                held = self._tell_held(connection, known)
                return held + self._write(connection, changes, events)
        except _NOT_TAKEN:
            self._journal.forget_stored_kinds()
            return self._apply_one_by_one(connection, events)

    def _apply_one_by_one(self, connection: Connection, events: list[tuple[Event, int | None]]) -> list[Answer]:
        """Write events that the database does not take together; what it does not take alone is told and left out."""
        if len(events) > 1:
            return [answer for pair in events for answer in self._apply(connection, [pair])]
        event = events[0][0]
        text = f"the database does not take event {type(event).__name__.upper()}"
        print(f"recorder: {text}: {event!r:.1000}\n{traceback.format_exc()}", flush=True)  # noqa: T201 - to the pool's log
        return [(RecorderFrame.REFUSED, event.job_id + text.encode(), None)] if isinstance(event, Submit) else []

    def _write(self, connection: Connection, changes: Changes, events: list[tuple[Event, int | None]]) -> list[Answer]:
        self._journal.write(connection, changes)
        answers: list[Answer] = []
        for event, _ in events:
            if isinstance(event, Find):
                answers.append(self._find(connection, event.job_id))
            elif isinstance(event, Cancel):
                known, cancelled = rescue.cancel(connection, self._settings.pool, to_text(event.job_id))
                told = {"token": event.token, "known": known, "cancelled": cancelled}
                answers.append((RecorderFrame.TOLD, json.dumps(told).encode(), None))
            elif isinstance(event, Key):
                holder = rescue.find_holder(connection, self._settings.pool, event.key)
                answers.append((RecorderFrame.TOLD, json.dumps({"token": event.token, "id": holder}).encode(), None))
            elif isinstance(event, Sweep):
                answers += self._sweep_outbox(connection)
            elif isinstance(event, Load):
                answers += self._load(connection, event)
        return answers

    # What is asked ----------------------------------------------------------------------------------------------

    def _tell_held(self, connection: Connection, known: dict[str, dict[str, Any]]) -> list[Answer]:
        answers: list[Answer] = []
        for job_id, row in known.items():
            if row["owner"] == self._settings.owner:
                continue  # written by a recorder that was killed before it could say so
            if row["pool"] != self._settings.pool:
                text = f"job {job_id} is in the store already, as one of pool {row['pool']}"
                answers.append((RecorderFrame.REFUSED, from_text(job_id) + text.encode(), None))
            elif row["state"] in {"succeeded", "failed", "cancelled", "expired"}:
                answers.append(self._find(connection, from_text(job_id)))
            else:
                told = {name: row[name] for name in ("attempt", "cut_off", "crashes")}
                answers.append((RecorderFrame.HELD, from_text(job_id) + json.dumps(told).encode(), None))
        return answers

    def _find(self, connection: Connection, job_id: bytes) -> Answer:
        columns = jobs.c.state, jobs.c.finished_at, jobs.c.answer, jobs.c.answer_data
        of_pool = (jobs.c.id == to_text(job_id)) & (jobs.c.pool == self._settings.pool)
        row = connection.execute(select_rows(*columns).where(of_pool)).first()
        frame, data = b"", None
        if row is not None and row.finished_at is not None:
            frame, data = row.answer or forgotten_frame(job_id), row.answer_data
            if data is None and has_data(frame):
                frame = forgotten_frame(job_id)
        text = json.dumps({"state": None if row is None else int(_STATE_TEXTS[row.state])}).encode()
        body = job_id + wire.U32.pack(len(text)) + text + frame
        return RecorderFrame.FOUND, body, data if frame and has_data(frame) else None

    def _sweep_outbox(self, connection: Connection) -> list[Answer]:
        return [(RecorderFrame.WINDOW, WINDOW.pack(0.0), None)] if self._journal.sweep_outbox(connection) else []

    def _load(self, connection: Connection, wanted: Load) -> list[Answer]:
        rows, seconds = rescue.load(connection, self._settings.pool, self._settings.owner, wanted)
        answers: list[Answer] = []
        for row in rows:
            key, description, function, call = row["key"] or b"", row["description"], row["function"], row["call"] or b""
            head = LOADED.pack(
                from_text(row["id"]), row["attempt"], row["cut_off"], row["crashes"], row["submitted_at"],
                row["not_before"] or 0.0, row["expires_at"] or 0.0, len(key), len(description), len(function),
            )  # fmt: skip
            answers.append((RecorderFrame.LOADED, b"".join((head, key, description, function, call)), row["call_data"]))
        return [*answers, (RecorderFrame.WINDOW, WINDOW.pack(seconds), None)]

    # The database -----------------------------------------------------------------------------------------------

    def _persist(self, act: Any) -> bool:
        """Do something with the database until it succeeds, and say what it answers; False where that was given up."""
        pause = _SHORTEST_PAUSE
        while True:
            try:
                answers = act(self._connected())
            except (SQLAlchemyError, StoreUnavailable, OSError) as error:
                self._disconnect()
                self._tell(explain(error))
                if self._is_to_give_up(pause):
                    return False
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                self._tell("")
                for kind, body, data in answers:
                    self._link.say(kind, body, None if data is None else _memory_file(data))
                return True

    def _is_to_give_up(self, pause: float) -> bool:
        if not self._link.wait_for_end(0.0 if self._gives_up_at is not None else pause):
            return False
        if self._gives_up_at is None:  # before it was opened nothing can have started, and nobody counts on anything
            self._gives_up_at = monotonic() + (_FAREWELL_SECONDS if self._is_opened else 0.0)
        select.poll().poll(_SHORTEST_PAUSE * 1000)
        return monotonic() >= self._gives_up_at

    def _connected(self) -> Connection:
        if self._connection is not None:
            return self._connection
        settings = self._settings
        engine = open_engine(settings.url)
        self._connection = connection = engine.connect()
        self._claim.take(connection)
        connection.rollback()  # what was asked has begun a transaction
        with connection.begin():
            migrate(connection)
            if not self._is_opened and self._is_first:
                count = rescue.take_over(connection, settings.pool, settings.owner, settings.started_attempts)
                if count:
                    print(f"recorder: {count} runs were cut off when the pool went down", flush=True)  # noqa: T201 - the log
            elif not self._is_opened:
                rescue.give_back_unknown(connection, settings.pool, settings.owner, settings.known_jobs)
        self._is_opened = True
        self._journal.forget_stored_kinds()
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.invalidate()
                connection.close()
            except SQLAlchemyError:
                pass  # it was broken already, which is why it is given up

    def _tell(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self._link.say(RecorderFrame.STATE, json.dumps({"problem": problem}).encode())

    def _sweep(self) -> None:
        """Look into the outbox, drop what is too old or too many; where the database is away, that can wait."""
        self._sweeps_at = monotonic() + _SWEEP_SECONDS
        settings = self._settings
        try:
            connection = self._connected()
            with connection.begin():
                found = self._sweep_outbox(connection)
            for kind, body, _ in found:
                self._link.say(kind, body)
            if monotonic() < self._drops_at:
                return
            self._drops_at = monotonic() + _DROP_SECONDS
            with connection.begin():
                rescue.drop_results(connection, settings.pool, settings.result_ttl)
                if rescue.drop_jobs(connection, settings.pool, settings.history_ttl, settings.history_limit):
                    self._sweeps_at = self._drops_at = monotonic()  # a slice at a time: others have to be written in between
                elif monotonic() >= self._drops_kinds_at:
                    self._drops_kinds_at = monotonic() + _DROP_KINDS_SECONDS
                    rescue.drop_kinds(connection, settings.pool)
                    self._journal.forget_stored_kinds()
        except (SQLAlchemyError, StoreUnavailable, OSError) as error:
            self._disconnect()
            self._tell(explain(error))


def _unknown(job_id: bytes, message: str) -> bytes:
    return finished_frame(job_id, Outcome.VERDICT, 0, 0, 0.0, {"error": "UnknownJob", "message": message})


def forgotten_frame(job_id: bytes) -> bytes:
    """Return the answer about a job whose result was kept for `result_ttl`, and is not any more."""
    return _unknown(job_id, f"the result of job {to_text(job_id)} is not kept any longer (result_ttl)")


def has_data(frame: bytes) -> bool:
    """Return whether a descriptor belongs to a FINISHED frame."""
    return bool(HEADER.unpack_from(frame)[2])


def _memory_file(data: bytes) -> int:
    fd = payload.open_memory_file("/tmp")  # noqa: S108 - where there is no memfd, an unnamed file
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    return fd


def main() -> None:
    """Run a recorder until its supervisor has gone."""
    process.unblock_signals()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a service manager signals all of a service; law 5
    process.set_title("procjobs-record")
    link = SupervisorLink(socket.socket(fileno=SOCKET_FD))
    os.set_inheritable(SOCKET_FD, False)
    while not link.has_ended:
        batches = link.read(None)
        if batches:
            (opening, _), *others = batches[0][0]
            assert isinstance(opening, Open)
            recorder = Recorder(link, opening)
            try:
                recorder.run([(others, 0), *batches[1:]] if others or batches[1:] else [])
            finally:
                recorder.close()
            return
