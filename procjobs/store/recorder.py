"""The recorder: the one process of a pool that talks to its database.

1. It is a fresh interpreter with one thread, and the only process of the pool that imports SQLAlchemy.
2. It acts on the events of its supervisor in their order, which come over one socketpair, and writes all that have arrived
   together in one transaction.
3. It sends COMMITTED after the commit, never before. Events without a COMMITTED are sent again, if need be to a successor of
   this process; so every write can be done twice.
4. While a database is away, locked or full, its supervisor is informed and the transaction is tried again, with pauses that
   grow; nothing more is read meanwhile, and the supervisor bounds the events that wait.
5. It ends when the supervisor's end of the socketpair is closed, after the commit of everything that had arrived: the last
   events of a killed supervisor count. No signal ends it but SIGKILL.
6. It writes only under the claim of its supervisor (procjobs.store.claim). When that is lost it says so, and ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from procjobs.clock import NEVER, monotonic
from procjobs.errors import StoreUnavailable
from procjobs.host import process, titles
from procjobs.shared.ids import from_text
from procjobs.shared.recorder_wire import EventWithFd, Forget, Kind, Open, RecorderFrame, Release
from procjobs.shared.wire import F64, U64
from procjobs.store import rescue, started_attempts
from procjobs.store.changes import Changes
from procjobs.store.claim import Claim, ClaimLost
from procjobs.store.database import explain, open_engine
from procjobs.store.journal import Journal
from procjobs.store.questions import QUESTIONS, SCHEDULING, Answer, Questions, refuse
from procjobs.store.retention import Retention
from procjobs.store.schema import migrate
from procjobs.store.supervisor_link import Batch, SupervisorLink

SOCKET_FD: Final = 3
_BUSY_EVENTS: Final = 32
"""The events of a transaction after which the next one waits a moment for more of them."""
_MIN_PAUSE: Final = 0.05
_MAX_PAUSE: Final = 4.0
"""Shorter than the silence for which a recorder is taken as hanging."""
_FAREWELL_TIMEOUT: Final = 5.0
"""How long a recorder whose supervisor has gone tries to reach a database that is away."""
_SWEEP_INTERVAL: Final = 5.0
"""How often to look into the outbox unasked: a process that dies right after its commit asks for nothing."""
_UNAVAILABLE: Final = (SQLAlchemyError, StoreUnavailable, OSError)
_UNWRITABLE: Final = (IntegrityError, DataError, LookupError, TypeError, ValueError)
"""The errors of events that are in the store already, that a database does not take, or that are nonsense by a bug: one such
event must not keep all others out of the database for ever."""


class Phase(Enum):
    """Where a recorder is in its life."""

    OPENING = auto()
    """Entered at its start. Nothing has been written, so no job can have started and nothing is lost with it.

    Left by the first connection, which claims the store and brings its tables up to date (SERVING), or when the supervisor
    has gone (FAREWELL, which is over at once).
    """
    SERVING = auto()
    """Events are written, questions answered; a database that is away is waited for without end.

    Left when the supervisor has gone while the database is away (FAREWELL).
    """
    FAREWELL = auto()
    """The last events are tried until `_ends_at`: for _FAREWELL_TIMEOUT, if the store was ever opened.

    Left by their commit, or when that time is over: both are the end of the process.
    """


class Recorder:
    """Takes batches, writes them, and sends the number of the last event that was committed."""

    def __init__(self, link: SupervisorLink, settings: Open, file: int | None = None) -> None:
        """`file` is the locked file of an SQLite store, if an earlier recorder of this supervisor has opened it."""
        self._link = link
        self._settings = settings
        self._phase = Phase.OPENING
        self._connection: Connection | None = None
        self._claim = Claim(settings, file)
        self._journal = Journal(self._claim)
        self._questions = Questions(self._claim, self._journal)
        self._retention = Retention(settings, self._claim, self._journal)
        self._is_busy = False
        self._problem: str | None = None  # no STATE has been sent yet
        self._ends_at = NEVER
        self._sweeps_at = 0.0

    def run(self, batches: list[Batch]) -> None:
        """Serve until the supervisor has gone and its last events are written; `batches` came with the first one."""
        try:
            self._serve(batches)
        except ClaimLost as error:
            _log(f"nothing more is written: {error}")
            self._link.send(RecorderFrame.LOST, str(error).encode())

    def _serve(self, batches: list[Batch]) -> None:
        if not self._persist(lambda _: []):
            return
        while True:
            batches = batches or self._link.read(max(self._sweeps_at - monotonic(), 0.0), is_busy=self._is_busy)
            if batches:
                events = [pair for batch in batches for pair in batch.events]
                self._is_busy = len(events) >= _BUSY_EVENTS
                if not self._record(events):
                    return
                self._link.send(RecorderFrame.COMMITTED, U64.pack(batches[-1].last))
                batches = []
            elif self._link.has_ended:
                return
            if monotonic() >= self._sweeps_at:
                self._sweep()

    def close(self) -> None:
        """Give the database up."""
        self._disconnect()
        self._claim.close()

    def _record(self, events: list[EventWithFd]) -> bool:
        """Write events and answer questions; return False if that was given up, because the supervisor has gone."""
        forgotten: set[int] = set()  # after the commit, since the events before FORGET may refer to them
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

    def _apply(self, connection: Connection, events: list[EventWithFd]) -> list[Answer]:
        try:
            with connection.begin():
                self._claim.verify(connection)
                return self._write(connection, self._journal.collect(events), events)
        except _UNWRITABLE:
            self._journal.forget_stored_kinds()
        try:
            with connection.begin():
                self._claim.verify(connection)
                changes = self._journal.collect(events)
                known = self._journal.claim_known(connection, changes)
                answers = self._questions.answer_resubmissions(connection, known)
                return answers + self._write(connection, changes, events)
        except _UNWRITABLE:
            self._journal.forget_stored_kinds()
            return self._apply_one_by_one(connection, events)

    def _apply_one_by_one(self, connection: Connection, events: list[EventWithFd]) -> list[Answer]:
        """Write events that the database does not take together; one that it does not take alone is logged and left out."""
        if len(events) > 1:
            return [answer for pair in events for answer in self._apply(connection, [pair])]
        event = events[0][0]
        text = f"the database does not take event {type(event).__name__.upper()}"
        _log(f"{text}: {event!r:.1000}\n{traceback.format_exc()}")
        return refuse(event, text)

    def _write(self, connection: Connection, changes: Changes, events: list[EventWithFd]) -> list[Answer]:
        duplicates = self._journal.take_out_duplicates(connection, changes)
        answers = [Answer(RecorderFrame.DUPLICATE, from_text(own) + from_text(other)) for own, other in duplicates.items()]
        fenced = self._journal.write(connection, changes)
        answers += [Answer(RecorderFrame.FENCED, from_text(job_id)) for job_id in fenced]
        for event, fd in events:
            if type(event) in QUESTIONS:
                answers += self._questions.answer(connection, event)
            elif type(event) in SCHEDULING:
                answers += self._questions.schedule(connection, event, fd)
            elif isinstance(event, Release):
                self._claim.release(connection)
        return answers

    def _sweep(self) -> None:
        """Renew the claim, look into the outbox, and drop old jobs; all that can wait where the database is away."""
        now = monotonic()
        self._sweeps_at = now + _SWEEP_INTERVAL
        try:
            connection = self._connected()
            with connection.begin():
                self._claim.verify(connection)
                lease = self._claim.renew(connection)
                answers = self._questions.sweep_outbox(connection)
            self._check_file()
            self._send_lease(lease)
            self._send(answers)
            if self._retention.drop(connection, now):
                self._sweeps_at = now  # events that have arrived are written in between
        except _UNAVAILABLE as error:
            self._disconnect()
            self._report(explain(error, self._settings.url))

    def _send_lease(self, lease: float | None) -> None:
        if lease is not None:
            self._link.send(RecorderFrame.LEASE, F64.pack(lease))

    def _check_file(self) -> None:
        if self._claim.file is not None:
            self._claim.file.check()

    def _persist(self, act: Callable[[Connection], list[Answer]]) -> bool:
        """Do something with the database until it succeeds, and send its answers; return False if that was given up."""
        pause = _MIN_PAUSE
        while True:
            try:
                answers = act(self._connected())
                self._check_file()
            except _UNAVAILABLE as error:
                self._disconnect()
                self._claim.note_failure(error)
                self._report(explain(error, self._settings.url))
                if self._is_to_give_up(pause):
                    return False
                pause = min(pause * 2, _MAX_PAUSE)
            else:
                self._report("")
                self._send(answers)
                return True

    def _is_to_give_up(self, pause: float) -> bool:
        """Wait before the database is tried again; return whether it is not, because the supervisor has gone."""
        if self._phase is not Phase.FAREWELL:
            if not self._link.wait_for_end(pause):
                self._report(self._problem or "")
                return False
            self._ends_at = monotonic() + (_FAREWELL_TIMEOUT if self._phase is Phase.SERVING else 0.0)
            self._phase = Phase.FAREWELL
        select.poll().poll(_MIN_PAUSE * 1000)
        return monotonic() >= self._ends_at

    def _connected(self) -> Connection:
        if self._connection is not None:
            return self._connection
        claim = self._claim
        if claim.file is not None:
            claim.file.lock()
        self._connection = connection = open_engine(self._settings.url).connect()
        epoch = claim.epoch
        try:
            with connection.begin():
                migrate(connection)
                is_new = claim.take(connection)
                lease = claim.renew(connection)
                if is_new:
                    self._take_over(connection)
                elif self._phase is Phase.OPENING:
                    rescue.requeue_unknown(connection, claim, self._settings.known_jobs)
        except BaseException:
            claim.epoch = epoch
            raise
        if is_new:
            self._link.send(RecorderFrame.CLAIMED, U64.pack(claim.epoch), claim.file.fd if claim.file is not None else None)
        self._send_lease(lease)
        if self._phase is Phase.OPENING:
            self._phase = Phase.SERVING
        self._journal.forget_stored_kinds()
        return connection

    def _take_over(self, connection: Connection) -> None:
        started = started_attempts.merge(self._settings.started_attempts, self._claim.started_attempts)
        count = rescue.take_over(connection, self._claim, started, has_hooks=self._settings.has_hooks)
        if count:
            _log(f"{count} attempts were interrupted when the pool went down")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.invalidate()
                connection.close()
            except SQLAlchemyError:
                pass  # it was broken already, which is why it is given up

    def _send(self, answers: list[Answer]) -> None:
        for kind, body, data in answers:
            if data is None:
                self._link.send(kind, body)
            else:
                self._link.send_data(kind, body, data)

    def _report(self, problem: str) -> None:
        """Tell the state of the database; a problem each time, which shows that this process does not hang."""
        if problem or problem != self._problem:
            self._problem = problem
            self._link.send(RecorderFrame.STATE, json.dumps({"problem": problem}).encode())


def _log(text: str) -> None:
    print(f"recorder: {text}", flush=True)  # noqa: T201 - to the pool's log


def main() -> None:
    """Run a recorder until its supervisor has gone."""
    process.unblock_signals()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a service manager signals all of a service; law 5
    process.set_title("procjobs-record")
    titles.show_title("procjobs: recorder")
    link = SupervisorLink(socket.socket(fileno=SOCKET_FD))
    os.set_inheritable(SOCKET_FD, False)
    while not link.has_ended:
        batches = link.read(None)
        if batches:
            ((opening, file), *others), last = batches[0]
            assert isinstance(opening, Open)
            titles.show_title(f"procjobs: recorder of {opening.pool}")
            recorder = Recorder(link, opening, file)
            try:
                recorder.run([Batch(others, last), *batches[1:]] if others or batches[1:] else [])
            finally:
                recorder.close()
            return
