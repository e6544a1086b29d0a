"""Calls of hooks that wait: tried again, given up, bounded."""

from __future__ import annotations

import math

import pytest

from procjobs.dispatch.model import Generation
from procjobs.shared.config import JobOptions
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
    job = SupervisedJob(b"\0" * 16, KIND, Generation(1, ""), NO_CLIENT, b"", None)
    job.advance(Event.START)
    job.advance(Event.FAIL)
    pending.add(job, reason, failure_frame(job.id, "JobTimeout", "too long"), "too long", None)


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
