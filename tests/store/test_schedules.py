"""Schedules in the store: one job for each period, whoever is killed, and whatever is sent twice."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import closing

import pytest

from procjobs.shared import wire
from procjobs.shared.config import JobOptions
from procjobs.shared.ids import new_id, to_text
from procjobs.shared.recorder_wire import (
    DropSchedule,
    End,
    Fire,
    Kind,
    Load,
    NoteSchedule,
    PutSchedule,
    RecorderFrame,
    Schedules,
)
from procjobs.store import retention, schedule_rows
from procjobs.store.database import open_engine
from procjobs.store.reading import find_history, find_statuses
from procjobs.store.schema import migrate
from procjobs.supervisor.durable.capacity import StoreCapacity
from procjobs.supervisor.durable.stored_jobs import StoredJobs
from procjobs.supervisor.durable.stored_schedules import StoredSchedules
from procjobs.supervisor.durable.uncommitted import UncommittedEvents
from procjobs.supervisor.job import SupervisedKind

from .test_recorder import KIND, RunningRecorder, epoch, record, submission

SECOND = 1_000_000
NOON = 1_900_000_000 * SECOND
RULE = {"every": 60}


def spec(rule=RULE, **values):
    return json.dumps({"rule": rule, **values})


def put(name="nightly", *, text=None, cursor=NOON, **fields):
    fields = {"is_declared": True, "kind": 1, "inline": b"call", "key": b"", "meta": b"", "token": 1, **fields}
    return PutSchedule(name=name, spec=text or spec(), has_descriptor=False, cursor=cursor, **fields)


def fire(job_id, period=NOON, *, name="nightly", cursor=None, token=2):
    return Fire(name, period, period, job_id, period if cursor is None else cursor, token)


def told(frames):
    """Return the answers among frames, by their tokens."""
    answers = [json.loads(body) for kind, body in frames if kind == RecorderFrame.TOLD]
    return {answer.pop("token"): answer for answer in answers}


@pytest.fixture
def recorder(store):
    with RunningRecorder(store) as running:
        running.take(Kind(1, KIND, b"function"))
        yield running


def state(recorder, name="nightly"):
    """Return the stored state of a schedule, None if there is none of this name."""
    (answer,) = told(recorder.take(Schedules("", 99))).values()
    assert not answer["has_more"]
    return next((one for one in answer["schedules"] if one["name"] == name), None)


def periods(store):
    return store.rows("SELECT schedule, period, job_id FROM procjobs_periods ORDER BY schedule, period")


def end(job_id, ended_at, job_state=5):
    frame = wire.finished_frame(job_id, wire.Outcome.RETURNED, 0, 1, 0.5)
    return End(job_id, 1, job_state, 0, frame, False, ended_at, "", None)


# Putting ------------------------------------------------------------------------------------------------------


def test_schedule_is_kept_as_it_was_put(recorder, store):
    kind = json.dumps({"name": "app.report", "options": {"priority": 7, "queue": "slow"}}).encode()
    event = put(kind=2, key=b"k", meta=b'{"user":7}', text=spec(expires=90.5), is_declared=False)
    answer = told(recorder.take(Kind(2, kind, b"report"), event))[1]
    expected = {
        "cursor": NOON, "is_paused": False, "skipped": 0, "missed": 0, "last_period": None, "last_job": None,
        "last_state": None, "last_error": None, "running": [], "ended_at": None, "call": "app.report",
    }  # fmt: skip
    assert {"is_new": True, **expected} == answer
    assert {"name": "nightly", "spec": spec(expires=90.5), "is_declared": False, **expected} == state(recorder)
    row = "SELECT queue, priority, meta, expires FROM procjobs_schedules"
    assert [("slow", 7, '{"user":7}', 90.5)] == store.rows(row)
    job_id = new_id()
    recorder.take(fire(job_id, NOON + 60 * SECOND))
    columns = "name, queue, priority, meta, state, owner, attempt, schedule, scheduled_for, expires_at"
    (job,) = store.rows(f"SELECT {columns} FROM procjobs_jobs")
    moment = NOON + 60 * SECOND
    assert ("app.report", "slow", 7, '{"user":7}', "queued", "", 0, "nightly", moment, moment / SECOND + 90.5) == job
    ((key, call),) = store.rows('SELECT "key", call FROM procjobs_jobs')
    assert (b"k", b"call") == (bytes(key), bytes(call))


def test_same_rule_keeps_cursor_counts_and_pause_and_another_rule_takes_the_new_cursor(recorder):
    later = NOON + 3600 * SECOND
    recorder.take(put(), NoteSchedule("nightly", NOON + 5, 1, 3, 4))
    answer = told(recorder.take(put(text=spec(overlap="queue"), inline=b"other", cursor=later)))[1]
    assert (False, NOON + 5, True, 3, 4) == tuple(answer[n] for n in ("is_new", "cursor", "is_paused", "skipped", "missed"))
    answer = told(recorder.take(put(text=spec({"every": 61}), cursor=later)))[1]
    assert (False, later, True, 3, 4) == tuple(answer[n] for n in ("is_new", "cursor", "is_paused", "skipped", "missed"))


def test_schedule_that_is_put_as_it_is_changes_nothing(recorder, store):
    query = "SELECT changed_at FROM procjobs_schedules"
    recorder.take(put())
    changed_at = store.rows(query)
    recorder.take(put(cursor=NOON + 9))
    assert changed_at == store.rows(query)
    recorder.take(put(inline=b"new", cursor=NOON + 9))
    assert changed_at != store.rows(query)
    assert NOON == state(recorder)["cursor"]


def test_note_counts_the_same_when_it_is_sent_twice_and_pauses_only_if_it_says_so(recorder):
    note = NoteSchedule("nightly", NOON + 60, -1, 2, 5)
    recorder.take(put(), note, note)
    found = state(recorder)
    assert (NOON + 60, False, 2, 5) == tuple(found[name] for name in ("cursor", "is_paused", "skipped", "missed"))
    recorder.take(NoteSchedule("nightly", NOON + 70, 1, 2, 5), NoteSchedule("nightly", NOON + 80, -1, 2, 5))
    assert (NOON + 80, True) == (state(recorder)["cursor"], state(recorder)["is_paused"])
    recorder.take(NoteSchedule("nightly", NOON - 5, 0, 2, 5))  # the clock was set back
    assert (NOON - 5, False) == (state(recorder)["cursor"], state(recorder)["is_paused"])


def test_events_of_one_batch_are_acted_on_in_their_order(recorder):
    first, second = new_id(), new_id()
    frames = recorder.take(
        put(), NoteSchedule("nightly", NOON + 1, 1, 1, 1), DropSchedule("nightly", 3), put(cursor=NOON + 2, token=4),
        fire(first, NOON + 3, token=5), NoteSchedule("nightly", NOON + 9, -1, 8, 8), fire(second, NOON + 10, token=6),
    )  # fmt: skip
    answers = told(frames)
    assert {"known": True} == answers[3]
    assert (True, NOON + 2, False) == tuple(answers[4][name] for name in ("is_new", "cursor", "is_paused"))
    assert [{"made": True, "known": True}] * 2 == [answers[5], answers[6]]
    found = state(recorder)
    assert (NOON + 10, 8, to_text(second)) == (found["cursor"], found["skipped"], found["last_job"])
    assert [to_text(second), to_text(first)] == found["running"]


@pytest.mark.parametrize(
    "event",
    [
        put(text="{"), put(text="[]"), put(text="{}"), put(text=spec(x="y" * 20_000)), put(kind=77), put(meta=b"\xff"),
        put(text=spec(expires="soon")), put(text=spec(expires=-1)), put("x" * 101), put(""), put(cursor=-1),
    ],
    ids=[
        "no JSON", "a list", "no rule", "too long", "unknown kind", "no text", "no number", "negative", "long name",
        "no name", "no moment",
    ],
)  # fmt: skip
def test_schedule_that_makes_no_sense_is_answered_and_keeps_nothing_else_out(store, event, capfd):
    job_id = new_id()
    frames = record(store, Kind(1, KIND, b""), submission(job_id), event)
    assert "does not take event PUTSCHEDULE" in told(frames)[1]["problem"]
    assert {"queued": 1} == store.states()
    assert [(0,)] == store.rows("SELECT count(*) FROM procjobs_schedules")
    assert "does not take event PUTSCHEDULE" in capfd.readouterr().out


def test_rule_that_others_have_spoilt_is_another_one(recorder, store):
    recorder.take(put())
    for nonsense in ("{", "[]", "null", '{"rule": null}'):
        store.write("UPDATE procjobs_schedules SET spec = :spec", spec=nonsense)
        answer = told(recorder.take(put(cursor=NOON + 7)))[1]
        assert NOON + 7 == answer["cursor"]
        recorder.take(NoteSchedule("nightly", NOON, -1, 0, 0))


def test_function_of_a_schedule_is_kept_without_a_job(recorder, store):
    recorder.take(put())
    with open_engine(store.url).connect() as connection, connection.begin():
        retention.drop_kinds(connection, "pool")
    assert [(1,)] == store.rows("SELECT count(*) FROM procjobs_kinds")
    recorder.take(DropSchedule("nightly", 1))
    with open_engine(store.url).connect() as connection, connection.begin():
        retention.drop_kinds(connection, "pool")
    assert [(0,)] == store.rows("SELECT count(*) FROM procjobs_kinds")


# Periods ------------------------------------------------------------------------------------------------------


def test_period_is_run_once(recorder, store):
    first, second = new_id(), new_id()
    recorder.take(put())
    assert {"made": True, "known": True} == told(recorder.take(fire(first)))[2]
    assert {"made": False, "known": True} == told(recorder.take(fire(second, cursor=NOON + 9)))[2]
    assert [("nightly", NOON, to_text(first))] == periods(store)
    assert [(to_text(first),)] == store.rows("SELECT id FROM procjobs_jobs")
    assert (NOON + 9, NOON, to_text(first)) == tuple(state(recorder)[n] for n in ("cursor", "last_period", "last_job"))


def test_job_of_a_period_is_loaded_with_its_schedule_and_moment(recorder):
    job_id = new_id()
    frames = recorder.take(put(), fire(job_id))
    assert (RecorderFrame.WINDOW, wire.F64.pack(0.0)) == frames[-1]
    found = [body for kind, body in recorder.take(Load(10, 10, [])) if kind == RecorderFrame.LOADED]
    assert 1 == len(found)
    assert job_id == found[0][:16]
    assert b"nightly" in found[0]


def test_period_of_a_schedule_that_is_not_known_makes_nothing(recorder, store):
    frames = recorder.take(fire(new_id()))
    assert {2: {"made": False, "known": False}} == told(frames)
    assert RecorderFrame.WINDOW not in [kind for kind, _ in frames]
    assert ([], {}) == (periods(store), store.states())


def test_schedule_that_is_made_again_repeats_no_period(recorder, store):
    recorder.take(put(), fire(new_id()))
    assert {"known": True} == told(recorder.take(DropSchedule("nightly", 3)))[3]
    assert {"known": False} == told(recorder.take(DropSchedule("nightly", 3)))[3]
    assert state(recorder) is None
    answers = told(recorder.take(put(), fire(new_id(), token=4)))
    assert (True, False) == (answers[1]["is_new"], answers[4]["made"])
    assert 1 == len(periods(store))


def test_schedules_of_one_name_in_two_pools_are_two(store):
    for pool in ("pool", "other"):
        frames = record(store, Kind(1, KIND, b""), put(), fire(new_id()), pool=pool)
        assert (True, True) == (told(frames)[1]["is_new"], told(frames)[2]["made"])
    record(store, DropSchedule("nightly", 3), pool="other", epoch=1)
    assert [("pool",)] == store.rows("SELECT pool FROM procjobs_schedules")
    assert 2 == len(periods(store))


def test_jobs_of_a_schedule_are_told_as_they_are(recorder, store):
    first, second, ended_at = new_id(), new_id(), NOON / SECOND + 30.25
    recorder.take(put(), fire(first), fire(second, NOON + SECOND, token=3))
    recorder.take(Load(10, 10, []))
    recorder.take(end(first, ended_at))
    found = state(recorder)
    assert ([to_text(second)], "queued", int(ended_at * SECOND)) == tuple(
        found[name] for name in ("running", "last_state", "ended_at")
    )
    recorder.take(end(second, ended_at + 1))
    assert ([], "succeeded") == (state(recorder)["running"], state(recorder)["last_state"])
    store.write("DELETE FROM procjobs_jobs")
    assert (to_text(second), None, None) == tuple(state(recorder)[name] for name in ("last_job", "last_state", "ended_at"))


def test_many_large_schedules_are_told_in_several_answers(recorder):
    names = sorted(f"s{number:03}" for number in range(250))
    recorder.take(*(put(name, text=spec(note="x" * (2000 if n % 2 else 10))) for n, name in enumerate(names)))
    found, after, answers = [], "", 0
    while True:
        (answer,) = told(recorder.take(Schedules(after, 7))).values()
        found += [one["name"] for one in answer["schedules"]]
        answers += 1
        if not answer["has_more"]:
            break
        after = found[-1]
    assert names == found
    assert 2 < answers < 10


def test_history_and_status_show_the_schedule(recorder, store):
    job_id = new_id()
    recorder.take(put(), fire(job_id), submission(new_id()))
    (plain, scheduled) = sorted(find_history(store.url, "pool", limit=10), key=lambda one: one.schedule or "")
    assert ("nightly", NOON / SECOND) == (scheduled.schedule, scheduled.scheduled_for)
    assert (None, None) == (plain.schedule, plain.scheduled_for)
    (status,) = find_statuses(store.url, [job_id])
    assert ("nightly", NOON / SECOND) == (status.schedule, status.scheduled_for)
    assert "2030-03-17T17:46:40.000+00:00" == status.as_dict()["scheduled_for"]


@pytest.mark.parametrize("change", ["schedule = ''", "scheduled_for = NULL", "scheduled_for = -5", "scheduled_for = 9223372036854775807"])  # fmt: skip  # noqa: E501
def test_nonsense_that_others_write_harms_no_job(recorder, store, change):
    job_id = new_id()
    recorder.take(put(), fire(job_id))
    store.write(f"UPDATE procjobs_jobs SET {change}")
    (status,) = find_statuses(store.url, [job_id])
    assert (None, None) == (status.schedule, status.scheduled_for)
    assert [job_id] == [body[:16] for kind, body in recorder.take(Load(9, 9, [])) if kind == RecorderFrame.LOADED]


# Twice, and killed in between ----------------------------------------------------------------------------------


def test_everything_can_be_sent_twice(store):
    """A recorder was killed between the commit and its word of it: the next one gets the same events."""
    first, second = new_id(), new_id()
    events = [
        Kind(1, KIND, b""), put(), fire(first), NoteSchedule("nightly", NOON + 30 * SECOND, 1, 1, 2),
        put(text=spec({"every": 5}), cursor=NOON + 40 * SECOND, token=3), fire(second, NOON + 45 * SECOND, token=4),
        DropSchedule("weekly", 5), put("weekly", token=6),
    ]  # fmt: skip
    seen = []
    for count in (2, 3, 4, 5, 6, 8, 8):
        frames = record(store, *events[:count], owner="me", epoch=0 if count == 2 else epoch(store))
        seen.append(told(frames))
    assert all(answers[2]["made"] for answers in seen[1:])
    assert all(answers[4]["made"] for answers in seen[4:])
    assert [("nightly", NOON, to_text(first)), ("nightly", NOON + 45 * SECOND, to_text(second))] == periods(store)
    assert sorted([to_text(first), to_text(second)]) == sorted(row[0] for row in store.rows("SELECT id FROM procjobs_jobs"))
    columns = "name, cursor, is_paused, skipped, missed, last_job"
    nightly, weekly = store.rows(f"SELECT {columns} FROM procjobs_schedules ORDER BY name")
    assert ("nightly", NOON + 45 * SECOND, 1, 1, 2, to_text(second)) == nightly
    assert ("weekly", NOON, 0, 0, 0, None) == weekly


def test_period_whose_transaction_fails_leaves_nothing_and_is_made_with_the_next_one(store):
    """The database takes the row of the period, and not that of the job: neither is there, and the cursor has not moved."""
    job_id = new_id()
    with RunningRecorder(store) as recorder:
        recorder.take(Kind(1, KIND, b""), put())
        store.write("ALTER TABLE procjobs_jobs RENAME TO hidden")
        recorder.send(fire(job_id, NOON + 60))
        problem, _ = recorder.wait_for(RecorderFrame.STATE)
        while b"procjobs_jobs" not in problem:
            problem, _ = recorder.wait_for(RecorderFrame.STATE)
        assert ([], [(NOON,)]) == (periods(store), store.rows("SELECT cursor FROM procjobs_schedules"))
        store.write("ALTER TABLE hidden RENAME TO procjobs_jobs")
        body, _ = recorder.wait_for(RecorderFrame.TOLD)
        assert json.loads(body)["made"]
    assert [("nightly", NOON + 60, to_text(job_id))] == periods(store)


def test_supervisor_that_has_lost_its_claim_makes_no_job(store):
    first, second = new_id(), new_id()
    record(store, Kind(1, KIND, b""), put(), owner="before")
    frames = record(store, Kind(1, KIND, b""), put(), fire(first), owner="after")
    assert (False, True) == (told(frames)[1]["is_new"], told(frames)[2]["made"])
    for late in (fire(second, NOON + 60), NoteSchedule("nightly", 5, 1, 9, 9), DropSchedule("nightly", 3), put(cursor=3)):
        frames = record(store, Kind(1, KIND, b""), late, owner="before", epoch=1)
        assert [RecorderFrame.LOST] == [kind for kind, _ in frames]
    assert [("nightly", NOON, to_text(first))] == periods(store)
    assert [(NOON, 0, 0)] == store.rows("SELECT cursor, is_paused, skipped FROM procjobs_schedules")
    frames = record(store, Kind(1, KIND, b""), fire(second), owner="third")
    assert {"made": False, "known": True} == told(frames)[2]


@pytest.mark.parametrize(
    "late", [fire(new_id(), NOON + 60), NoteSchedule("nightly", 5, 1, 9, 9), DropSchedule("nightly", 3), put(cursor=3)]
)
def test_claim_that_is_lost_while_a_recorder_runs_lets_it_write_nothing(store, late):
    with RunningRecorder(store) as recorder:
        recorder.take(Kind(1, KIND, b""), put(), fire(new_id()))
        before = store.rows("SELECT name, cursor, is_paused, skipped, changed_at FROM procjobs_schedules")
        store.write("UPDATE procjobs_claims SET epoch = epoch + 1, owner = 'another'")
        recorder.send(late)
        recorder.wait_for(RecorderFrame.LOST)
    assert before == store.rows("SELECT name, cursor, is_paused, skipped, changed_at FROM procjobs_schedules")
    assert ([NOON], {"queued": 1}) == ([period for _, period, _ in periods(store)], store.states())


# Retention ----------------------------------------------------------------------------------------------------


def test_periods_are_dropped_in_slices_when_they_and_their_run_are_old(recorder, store):
    now, day = time.time(), 86_400.0
    recorder.take(put())

    def add(name, count, *, recorded, period):
        for number in range(count):
            moment = int((now - period * day) * SECOND) + number
            values = {"period": moment, "id": f"{name}{number}", "at": now - recorded * day}
            store.write("INSERT INTO procjobs_periods VALUES ('pool', 'nightly', :period, :id, :at)", **values)

    add("old", 5, recorded=40, period=40)
    add("young", 1, recorded=31, period=31)
    add("caught up late", 1, recorded=10, period=50)
    add("clock set back", 1, recorded=41, period=-10)

    def drop(history_ttl):
        with open_engine(store.url).connect() as connection, connection.begin():
            return retention.drop_periods(connection, "pool", history_ttl, now)

    def left():
        return {job_id.rstrip("0123456789") for _, _, job_id in periods(store)}

    assert not drop(60 * day)
    assert 8 == len(periods(store))
    assert not drop(5 * day)
    assert {"young", "caught up late", "clock set back"} == left()


def test_slices_of_old_periods_follow_one_another(recorder, store, monkeypatch):
    monkeypatch.setattr(retention, "_DROP_SLICE", 3)
    recorder.take(put())
    for number in range(7):
        store.write("INSERT INTO procjobs_periods VALUES ('pool', 'nightly', :n, 'id', 0.0)", n=number)
    store.write("INSERT INTO procjobs_periods VALUES ('other', 'nightly', 1, 'id', 0.0)")
    with open_engine(store.url).connect() as connection, connection.begin():
        assert [True, True, False] == [retention.drop_periods(connection, "pool", 1.0, time.time()) for _ in range(3)]
    assert [("nightly", 1, "id")] == periods(store)


# From the supervisor --------------------------------------------------------------------------------------------


class SupervisorSide:
    """The supervisor's end of a recorder: events that wait for their commit, and questions that wait for an answer."""

    problem = ""

    def __init__(self, recorder):
        self.jobs, self.now = {}, 0.0
        self.events = UncommittedEvents()
        self.stored = StoredJobs(self, self, lambda event: None)
        self.schedules = StoredSchedules(self.events, self.stored, StoreCapacity("media", self.events, self))
        self.schedules.on_open()
        self.kind = SupervisedKind(5, b"work", JobOptions(), function=b"function", description=KIND)
        self._recorder = recorder
        self._frames = wire.FrameReader()

    def describe(self):
        return self.problem

    def exchange(self):
        """Send what waits, and act on what the recorder says, until everything is committed."""
        self._recorder.ours.settimeout(30)
        while len(self.events):
            while (batch := self.events.next_batch()) is not None:
                data, fd = batch
                sent = 0 if fd is None else socket.send_fds(self._recorder.ours, [data], [fd])
                self._recorder.ours.sendall(data[sent:])
            for kind, raw, _ in self._frames.feed(self._recorder.ours.recv(65_536)):
                if kind == RecorderFrame.COMMITTED:
                    list(self.events.take_committed(wire.U64.unpack_from(raw, wire.BODY)[0]))
                elif kind in {RecorderFrame.TOLD, RecorderFrame.WINDOW}:
                    self.stored.take(kind, raw, None)


@pytest.fixture
def side(store):
    with RunningRecorder(store) as recorder:
        yield SupervisorSide(recorder)


def put_by(side, name, then, *, fd=None, inline=b"call"):
    return side.schedules.put(
        name, spec(), is_declared=True, kind=side.kind, inline=inline, fd=fd, key=b"", meta=b"", cursor=NOON, then=then
    )


def test_supervisor_is_told_of_all_that_it_asks(side, store):
    job_id, seen = new_id(), []
    assert put_by(side, "nightly", seen.append)
    moments = dict.fromkeys(("period", "scheduled_for", "cursor"), NOON + 1)
    assert side.schedules.fire("nightly", **moments, job_id=job_id, then=seen.append)
    assert side.schedules.note("nightly", cursor=NOON + 2, skipped=3, missed=4, is_paused=True)
    assert side.schedules.note("nightly", cursor=NOON + 3, skipped=5, missed=4)
    assert side.schedules.load(seen.append)
    assert side.schedules.drop("nightly", seen.append)
    side.exchange()
    new, made, (found,), dropped = seen
    assert [True] * 4 == [new["is_new"], made["made"], made["known"], dropped["known"]]
    values = [found[name] for name in ("name", "cursor", "is_paused", "skipped", "missed", "running")]
    assert ["nightly", NOON + 3, True, 5, 4, [to_text(job_id)]] == values
    assert 0.0 == side.stored.loads_at  # the job is asked for at once


def test_all_schedules_are_loaded_in_one_list(side):
    names, seen = sorted(f"s{number:03}" for number in range(450)), []
    for name in names:
        put_by(side, name, lambda _told: None)
    side.schedules.load(seen.append)
    side.exchange()
    assert [names] == [[one["name"] for one in found] for found in seen]


def test_large_arguments_are_kept_and_their_file_is_closed_after_the_commit(side, store):
    data = os.urandom(100_000)
    fd = os.memfd_create("large")
    os.write(fd, data)
    seen = []
    put_by(side, "nightly", seen.append, fd=fd, inline=b"lengths")
    os.fstat(fd)
    side.exchange()
    assert seen[0]["is_new"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    ((inline, stored),) = store.rows("SELECT call, call_data FROM procjobs_schedules")
    assert (b"lengths", data) == (bytes(inline), bytes(stored))
    job_id = new_id()
    side.schedules.fire("nightly", period=NOON, scheduled_for=NOON, job_id=job_id, cursor=NOON, then=seen.append)
    side.exchange()
    ((copied,),) = store.rows("SELECT call_data FROM procjobs_jobs")
    assert data == bytes(copied)


def test_arguments_that_the_store_does_not_keep_are_refused_at_once(side):
    fd = os.memfd_create("too large")
    os.ftruncate(fd, 64 * 2**20 + 1)
    seen = []
    assert put_by(side, "nightly", seen.append, fd=fd)
    assert "larger than what the store keeps" in seen[0]["problem"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_file_of_a_schedule_that_was_not_committed_is_closed_with_the_events():
    events = UncommittedEvents()

    class Loop:
        now = 0.0
        problem = ""
        jobs = ()

    schedules = StoredSchedules(events, StoredJobs(Loop, Loop, events.append), StoreCapacity("media", events, Loop))
    kind = SupervisedKind(5, b"work", JobOptions(), function=b"", description=KIND)
    fd = os.memfd_create("large")
    schedules.put(
        "n", spec(), is_declared=True, kind=kind, inline=b"", fd=fd, key=b"", meta=b"", cursor=1, then=lambda _told: None
    )
    events.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_second_look_at_the_tables_costs_no_scan(store):
    """The jobs of a schedule are found by an index, however many jobs there are."""
    with closing(open_engine(store.url).connect()) as connection, connection.begin():
        migrate(connection)
        if connection.dialect.name != "sqlite":
            connection.exec_driver_sql("SET enable_seqscan = off")
        keyword = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
        query = "SELECT max(finished_at) FROM procjobs_jobs WHERE pool = 'p' AND schedule = 's'"
        assert "procjobs_jobs_scheduled" in str(connection.exec_driver_sql(f"{keyword} {query}").all())
    assert schedule_rows.MAX_RUNNING == 1000
