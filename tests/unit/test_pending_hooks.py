"""Calls of hooks that wait: tried again, given up, bounded."""

from __future__ import annotations

import math

import pytest

from procjobs.dispatch.model import Generation
from procjobs.shared.config import JobOptions
from procjobs.shared.ids import new_id, to_text
from procjobs.shared.states import Event, Reason
from procjobs.shared.wire import failure_frame
from procjobs.supervisor.job import NO_CLIENT, SupervisedJob, SupervisedKind
from procjobs.supervisor.pending_hooks import MAX_CALLS, MAX_TRIES, PendingHooks

KIND = SupervisedKind(1, b"work", JobOptions(), function=b"", description=b"")


class Lines(list):
    """A log that keeps its warnings."""

    def write_warning(self, text):
        self.append(text)


@pytest.fixture
def lines():
    return Lines()


@pytest.fixture
def pending(lines):
    return PendingHooks(("app.jobs:tell",), lines)


def end(pending, reason=Reason.TIMEOUT):
    job = SupervisedJob(new_id(), KIND, Generation(1, ""), NO_CLIENT, b"", None)
    job.advance(Event.START)
    job.advance(Event.FAIL)
    pending.add(job, reason, failure_frame(job.id, "JobTimeout", "too long"), "too long", None)
    return to_text(job.id)


def test_call_that_fails_is_made_again_after_doubled_pauses_and_then_given_up(pending, lines):
    end(pending)
    now, pauses = 0.0, []
    while not pending.is_empty:
        pauses.append(pending.next_time() - now)
        now = pending.next_time()
        pending.fail(pending.take_due(now), "no", now)
    assert [0.0, 1.0, 2.0, 4.0, 8.0] == pauses
    assert MAX_TRIES == len(lines)
    assert lines[-1].endswith(f"work has failed {MAX_TRIES} times and is given up: no")
    assert math.inf == pending.next_time()


def test_calls_that_wait_are_bounded_and_the_log_says_how_many_jobs_are_not_told(pending, lines):
    for _ in range(MAX_CALLS + 7):
        end(pending)
    assert ["1000 calls of hooks (on_failure) wait: the next jobs that fail are told here alone"] == lines
    while (call := pending.take_due(0.0)) is not None:
        pending.done(call)
    assert pending.is_empty
    assert "hooks (on_failure) were not called for 7 jobs, since too many calls waited" == lines[-1]


@pytest.mark.parametrize("reason", [Reason.NONE, Reason.CANCELLED, Reason.REJECTED])
def test_ends_that_somebody_knows_of_are_not_told(pending, reason):
    end(pending, reason)
    assert pending.is_empty


def test_pool_without_hooks_keeps_nothing(lines):
    pending = PendingHooks((), lines)
    end(pending)
    assert (True, False) == (pending.is_empty, pending.are_wanted)


@pytest.fixture
def stored(lines):
    """Calls of a pool with a store and two hooks, which has read what earlier supervisors have left there: nothing."""
    pending = PendingHooks(("app.jobs:tell", "app.jobs:tell_more"), lines, are_stored=True)
    pending.add_stored([], has_more=False)
    return pending


def call_all(pending, act=PendingHooks.done):
    ids = []
    while (call := pending.take_due(math.inf)) is not None:
        ids.append(call.record["id"])
        act(pending, call)
    return ids


def test_mark_of_a_job_is_dropped_when_its_last_call_was_made_or_given_up(stored):
    first, second = end(stored), end(stored)
    stored.done(stored.take_due(0.0))
    assert [] == stored.take_settled()
    stored.done(stored.take_due(0.0))
    assert [first] == stored.take_settled()
    call_all(stored, lambda pending, call: pending.fail(call, "no", 0.0))
    assert ([second], []) == (stored.take_settled(), stored.take_settled())


def test_jobs_that_find_no_room_come_from_the_store_when_nothing_else_waits(stored, lines):
    for _ in range(MAX_CALLS):
        end(stored)
    assert ([], False) == (lines, stored.wants_stored)
    call_all(stored)
    assert (True, False, True) == (stored.wants_stored, stored.are_called, stored.is_empty)
    stored.add_stored([{"id": "late"}], has_more=False)
    assert ["late", "late"] == call_all(stored)
    assert (False, True) == (stored.wants_stored, stored.are_called)


def test_job_that_comes_from_the_store_and_from_its_end_is_told_once(stored):
    job_id = end(stored)
    stored.add_stored([{"id": job_id}], has_more=False)
    assert [job_id, job_id] == call_all(stored)


def test_job_that_is_stopped_is_not_told_where_a_store_keeps_it(stored):
    end(stored, Reason.STOPPED)
    assert stored.is_empty
