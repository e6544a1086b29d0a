"""Progress: what a report means, what is refused, and how much time is left."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from procjobs.clock import wall
from procjobs.shared.records import Pace, Progress
from procjobs.worker import context


class Written:
    """Stands for the row of a job."""

    def report(self, value, total):
        self.value, self.total = value, total

    def report_more(self, value, total, message, data):
        self.report(value, total)


@pytest.fixture
def report():
    written = Written()

    def report(*arguments, **more):
        context._report(written, *[*arguments, None, None, None][:2], more.get("message"), None)
        return written.value, written.total

    return report


@pytest.mark.parametrize(
    ("given", "written"),
    [((0.5,), (0.5, 1.0)), ((0.0,), (0.0, 1.0)), ((1.0,), (1.0, 1.0)), ((0,), (0, None)), ((1,), (1, None)),
     ((2,), (2, None)), ((1.5,), (1.5, None)), ((-0.5,), (-0.5, None)), ((0.5, 10), (0.5, 10)), ((1, 3), (1, 3)),
     ((0, 0), (0, 0)), ((Fraction(1, 2),), (0.5, 1.0)), ((Decimal("0.25"),), (0.25, 1.0)), ((np.float32(0.5),), (0.5, 1.0)),
     ((np.float64(0.5),), (0.5, 1.0)), ((np.int64(1),), (1, None)), ((np.int64(1), np.int32(4)), (1, 4)),
     ((np.float64(40), 100.0), (40.0, 100.0))],
)  # fmt: skip
def test_float_of_0_to_1_without_a_total_is_a_fraction_and_an_int_a_count(report, given, written):
    assert written == report(*given)
    assert written == report(*given, message="encoding")


@pytest.mark.parametrize("value", ["50%", "0.5", b"1", None, True, np.True_, [1], 1j, object()])
def test_what_is_no_number_is_refused_with_what_to_write(report, value):
    for arguments in [(value,), (value, 100), *([(1, value)] if value is not None else [])]:
        with pytest.raises(TypeError, match=r"is no number; write progress\(40, 100\), or progress\(0.4\) for 40 %"):
            report(*arguments)


@pytest.mark.parametrize("arguments", [(math.nan,), (math.inf,), (-math.inf, 3), (math.nan, 3)])
def test_value_that_is_not_finite_is_refused(report, arguments):
    with pytest.raises(ValueError, match="this is no progress"):
        report(*arguments)


@pytest.mark.parametrize("total", [-1, -0.5, math.nan, math.inf])
def test_total_that_is_none_is_refused(report, total):
    with pytest.raises(ValueError, match="a total is"):
        report(1, total)


# Time left ----------------------------------------------------------------------------------------------------------

BEGUN = 100.0


def eta(monkeypatch, fraction, updated, now, pace=None, **more):
    monkeypatch.setattr("procjobs.shared.records.wall", lambda: BEGUN + now)
    value = Pace(pace[0] * 100, BEGUN + pace[1], pace[2]) if pace else None
    return Progress(fraction * 100, 100, None, None, BEGUN + updated, BEGUN, value, **more).eta()


def test_time_left_is_that_of_the_average_speed(monkeypatch):
    assert 10.0 == pytest.approx(eta(monkeypatch, 0.5, 10, 10, (0.0, 0.0, 1.0)))
    assert 8.0 == pytest.approx(eta(monkeypatch, 0.5, 10, 12, (0.0, 0.0, 1.0)))


@pytest.mark.parametrize("now", [12.1, 25, 1000])
def test_stalled_job_has_no_time_left_that_could_be_told(monkeypatch, now):
    assert eta(monkeypatch, 0.1, 10, now, (0.0, 0.0, 0.5)) is None


def test_pause_that_is_usual_for_the_job_is_no_stall(monkeypatch):
    assert 100.0 == pytest.approx(eta(monkeypatch, 2 / 3, 300, 350, (0.0, 0.0, 150.0)))


def test_job_that_should_have_ended_has_no_time_left_that_could_be_told(monkeypatch):
    assert eta(monkeypatch, 0.9, 9, 10.5, (0.0, 0.0, 1.0)) is None
    assert 0.0 == eta(monkeypatch, 1.0, 9, 500, (0.0, 0.0, 1.0))


def test_job_that_does_not_run_has_no_time_left(monkeypatch):
    assert eta(monkeypatch, 0.5, 10, 10, (0.0, 0.0, 1.0), is_running=False) is None


def test_first_second_of_reports_makes_no_estimate(monkeypatch):
    assert eta(monkeypatch, 0.01, 0.1, 0.1, (0.0, 0.0, 0.1)) is None
    assert eta(monkeypatch, 0.04, 60, 60, (0.04, 60, 60)) is None
    assert 60.0 == pytest.approx(eta(monkeypatch, 0.5, 60, 60, (0.5, 60, 60)))


def test_speed_is_that_since_the_first_report(monkeypatch):
    loaded = eta(monkeypatch, 0.2, 32, 32, (0.0, 30.0, 30.0))
    resumed = eta(monkeypatch, 0.5, 10, 10, (0.4, 0.0, 0.1))
    assert (8.0, 50.0) == pytest.approx((loaded, resumed))


def test_wall_is_what_the_estimate_goes_by():
    assert Progress(50, 100, None, None, wall(), wall() - 10).eta() == pytest.approx(10, abs=1)
