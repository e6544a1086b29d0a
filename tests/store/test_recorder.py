"""A recorder by itself, at the other end of a socketpair: events go in, frames come out."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from procjobs.host.identity import identify
from procjobs.shared import wire
from procjobs.shared.config import JobOptions
from procjobs.shared.ids import new_id, to_text
from procjobs.shared.recorder_wire import (
    End,
    Find,
    Forget,
    Kind,
    Load,
    Open,
    RecorderFrame,
    Retry,
    Start,
    Submit,
    pack_batch,
)
from procjobs.shared.states import JobState
from procjobs.store.database import open_engine
from procjobs.store.recorder import Recorder
from procjobs.store.supervisor_link import Batch, SupervisorLink

KIND = json.dumps({"name": "work", "options": {"priority": JobOptions().priority}}).encode()


def opening(store, owner="me", epoch=0, known=(), pool="pool", holder=None):
    """Return the event that a supervisor begins with, one that has ended since unless another `holder` is given."""
    ended = {**identify(os.getpid())._asdict(), "started": 1}
    holder = holder or {**ended, "mark": "0" * 32, "directory": ["/nonexistent", "pool"]}
    return Open(store.url, pool, owner, 3600.0, 86_400.0, 1000, json.dumps(holder), epoch, list(known), {})


def record(store, *events, **settings):
    """Let a recorder take these events in one batch; return (kind, body) of each frame that it has sent."""
    ours, theirs = socket.socketpair()
    ours.shutdown(socket.SHUT_WR)
    recorder = Recorder(SupervisorLink(theirs), opening(store, **settings))
    try:
        recorder.run([Batch([(event, None) for event in events], len(events))])
    finally:
        recorder.close()
        theirs.close()
    with ours, ours.makefile("rb") as stream:
        return [(kind, raw[wire.BODY :]) for kind, raw, _ in wire.FrameReader().feed(stream.read())]


def epoch(store, pool="pool"):
    """Return the epoch of the claim that is there."""
    ((found,),) = store.rows("SELECT epoch FROM procjobs_claims WHERE pool = :pool", pool=pool)
    return found


def submission(job_id):
    return Submit(job_id, 1, b"call", False, time.time(), 0.0, 0.0, b"", None)


def test_nonsense_is_left_out_and_keeps_nothing_else_out(store, capfd):
    first, second = new_id(), new_id()
    events = Kind(1, KIND, b""), submission(first), Retry(first, 1, {}, 0.0), submission(second)
    sent = record(store, *events)
    assert (RecorderFrame.COMMITTED, wire.U64.pack(4)) == sent[-1]
    assert {"queued": 2} == store.states()
    assert "does not take event RETRY" in capfd.readouterr().out


def test_every_event_can_be_sent_twice(store):
    job_id = new_id()
    frame = wire.finished_frame(job_id, wire.Outcome.RETURNED, 0, 1, 0.5)
    account = {"outcome": "raised", "error": "no", "ended_at": time.time(), "crashes": 0}
    events = [
        Kind(1, KIND, b""), submission(job_id), Start(job_id, 1, 0, 77, time.time()),
        Retry(job_id, 1, account, 0.0), Start(job_id, 2, 0, 78, time.time()),
        End(job_id, 2, 5, 0, frame, False, time.time(), "", None),
    ]  # fmt: skip
    for count in (4, 6, 6):
        record(store, *events[:count], epoch=0 if count == 4 else epoch(store), known=[job_id])
    assert {"succeeded": 1} == store.states()
    rows = store.rows("SELECT attempt, outcome, worker_pid FROM procjobs_attempts ORDER BY attempt")
    assert [(1, "raised", 77), (2, "succeeded", 78)] == rows


class RunningRecorder:
    """A recorder in a thread, to which a test sends one batch after the other."""

    def __init__(self, store):
        self.ours, theirs = socket.socketpair()
        self._recorder = Recorder(SupervisorLink(theirs), opening(store))
        self._theirs = theirs
        self._last = 0
        self._frames = wire.FrameReader()
        self._unread = []
        self._thread = ThreadPoolExecutor(1)
        self._run = self._thread.submit(self._recorder.run, [])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ours.shutdown(socket.SHUT_WR)
        self._run.result(30)
        self._recorder.close()
        self.ours.close()
        self._theirs.close()
        self._thread.shutdown()

    def send(self, *events):
        self._last += len(events)
        self.ours.sendall(pack_batch(events, self._last))

    def wait_for(self, kind):
        """Return the body of the next frame of this kind, and all frames that came before it."""
        earlier = []
        self.ours.settimeout(30)
        while True:
            for position, (found, raw, _) in enumerate(self._unread):
                if found == kind:
                    del self._unread[: position + 1]
                    return raw[wire.BODY :], earlier
                earlier.append((found, raw[wire.BODY :]))
            self._unread = list(self._frames.feed(self.ours.recv(65_536)))

    def take(self, *events):
        """Send a batch, and return (kind, body) of the frames up to its commit, but for those about the store itself."""
        self.send(*events)
        number, earlier = self.wait_for(RecorderFrame.COMMITTED)
        assert wire.U64.pack(self._last) == number
        return [frame for frame in earlier if frame[0] not in {RecorderFrame.STATE, RecorderFrame.CLAIMED}]


def test_kinds_are_forgotten_after_the_events_that_refer_to_them_were_written(store):
    unknown = new_id()
    with RunningRecorder(store) as recorder:
        assert [] == recorder.take(Kind(1, KIND, b"1"), Kind(2, KIND, b"2"))
        known = submission(new_id())._replace(kind=2)
        assert [] == recorder.take(submission(new_id()), Forget(), Kind(1, KIND, b"1"), submission(new_id()), known)
        assert [] == recorder.take(submission(new_id()))
        ((kind, body),) = recorder.take(submission(unknown)._replace(kind=2))
        assert (RecorderFrame.REFUSED, unknown) == (kind, body[:16])
        recorder.take(Forget())
        assert [RecorderFrame.REFUSED] == [kind for kind, _ in recorder.take(submission(new_id()))]
    assert {"queued": 4} == store.states()


def test_kind_of_a_transaction_that_failed_is_written_with_the_next(store):
    with RunningRecorder(store) as recorder:
        for _ in range(2):  # its first look into the outbox comes before or after the first batch
            recorder.take(Forget())
        store.write("ALTER TABLE procjobs_jobs RENAME TO hidden")
        recorder.send(Kind(1, KIND, b""), submission(new_id()))
        problem, _ = recorder.wait_for(RecorderFrame.STATE)
        assert b"procjobs_jobs" in problem  # the kind was written before that, and has gone with it
        store.write("ALTER TABLE hidden RENAME TO procjobs_jobs")
        recorder.wait_for(RecorderFrame.COMMITTED)
    assert [(1,)] == store.rows("SELECT count(*) FROM procjobs_kinds")


@pytest.mark.parametrize("store", ["sqlite_url"], indirect=True)
def test_transaction_has_the_file_from_its_beginning(store):
    """One that reads first could not write any more when another process had written in between."""
    with (
        open_engine(store.url).connect() as connection,
        connection.begin(),
        contextlib.closing(sqlite3.connect(store.url.removeprefix("sqlite:///"), timeout=0)) as other,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("CREATE TABLE films (name TEXT)")


def test_jobs_that_a_killed_recorder_had_claimed_and_not_sent_wait_again(store):
    job_id = new_id()
    record(store, Kind(1, KIND, b""), submission(job_id), owner="before")
    loaded = record(store, Load(10, 10, []), owner="me")
    kinds = [RecorderFrame.CLAIMED, RecorderFrame.STATE, RecorderFrame.LOADED, RecorderFrame.WINDOW, RecorderFrame.COMMITTED]
    assert kinds == [kind for kind, _ in loaded]
    again = record(store, Load(10, 10, []), owner="me", epoch=epoch(store))
    assert RecorderFrame.LOADED in [kind for kind, _ in again]
    known = record(store, Load(10, 10, []), owner="me", epoch=epoch(store), known=[job_id])
    assert RecorderFrame.LOADED not in [kind for kind, _ in known]


def test_late_events_of_a_supervisor_that_was_taken_over_change_nothing(store):
    job_id = new_id()
    start = Start(job_id, 1, 0, 77, time.time())
    record(store, Kind(1, KIND, b""), submission(job_id), owner="before")
    record(store, start, owner="before", epoch=1, known=[job_id])
    record(store, Load(10, 10, []), owner="after")
    frame = wire.finished_frame(job_id, wire.Outcome.RETURNED, 0, 1, 0.5)
    late = record(store, End(job_id, 1, 5, 0, frame, False, time.time(), "", None), owner="before", epoch=1)
    assert [RecorderFrame.LOST] == [kind for kind, _ in late]
    assert [("queued", "after", 1)] == store.rows("SELECT state, owner, cut_off FROM procjobs_jobs")


def test_last_events_of_a_killed_supervisor_are_read_though_it_had_not_read_all_frames():
    """Its end is ECONNRESET then, which comes before the bytes that are still in the socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.send(b"unread")
        ours.sendall(pack_batch([Find(b"x")], 7))
        ours.close()
        link = SupervisorLink(theirs)
        ((events, last),) = link.read(None)
        assert ([(Find(b"x"), None)], 7) == (events, last)
        assert [] == link.read(None)
        assert link.has_ended


def found(body):
    """Return the id, the state and the answer of a FOUND."""
    (length,) = wire.U32.unpack_from(body, 16)
    return body[:16], json.loads(body[20 : 20 + length])["state"], body[20 + length :]


def succeeded(job_id, *, has_data=False):
    frame = bytearray(wire.finished_frame(job_id, wire.Outcome.RETURNED, 0, 1, 0.5))
    frame[5] = has_data
    return End(job_id, 1, 5, 0, bytes(frame), False, time.time(), "", None)


def test_submission_that_is_sent_again_is_answered_from_the_store(store):
    ran, ended, written, foreign, new = (new_id() for _ in range(5))
    kind = Kind(1, KIND, b"")
    record(store, kind, submission(foreign), owner="elsewhere", pool="other pool")
    record(store, kind, submission(ran), submission(ended), Start(ran, 1, 0, 77, time.time()), owner="before")
    record(store, succeeded(ended), owner="before", epoch=epoch(store), known=[ran, ended])
    record(store, kind, submission(written))
    again = record(
        store, kind, *map(submission, (ran, ended, written, foreign, new)), epoch=epoch(store), known=[written],
    )  # fmt: skip
    answering = {RecorderFrame.HELD, RecorderFrame.FOUND, RecorderFrame.REFUSED, RecorderFrame.FENCED}
    answers = {(kind, body[:16]): body for kind, body in again if kind in answering}
    assert {(RecorderFrame.HELD, ran), (RecorderFrame.FOUND, ended), (RecorderFrame.REFUSED, foreign)} == set(answers)
    assert {"attempt": 1, "cut_off": 1, "crashes": 0} == json.loads(answers[RecorderFrame.HELD, ran][16:])
    assert (ended, 5) == found(answers[RecorderFrame.FOUND, ended])[:2]
    assert b"as one of pool other pool" in answers[RecorderFrame.REFUSED, foreign]
    assert [("me",)] == store.rows("SELECT owner FROM procjobs_jobs WHERE id = :id", id=to_text(new))


def test_job_is_found_with_its_answer_where_that_is_whole_and_of_this_pool(store):
    ended, lost, foreign = new_id(), new_id(), new_id()
    kind = Kind(1, KIND, b"")
    record(store, kind, submission(foreign), succeeded(foreign), pool="other pool")
    record(store, kind, submission(ended), submission(lost), succeeded(ended), succeeded(lost, has_data=True))
    sent = record(store, *(Find(job_id) for job_id in (ended, lost, foreign)), epoch=epoch(store))
    bodies = [found(body) for kind, body in sent if kind == RecorderFrame.FOUND]
    answers = {job_id: (state, frame) for job_id, state, frame in bodies}
    assert (5, succeeded(ended).frame) == answers[ended]
    assert b"result_ttl" in answers[lost][1]
    assert (None, b"") == answers[foreign]


def test_job_that_is_still_in_the_outbox_is_found(store):
    """The client that has committed it asks a successor of the pool before that has looked into the outbox."""
    record(store)
    job_id = new_id()
    columns = "id, pool, description, function, call, submitted_at"
    values = {"i": to_text(job_id), "p": "pool", "d": KIND}
    store.write(f"INSERT INTO procjobs_outbox ({columns}) VALUES (:i, :p, :d, :d, :d, 0)", **values)
    sent = record(store, Find(job_id), owner="next")
    (body,) = [body for kind, body in sent if kind == RecorderFrame.FOUND]
    assert (job_id, JobState.QUEUED, b"") == found(body)
    assert RecorderFrame.WINDOW in [kind for kind, _ in sent]
