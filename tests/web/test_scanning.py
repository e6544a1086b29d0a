"""Listing a large pool takes a bounded share of the time, however often it is asked for."""

from __future__ import annotations

import pytest

from procjobs.web.http import Problem
from procjobs.web.scanning import Scans


class Clock:
    """The time of a test; a scan of a large table lets 2 seconds pass."""

    def __init__(self):
        self.now = 1000.0
        self.scanned = 0

    def __call__(self):
        return self.now

    def scan(self):
        self.now += 2.0
        self.scanned += 1
        return self.scanned


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def scans(clock):
    return Scans(clock)


def test_polling_costs_a_twentieth_of_the_time(clock, scans):
    for _ in range(4000):
        scans.read("the same", clock.scan)
        clock.now += 0.1
    assert 1000 + 4000 * 0.1 <= clock.now
    assert 8 <= clock.scanned <= 15  # 30 seconds apart at most


def test_many_different_questions_are_put_off_and_told_until_when(clock, scans):
    refused = []
    for number in range(200):
        try:
            scans.read(number, clock.scan)
        except Problem as problem:
            refused.append(problem)
        clock.now += 0.1
    assert {503} == {problem.status for problem in refused}
    assert 2 * clock.scanned <= 4 + 2 + (clock.now - 1000) / 4
    wait = int(dict(refused[-1].headers)["Retry-After"])
    clock.now += wait
    scans.read("again", clock.scan)


def test_small_pools_are_read_each_time(clock, scans):
    answers = [scans.read("the same", lambda number=number: number) for number in range(5)]
    assert [0, 1, 2, 3, 4] == answers


def test_who_has_changed_something_sees_it(clock, scans):
    assert 1 == scans.read("the same", clock.scan) == scans.read("the same", clock.scan)
    scans.forget()
    assert 2 == scans.read("the same", clock.scan)


def test_clock_that_is_set_back_keeps_no_answer(clock, scans):
    scans.read("the same", clock.scan)
    clock.now -= 3600.0
    assert 2 == scans.read("the same", clock.scan)


def test_scan_that_fails_is_not_kept(clock, scans):
    def fail():
        clock.scan()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        scans.read("the same", fail)
    assert 2 == scans.read("the same", clock.scan)
