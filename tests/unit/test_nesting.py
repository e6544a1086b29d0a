"""Jobs that wait for other jobs of their pool, at the scheduling core."""

from __future__ import annotations

from itertools import pairwise

import pytest

from procjobs.dispatch import slots
from procjobs.dispatch.limits import Sample
from procjobs.dispatch.model import SlotState
from procjobs.shared.queues import Queue
from procjobs.shared.states import JobState
from procjobs.shared.wire import Outcome

from .bench import Bench


@pytest.fixture
def bench():
    """One worker, idle."""
    return Bench()


def wait(bench, waiter, *awaited, number=1):
    bench.dispatcher.begin_wait(waiter, awaited, owner=waiter, number=number, now=bench.now)
    bench.turn()
    bench.start_workers()
    bench.turn()


def refusals(bench):
    refused, bench.dispatcher.nesting.refused = bench.dispatcher.nesting.refused, []
    return [(wait.waiter, wait.awaited, wait.why) for wait in refused]


def test_spare_worker_runs_the_job_that_is_waited_for(bench):
    outer, inner = bench.submit(), bench.submit()
    assert JobState.QUEUED is inner.state
    wait(bench, outer, inner)
    assert (JobState.RUNNING, 1) == (inner.state, inner.slot.number)
    assert (SlotState.WAITING, SlotState.BUSY) == (outer.slot.state, inner.slot.state)
    bench.finish(inner)
    assert SlotState.BUSY is outer.slot.state
    assert not bench.dispatcher.waits


def test_no_spare_worker_is_started_where_no_job_waits_for_one(bench):
    outer, inner = bench.submit(), bench.submit(delay=5.0)
    wait(bench, outer, inner)
    assert [] == bench.workers.notes
    bench.turn(5.0)
    assert [("spawn", 1)] == bench.workers.notes


def test_job_that_is_waited_for_comes_before_older_ones_with_the_priority_of_its_waiter(bench):
    outer = bench.submit(priority=3)
    others = [bench.submit(priority=2), bench.submit()]
    inner = bench.submit()
    wait(bench, outer, inner)
    assert [outer, inner] == bench.started()
    bench.finish(inner)
    bench.finish(outer)
    bench.turn()
    assert [outer, inner, others[0]] == bench.started()


def test_one_of_many_waiting_jobs_is_found_wherever_it_waits(bench):
    outer, *others = [bench.submit() for _ in range(300)]
    wait(bench, outer, others[150])
    assert [outer, others[150]] == bench.started()
    assert 298 == bench.dispatcher.queued


def test_no_more_jobs_are_started_than_there_are_workers_when_a_wait_has_ended(bench):
    outer, inner, later = bench.submit(), bench.submit(), bench.submit()
    wait(bench, outer, inner)
    bench.finish(inner)
    bench.turn()
    assert JobState.QUEUED is later.state, "the outer job goes on, and the pool has one worker"
    bench.finish(outer)
    bench.turn()
    assert JobState.RUNNING is later.state


def test_spare_worker_ends_when_it_is_not_needed_for_a_while(bench):
    outer, inner = bench.submit(), bench.submit()
    wait(bench, outer, inner)
    bench.finish(inner)
    assert 2 == bench.dispatcher.worker_slots.live
    bench.turn(10.0)
    assert [("retire", 1)] == bench.workers.notes
    assert not any("1 -> 1" in line for line in bench.outcomes.lines)


def test_waits_of_an_attempt_end_with_it(bench):
    outer, inner = bench.submit(retries=1), bench.submit()
    wait(bench, outer, inner)
    bench.finish(outer, Outcome.RAISED)
    assert not bench.dispatcher.waits
    bench.finish(inner)


def test_waits_end_with_the_job_that_is_waited_for_however_it_ends(bench):
    outer, inner = bench.submit(), bench.submit(delay=5.0)
    wait(bench, outer, inner)
    bench.dispatcher.cancel(inner, bench.now)
    assert (SlotState.BUSY, 0) == (outer.slot.state, len(bench.dispatcher.waits))


def test_wait_for_any_of_several_lasts_until_the_last_unless_it_is_given_up(bench):
    outer, first, second = bench.submit(), bench.submit(), bench.submit()
    wait(bench, outer, first, second)
    bench.finish(first)
    assert 1 == len(bench.dispatcher.waits)
    bench.dispatcher.waits.end_all(outer)
    assert 0 == len(bench.dispatcher.waits)


def test_job_waits_as_long_as_one_of_its_threads_does(bench):
    outer, first, second = bench.submit(), bench.submit(), bench.submit()
    wait(bench, outer, first)
    wait(bench, outer, second, number=2)
    bench.finish(first)
    assert SlotState.WAITING is outer.slot.state
    bench.finish(second)
    assert SlotState.BUSY is outer.slot.state


def test_unread_jobs_behind_one_that_waits_are_taken_back(bench):
    outer = bench.submit(tiny=True)
    (behind,) = bench.submit_unread(1)
    wait(bench, outer, behind)
    assert (JobState.RUNNING, 1) == (behind.state, behind.slot.number)


def test_job_that_waits_does_not_stall_and_is_held_to_its_timeout():
    bench = Bench((2, 2))
    stalling, timed, inner = bench.submit(stall_timeout=1.0), bench.submit(timeout=20.0), bench.submit(delay=99.0)
    wait(bench, stalling, inner)
    wait(bench, timed, inner)
    bench.workers.sample = Sample(0, 0.0, 1, 0)
    for _ in range(50):
        bench.turn(0.2)
    assert (JobState.RUNNING, SlotState.WAITING) == (stalling.state, stalling.slot.state)
    bench.turn(10.0)
    assert SlotState.STOPPING is timed.slot.state


# Refused


def test_job_cannot_wait_for_itself(bench):
    job = bench.submit()
    wait(bench, job, job)
    ((waiter, awaited, why),) = refusals(bench)
    assert (job, (job,)) == (waiter, awaited)
    assert why.endswith("that is the job itself")
    assert SlotState.BUSY is job.slot.state


def test_jobs_cannot_wait_for_each_other():
    bench = Bench((2, 2))
    first, second = bench.submit(), bench.submit()
    wait(bench, first, second)
    assert [] == refusals(bench)
    wait(bench, second, first)
    ((waiter, _, why),) = refusals(bench)
    assert waiter is second
    assert "that one waits in turn" in why
    assert SlotState.WAITING is first.slot.state


def test_wait_for_any_is_not_refused_as_long_as_one_can_end():
    bench = Bench((2, 2))
    first, second, third = bench.submit(), bench.submit(), bench.submit()
    wait(bench, first, second)
    wait(bench, second, first, third)
    assert [] == refusals(bench)
    bench.finish(third)
    bench.turn()
    assert [second] == [waiter for waiter, *_ in refusals(bench)]


def test_wait_that_was_no_hindrance_is_refused_when_another_one_of_its_job_has_ended(bench):
    outer, inner = bench.submit(), bench.submit()
    wait(bench, outer, inner)
    wait(bench, outer, outer, number=2)
    assert [] == refusals(bench)
    bench.finish(inner)
    bench.turn()
    assert [(outer, (outer,))] == [refused[:2] for refused in refusals(bench)]


@pytest.mark.parametrize("delay", [0.0, 5.0])
def test_job_cannot_wait_for_one_with_its_key(bench, delay):
    outer, inner = bench.submit(key=b"film 7"), bench.submit(key=b"film 7", delay=delay)
    wait(bench, outer, inner)
    ((_, _, why),) = refusals(bench)
    assert "no more than 1 of the jobs of the key 'film 7' may run at once" in why
    bench.finish(outer)
    bench.turn(delay)
    assert JobState.RUNNING is inner.state


def test_job_cannot_wait_for_one_that_its_queue_keeps_back():
    bench = Bench((3, 3), queues={"mail": Queue(limit=2)})
    first, second, inner, innermost = (bench.submit(queue="mail") for _ in range(4))
    wait(bench, first, inner)
    assert [] == refusals(bench), "the second one will end"
    wait(bench, second, innermost)
    ((waiter, _, why),) = refusals(bench)
    assert waiter is second
    assert "no more than 2 of the jobs of queue 'mail' may run at once" in why


def test_wait_is_refused_when_all_spare_workers_wait(bench, monkeypatch):
    monkeypatch.setattr(slots, "MAX_SPARE", 3)
    jobs = [bench.submit() for _ in range(5)]
    for outer, inner in pairwise(jobs):
        wait(bench, outer, inner)
    ((waiter, awaited, why),) = refusals(bench)
    assert (jobs[3], (jobs[4],)) == (waiter, awaited)
    assert "all workers have jobs that wait" in why
    assert (4, JobState.QUEUED) == (bench.dispatcher.worker_slots.live, jobs[4].state)


# Beside the rest


def test_paused_pool_starts_no_job_that_is_waited_for(bench):
    outer, inner = bench.submit(), bench.submit()
    bench.dispatcher.pause(bench.now)
    wait(bench, outer, inner)
    assert JobState.QUEUED is inner.state
    bench.dispatcher.resume()
    bench.turn()
    bench.start_workers()
    bench.turn()
    assert JobState.RUNNING is inner.state


def test_held_pool_starts_those_that_running_jobs_wait_for_and_no_others(bench):
    outer, other, inner = bench.submit(), bench.submit(priority=9), bench.submit()
    bench.dispatcher.hold(bench.now)
    wait(bench, outer, inner)
    assert (JobState.QUEUED, JobState.RUNNING) == (other.state, inner.state)


def test_pool_may_be_made_smaller_while_a_job_waits():
    bench = Bench((2, 2))
    outer, other, inner, later = (bench.submit() for _ in range(4))
    wait(bench, outer, inner)
    bench.dispatcher.resize(1, 1, bench.now)
    for job in (other, inner):
        bench.finish(job)
    bench.turn()
    assert JobState.QUEUED is later.state
    bench.finish(outer)
    bench.turn()
    assert JobState.RUNNING is later.state
