"""The choice of a size on made-up curves, and the statistics of single runs."""

from __future__ import annotations

import doctest
import importlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procjobs.errors import ConfigurationError
from procjobs.tuning import Call, Measurement, Report, Skipped, default_sizes, find_knee
from procjobs.tuning.knee import Point
from procjobs.tuning.plan import check_calls, check_sizes, min_jobs
from procjobs.tuning.window import Run, percentile, standard_error, throughput

MB = 2**20


def curve(rates, *, error=0.0, memory=lambda workers: 100 * workers):
    """Return points of {workers: throughput}, each with the same relative error."""
    return [Point(workers, rate, error * rate, memory(workers)) for workers, rate in rates.items()]


LINEAR = {1: 3.0, 2: 6.0, 3: 9.0, 4: 12.0}
SATURATING = {1: 3.1, 2: 6.1, 3: 8.9, 4: 11.8, 6: 12.3, 8: 12.2}  # on 4 CPUs
FALLING = {1: 10.0, 2: 19.0, 3: 22.0, 4: 18.0, 6: 12.0}


@pytest.mark.parametrize("name", ["knee", "plan", "report", "window"])
def test_examples_in_docstrings_are_right(name):
    result = doctest.testmod(importlib.import_module(f"procjobs.tuning.{name}"))
    assert (0, True) == (result.failed, result.attempted > 0)


@pytest.mark.parametrize(
    ("rates", "workers", "best"),
    [(LINEAR, 4, 4), (SATURATING, 4, 6), (FALLING, 3, 3), ({2: 5.0}, 2, 2), ({1: 5.0, 2: 5.0, 4: 5.0}, 1, 1)],
    ids=["linear", "saturating", "falling", "single", "flat"],
)
def test_smallest_size_that_is_as_good_as_the_best_is_enough(rates, workers, best):
    knee = find_knee(curve(rates))
    assert (workers, best, False) == (knee.workers, knee.best, knee.is_noisy)


def test_curve_that_still_grows_at_its_end_is_marked_as_growing():
    assert find_knee(curve(LINEAR)).is_growing
    for done in (SATURATING, FALLING, {2: 5.0}, {1: 5.0, 2: 5.1}):
        assert not find_knee(curve(done)).is_growing


def test_size_that_does_not_fit_into_memory_is_not_recommended_however_fast():
    knee = find_knee(curve(LINEAR), memory_bytes=250)
    assert (2, 2, (3, 4), False) == (knee.workers, knee.best, knee.too_big, knee.is_growing)


def test_best_size_is_chosen_among_the_sizes_that_fit():
    assert 2 == find_knee(curve({1: 5.0, 2: 9.0, 4: 9.2, 8: 40.0}), memory_bytes=400).workers


def test_nothing_is_recommended_where_nothing_fits_or_nothing_is_done():
    assert find_knee(curve(LINEAR), memory_bytes=50) is None
    assert find_knee(curve({1: 0.0, 2: 0.0})) is None
    assert find_knee([]) is None


def test_size_within_one_standard_error_of_the_best_is_as_good():
    rates = {1: 5.0, 2: 9.2, 4: 10.0}
    assert (4, False) == (find_knee(curve(rates)).workers, find_knee(curve(rates)).is_noisy)
    noisy = find_knee(curve(rates, error=0.1))
    assert (2, True) == (noisy.workers, noisy.is_noisy)


def test_noise_does_not_excuse_everything():
    assert 4 == find_knee(curve({1: 5.0, 2: 8.0, 4: 10.0}, error=1.0)).workers


points = st.builds(
    Point, st.integers(1, 64), st.floats(0.001, 1e6), st.floats(0, 1e6), st.integers(1, 10**12)
)  # fmt: skip


@given(st.lists(points, min_size=1, max_size=9, unique_by=lambda point: point.workers), st.integers(1, 10**12))
def test_recommended_size_was_measured_fits_and_is_near_the_best(measured, memory_bytes):
    knee = find_knee(measured, memory_bytes)
    fitting = {point.workers: point for point in measured if point.memory_bytes <= memory_bytes}
    assert bool(fitting) == (knee is not None)
    if knee is not None:
        best = max(point.throughput for point in fitting.values())
        assert fitting[knee.workers].throughput >= 0.849 * best
        assert best == fitting[knee.best].throughput
        assert knee == find_knee(measured[::-1], memory_bytes)


def test_sizes_are_few_and_have_the_cpus_among_them():
    for cpus in range(1, 200):
        sizes = default_sizes(cpus)
        assert {1, cpus} <= set(sizes)
        assert max(sizes) == max(2 * cpus, 4)
        assert len(sizes) <= 4 + 2 * math.log2(2 * cpus)
    assert [1, 2] == default_sizes(64, most=2)
    assert 512 == max(default_sizes(400))


@pytest.mark.parametrize("sizes", [[0], [513], ["2"], [True], []])
def test_invalid_size_is_refused(sizes):
    with pytest.raises(ConfigurationError, match="sizes"):
        check_sizes(sizes)


def test_calls_are_calls_or_sequences_of_arguments():
    assert [Call((1, 2)), Call((), {"a": 1})] == check_calls([(1, 2), Call((), {"a": 1})])
    for wrong in (["in.mp4"], [3], []):
        with pytest.raises(ConfigurationError, match="calls"):
            check_calls(wrong)


def test_each_call_is_made_once_unless_there_are_very_many():
    assert (3, 12, 36, 200, 7) == (
        min_jobs(1, 1, None), min_jobs(4, 1, None), min_jobs(2, 36, None), min_jobs(2, 10**6, None),
        min_jobs(9, 9, 7),
    )  # fmt: skip


def rounds(workers, count, seconds=1.0):
    """Return the runs of workers that all begin and end at the same time, like jobs of equal length."""
    return [Run((number + 1) * seconds, seconds) for number in range(count) for _ in range(workers)]


@pytest.mark.parametrize("begin", [0.0, 0.3, 0.999, 1.0])
def test_throughput_does_not_depend_on_where_the_span_begins(begin):
    assert 4.0 == pytest.approx(throughput(rounds(4, 10), begin, begin + 5.5))


def test_failed_jobs_do_not_count_as_throughput():
    runs = [*rounds(1, 4), *(Run(n + 1.0, 1.0, "crashed") for n in range(4))]
    assert 1.0 == pytest.approx(throughput(runs, 0.0, 4.0))


def test_error_is_zero_for_equal_parts_and_large_for_unequal_parts():
    assert 0.0 == pytest.approx(standard_error(rounds(2, 20), 0.0, 20.0))
    uneven = [Run(n + 1.0, 1.0) for n in range(10)] + [Run(10 + n / 2 + 0.5, 0.5) for n in range(20)]
    assert 0.1 < standard_error(uneven, 0.0, 20.0) / throughput(uneven, 0.0, 20.0) < 0.5


@given(st.lists(st.floats(0, 100), min_size=1))
def test_percentile_is_one_of_the_values(values):
    assert percentile(values, 0.5) in values
    assert max(values) == percentile(values, 1.0)


def measurement(workers, rate, *, memory=100, failures=None, others=0.0, p50=0.3, error=0.0):
    size = memory * MB * workers
    return Measurement(workers, 10.0, 100, rate, error, p50, 0.5, size, size, size, 0.3, 1.0, others, failures or {})


def report(*measurements, limit=10_000, skipped=(), cpus=4):
    return Report("jobs:f", cpus, limit * MB, measurements, skipped)


def test_recommendation_has_its_cost_and_its_saving():
    said = report(measurement(1, 3.1), measurement(4, 11.8), measurement(6, 12.3)).in_words()
    assert "4 workers: 11.8 jobs/s, 96% of the most (6 workers: 12.3) with 33% less memory" == said
    assert "1 worker: 3.10 jobs/s" == report(measurement(1, 3.1)).in_words()


def test_efficiency_is_against_one_worker_and_nothing_else():
    one, four = measurement(1, 4.0), measurement(4, 12.0)
    assert (1.0, 0.75) == (report(one, four).efficiency(one), report(one, four).efficiency(four))
    assert report(four).efficiency(four) is None


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (report(measurement(1, 3.0), measurement(2, 6.0)), "more may be better still: 2 is the largest"),
        (report(measurement(1, 3.0), measurement(2, 3.0, others=0.5)), "other programs used up to 0.5 of the host's CPUs"),
        (report(measurement(1, 9.2, error=0.5), measurement(2, 10.0, error=1.0)), "varied too much"),
        (report(measurement(1, 3.0, failures={"crashed": 2})), "2 jobs failed: crashed (2)"),
        (report(measurement(1, 3.0), limit=150, skipped=(Skipped(2, 200 * MB),)), "2 workers would need more memory"),
        (report(measurement(1, 3.0), measurement(2, 5.0, p50=0.6)), "takes 2.0 times as long as with 1 worker"),
    ],
    ids=["growing", "others", "noisy", "failures", "memory", "slower"],
)
def test_doubts_and_limits_become_remarks(made, said):
    assert [True] == [said in remark for remark in made.remarks() if said in remark]
    assert json.dumps(made.document())


def test_quiet_measurement_needs_no_remark():
    assert [] == report(measurement(1, 5.0), measurement(2, 9.9), measurement(4, 9.8)).remarks()


def test_host_without_room_gets_the_needed_memory_in_words():
    for made in (report(measurement(1, 3.0), limit=50), report(limit=50, skipped=(Skipped(1, 100 * MB),))):
        assert made.knee is None
        assert "the smallest needs 100 MB, and 50 MB may be used" in made.in_words()
