"""How many workers, by made-up facts and times; then the Scaler in a dispatcher whose ports only take notes."""

from __future__ import annotations

import doctest
import math

import pytest

from procjobs.dispatch import scaling
from procjobs.dispatch.model import SlotState
from procjobs.dispatch.ports import CpuFacts, MemoryFacts
from procjobs.dispatch.scaling import (
    GROWTH_INTERVAL,
    HOLD_INTERVAL,
    LOG_INTERVAL,
    MEASURE_INTERVAL,
    SHRINK_INTERVAL,
    STARVATION_TIMEOUT,
    WAIT_TIMEOUT,
    Demand,
    growth_by_cpus,
    growth_by_memory,
)
from procjobs.shared.states import JobState

from .bench import Bench

GIB = 2**30
FIRST_STEP = WAIT_TIMEOUT + MEASURE_INTERVAL


def test_examples_in_the_docstrings_hold():
    results = doctest.testmod(scaling)
    assert (0, True) == (results.failed, results.attempted > 0)


# The rules


@pytest.mark.parametrize(
    ("demand", "facts", "expected"),
    [
        pytest.param(Demand(20, 1.0, 2), CpuFacts(8, 0.25), 6, id="as many as CPUs are idle"),
        pytest.param(Demand(3, 1.0, 2), CpuFacts(8, 0.25), 3, id="not more than jobs wait"),
        pytest.param(Demand(3, 1.0, 2, 2), CpuFacts(8, 0.25), 1, id="those that start will take two of them"),
        pytest.param(Demand(99, 1.0, 16), CpuFacts(8, 0.25), 16, id="doubled where jobs wait for something else than CPUs"),
        pytest.param(Demand(99, 1.0, 16), CpuFacts(8, 0.6), 3, id="not doubled where the CPUs are half used"),
        pytest.param(Demand(99, 1.0, 2), CpuFacts(8, 0.89), 1, id="a tenth of a CPU is room for one"),
        pytest.param(Demand(99, 1.0, 2), CpuFacts(8, 0.95), 0, id="full CPUs"),
        pytest.param(Demand(99, 1.0, 2), CpuFacts(8, 0.5, pressure=0.6), 0, id="CPUs are waited for: a quota, or bursts"),
        pytest.param(Demand(99, 1.0, 2), CpuFacts(8, 0.5, pressure=0.2), 4, id="little pressure is none"),
        pytest.param(Demand(99, STARVATION_TIMEOUT, 2), CpuFacts(8, 1.0), 1, id="starving beside others: one more"),
        pytest.param(Demand(99, STARVATION_TIMEOUT, 8), CpuFacts(8, 1.0), 0, id="a worker for each CPU, all of them busy"),
        pytest.param(Demand(99, 99.0, 2), CpuFacts(8, 0.1, memory_pressure=0.2), 0, id="memory is waited for"),
        pytest.param(Demand(99, 1.0, 2), CpuFacts(8), 6, id="nothing known: one for each CPU"),
        pytest.param(Demand(99, 1.0, 9), CpuFacts(8), 0, id="nothing known, and more than one for each CPU"),
    ],
)
def test_growth_by_cpus(demand, facts, expected):
    assert expected == growth_by_cpus(demand, facts).workers


@pytest.mark.parametrize(
    ("facts", "largest", "expected"),
    [
        pytest.param(MemoryFacts(16 * GIB, 4 * GIB, (GIB, GIB)), GIB, 3, id="the reserve stays free"),
        pytest.param(MemoryFacts(16 * GIB, 4 * GIB, (GIB, 0, 0)), GIB, 1, id="those that run grow too"),
        pytest.param(MemoryFacts(16 * GIB, GIB // 2, (GIB,)), GIB, 0, id="none left"),
        pytest.param(MemoryFacts(16 * GIB, 0, (GIB, 0)), GIB, 0, id="less than none left"),
        pytest.param(MemoryFacts(GIB, GIB // 2, ()), 0, 28, id="a worker takes something, whatever the others do"),
    ],
)
def test_growth_by_memory(facts, largest, expected):
    assert expected == growth_by_memory(facts, largest).workers


# The Scaler


def run_up(bench, *, until=60.0):
    """Wake at each deadline for so long; workers that start are ready at once."""
    end = bench.now + until
    while (deadline := bench.dispatcher.next_deadline(bench.now)) <= end:
        bench.turn(max(deadline - bench.now, 0.0))
        for slot in bench.slots:
            if slot.state is SlotState.STARTING:
                bench.dispatcher.on_ready(slot, 0, bench.now)
        bench.turn()
    bench.turn(end - bench.now)


def end_retired(bench):
    for slot in bench.slots:
        if slot.state is SlotState.STOPPING:
            bench.end(slot, signal=None)


def size(bench):
    return bench.dispatcher.worker_slots.size


def test_pool_grows_when_a_job_has_waited_and_says_why():
    bench = Bench((1, 8))
    for _ in range(6):
        bench.submit()
    assert bench.now + WAIT_TIMEOUT == bench.dispatcher.next_deadline(bench.now)
    run_up(bench, until=FIRST_STEP)
    assert (6, 6) == (size(bench), sum(slot.state is SlotState.BUSY for slot in bench.slots))
    assert "1 -> 6 workers: 5 jobs wait 0.2 s, CPUs 10 % used" == bench.outcomes.lines[-1]
    assert bench.outcomes.lines[-1] == bench.dispatcher.worker_slots.last_change


def test_job_that_is_soon_done_is_worth_no_worker():
    bench = Bench((1, 8))
    first, second = bench.submit(), bench.submit()
    bench.turn(WAIT_TIMEOUT / 2)
    bench.finish(first)
    bench.turn(WAIT_TIMEOUT)
    assert (1, 0, JobState.RUNNING) == (size(bench), bench.host.looks, second.state)


def test_nothing_is_read_and_no_deadline_set_while_no_job_waits():
    bench = Bench((1, 8))
    bench.submit()
    assert (math.inf, 0) == (Bench((1, 8)).dispatcher.next_deadline(100.0), bench.host.looks)
    bench.turn(5.0)  # it has begun by then, which is looked at once
    assert math.inf == bench.dispatcher.next_deadline(bench.now)


def test_jobs_of_which_none_waits_long_let_the_host_alone_however_many_there_are():
    bench = Bench((1, 8))
    jobs = [bench.submit(), bench.submit()]
    for _ in range(100):  # one runs and one waits, all the time
        run_up(bench, until=WAIT_TIMEOUT * 0.6)
        jobs.append(bench.submit())
        bench.finish(jobs.pop(0))
    assert (1, 1, 0) == (bench.dispatcher.queued, size(bench), bench.host.looks)


def test_next_look_is_when_the_job_that_waits_now_has_waited_long_enough():
    bench = Bench((1, 8))
    first = bench.submit()
    bench.submit()
    began = bench.now
    bench.turn(WAIT_TIMEOUT / 2)
    bench.submit()
    bench.finish(first)
    bench.turn(began + WAIT_TIMEOUT - bench.now)
    assert pytest.approx(began + 1.5 * WAIT_TIMEOUT) == bench.dispatcher.next_deadline(bench.now)


def test_full_cpus_hold_the_size_with_one_line_in_the_log_until_jobs_starve():
    bench = Bench((1, 8))
    bench.host.cpu_facts = CpuFacts(2, 0.97)
    for _ in range(9):
        bench.submit()
    run_up(bench, until=STARVATION_TIMEOUT - 1.0)
    assert ["stays at 1 worker: 8 jobs wait 0.2 s, CPUs 97 % used"] == bench.outcomes.lines
    assert bench.host.looks <= 2 + STARVATION_TIMEOUT / HOLD_INTERVAL
    run_up(bench, until=3.0)
    assert 2 == size(bench)
    run_up(bench, until=LOG_INTERVAL)
    assert 2 == size(bench), "one for each CPU, and no more"


def test_memory_bounds_the_growth():
    bench = Bench((1, 8))
    bench.host.memory_facts = MemoryFacts(8 * GIB, 3 * GIB, (GIB,))
    for _ in range(9):
        bench.submit()
    run_up(bench, until=FIRST_STEP)
    assert 3 == size(bench)
    bench.host.memory_facts = MemoryFacts(8 * GIB, 2 * GIB, (GIB, 0, 0))
    run_up(bench, until=LOG_INTERVAL + 2)
    assert 3 == size(bench), "two have yet to become as large as the first"
    assert "2048 MiB of memory free, 1024 MiB for each worker" in bench.outcomes.lines[-1]


def test_largest_worker_so_far_is_remembered_for_a_while():
    bench = Bench((1, 8))
    bench.host.memory_facts = MemoryFacts(8 * GIB, 2 * GIB, (2 * GIB,))
    for _ in range(9):
        bench.submit()
    run_up(bench, until=FIRST_STEP)
    bench.host.memory_facts = MemoryFacts(8 * GIB, 2 * GIB, (0,))
    run_up(bench, until=5.0)
    assert 1 == size(bench)


def test_workers_that_start_slowly_are_not_asked_for_twice():
    bench = Bench((1, 20))
    for _ in range(5):
        bench.submit()
    for _ in range(100):  # ten seconds of an initializer
        bench.turn(0.1)
    assert (5, 2) == (size(bench), bench.host.looks)
    bench.submit()
    bench.turn(GROWTH_INTERVAL), bench.turn(MEASURE_INTERVAL)
    assert 6 == size(bench)


def test_workers_that_cannot_be_started_are_not_joined_by_more():
    bench = Bench((1, 20))
    bench.generation.ready = False
    for _ in range(5):
        bench.submit()
    for _ in range(100):
        bench.turn(0.1)
    assert 5 == size(bench)


def test_memory_of_earlier_runs_is_expected_of_the_first_workers_of_this_run():
    bench = Bench((1, 8))
    bench.host.memory_facts = MemoryFacts(8 * GIB, 4 * GIB, (0,), expected_bytes=GIB)
    for _ in range(9):
        bench.submit()
    run_up(bench, until=FIRST_STEP)
    assert 3 == size(bench)


def test_growth_pauses_between_two_steps():
    bench = Bench((1, 64))
    bench.host.cpu_facts = CpuFacts(2, 0.1)
    for _ in range(64):
        bench.submit()
    run_up(bench, until=FIRST_STEP)
    assert 3 == size(bench)
    run_up(bench, until=GROWTH_INTERVAL * 0.9)
    assert 3 == size(bench)
    run_up(bench, until=GROWTH_INTERVAL * 0.2)
    assert 6 == size(bench)


def test_pool_shrinks_slowly_and_to_the_least():
    bench = Bench((2, 10), worker_idle=10.0)
    jobs = [bench.submit() for _ in range(10)]
    run_up(bench, until=5.0)
    assert 10 == size(bench)
    bench.take_notes()
    for job in jobs:
        bench.finish(job)
    assert bench.now + 10.0 == bench.dispatcher.next_deadline(bench.now)
    bench.turn(9.9)
    assert (10, []) == (size(bench), bench.take_notes())
    bench.turn(0.1)
    assert (8, 2) == (size(bench), len(bench.take_notes()))
    assert "10 -> 8 workers: 10 not needed for 10 s" == bench.outcomes.lines[-1]
    end_retired(bench)
    assert pytest.approx(bench.now + SHRINK_INTERVAL) == bench.dispatcher.next_deadline(bench.now)
    for _ in range(20):
        bench.turn(SHRINK_INTERVAL)
        end_retired(bench)
    assert (2, 2, math.inf) == (size(bench), bench.dispatcher.worker_slots.live, bench.dispatcher.next_deadline(bench.now))


def test_busy_worker_is_never_ended():
    bench = Bench((1, 4), worker_idle=1.0)
    jobs = [bench.submit() for _ in range(4)]
    run_up(bench, until=2.0)
    for job in jobs[1:]:
        bench.finish(job)
    for _ in range(10):
        bench.turn(1.0)
        end_retired(bench)
    assert (1, JobState.RUNNING, SlotState.BUSY) == (size(bench), jobs[0].state, jobs[0].slot.state)


def test_size_that_is_needed_again_soon_is_kept_longer():
    bench = Bench((1, 2), worker_idle=10.0)
    for _ in range(40):  # two jobs every 15 seconds, which would cost two changes each time
        jobs = [bench.submit(), bench.submit()]
        run_up(bench, until=1.0)
        for job in jobs:
            bench.finish(job)
        run_up(bench, until=14.0)
        end_retired(bench)
    assert ["1 -> 2", "2 -> 1", "1 -> 2"] == [line.partition(" workers")[0] for line in bench.outcomes.lines]


def test_worker_that_may_not_be_idle_at_all_still_runs_what_it_was_started_for():
    bench = Bench((1, 2), worker_idle=0.0)
    bench.submit()
    job = bench.submit()
    run_up(bench, until=1.0)
    assert JobState.RUNNING is job.state


def test_paused_pool_does_not_grow():
    bench = Bench((1, 4))
    bench.dispatcher.pause(bench.now)
    bench.submit(), bench.submit()
    run_up(bench, until=30.0)
    assert (1, 0) == (size(bench), bench.host.looks)


def test_jobs_that_wait_for_their_key_need_no_workers():
    bench = Bench((1, 4))
    for _ in range(9):
        bench.submit(key=b"one")
    bench.finish(bench.slots[0].jobs[0])
    run_up(bench, until=30.0)
    assert (1, 0, 7) == (size(bench), bench.host.looks, bench.dispatcher.queued)


def test_generation_without_a_worker_gets_one_at_once():
    bench = Bench((1, 4))
    bench.submit()
    new = bench.add_generation()
    bench.submit(generation=new)
    assert (2, 1, [("spawn", 1)]) == (size(bench), new.slots, bench.take_notes())


def test_workers_go_to_the_generations_whose_jobs_wait():
    bench = Bench((1, 5))
    new = bench.add_generation()
    bench.submit(), bench.submit(generation=new)
    run_up(bench, until=0.0)
    assert (1, 1) == (bench.generation.slots, new.slots)
    bench.submit()
    for _ in range(4):
        bench.submit(generation=new)
    run_up(bench, until=1.0)
    assert (5, 2, 3) == (size(bench), bench.generation.slots, new.slots)


def test_workers_of_a_paused_pool_stay_for_the_jobs_that_wait():
    bench = Bench((1, 3), worker_idle=1.0)
    jobs = [bench.submit() for _ in range(3)]
    run_up(bench, until=1.0)
    bench.dispatcher.pause(bench.now)
    for job in jobs:
        bench.finish(job)
    bench.submit()
    run_up(bench, until=30.0)
    assert (3, math.inf) == (size(bench), bench.dispatcher.next_deadline(bench.now))


# Resizing


def test_number_ends_the_scaling_and_a_pair_begins_it():
    bench = Bench((1, 4))
    for _ in range(9):
        bench.submit()
    bench.dispatcher.resize(3, 3, bench.now)
    assert (3, "1 -> 3 workers: resized to 3") == (size(bench), bench.outcomes.lines[-1])
    run_up(bench, until=30.0)
    assert (3, 0) == (size(bench), bench.host.looks)
    bench.dispatcher.resize(2, 6, bench.now)
    assert (3, "3 -> 3 workers: resized to 2 to 6") == (size(bench), bench.outcomes.lines[-1])
    run_up(bench, until=1.0)
    assert 6 == size(bench)


def test_new_bounds_move_the_size_as_far_as_they_must():
    bench = Bench((1, 8))
    for _ in range(8):
        bench.submit()
    run_up(bench, until=1.0)
    bench.dispatcher.resize(2, 4, bench.now)
    assert 4 == size(bench)
    for slot in bench.slots[4:]:
        bench.finish(slot.jobs[0])
        assert SlotState.STOPPING is slot.state
    bench.dispatcher.resize(6, 8, bench.now)
    assert 6 == size(bench)
