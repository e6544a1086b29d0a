"""The timetable of schedules: which runs are made, told the time."""

from __future__ import annotations

import itertools

from procjobs.schedules.schedule import make_schedule
from procjobs.schedules.timetable import Drop, Run, Timetable

S = 1_000_000
M = 60 * S


def timetable(*, cursor=0, running=(), **options):
    """A timetable with one schedule, every minute, whose runs are numbered from 0."""
    numbers = itertools.count()
    made = Timetable(lambda: bytes([next(numbers)]))
    options = options if {"cron", "after", "at"} & set(options) else {"every": 60} | options
    made.put(make_schedule("a", **options), cursor=cursor, running=running)
    return made


def run(period, number, late=0):
    return Run("a", period, bytes([number]), late)


def test_period_is_run_when_it_is_due():
    made = timetable()
    assert M == made.next_due()
    assert [] == made.advance(M - 1)
    assert [run(M, 0, 3)] == made.advance(M + 3)
    assert 2 * M == made.next_due()
    made.ended("a", b"\0", M + S)
    assert [run(2 * M, 1)] == made.advance(2 * M)


def test_period_that_meets_a_run_is_skipped_and_counted():
    made = timetable()
    made.advance(M)
    assert [Drop("a", 2 * M, 1, "skipped")] == made.advance(2 * M)
    made.ended("a", b"\0", 2 * M + S)
    assert [run(3 * M, 1)] == made.advance(3 * M)
    assert (1, 0) == (made.view("a").skipped, made.view("a").missed)
