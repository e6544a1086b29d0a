"""The scheduling core, one rule at a time, with made-up times and ports that only take notes."""

from __future__ import annotations

import math

import pytest

from procjobs.dispatch.assigner import BEGIN_TIMEOUT, MAX_PREFETCH, RECLAIM_TIMEOUT
from procjobs.dispatch.completion import backoff_pause
from procjobs.dispatch.limiters import Limiters
from procjobs.dispatch.limits import Stop
from procjobs.dispatch.model import Generation, Job, Kind, SlotState
from procjobs.dispatch.watchdog import CHILDREN_TIMEOUT
from procjobs.shared.config import JobOptions
from procjobs.shared.queues import Queue
from procjobs.shared.states import JobState, Reason
from procjobs.shared.wire import Outcome

from .bench import DETAILS, Bench


@pytest.fixture
def bench():
    """One worker, idle."""
    return Bench()


# Order, and jobs that wait for a time


def test_higher_priority_starts_first_then_first_come_first_served(bench):
    first = bench.submit()
    low, high, higher, high_too = (bench.submit(priority=p) for p in (-1, 5, 9, 5))
    for job in (first, higher, high, high_too, low):
        bench.finish(job)
    assert [first, higher, high, high_too, low] == bench.started()


def test_delayed_job_waits_for_its_time(bench):
    job = bench.submit(delay=5.0)
    assert (JobState.SCHEDULED, 1, 105.0) == (job.state, bench.dispatcher.scheduled, bench.dispatcher.next_deadline(100.0))
    bench.turn(4.9)
    assert [] == bench.workers.sent
    bench.turn(0.1)
    assert (JobState.RUNNING, 0) == (job.state, bench.dispatcher.scheduled)


def test_job_that_has_not_started_expires(bench):
    running = bench.submit(expires=1.0)
    queued, scheduled = bench.submit(expires=1.0), bench.submit(delay=5.0, expires=1.0)
    bench.turn(1.0)
    assert JobState.RUNNING is running.state
    assert (JobState.EXPIRED, Reason.EXPIRED) == bench.outcomes.answers[queued][:2] == bench.outcomes.answers[scheduled][:2]
    assert (0, 0, 1) == (bench.dispatcher.queued, bench.dispatcher.scheduled, bench.dispatcher.unfinished)


def test_job_that_was_started_once_does_not_expire(bench):
    job = bench.submit(expires=1.0, retries=1, backoff=10.0)
    bench.finish(job, Outcome.RAISED)
    bench.turn(5.0)
    assert JobState.RETRYING is job.state


def test_job_whose_time_came_while_it_lay_before_a_worker_expires_when_it_is_taken_back(bench):
    bench.submit(tiny=True)
    (job,) = bench.submit_unread(1, expires=0.001)
    bench.turn(RECLAIM_TIMEOUT)
    assert JobState.EXPIRED is job.state


def test_job_that_has_ended_is_not_kept_until_it_would_have_expired(bench):
    pending = bench.dispatcher._pending
    for _ in range(2500):
        bench.finish(bench.submit(expires=86_400.0))
        assert len(pending._expiring) <= 102


def test_jobs_that_are_cancelled_while_they_wait_are_let_go(bench):
    dispatcher, queue = bench.dispatcher, bench.generation.queue
    running = bench.submit()
    jobs = [bench.submit(priority=n % 3, delay=86_400.0 * (n % 2)) for n in range(4000)]
    kept = jobs[::97]
    for job in set(jobs) - set(kept):
        assert dispatcher.cancel(job, bench.now)
    assert len(dispatcher._pending._delayed) <= 150
    assert sum(map(len, queue._levels.values())) <= 150
    assert (21, 21) == (dispatcher.queued, dispatcher.scheduled)
    bench.finish(running)
    while bench.slots[0].jobs:
        bench.finish_all()
    bench.turn(86_400.0)
    while bench.slots[0].jobs:
        bench.finish_all()
    in_order = sorted(range(0, 4000, 97), key=lambda n: (n % 2, -(n % 3), n))
    assert [jobs[n] for n in in_order] == bench.started()[1:]


# Failures


def test_job_that_raises_is_run_again_after_a_pause_that_doubles(bench):
    job = bench.submit(retries=2, backoff=1.0)
    bench.finish(job, Outcome.RAISED)
    assert (JobState.RETRYING, 101.0) == (job.state, bench.dispatcher.next_deadline(bench.now))
    bench.turn(1.0)
    bench.finish(job, Outcome.RAISED)
    assert 103.0 == bench.dispatcher.next_deadline(bench.now)
    bench.turn(2.0)
    bench.finish(job, Outcome.RAISED)
    assert (3, (JobState.FAILED, Reason.RAISED, "ValueError: no")) == (job.attempt, bench.outcomes.answers[job])


@pytest.mark.parametrize(
    ("interrupted", "words"),
    [
        (0, "(attempt 5 of 5; "),
        (1, "(attempt 4 of 5, without 1 that was interrupted"),
        (3, "(attempt 2 of 5, without 3 that were interrupted"),
    ],
)
def test_failure_counts_the_attempts_without_the_interrupted_ones(bench, interrupted, words):
    job = bench.submit(retries=4, max_crashes=9)
    job.attempt, job.interrupted = 5, interrupted
    bench.end(bench.slots[0])
    if interrupted:
        assert words in bench.outcomes.lines[-1]
    else:  # the last one: the line in the log is written with the answer
        assert words in bench.outcomes.failure["message"]


def test_retry_comes_at_the_time_that_was_told_whatever_the_jitter():
    bench = Bench(jitter=0.5)
    job = bench.submit(retries=2, backoff=1.0)
    bench.finish(job, Outcome.RAISED)
    bench.turn(0.8)
    bench.end(bench.slots[0])
    bench.start_workers()
    assert [(job, Reason.RAISED, "ValueError: no", DETAILS, 100.75), (job, Reason.CRASHED, b"", 102.3)] == [
        bench.outcomes.retries[0],
        (*bench.outcomes.retries[1][:2], *bench.outcomes.retries[1][3:]),
    ]
    assert 102.3 == bench.dispatcher.next_deadline(bench.now)
    bench.turn(1.5)
    assert ([job, job], 3) == (bench.outcomes.queued_jobs, job.attempt)


def test_attempts_that_ended_with_the_supervisor_do_not_count_as_retries(bench):
    job = bench.submit(retries=1, backoff=0.0)
    job.interrupted = 1
    bench.finish(job, Outcome.RAISED)
    bench.turn()
    bench.finish(job, Outcome.RAISED)
    bench.turn()
    bench.finish(job, Outcome.RAISED)
    assert (JobState.FAILED, 3) == (job.state, job.attempt)


@pytest.mark.parametrize(
    ("attempt", "jitter", "expected"),
    [(1, 0.0, 2.0), (2, 0.0, 4.0), (3, 0.0, 8.0), (4, 0.0, 10.0), (65_000, 0.0, 10.0), (1, 1.0, 1.0), (9, 0.5, 7.5)],
)
def test_pause_is_capped_and_shortened_by_up_to_a_half(attempt, jitter, expected):
    assert expected == backoff_pause(JobOptions(backoff=2.0, max_backoff=10.0), attempt, jitter)


def test_job_that_cannot_be_pickled_is_not_tried_again(bench):
    job = bench.submit(retries=2)
    bench.finish(job, Outcome.UNPICKLABLE)
    assert (JobState.FAILED, Reason.PAYLOAD) == bench.outcomes.answers[job][:2]


def test_descriptor_of_an_answer_that_is_not_wanted_comes_back(bench):
    job = bench.submit(retries=1)
    assert 7 == bench.finish(job, Outcome.RAISED, fd=7)
    assert 8 == bench.finish(job, fd=8, slot=bench.slots[0])
    bench.turn(1.0)
    assert bench.finish(job, fd=9) is None


def test_crash_is_blamed_on_the_job_that_had_begun(bench):
    jobs = [bench.submit(tiny=True) for _ in range(3)]
    bench.end(bench.slots[0], signal=11, unread=jobs[1:])
    assert [jobs[0]] == list(bench.outcomes.answers)
    assert (JobState.FAILED, Reason.CRASHED) == bench.outcomes.answers[jobs[0]][:2]
    assert "SIGSEGV" in bench.outcomes.failure["message"]
    assert ("WorkerCrashed", 11, "4 of 9") == tuple(bench.outcomes.failure[k] for k in ("error", "signal", "last_progress"))
    assert [0, 0] == [job.attempt for job in jobs[1:]]
    assert (1, 1, 2) == (bench.dispatcher.crashed, bench.dispatcher.worker_slots.restarts, bench.dispatcher.queued)


def test_job_that_was_read_and_not_begun_is_not_to_blame(bench):
    job = bench.submit()
    bench.workers.unbegun.add(job)
    bench.end(bench.slots[0])
    assert (JobState.QUEUED, 0, {}) == (job.state, job.attempt, bench.outcomes.answers)


def test_crashed_job_with_retries_is_run_again_by_a_new_worker(bench):
    job = bench.submit(retries=1, backoff=0.0)
    bench.end(bench.slots[0])
    bench.turn()
    bench.start_workers()
    assert (JobState.RUNNING, 2) == (job.state, job.attempt)


# The ladder


def test_overdue_job_is_interrupted_then_killed_and_settled_when_its_worker_has_gone(bench):
    job = bench.submit(timeout=4.0, grace_period=3.0)
    assert 104.0 == bench.dispatcher.next_deadline(bench.now)
    bench.turn(4.0)
    assert [("interrupt", 0)] == bench.take_notes()
    bench.turn(CHILDREN_TIMEOUT)
    assert ([("terminate children", 0)], 107.0) == (bench.take_notes(), bench.dispatcher.next_deadline(bench.now))
    bench.turn(2.8)
    assert [] == bench.take_notes()
    bench.turn(107.0 - bench.now)
    assert ([("kill", 0)], {}) == (bench.take_notes(), bench.outcomes.answers)
    assert 5 == bench.finish(job, fd=5), "its end is decided"
    assert {} == bench.outcomes.answers
    bench.end(bench.slots[0])
    assert (JobState.FAILED, Reason.TIMEOUT) == bench.outcomes.answers[job][:2]
    assert 0 == bench.dispatcher.worker_slots.restarts


@pytest.mark.parametrize("outcome", [Outcome.RAISED, Outcome.RETURNED])
def test_job_that_answers_after_its_interruption_is_settled_and_its_worker_goes_on(bench, outcome):
    job = bench.submit(timeout=4.0, grace_period=3.0)
    bench.turn(4.0)
    assert 5 == bench.finish(job, outcome, fd=5)
    assert (JobState.FAILED, Reason.TIMEOUT) == bench.outcomes.answers[job][:2]
    assert "ran longer than its timeout" in bench.outcomes.failure["message"]
    following = bench.submit()
    assert (JobState.RUNNING, bench.slots[0], 0) == (following.state, following.slot, bench.dispatcher.worker_slots.restarts)
    bench.turn(60.0)
    assert [("interrupt", 0)] == bench.take_notes()
    bench.finish(following)
    assert (JobState.SUCCEEDED, 2) == (following.state, bench.slots[0].jobs_done)


def test_job_that_times_out_is_tried_again_by_the_worker_that_it_was_interrupted_in(bench):
    job = bench.submit(timeout=4.0, retries=1, backoff=0.0)
    bench.turn(4.0)
    bench.finish(job, Outcome.RAISED)
    bench.turn(4.0)
    assert (JobState.RUNNING, 2, [("interrupt", 0)] * 2) == (job.state, job.attempt, bench.take_notes())
    bench.finish(job, Outcome.RAISED)
    assert (JobState.FAILED, Reason.TIMEOUT) == bench.outcomes.answers[job][:2]


def test_worker_that_is_spent_or_was_to_end_does_so_after_the_job_that_it_was_interrupted_in(bench):
    for prepare in ("spent", "retiring"):
        job, slot = bench.submit(), bench.slots[0]
        if prepare == "retiring":
            bench.dispatcher.on_spent(slot, "the umask", bench.now)
        assert bench.dispatcher.cancel(job, bench.now)
        if prepare == "spent":
            bench.dispatcher.on_spent(slot, "the umask", bench.now)
        bench.finish(job, Outcome.RAISED)
        assert (JobState.CANCELLED, SlotState.STOPPING, Stop.RETIRE) == (job.state, slot.state, slot.stop)
        assert bench.dispatcher.next_deadline(bench.now) == bench.now + 2.0, "it is killed if it does not end"
        bench.end(slot)
        bench.start_workers()
        assert (0, SlotState.IDLE) == (bench.dispatcher.worker_slots.restarts, bench.slots[0].state)


def test_workers_whose_jobs_are_interrupted_at_the_end_of_the_pool_end_after_them(bench):
    job = bench.submit()
    bench.dispatcher.close_queue("the test")
    bench.dispatcher.stop_running(bench.now)
    assert [("interrupt", 0)] == bench.take_notes()
    bench.finish(job, Outcome.RAISED)
    assert (JobState.FAILED, Reason.STOPPED) == bench.outcomes.answers[job][:2]
    assert ([("retire", 0)], SlotState.STOPPING) == (bench.take_notes(), bench.slots[0].state)


def test_timeout_is_not_that_of_a_job_whose_answer_is_under_way(bench):
    first, second = bench.submit(tiny=True, timeout=1.0), bench.submit(tiny=True, timeout=1.0)
    bench.turn(1.0)
    assert ([], 102.0) == (bench.take_notes(), bench.dispatcher.next_deadline(bench.now))
    bench.finish(first)
    assert (JobState.SUCCEEDED, JobState.RUNNING) == (first.state, second.state)


def test_supervisor_that_was_away_extends_deadlines(bench):
    bench.submit(timeout=8.0)
    bench.turn(BEGIN_TIMEOUT)
    bench.now += 60.0
    bench.dispatcher.extend_deadlines(60.0, bench.now)
    bench.turn()
    assert ([], 168.0) == (bench.take_notes(), bench.dispatcher.next_deadline(bench.now))
    bench.now += 30.0
    bench.dispatcher.extend_deadlines(0.3, bench.now)
    assert bench.now + 1.0 == bench.dispatcher.next_deadline(bench.now)


# Cancelling


def test_waiting_job_is_cancelled_at_once(bench):
    bench.submit()
    jobs = [bench.submit(), bench.submit(delay=5.0)]
    assert [True, True] == [bench.dispatcher.cancel(job, bench.now) for job in jobs]
    assert [False, False] == [bench.dispatcher.cancel(job, bench.now) for job in jobs]
    assert [Reason.CANCELLED] * 2 == [bench.outcomes.answers[job][1] for job in jobs]
    assert (0, 0) == (bench.dispatcher.queued, bench.dispatcher.scheduled)


def test_running_job_is_cancelled_when_its_worker_has_gone_and_not_tried_again(bench):
    job = bench.submit(retries=3)
    assert bench.dispatcher.cancel(job, bench.now)
    assert ([("interrupt", 0)], JobState.RUNNING) == (bench.take_notes(), job.state)
    bench.end(bench.slots[0])
    assert (JobState.CANCELLED, Reason.CANCELLED) == bench.outcomes.answers[job][:2]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_job_that_was_not_read_is_cancelled_without_harm_to_the_worker(bench, place):
    jobs = bench.submit_unread(3)
    assert bench.dispatcher.cancel(jobs[place], bench.now)
    bench.turn()
    others = [job for job in jobs if job is not jobs[place]]
    assert ([], [jobs[place]]) == (bench.take_notes(), list(bench.outcomes.answers))
    assert others[0] is bench.slots[0].jobs[0]
    assert [1, 1] == [job.attempt or 1 for job in others]


def test_single_job_that_was_not_read_is_cancelled_and_does_not_come_back(bench):
    (job,) = bench.submit_unread(1)
    assert bench.dispatcher.cancel(job, bench.now)
    assert (JobState.CANCELLED, SlotState.IDLE) == (job.state, bench.slots[0].state)


def test_cancelling_the_job_that_a_worker_is_in_leaves_those_before_it_their_answers(bench):
    first, second = bench.submit(tiny=True), bench.submit(tiny=True)
    assert not bench.dispatcher.cancel(first, bench.now), "it has been answered"
    assert bench.dispatcher.cancel(second, bench.now)
    bench.finish(first)
    bench.end(bench.slots[0])
    assert [JobState.SUCCEEDED, JobState.CANCELLED] == [job.state for job in (first, second)]


def test_job_of_a_worker_that_is_being_stopped_can_be_cancelled(bench):
    job = bench.submit(timeout=1.0, retries=1)
    bench.turn(1.0)
    assert bench.dispatcher.cancel(job, bench.now)
    bench.end(bench.slots[0])
    assert JobState.CANCELLED is job.state


def test_job_of_a_worker_that_makes_room_can_be_cancelled(bench):
    job = bench.submit()
    bench.submit(generation=bench.add_generation())
    assert [("retire", 0)] == bench.take_notes()
    assert bench.dispatcher.cancel(job, bench.now)
    assert [("interrupt", 0)] == bench.take_notes()


# Tiny jobs


def test_tiny_jobs_are_shared_out_among_workers():
    bench = Bench((2, 2))
    for _ in range(12):
        bench.submit(tiny=True)
    assert {6} == {len(slot.jobs) for slot in bench.slots}


def test_tiny_jobs_are_sent_ahead_and_others_are_not(bench):
    for _ in range(MAX_PREFETCH + 3):
        bench.submit(tiny=True)
    assert (MAX_PREFETCH, 3) == (len(bench.slots[0].jobs), bench.dispatcher.queued)
    bench = Bench()
    bench.submit(tiny=True)
    bench.submit()
    assert (1, 1) == (len(bench.slots[0].jobs), bench.dispatcher.queued)


def test_jobs_behind_a_slow_one_are_taken_back_once_in_their_order(bench):
    slow = bench.submit(tiny=True)
    behind = bench.submit_unread(3)
    assert bench.now + RECLAIM_TIMEOUT == bench.dispatcher.next_deadline(bench.now)
    bench.turn(RECLAIM_TIMEOUT)
    assert (3, [slow], [0, 0, 0]) == (bench.dispatcher.queued, list(bench.slots[0].jobs), [j.attempt for j in behind])
    assert math.inf == bench.dispatcher.next_deadline(bench.now), "a busy loop"
    bench.finish(slow, seconds=0.000_1)
    assert behind == list(bench.slots[0].jobs)


def test_worker_that_reads_nothing_runs_into_the_timeout(bench):
    first, *_ = bench.submit_unread(3, timeout=1.0)
    bench.turn(RECLAIM_TIMEOUT)
    assert [first] == list(bench.slots[0].jobs)
    bench.turn(1.0)
    assert [("interrupt", 0)] == bench.take_notes()


def test_job_taken_back_before_another_that_was_read_is_given_back_by_id(bench):
    first, second, third = (bench.submit(tiny=True) for _ in range(3))
    bench.workers.unread = {second}
    bench.turn(RECLAIM_TIMEOUT)
    assert ([first, third], JobState.QUEUED) == (list(bench.slots[0].jobs), second.state)


def test_deadline_is_that_of_the_job_that_a_worker_has_read_past_one_that_was_taken_back(bench):
    first, second = bench.submit(tiny=True, timeout=1.0), bench.submit(tiny=True, timeout=5.0)
    bench.workers.unread = {first}
    bench.turn(RECLAIM_TIMEOUT)
    assert ([second], bench.now + 5.0) == (list(bench.slots[0].jobs), bench.dispatcher.next_deadline(bench.now))


def test_worker_that_cannot_take_a_job_leaves_it_queued(bench):
    bench.workers.can_send = False
    job = bench.submit()
    assert (JobState.QUEUED, 0, 1) == (job.state, job.attempt, bench.dispatcher.queued)
    bench.workers.can_send = True
    bench.turn()
    assert JobState.RUNNING is job.state


# Workers: how many, and for how long


def test_paused_pool_starts_nothing_until_it_is_resumed(bench):
    bench.dispatcher.pause(bench.now)
    job = bench.submit()
    assert JobState.QUEUED is job.state
    bench.dispatcher.resume()
    bench.turn()
    assert JobState.RUNNING is job.state



def test_fewer_workers_end_at_once_if_idle_and_else_after_their_job():
    bench = Bench((3, 3))
    jobs = [bench.submit(), bench.submit()]
    assert [2, 1] == [job.slot.number for job in jobs]
    bench.dispatcher.resize(1, 1, bench.now)
    assert [] == bench.take_notes()
    bench.finish(jobs[0])
    assert [("retire", 2)] == bench.take_notes()
    bench.finish(jobs[1])
    assert [("retire", 1)] == bench.take_notes()


def test_worker_too_many_gets_nothing_ahead_and_ends_if_it_gets_ready_too_late():
    bench = Bench((2, 2))
    job = bench.submit(tiny=True)
    bench.dispatcher.resize(1, 1, bench.now)
    bench.submit(tiny=True), bench.submit(tiny=True)
    assert (1, [job]) == (job.slot.number, list(job.slot.jobs))
    bench = Bench((2, 2), ready=False)
    bench.dispatcher.resize(1, 1, bench.now)
    bench.start_workers()
    assert [SlotState.IDLE, SlotState.STOPPING] == [slot.state for slot in bench.slots]


def test_more_workers_are_started_at_once(bench):
    bench.dispatcher.resize(3, 3, bench.now)
    assert [("spawn", 1), ("spawn", 2)] == bench.take_notes()


def test_worker_is_replaced_after_its_share_of_jobs():
    bench = Bench(max_jobs_per_worker=2)
    for _ in range(2):
        bench.finish(bench.submit())
    assert [("retire", 0)] == bench.take_notes()
    bench.end(bench.slots[0], signal=None)
    assert ([("spawn", 0)], 0) == (bench.take_notes(), bench.dispatcher.worker_slots.restarts)


def test_starts_that_fail_are_free_three_times_and_wait_after_that():
    bench = Bench(ready=False)
    for _ in range(3):
        bench.end(bench.slots[0])
        assert SlotState.STARTING is bench.slots[0].state
    bench.end(bench.slots[0])
    assert (SlotState.EMPTY, 100.1) == (bench.slots[0].state, bench.dispatcher.next_deadline(bench.now))
    assert "before it was ready" in bench.generation.problem
    bench.turn(0.1)
    bench.dispatcher.on_spawn_failed(bench.slots[0], "no memory", bench.now)
    assert pytest.approx(100.3) == bench.dispatcher.next_deadline(bench.now)
    bench.turn(0.2)
    bench.start_workers()
    assert ("", SlotState.IDLE) == (bench.generation.problem, bench.slots[0].state)


def test_worker_without_descriptors_is_tried_again_and_becomes_the_problem_of_the_pool(bench):
    bench.workers.has_pipes = False
    bench.end(bench.slots[0])
    for _ in range(4):
        assert (SlotState.EMPTY, 0) == (bench.slots[0].state, bench.dispatcher.worker_slots.live)
        bench.turn(bench.dispatcher.next_deadline(bench.now) - bench.now)
    assert "a worker could not be started: [Errno 24] Too many open files" == bench.generation.problem
    bench.workers.has_pipes = True
    bench.turn(10.0)
    bench.start_workers()
    assert ("", SlotState.IDLE) == (bench.generation.problem, bench.slots[0].state)


def test_problem_of_an_initializer_is_that_of_the_generation_while_the_worker_starts():
    bench = Bench(ready=False)
    bench.dispatcher.on_init_failed(bench.slots[0], "no database")
    assert "no database" == bench.generation.problem
    bench.start_workers()
    bench.dispatcher.on_init_failed(bench.slots[0], "no database")
    assert "" == bench.generation.problem


def test_worker_that_has_grown_too_much_ends_after_the_jobs_that_it_has():
    bench = Bench()
    jobs = [bench.submit(tiny=True, max_rss=2**20) for _ in range(2)]
    bench.finish(jobs[0], rss_bytes=2**20)
    waiting = bench.submit(tiny=True)
    assert ([("retire", 0)], [jobs[1]], JobState.QUEUED) == (bench.take_notes(), list(bench.slots[0].jobs), waiting.state)
    bench.finish(jobs[1])
    assert SlotState.STOPPING is bench.slots[0].state
    bench.end(bench.slots[0], signal=None)
    bench.start_workers()
    assert (JobState.RUNNING, 0) == (waiting.state, bench.dispatcher.worker_slots.restarts)


def test_second_word_of_a_worker_that_it_is_ready_changes_nothing(bench):
    bench.dispatcher.on_ready(bench.slots[0], 0, bench.now)
    assert [bench.slots[0]] == bench.generation.idle


# Generations


def test_job_runs_on_a_worker_of_its_own_generation_and_an_idle_one_makes_room(bench):
    new = bench.add_generation()
    job = bench.submit(generation=new)
    assert ([], [("retire", 0)]) == (bench.workers.sent, bench.take_notes())
    bench.end(bench.slots[0], signal=None)
    bench.start_workers()
    assert (new, JobState.RUNNING) == (bench.slots[0].generation, job.state)


def test_one_busy_worker_at_a_time_makes_room_after_its_job():
    bench = Bench((2, 2))
    jobs = [bench.submit(), bench.submit()]
    bench.submit(generation=bench.add_generation())
    bench.turn()
    bench.turn()
    assert [("retire", 0)] == bench.take_notes()
    assert [SlotState.BUSY] * 2 == [slot.state for slot in bench.slots]
    bench.finish(next(job for job in jobs if job.slot.number == 0))
    assert (SlotState.STOPPING, bench.now + 2.0) == (bench.slots[0].state, bench.dispatcher.next_deadline(bench.now))
    bench.turn(2.0)
    assert [("kill", 0)] == bench.take_notes()


def test_two_generations_take_turns_on_one_worker(bench):
    generations = [bench.generation, bench.add_generation()]
    for _ in range(3):
        for generation in generations:
            bench.submit(generation=generation)
    seen = []
    while bench.dispatcher.unfinished:
        bench.turn(1.0)
        bench.start_workers()
        slot = bench.slots[0]
        if slot.jobs:
            seen.append(slot.generation.number)
            bench.finish(slot.jobs[0])
        if slot.state is SlotState.STOPPING:
            bench.end(slot, signal=None)
    assert [1, 2, 1, 2, 1, 2] == seen


def test_worker_that_makes_room_runs_what_it_has_been_given(bench):
    jobs = bench.submit_unread(2)
    bench.submit(generation=bench.add_generation())
    bench.turn()
    assert ([("retire", 0)], jobs) == (bench.take_notes(), list(bench.slots[0].jobs))


def test_paused_pool_does_not_exchange_workers(bench):
    bench.dispatcher.pause(bench.now)
    bench.submit()
    bench.submit(generation=bench.add_generation())
    bench.turn()
    assert ([], SlotState.IDLE) == (bench.take_notes(), bench.slots[0].state)


def test_generation_that_is_not_ready_gets_no_worker():
    bench = Bench()
    new = bench.add_generation()
    new.ready = False
    bench.submit(generation=new)
    assert [] == bench.take_notes()
    new.ready = True
    bench.turn()
    assert [("retire", 0)] == bench.take_notes()


def test_newest_generations_come_first_and_those_taken_over_not_at_all(bench):
    first, second, third = bench.generation, bench.add_generation(), bench.add_generation()
    assert [third, second, first] == bench.dispatcher.current_generations()
    bench.dispatcher.supersede(first, third, bench.now)
    assert ([third, second], third, third) == (
        bench.dispatcher.current_generations(),
        bench.dispatcher.newest_generation(),
        first.newest(),
    )
    bench.dispatcher.generations.clear()
    assert bench.dispatcher.newest_generation() is None


def test_idle_workers_of_a_retired_generation_end():
    bench = Bench((2, 2))
    bench.submit()
    bench.dispatcher.retire_generation(bench.generation, bench.now)
    assert ([("retire", 0)], []) == (bench.take_notes(), bench.generation.idle)


# The end


def test_closed_queue_gives_up_waiting_jobs_and_stop_the_running_ones():
    bench = Bench((2, 2))
    running, queued_twice = bench.submit(), [bench.submit(), bench.submit()]
    jobs = [running, *queued_twice, bench.submit(delay=5.0)]
    bench.finish(queued_twice[0])
    bench.dispatcher.close_queue("enough")
    bench.dispatcher.stop_running(bench.now)
    assert {jobs[1], jobs[3]} == set(bench.outcomes.answers)
    assert Reason.STOPPED is bench.outcomes.answers[jobs[3]][1]
    assert "enough" in bench.outcomes.answers[jobs[3]][2]
    for slot in bench.slots:
        assert slot.stop is Stop.SHUTDOWN
        bench.end(slot, signal=15)
    assert [Reason.STOPPED] * 2 == [bench.outcomes.answers[job][1] for job in (running, queued_twice[1])]
    assert ([SlotState.EMPTY] * 2, 0) == ([slot.state for slot in bench.slots], bench.dispatcher.unfinished)


def test_jobs_sent_ahead_are_answered_when_the_pool_stops(bench):
    bench.submit(tiny=True)
    ahead = bench.submit_unread(2)
    bench.dispatcher.close_queue("enough")
    bench.dispatcher.stop_running(bench.now)
    assert [Reason.STOPPED] * 2 == [bench.outcomes.answers[job][1] for job in ahead]


def test_worker_that_had_read_none_of_its_jobs_ends_when_the_pool_stops(bench):
    bench.submit_unread(2)
    bench.dispatcher.close_queue("enough")
    bench.dispatcher.stop_running(bench.now)
    assert ([("retire", 0)], 2) == (bench.take_notes(), len(bench.outcomes.answers))


def test_refused_job_is_answered(bench):
    job = Job(b"x" * 16, Kind(1, b"work", JobOptions()), bench.generation)
    bench.dispatcher.reject(job, "QueueFull", "no room", {"queued": 7})
    assert ((JobState.FAILED, Reason.REJECTED, "no room"), 0) == (bench.outcomes.answers[job], bench.dispatcher.unfinished)


def test_workers_that_never_get_as_far_as_a_job_are_replaced_ever_more_slowly(bench):
    starts = []
    for _ in range(8):
        bench.end(bench.slots[0])
        began = bench.now
        while bench.slots[0].state is SlotState.EMPTY:
            bench.turn(0.05)
        starts.append(bench.now - began)
        bench.start_workers()
    assert [0.0, 0.0, 0.0] == starts[:3]
    assert starts[-1] > 1.0


def test_worker_that_has_done_a_job_is_replaced_at_once(bench):
    for _ in range(8):
        bench.finish(bench.submit())
        bench.end(bench.slots[0])
        assert SlotState.STARTING == bench.slots[0].state
        bench.start_workers()


# Workers that hang between two jobs


def test_worker_that_does_not_read_its_job_is_replaced_and_the_job_runs_elsewhere(bench):
    job = bench.submit()
    bench.workers.unread, bench.workers.unbegun = {job}, {job}
    bench.turn(BEGIN_TIMEOUT)
    assert ([("terminate", 0)], JobState.QUEUED, 0) == (bench.take_notes(), job.state, job.attempt)
    bench.end(bench.slots[0])
    bench.start_workers()
    assert (JobState.RUNNING, 1, 1) == (job.state, job.attempt, bench.dispatcher.worker_slots.restarts)


def test_worker_that_has_read_its_job_is_left_alone_however_long_it_takes(bench):
    job = bench.submit()
    bench.turn(BEGIN_TIMEOUT)
    assert ([], math.inf) == (bench.take_notes(), bench.dispatcher.next_deadline(bench.now))
    bench.workers.unbegun = {job}  # it has read it and not marked it yet
    bench.submit()
    bench.turn(BEGIN_TIMEOUT)
    assert ([], JobState.RUNNING) == (bench.take_notes(), job.state)


def test_reclaimed_job_of_a_higher_priority_is_woken_beside_the_one_that_was_woken_meanwhile():
    limiters, generation = Limiters({"one": Queue(limit=1)}), Generation(1, "")
    low, high = (
        Job(bytes([n]) * 16, Kind(n, b"work", JobOptions(queue="one", priority=n)), generation) for n in (0, 1)
    )
    for job in (low, high):
        limiters.join(job)
    limiters.requeue(low)
    assert [low] == limiters.wake(0.0)
    limiters.start(high, 0.0)  # it has come before
    limiters.release(high, was_started=False)
    limiters.requeue(high)
    assert [high] == limiters.wake(0.0)


# Workers that cannot be put back as they were ---------------------------------------------------------------------


def test_worker_that_is_spent_gets_no_more_jobs_and_its_end_is_nobodys_crash():
    bench = Bench()
    (slot,) = bench.slots
    job = bench.submit()
    bench.dispatcher.on_spent(slot, "RLIMIT_CORE", bench.now)
    bench.finish(job)
    waiting = bench.submit()
    assert (JobState.SUCCEEDED, JobState.QUEUED) == (job.state, waiting.state)
    bench.end(slot, signal=None)
    bench.start_workers()
    assert [job, waiting] == bench.started()
    assert (0, 0, 1) == (bench.dispatcher.crashed, bench.dispatcher.worker_slots.restarts, waiting.attempt)
    assert "RLIMIT_CORE" in "\n".join(bench.outcomes.lines)


def test_worker_that_is_spent_when_its_answer_has_been_read_is_retired():
    bench = Bench()
    (slot,) = bench.slots
    bench.finish(bench.submit())
    bench.dispatcher.on_spent(slot, "the niceness", bench.now)
    assert ([("retire", 0)], Stop.RETIRE) == (bench.take_notes(), slot.stop)
    bench.dispatcher.on_spent(slot, "the niceness", bench.now)
    assert [] == bench.take_notes()


def test_jobs_that_a_spent_worker_has_not_read_are_run_by_another_as_their_first_attempt():
    bench = Bench()
    (slot,) = bench.slots
    first = bench.submit(tiny=True)
    unread = bench.submit_unread(3)
    bench.dispatcher.on_spent(slot, "its own descriptors", bench.now)
    bench.finish(first)
    bench.end(slot, signal=None, unread=unread)
    bench.start_workers()
    bench.finish_all()
    assert {(JobState.SUCCEEDED, 1)} == {(job.state, job.attempt) for job in [first, *unread]}
