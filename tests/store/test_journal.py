"""Events become rows, which are found again: journal, rescue, questions and retention on a database, without processes."""

from __future__ import annotations

import itertools
import json
import os
import time

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from procjobs.errors import StoreUnavailable
from procjobs.shared import wire
from procjobs.shared.config import JobOptions
from procjobs.shared.ids import new_id, to_text
from procjobs.shared.recorder_wire import End, Free, Hooked, Kind, Load, Open, Retry, Start, Submit
from procjobs.shared.states import JobState, Reason
from procjobs.store import questions, rescue, retention
from procjobs.store.claim import Claim
from procjobs.store.database import open_engine
from procjobs.store.journal import Journal, find_holder
from procjobs.store.reading import find_history
from procjobs.store.schema import jobs, migrate, outbox

NOW = time.time()
DAY = 86_400.0
"""Longer than any run of the tests."""


def description(name="work", **options):
    return json.dumps({"name": name, "options": {"priority": JobOptions().priority, **options}}).encode()


class Unclaimed:
    """Stands for a claim that is held."""

    def verify(self, _connection):
        """Find nothing wrong."""


class Book:
    """A database that one pool's supervisors write, one after the other."""

    def __init__(self, store):
        self.store = store
        self._connection = open_engine(store.url).connect()
        self._epochs = itertools.count(1)
        self.act_for("me")
        self.do(migrate)

    def act_for(self, owner, pool="pool"):
        """Let another supervisor write from now on."""
        self.settings = Open(self.store.url, pool, owner, 3600.0, 86_400.0, 1000, "{}", next(self._epochs), [], {})
        self.claim = Claim(self.settings, None)
        self.journal = Journal(self.claim)
        for number, priority in ((1, 0), (2, 5)):
            self.journal.learn_kind(Kind(number, description(priority=priority), b"f%d" % number))

    def do(self, act, *arguments):
        with self._connection.begin():
            return act(self._connection, *arguments)

    def drop(self, dropping):
        """Let a Retention drop a slice."""
        return dropping.drop(self._connection, 1.0)

    def record(self, *events):
        """Write events as one batch; return the ids of the jobs that are another supervisor's."""
        with self._connection.begin():
            return self.journal.write(self._connection, self.journal.collect([(event, None) for event in events]))

    def row(self, job_id, *columns):
        ((*values,),) = self.store.rows(f"SELECT {', '.join(columns)} FROM procjobs_jobs WHERE id = :id", id=to_text(job_id))
        return values[0] if len(columns) == 1 else tuple(values)

    def runs(self, job_id):
        columns = "attempt, outcome, worker_pid"
        query = f"SELECT {columns} FROM procjobs_attempts WHERE job_id = :id ORDER BY attempt"
        return self.store.rows(query, id=to_text(job_id))

    def holder(self, key, but=""):
        return self.do(find_holder, "pool", key, but)

    def take_over(self, owner, started_attempts):
        self.act_for(owner)
        return self.do(rescue.take_over, self.claim, started_attempts)

    def load(self, most=100, later=100):
        rows, seconds = self.do(rescue.load, self.claim, Load(most, later, []))
        return [row["id"] for row in rows], seconds

    def close(self):
        self._connection.close()


@pytest.fixture
def book(store):
    book = Book(store)
    yield book
    book.close()


def submit(job_id, kind=1, *, not_before=0.0, expires_at=0.0, key=b"", unique_until=None):
    return Submit(job_id, kind, b"call", False, NOW, not_before, expires_at, key, unique_until)


def start(job_id, attempt, pid=77, now=NOW):
    return Start(job_id, attempt, 0, pid, now)


def retry(job_id, attempt, *, crashes=0, not_before=0.0, outcome="raised"):
    account = {"outcome": outcome, "error": "no", "ended_at": NOW, "crashes": crashes}
    return Retry(job_id, attempt, account, not_before)


def end(job_id, attempt=1, state=JobState.SUCCEEDED, reason=Reason.NONE, *, now=NOW, account=None):
    frame = wire.finished_frame(job_id, wire.Outcome.RETURNED, 0, attempt, 0.5)
    return End(job_id, attempt, int(state), int(reason), frame, False, now, "", account)


def test_submission_is_a_row_with_all_of_its_fields(book):
    now, later, expiring = new_id(), new_id(), new_id()
    book.record(submit(now, 2), submit(later, not_before=NOW + 50, key=b"k"), submit(expiring, expires_at=NOW + 9))
    assert ("me", "work", "queued", 5, 0, None, None) == book.row(
        now, "owner", "name", "state", "priority", "attempt", "not_before", "unique_until"
    )
    assert ("scheduled", NOW + 50) == book.row(later, "state", "not_before")
    assert b"k" == bytes(book.row(later, '"key"'))
    assert ("queued", NOW + 9) == book.row(expiring, "state", "expires_at")
    assert [(2,)] == book.store.rows("SELECT count(*) FROM procjobs_kinds")


def test_kinds_are_written_once_and_again_after_a_transaction_that_may_have_failed(book):
    book.record(submit(new_id()))
    book.store.write("DELETE FROM procjobs_kinds")
    book.record(submit(new_id()))
    assert [(0,)] == book.store.rows("SELECT count(*) FROM procjobs_kinds")
    book.journal.forget_stored_kinds()
    book.record(submit(new_id()))
    assert [(1,)] == book.store.rows("SELECT count(*) FROM procjobs_kinds")


@pytest.mark.parametrize("is_one_batch", [True, False])
def test_retries_and_crashes_are_counted(book, is_one_batch):
    job = new_id()
    events = submit(job), start(job, 1), retry(job, 1, crashes=1, outcome="crashed"), start(job, 2, 78)
    for batch in [events] if is_one_batch else [[event] for event in events]:
        book.record(*batch)
    assert ("running", None, 2, 1) == book.row(job, "state", "reason", "attempt", "crashes")
    assert [(1, "crashed", 77), (2, "running", 78)] == book.runs(job)
    assert NOW == book.row(job, "started_at")


def test_retry_in_one_batch_with_its_start_is_the_last_word(book):
    job = new_id()
    book.record(submit(job), start(job, 1), retry(job, 1, crashes=1, not_before=NOW + 5))
    assert ("retrying", "raised", 1, 1, NOW + 5) == book.row(job, "state", "reason", "attempt", "crashes", "not_before")


def test_end_in_one_batch_with_earlier_events_is_the_last_word(book):
    job, other = new_id(), new_id()
    book.record(submit(job), start(job, 1), end(job))
    book.record(submit(other), start(other, 1), retry(other, 1), end(other, 1, JobState.CANCELLED, Reason.CANCELLED))
    assert ("succeeded", "", None, None, NOW) == book.row(job, "state", "owner", "call", "reason", "finished_at")
    assert ("cancelled", "cancelled") == book.row(other, "state", "reason")
    assert [(1, "succeeded", 77)] == book.runs(job)
    assert [(1, "raised", 77)] == book.runs(other)


def test_events_after_the_end_change_nothing(book):
    job = new_id()
    book.record(submit(job), end(job))
    book.record(start(job, 1, 99), retry(job, 1), end(job, 1, JobState.FAILED, Reason.RAISED))
    assert ("succeeded", None, 1) == book.row(job, "state", "reason", "attempt")
    assert [(1, "succeeded")] == [run[:2] for run in book.runs(job)]


def test_starts_and_retries_of_earlier_attempts_change_nothing(book):
    job = new_id()
    book.record(submit(job), start(job, 1), retry(job, 1), start(job, 2))
    book.record(start(job, 1))
    assert ("running", 2) == book.row(job, "state", "attempt")
    book.record(retry(job, 1, crashes=3))
    assert ("running", 2, 0) == book.row(job, "state", "attempt", "crashes")
    book.record(retry(job, 2, crashes=1))
    assert ("retrying", 2, 1) == book.row(job, "state", "attempt", "crashes")


def test_a_job_has_begun_when_its_first_attempt_did(book):
    job = new_id()
    book.record(submit(job), start(job, 1))
    book.record(retry(job, 1))
    book.record(start(job, 2, now=NOW + 10))
    assert NOW == book.row(job, "started_at")
    book.record(end(job, 2, now=NOW + 20))
    assert NOW == book.row(job, "started_at")


@pytest.mark.parametrize("count", [3, 4, 5])
def test_first_start_counts_however_much_comes_in_one_batch(book, count):
    job = new_id()
    events = submit(job), start(job, 1), retry(job, 1), start(job, 2, now=NOW + 10), end(job, 2, now=NOW + 20)
    book.record(*events[:count])
    assert NOW == book.row(job, "started_at")
    book.record(*events[count:])
    assert NOW == book.row(job, "started_at")


def test_running_job_has_no_reason_of_the_attempt_before(book):
    job = new_id()
    book.record(submit(job), start(job, 1), retry(job, 1))
    assert "raised" == book.row(job, "reason")
    book.record(start(job, 2))
    assert None is book.row(job, "reason")


def test_job_that_is_freed_waits_as_it_did_and_keeps_its_attempts(book):
    late, reclaimed, interrupted, retried = (new_id() for _ in range(4))
    book.record(submit(late, not_before=NOW + 99), *map(submit, (reclaimed, interrupted, retried)))
    book.record(start(reclaimed, 1), start(interrupted, 1), retry(retried, 1, not_before=NOW + 99))
    account = {"outcome": "stopped", "ended_at": NOW}
    book.record(Free(late, 0, None), Free(reclaimed, 0, None), Free(interrupted, 1, account))
    book.record(Free(retried, 1, None))
    columns = "owner", "state", "attempt", "cut_off", "not_before"
    assert ("", "scheduled", 0, 0, NOW + 99) == book.row(late, *columns)
    assert ("", "queued", 0, 0, None) == book.row(reclaimed, *columns)
    assert ("", "queued", 1, 1, None) == book.row(interrupted, *columns)
    assert ("", "retrying", 1, 0, NOW + 99) == book.row(retried, *columns)
    assert [(1, "stopped", 77)] == book.runs(interrupted)
    book.record(Free(interrupted, 1, account))
    assert 1 == book.row(interrupted, "cut_off")


def test_owner_alone_changes_a_row(book):
    job = new_id()
    book.record(submit(job))
    book.act_for("other")
    book.record(start(job, 1), retry(job, 1), end(job), Free(job, 0, None))
    assert ("me", "queued", 0) == book.row(job, "owner", "state", "attempt")


def test_known_submission_is_claimed_if_it_waits_in_this_pool(book):
    mine, waiting, ended, foreign, new = (new_id() for _ in range(5))
    book.record(*map(submit, (mine, waiting, ended)))
    book.record(Free(waiting, 0, None), end(ended))
    book.act_for("elsewhere", "other pool")
    book.record(submit(foreign), Free(foreign, 0, None))
    book.act_for("me")
    events = [(submit(job), None) for job in (mine, waiting, ended, foreign, new)]
    changes = book.journal.collect(events)
    known = book.do(book.journal.claim_known, changes)
    assert {mine, waiting, ended, foreign} == {bytes.fromhex(job_id.replace("-", "")) for job_id in known}
    assert [to_text(new)] == [row["id"] for row in changes.jobs]
    assert ["me", "me", "", ""] == [book.row(job, "owner") for job in (mine, waiting, ended, foreign)]


def leave_in_outbox(book, count, pool="pool", **values):
    rows = [{"id": to_text(new_id()), "pool": pool, "description": description(priority=3), "function": b"f", "call": b"c",
             "call_data": None, "key": b"k", "submitted_at": NOW, "not_before": None, "expires_at": None, **values}
            for _ in range(count)]  # fmt: skip
    book.do(lambda connection: connection.execute(insert(outbox), rows))
    return [row["id"] for row in rows]


def test_outbox_of_this_pool_alone_is_emptied_into_waiting_jobs(book):
    leave_in_outbox(book, 2, "other pool")
    ids = leave_in_outbox(book, 1001) + leave_in_outbox(book, 1, not_before=NOW + 9, expires_at=NOW + 10)
    assert 1002 == book.do(book.journal.sweep_outbox)
    assert 0 == book.do(book.journal.sweep_outbox)
    assert [("other pool", 2)] == book.store.rows("SELECT pool, count(*) FROM procjobs_outbox GROUP BY pool")
    assert {"queued": 1001, "scheduled": 1} == book.store.states()
    columns = "SELECT owner, state, priority, not_before, expires_at FROM procjobs_jobs WHERE id = :id"
    assert [("", "queued", 3, None, None)] == book.store.rows(columns, id=ids[0])
    assert [("", "scheduled", 3, NOW + 9, NOW + 10)] == book.store.rows(columns, id=ids[-1])


def test_jobs_are_loaded_by_priority_and_time_and_once(book):
    low, high, past, soon, late = (new_id() for _ in range(5))
    book.record(submit(low), submit(high, 2), submit(past, not_before=NOW - 5))
    book.record(submit(late, not_before=NOW + 5 * DAY), submit(soon, not_before=NOW + 3 * DAY))
    book.record(*(Free(job, 0, None) for job in (low, high, past, soon, late)))
    assert ([to_text(high)], 0.0) == book.load(1, 1)
    assert "me" == book.row(high, "owner")
    ids, seconds = book.load(2, 1)
    assert [to_text(low), to_text(past), to_text(soon)] == ids
    assert 4 * DAY < seconds <= 5 * DAY
    assert ([], seconds) == (book.load(5, 0)[0], pytest.approx(book.load(5, 0)[1], abs=DAY))
    assert ([to_text(late)], float("inf")) == book.load()
    assert ([], float("inf")) == book.load()


def test_only_jobs_that_wait_in_the_store_are_cancelled_there(book):
    mine, waiting, ended = new_id(), new_id(), new_id()
    book.record(*map(submit, (mine, waiting, ended)))
    book.record(Free(waiting, 0, None), end(ended))
    told = [book.do(questions.cancel, book.claim, to_text(job)) for job in (mine, waiting, waiting, ended, new_id())]
    assert [(True, False), (True, True), (True, False), (True, False), (False, False)] == told
    assert [("queued", "cancelled"), ("cancelled", "cancelled"), ("succeeded", None)] == [
        book.row(job, "state", "reason") for job in (mine, waiting, ended)
    ]
    book.act_for("elsewhere", "other pool")
    assert (False, False) == book.do(questions.cancel, book.claim, to_text(mine))


def test_job_whose_cancellation_was_noted_is_not_started_again(book):
    running, queued, other = new_id(), new_id(), new_id()
    book.record(*map(submit, (running, queued, other)))
    for job in (running, queued):
        assert (True, False) == book.do(questions.cancel, book.claim, to_text(job))
    book.record(start(running, 1), start(other, 1))
    book.take_over("next", {})
    assert ["cancelled", "cancelled", "queued"] == [book.row(job, "state") for job in (running, queued, other)]
    assert b"JobCancelled" in book.row(running, "answer")
    assert [(1, "cut off", 77)] == book.runs(running)


def test_holder_of_a_key_is_a_unique_job_that_has_not_ended_or_whose_time_is_not_over(book):
    plain, ended, old, new = (new_id() for _ in range(4))
    book.record(submit(plain, key=b"plain"), submit(ended, key=b"k", unique_until=NOW - 1))
    assert to_text(ended) == book.holder(b"k")
    assert None is book.holder(b"plain")
    assert None is book.do(find_holder, "other pool", b"k", "")
    book.record(end(ended))
    assert None is book.holder(b"k")
    book.record(submit(old, key=b"k", unique_until=NOW + 3 * DAY), end(old))
    assert to_text(old) == book.holder(b"k")
    book.record(submit(new, key=b"k", unique_until=NOW))
    assert to_text(new) == book.holder(b"k")


def test_jobs_of_a_dead_supervisor_wait_and_their_interruptions_are_counted_once(book):
    ran, waited, begun, late, foreign = (new_id() for _ in range(5))
    book.record(*map(submit, (ran, waited, begun)), submit(late, not_before=NOW + 99))
    book.record(start(ran, 1), start(begun, 1))
    book.record(retry(begun, 1))
    book.act_for("elsewhere", "other pool")
    book.record(submit(foreign), start(foreign, 1))
    assert 2 == book.take_over("next", {to_text(begun): 3, to_text(foreign): 1})
    columns = "owner", "state", "attempt", "cut_off"
    assert ("", "queued", 1, 1) == book.row(ran, *columns)
    assert ("", "queued", 0, 0) == book.row(waited, *columns)
    assert ("", "queued", 3, 1) == book.row(begun, *columns)
    assert ("", "scheduled", 0, 0) == book.row(late, *columns)
    assert ("elsewhere", "running", 1, 0) == book.row(foreign, *columns)
    assert [(1, "cut off", 77)] == book.runs(ran)
    assert [(1, "raised", 77), (3, "cut off", None)] == book.runs(begun)
    assert 0 == book.take_over("third", {to_text(begun): 3, to_text(ran): 1})


def test_jobs_of_the_same_supervisor_are_not_taken_over(book):
    job = new_id()
    book.record(submit(job), start(job, 1))
    assert 0 == book.take_over("me", {})
    assert ("me", "running", 0) == book.row(job, "owner", "state", "cut_off")


def test_interruption_that_another_recorder_has_counted_is_not_counted_again(book):
    job = new_id()
    book.record(submit(job), start(job, 1))
    (seen,) = book.do(lambda connection: connection.execute(select(jobs)).all())
    book.do(rescue.count_interruption, book.claim, seen, 1, NOW)
    assert ("queued", 1) == book.row(job, "state", "cut_off")
    for state, attempt in (("queued", 1), ("running", 2)):
        book.store.write("UPDATE procjobs_jobs SET owner = 'next', state = :s, attempt = :n", s=state, n=attempt)
        book.do(rescue.count_interruption, book.claim, seen, 1, NOW)
        assert ("next", state, attempt) == book.row(job, "owner", "state", "attempt")


def test_attempt_whose_end_was_lost_differs_from_one_that_was_interrupted(book):
    job = new_id()
    book.record(submit(job), start(job, 1))
    book.take_over("next", {to_text(job): 2})
    assert [(1, "unknown", 77), (2, "cut off", None)] == book.runs(job)


@pytest.mark.parametrize(("cut_off", "state"), [(8, "queued"), (9, "failed")])
def test_tenth_interrupted_attempt_is_the_last(book, cut_off, state):
    job = new_id()
    book.record(submit(job), start(job, 1))
    book.store.write("UPDATE procjobs_jobs SET cut_off = :n", n=cut_off)
    book.take_over("next", {})
    assert (state, cut_off + 1) == book.row(job, "state", "cut_off")
    assert ("quarantined" if state == "failed" else None) == book.row(job, "reason")


def test_claims_of_a_killed_recorder_that_its_supervisor_does_not_know_are_requeued(book):
    known, lost, ended = new_id(), new_id(), new_id()
    book.record(*map(submit, (known, lost, ended)))
    book.record(end(ended))
    book.do(rescue.requeue_unknown, book.claim, [known])
    assert ["me", "", ""] == [book.row(job, "owner") for job in (known, lost, ended)]


def test_results_go_before_their_jobs_and_those_of_others_stay(book):
    old, new, foreign = new_id(), new_id(), new_id()
    book.record(submit(old), submit(new), end(old, now=NOW - 3 * DAY), end(new))
    book.act_for("elsewhere", "other pool")
    book.record(submit(foreign), end(foreign, now=NOW - 3 * DAY))
    book.do(retention.drop_results, "pool", DAY, NOW)
    assert [True, False, False] == [book.row(job, "answer") is None for job in (old, new, foreign)]
    assert not book.do(retention.drop_jobs, "pool", 2 * DAY, 1000, NOW)
    assert [(to_text(job),) for job in sorted((new, foreign))] == book.store.rows("SELECT id FROM procjobs_jobs ORDER BY id")
    assert [] == book.runs(old)
    assert 1 == len(book.runs(new))


def test_oldest_jobs_go_where_there_are_too_many_or_they_are_too_old(book):
    ended = [new_id() for _ in range(6)]
    running = new_id()
    book.record(submit(running), start(running, 1), *map(submit, ended))
    book.record(*(end(job, now=NOW + (n - 10) * DAY) for n, job in enumerate(ended)))
    rows = "SELECT id FROM procjobs_jobs ORDER BY id"
    book.do(retention.drop_jobs, "pool", 100 * DAY, 4, NOW)
    assert sorted(map(to_text, [running, *ended[2:]])) == [job for (job,) in book.store.rows(rows)]
    book.do(retention.drop_jobs, "pool", 6.5 * DAY, 3, NOW)
    assert sorted(map(to_text, [running, *ended[4:]])) == [job for (job,) in book.store.rows(rows)]
    book.do(retention.drop_jobs, "pool", 100 * DAY, 0, NOW)
    assert [to_text(running)] == [job for (job,) in book.store.rows(rows)]


def test_job_that_has_just_ended_is_kept_for_a_client_that_may_send_it_again(book):
    job = new_id()
    book.record(submit(job), end(job, now=time.time()))
    book.do(retention.drop_jobs, "pool", 0.0, 0, time.time())
    assert "succeeded" == book.row(job, "state")


def test_step_of_the_clock_forward_makes_no_job_old_until_it_has_held_for_an_hour():
    believed = retention.BelievedTime(NOW, 100.0)
    assert NOW + 30 == believed.now(NOW + 30, 130.0)
    assert NOW + 60 == believed.now(NOW + 60 + 40 * DAY, 160.0)
    assert NOW + 3650 == believed.now(NOW + 3650 + 40 * DAY, 3750.0)
    assert NOW + 3660 + 40 * DAY == believed.now(NOW + 3660 + 40 * DAY, 3760.0)


def test_each_further_step_of_the_clock_is_doubted_anew():
    believed = retention.BelievedTime(NOW, 0.0)
    assert NOW + 30 == believed.now(NOW + 30 + DAY, 30.0)
    assert NOW + 3000 == believed.now(NOW + 3000 + 2 * DAY, 3000.0)
    assert NOW + 4000 == believed.now(NOW + 4000 + 2 * DAY, 4000.0)
    assert NOW + 6600 + 2 * DAY == believed.now(NOW + 6600 + 2 * DAY, 6600.0)


def test_clock_that_steps_back_is_believed_at_once():
    believed = retention.BelievedTime(NOW, 0.0)
    assert NOW + 30 == believed.now(NOW + 30 + DAY, 30.0)
    assert NOW + 60 - DAY == believed.now(NOW + 60 - DAY, 60.0)


def test_history_stays_when_the_clock_steps_forty_days_forward(book, monkeypatch):
    job = new_id()
    book.record(submit(job), end(job, now=NOW - 600))
    dropping = retention.Retention(book.settings, Unclaimed(), book.journal)
    monkeypatch.setattr(retention, "wall", lambda: time.time() + 40 * DAY)
    assert not book.drop(dropping)
    assert "succeeded" == book.row(job, "state")


def test_history_is_that_of_one_pool(book):
    job = new_id()
    book.record(submit(job))
    book.act_for("elsewhere", "other pool")
    book.record(submit(new_id()))
    (record,) = find_history(book.store.url, "pool", state=None, name=None, since=None, limit=10)
    assert to_text(job) == record.id


def test_reading_a_database_that_does_not_exist_creates_nothing(tmp_path):
    with pytest.raises(StoreUnavailable):
        find_history(f"sqlite:///{tmp_path}/none.db", "pool", state=None, name=None, since=None, limit=10)
    assert [] == list(tmp_path.iterdir())


def test_functions_without_jobs_are_dropped(book):
    job, other = new_id(), new_id()
    book.record(submit(job, 1), submit(other, 2))
    book.act_for("elsewhere", "other pool")
    book.record(submit(new_id(), 1))
    book.store.write("DELETE FROM procjobs_jobs WHERE id <> :id", id=to_text(job))
    book.do(retention.drop_kinds, "pool")
    kinds = book.store.rows("SELECT pool, function FROM procjobs_kinds ORDER BY pool")
    assert [("other pool", b"f1"), ("pool", b"f1")] == [(pool, bytes(function)) for pool, function in kinds]


def test_data_of_a_call_is_read_as_a_whole(book):
    job, data = new_id(), os.urandom(200_000)
    fd = os.memfd_create("data")
    try:
        os.write(fd, data)  # and its position is at its end now
        changes = book.journal.collect([(submit(job)._replace(has_descriptor=True), fd)])
        book.do(book.journal.write, changes)
    finally:
        os.close(fd)
    assert data == bytes(book.row(job, "call_data"))


@pytest.mark.parametrize("change", ["owner = 'next'", "epoch = 99", "owner = '', epoch = 99"])
@pytest.mark.parametrize("event", ["start", "retry", "end", "free"])
def test_event_of_a_job_that_is_another_ones_is_fenced(book, change, event):
    job, other = new_id(), new_id()
    book.record(submit(job), submit(other), start(job, 1))
    book.store.write(f"UPDATE procjobs_jobs SET {change} WHERE id = :id", id=to_text(job))
    before = book.row(job, "owner", "epoch", "state", "attempt", "finished_at")
    events = {"start": start(job, 2), "retry": retry(job, 1), "end": end(job), "free": Free(job, 1, None)}
    assert [to_text(job)] == book.record(events[event], end(other))
    assert before == book.row(job, "owner", "epoch", "state", "attempt", "finished_at")
    assert "succeeded" == book.row(other, "state")


def test_event_of_a_job_whose_row_is_gone_is_fenced(book):
    job = new_id()
    book.record(submit(job))
    book.store.write("DELETE FROM procjobs_jobs")
    assert [to_text(job)] == book.record(end(job))


def test_event_that_was_written_before_is_not_fenced(book):
    ended, freed, running = new_id(), new_id(), new_id()
    book.record(*map(submit, (ended, freed, running)))
    for _ in range(2):
        assert [] == book.record(start(ended, 1), start(running, 2))
        assert [] == book.record(start(running, 1), end(ended), Free(freed, 0, None))


def test_submission_is_refused_whose_key_another_job_has(book):
    first, second, third, others = (new_id() for _ in range(4))
    taken = [submit(job, key=b"k", unique_until=0.0) for job in (first, second, third)]
    plain = submit(others, key=b"k")

    def take_out(*events):
        changes = book.journal.collect([(event, None) for event in events])
        duplicates = book.do(book.journal.take_out_duplicates, changes)
        book.do(book.journal.write, changes)
        return duplicates

    assert {to_text(second): to_text(first)} == take_out(taken[0], taken[1], plain)
    assert {to_text(third): to_text(first)} == take_out(taken[2])
    book.record(end(first))
    assert {} == take_out(taken[2])
    stored = book.store.rows("SELECT id FROM procjobs_jobs ORDER BY id")
    assert [(to_text(job),) for job in sorted((first, third, others))] == stored


def test_database_itself_takes_one_unfinished_job_of_a_key(book):
    book.record(submit(new_id(), key=b"k", unique_until=0.0))
    with pytest.raises(IntegrityError):
        book.record(submit(new_id(), key=b"k", unique_until=0.0))


def marks(book):
    return [(job_id, tries) for job_id, tries in book.store.rows("SELECT job_id, tries FROM procjobs_hooks ORDER BY job_id")]


def failed(job_id):
    return end(job_id, 1, JobState.FAILED, Reason.RAISED)._replace(is_told=True)


def test_end_that_hooks_are_to_be_told_is_marked_until_they_were_and_not_again_by_a_second_writing(book):
    job, other = new_id(), new_id()
    book.record(submit(job), submit(other), start(job, 1), failed(job), end(other))
    book.record(failed(job))
    assert [(to_text(job), 0)] == marks(book)
    book.record(Hooked(job), Hooked(other))
    assert [] == marks(book)
    book.record(failed(job))
    assert [] == marks(book)


def test_end_of_a_job_that_is_another_supervisors_is_not_marked(book):
    job = new_id()
    book.record(submit(job), start(job, 1))
    book.take_over("next", {})
    book.act_for("me")
    assert [to_text(job)] == book.record(failed(job))
    assert [] == marks(book)


def test_marks_go_with_the_jobs_that_the_history_drops(book):
    job = new_id()
    book.record(submit(job), failed(job))
    book.do(retention.drop_jobs, "pool", 1.0, 1000, NOW + 1000)
    assert ([], [(0,)]) == (marks(book), book.store.rows("SELECT count(*) FROM procjobs_jobs"))
