"""The rules of procjobs.compat.web2py that need no database."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace

import pytest

from procjobs.compat.web2py.context import Storage
from procjobs.compat.web2py.in_worker import Call, _Capture, run_task
from procjobs.compat.web2py.register import DEAD_AFTER, Observer
from procjobs.compat.web2py.rules import after_failure, after_success, next_start

START = dt.datetime(2020, 1, 1, 10, 0, 0)  # noqa: DTZ001 - web2py's times are naive


def at(seconds):
    return START + dt.timedelta(seconds=seconds)


def task(**columns):
    usual = {
        "cronline": None, "period": 60, "prevent_drift": False, "start_time": START, "repeats": 1, "times_run": 0,
        "times_failed": 0, "retry_failed": 0, "stop_time": None, "next_run_time": at(60),
    }  # fmt: skip
    return SimpleNamespace(**{**usual, **columns})


@pytest.mark.parametrize(
    ("columns", "now", "expected"),
    [
        ({}, 7, 67),
        ({"period": None}, 7, 67),
        ({"period": 0}, 7, 7),
        ({"prevent_drift": True}, 0, 60),
        ({"prevent_drift": True}, 59.9, 60),
        ({"prevent_drift": True}, 150, 180),
        ({"prevent_drift": True}, -70, -60),
        ({"prevent_drift": True, "period": 0}, 7, 7),
        ({"prevent_drift": True, "start_time": None}, 7, 67),
        ({"cronline": "*/5 * * * *", "prevent_drift": True}, 7, 300),
        ({"cronline": "*/5 * * * *"}, 300, 600),
    ],
)
def test_the_next_start_of_a_task(columns, now, expected):
    assert at(expected) == next_start(task(**columns), at(now))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, ("COMPLETED", 1, 0)),
        ({"repeats": 2, "times_failed": 3}, ("QUEUED", 1, 0)),
        ({"repeats": 2, "times_run": 1}, ("COMPLETED", 2, 0)),
        ({"repeats": 0, "times_run": 9}, ("QUEUED", 10, 0)),
        ({"repeats": 0, "stop_time": at(59)}, ("EXPIRED", 1, 0)),
        ({"repeats": 0, "stop_time": at(60)}, ("QUEUED", 1, 0)),
    ],
)
def test_a_task_after_a_run_that_succeeded(columns, expected):
    assert expected == after_success(task(**columns))


@pytest.mark.parametrize(
    ("columns", "statuses", "old_statuses"),
    [
        ({}, ["FAILED"], ["FAILED"]),
        ({"retry_failed": 2}, ["QUEUED", "QUEUED", "FAILED"], ["QUEUED", "QUEUED", "FAILED"]),
        ({"retry_failed": -1}, ["QUEUED"] * 5, ["QUEUED"] * 5),
        ({"repeats": 0}, ["QUEUED"] * 5, ["FAILED"]),
        ({"repeats": 3}, ["QUEUED", "QUEUED", "FAILED"], ["FAILED"]),
        ({"repeats": 3, "times_run": 2}, ["FAILED"], ["FAILED"]),
        ({"repeats": 2, "retry_failed": 1}, ["QUEUED", "QUEUED", "FAILED"], ["QUEUED", "FAILED"]),
    ],
)
def test_a_task_after_failures_in_a_row(columns, statuses, old_statuses):
    for expected, stop_after_failure in ((statuses, False), (old_statuses, True)):
        found = [
            after_failure(task(**columns, times_failed=n), "FAILED", stop_after_failure=stop_after_failure)
            for n in range(len(expected))
        ]
        assert [(status, task(**columns).times_run, n + 1) for n, status in enumerate(expected)] == found


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def worker(number, beat):
    return SimpleNamespace(id=number, last_heartbeat=at(beat))


def test_a_worker_is_dead_when_its_row_does_not_change_while_somebody_looks():
    clock = Clock()
    observer = Observer(clock)
    for second in range(int(DEAD_AFTER) + 1):
        assert set() == observer.look([worker(1, second), worker(2, 0)])
        clock.now += 1
    assert {2} == observer.look([worker(1, 0), worker(2, 0)])  # the clock of the other host may go back


def test_an_observer_that_was_away_begins_anew():
    clock = Clock()
    observer = Observer(clock)
    observer.look([worker(1, 0)])
    clock.now += DEAD_AFTER + 1
    assert set() == observer.look([worker(1, 0)])
    for _ in range(int(DEAD_AFTER)):
        clock.now += 1
        observer.look([worker(1, 0)])
    observer.forget()
    clock.now += 1
    assert set() == observer.look([worker(1, 0)])


def call(function, *, args="[]"):
    return Call("application", "f", function, args, "{}", {"id": 1, "uuid": "u", "run_id": 2}, None)


def test_what_a_task_returns_and_prints_is_reported(capsys):
    def f(count):
        print("dropped", "!clear!", "kept", sep="")
        return {"count": count}

    assert ("COMPLETED", '{"count": 3}', "kept\n", None) == run_task(call(f, args="[3]"))
    assert "dropped!clear!kept\n" == capsys.readouterr().out


def test_a_result_that_is_no_json_is_a_failure():
    report = run_task(call(object))
    assert ("FAILED", None) == report[:2]
    assert "not JSON serializable" in report.traceback


def test_the_last_megabytes_of_an_endless_output_are_kept(monkeypatch):
    monkeypatch.setattr("procjobs.compat.web2py.in_worker._MAX_OUTPUT", 10)
    output = _Capture(Storage(write=len, flush=lambda: None))
    for n in range(100):
        output.write(f"{n:02d}\n")
    assert "96\n97\n98\n99\n"[-10:] == output.text()
    assert len("".join(output._kept)) <= 23
