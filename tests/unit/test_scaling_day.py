"""A simulated day of load: waits near those of the larger fixed size, at a part of its worker-seconds, without flapping."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def day():
    """The simulation, which the benchmarks share."""
    sys.path.insert(0, BENCHMARKS)
    try:
        import simulated_day
    finally:
        sys.path.remove(BENCHMARKS)
    return simulated_day


@pytest.fixture(scope="module")
def videos(day):
    return {workers: day.live_through(day.HOSTS[0], workers) for workers in ((1, 8), 4, 8)}


def test_jobs_are_done_as_soon_as_with_the_larger_size_at_a_part_of_its_workers(videos):
    scaled, smaller, larger = videos[1, 8], videos[4], videos[8]
    assert len(scaled.turnarounds) == len(larger.turnarounds) > 5000
    assert scaled.worker_seconds < 0.65 * larger.worker_seconds
    assert scaled.turnaround(50) <= larger.turnaround(50) * 1.1
    assert scaled.turnaround(95) <= larger.turnaround(95) * 1.1
    assert scaled.turnaround(95) < 0.75 * smaller.turnaround(95)
    assert scaled.wait(50) <= larger.wait(50) + 0.5


def test_size_does_not_flap(videos):
    changes = [at for at, _ in videos[1, 8].changes]
    assert 10 < len(changes) < 400, "a change every few minutes on average"
    for first, later in zip(changes, changes[60:], strict=False):
        assert later - first > 600, "up and down through bursts is bounded too"


def test_host_is_looked_at_and_the_supervisor_woken_for_a_reason(videos):
    scaled, larger = videos[1, 8], videos[8]
    assert scaled.looks < 2 * len(scaled.waits) / 10
    assert scaled.wakes < 1.1 * larger.wakes


def test_jobs_that_wait_for_something_else_get_more_workers_than_there_are_cpus(day):
    plan = dataclasses.replace(day.HOSTS[2], peak_per_second=0.25)
    scaled = day.live_through(plan, (2, 32))
    assert max(size for _, size in scaled.sizes) > 2 * plan.cpus
    assert scaled.wait(95) < 1.0
    assert scaled.worker_seconds < 0.5 * 32 * day.DAY


def test_memory_bounds_the_size_whatever_waits(day):
    plan = dataclasses.replace(day.HOSTS[0], peak_per_second=0.06, memory=2**33, worker_bytes=2**31)
    scaled = day.live_through(plan, (1, 8))
    assert 3 == max(size for _, size in scaled.sizes)
