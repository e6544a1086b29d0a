"""How busy a pool was: which points are noted, and what a reader finds in the ring."""

from __future__ import annotations

import os

import pytest

from procjobs.clock import NEVER, wall
from procjobs.shared.fact_records import TrendPoint
from procjobs.shared.table import trend as ring
from procjobs.shared.table.layout import Counters
from procjobs.shared.table.trend import MAX_POINTS, TrendWriter, read_points
from procjobs.supervisor.trend import Trend

IDLE, BUSY = Counters(workers=2, finished=7, failed=1), Counters(workers=2, busy=2, queued=3, finished=7, failed=1)


@pytest.fixture
def writer(tmp_path):
    writer = TrendWriter(str(tmp_path))
    yield writer
    writer.close()


def make(n):
    return TrendPoint(float(n), n, 0, 0, 0, 1, 0.0)


def test_pool_that_is_awake_notes_a_point_in_five_seconds(writer, tmp_path):
    trend = Trend(writer, 100.0)
    for tenth in range(1, 121):
        trend.advance(100.0 + tenth / 10, BUSY, 99.0)
    points = read_points(str(tmp_path))
    assert [(7, 1, 3, 2, 2)] * 2 == [point[1:6] for point in points]
    assert [pytest.approx(5.9), pytest.approx(10.9)] == [point.oldest_waiting for point in points]


def test_pool_that_has_slept_notes_until_when_nothing_had_changed(writer, tmp_path):
    trend, before = Trend(writer, 100.0), wall()
    trend.advance(101.0, BUSY, NEVER)
    trend.advance(1101.0, IDLE, NEVER)
    first, second = read_points(str(tmp_path))
    assert first[1:] == second[1:] == (7, 1, 0, 0, 2, 0.0)
    assert 1000.0 == pytest.approx(second.at - first.at, abs=1.0)
    assert before - 1.0 <= second.at <= wall()


def test_pool_that_wakes_as_often_as_it_notes_points_keeps_an_hour(writer, tmp_path):
    trend = Trend(writer, 0.0)
    for turn in range(1, 2000):
        trend.advance(turn * 5.01, IDLE, NEVER)
    points = read_points(str(tmp_path))
    assert MAX_POINTS == len(points)
    assert MAX_POINTS / 2 * 5.01 > 3600


def test_points_come_back_in_their_order_the_latest_of_them(writer, tmp_path):
    assert [] == read_points(str(tmp_path))
    for n in range(1, MAX_POINTS + 10):
        writer.write(make(n))
    assert [make(n) for n in range(10, MAX_POINTS + 10)] == read_points(str(tmp_path))


def test_point_that_is_torn_is_left_out(writer, tmp_path):
    for n in (1, 2, 3):
        writer.write(make(n))
    with open(tmp_path / ring.NAME, "r+b") as file:
        file.seek(2 * 64 + 20)
        file.write(b"torn")
    assert [make(1), make(3)] == read_points(str(tmp_path))


def test_point_for_which_there_is_no_room_is_left_out(writer, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "pwrite", refuse)
        writer.write(make(1))
    writer.write(make(2))
    assert [make(2)] == read_points(str(tmp_path))
