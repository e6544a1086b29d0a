"""Counters and histograms of kinds, the file that they are in, and since when the jobs of queues wait."""

from __future__ import annotations

import math
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procjobs.clock import monotonic
from procjobs.shared.queues import Queue
from procjobs.shared.states import JobState
from procjobs.shared.table.counts import BOUNDS, BUCKETS, MAX_KINDS, CountsWriter, read_kinds, read_waits
from procjobs.supervisor.kind_counters import KindCounters, _distribute
from tests.unit.bench import Bench


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "counts")


@pytest.fixture
def counters(path):
    counters = KindCounters(CountsWriter(path, ["mail", "ü" * 100]))
    yield counters
    counters.close()


def run(tally, seconds=0.5, waited=0.01):
    if not tally.runs:
        tally.mark_changed()
    tally.runs += [seconds, waited]
    tally.count_success()


@given(st.lists(st.floats(-0.1, 1e5), min_size=1))
def test_values_are_distributed_as_one_by_one(values):
    expected = [0] * BUCKETS
    for value in values:
        expected[bisect_left(BOUNDS, value)] += 1
    found = [0] * BUCKETS
    for index, count in _distribute(values):
        found[index] += count
    assert expected == found


def test_each_kind_has_its_counters_and_histograms(counters, path):
    tally = counters.of(b"jobs.work")
    for seconds in (0.5, 0.5, 61.0, 9000.0):
        run(tally, seconds, waited=0.001)
    for state in (JobState.FAILED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED):
        tally.count_end(state)
    tally.count_retry()
    counters.advance(10.0)
    (info,) = read_kinds(path)
    assert ("jobs.work", 4, 2, 1, 1, 1) == info[:6]
    assert (4, 9062.0, 9062.0 / 4) == (info.seconds.samples, info.seconds.total, info.seconds.mean)
    assert {0.5: 2, 300.0: 1, math.inf: 1} == {
        bound: count for bound, count in zip([*BOUNDS, math.inf], info.seconds.counts, strict=True) if count
    }
    assert (4,) == info.waits.counts[:1]


def test_counters_are_written_some_times_a_second_and_at_the_end(path):
    counters = KindCounters(CountsWriter(path, []))
    tally = counters.of(b"jobs.work")
    assert math.inf == counters.next_deadline()
    run(tally)
    counters.advance(10.0)
    assert (1, math.inf) == (read_kinds(path)[0].succeeded, counters.next_deadline())
    run(tally)
    counters.advance(10.1)
    assert (1, 10.2) == (read_kinds(path)[0].succeeded, pytest.approx(counters.next_deadline()))
    counters.advance(10.2)
    assert 2 == read_kinds(path)[0].succeeded
    run(tally)
    counters.close()
    assert 3 == read_kinds(path)[0].succeeded


def test_kinds_beyond_the_most_used_are_counted_as_one_and_nothing_is_lost(counters, path):
    tallies = [counters.of(b"jobs.%d" % n) for n in range(MAX_KINDS + 50)]
    for turn in range(3):
        for tally in tallies:
            run(tally)
        counters.advance(10.0 + turn)
    infos = read_kinds(path)
    assert (MAX_KINDS + 1, "others", 150) == (len(infos), infos[-1].name, infos[-1].succeeded)
    favourite = tallies[-1]
    for turn in range(5):
        run(favourite)
        counters.advance(20.0 + turn)
    infos = read_kinds(path)
    assert MAX_KINDS + 1 == len(infos)
    assert favourite.name.decode() in {info.name for info in infos}
    assert 3 * len(tallies) + 5 == sum(info.succeeded for info in infos) == sum(info.seconds.samples for info in infos)


def test_counters_of_a_kind_go_on_when_its_clients_come_back(counters, path):
    run(counters.of(b"jobs.work"))  # nobody holds it after this line
    counters.advance(10.0)
    run(tally := counters.of(b"jobs.work"))
    counters.advance(11.0)
    assert tally is counters.of(b"jobs.work")
    assert 1 == len(read_kinds(path))


def test_readers_know_how_long_queues_wait_by_their_clock(counters, path):
    assert {"mail": 0.0, "ü" * 100: 0.0} == read_waits(path)
    counters.write_queue("ü" * 100, monotonic() - 5)
    assert 0.0 == read_waits(path)["mail"]
    assert 5.0 <= read_waits(path)["ü" * 100] < 60.0


def test_oldest_job_is_the_first_that_could_run():
    bench = Bench(workers=(1, 1))
    running = bench.submit()
    assert math.inf == bench.dispatcher.oldest_waiting()[0]
    bench.turn(1.0)
    bench.submit(delay=1.0)
    first = bench.submit(priority=-1)
    bench.turn(1.0)
    bench.submit()
    assert first.queued_at == bench.dispatcher.oldest_waiting()[0] == bench.now - 1.0
    bench.dispatcher.cancel(first, bench.now)
    assert bench.now == bench.dispatcher.oldest_waiting()[0]
    bench.finish(running)


def test_oldest_job_of_a_queue_may_be_held_by_its_limit():
    bench = Bench(workers=(2, 2), queues={"mail": Queue(limit=1), "other": Queue()})
    running = bench.submit(queue="mail")
    bench.turn(1.0)
    held = bench.submit(queue="mail")
    bench.turn(1.0)
    bench.submit(queue="mail")
    assert {"mail": held.queued_at, "other": math.inf} == bench.dispatcher.oldest_by_queue()
    assert math.inf == bench.dispatcher.oldest_waiting()[0]  # it does not lack a worker
    bench.dispatcher.cancel(held, bench.now)
    assert bench.now == bench.dispatcher.oldest_by_queue()["mail"]
    bench.finish(running)
    assert math.inf == bench.dispatcher.oldest_by_queue()["mail"]


def test_jobs_that_came_and_went_are_not_kept_for_their_age():
    bench = Bench(workers=(1, 1), queues={"mail": Queue(limit=1)})
    for _ in range(5000):
        bench.finish(bench.submit(queue="mail"))
    assert len(bench.dispatcher._pending.arrivals._lines["mail"].jobs) <= 1001
