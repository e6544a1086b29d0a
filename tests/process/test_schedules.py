"""Schedules of a pool without a store: each time once, whoever declares it, and what happens beside."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

import procjobs
from procjobs.host import rundir
from tests.process import scheduled_jobs
from tests.process.scheduled_jobs import lines, periods

from ..conftest import wait_until


@pytest.fixture
def noted(tmp_path):
    return str(tmp_path / "noted")


@pytest.fixture
def named(pool_name):
    """Return a function that makes Pool objects of the test's pool, which is stopped at the end."""
    pools = []

    def make(**settings):
        pools.append(procjobs.Pool(pool_name, **{"workers": 2, **settings}))
        return pools[-1]

    yield make
    for pool in pools:
        pool.shutdown()
    procjobs.Pool(pool_name).stop()


@contextlib.contextmanager
def pool_until(go, **settings):
    """Yield a private pool; its runs are let go at the end, whatever happens."""
    with procjobs.Pool(**{"workers": 2, **settings}) as pool:
        try:
            yield pool
        finally:
            go.touch()


def log_of(pool):
    with open(rundir.RunDir(rundir.find_base(), pool._link.directory.name).log) as file:
        return file.read()


def only(pool):
    (info,) = pool.schedules()
    return info


def test_a_schedule_runs_on_its_grid_and_each_time_once(noted):
    with procjobs.Pool(workers=2) as pool:
        info = pool.schedule("tick", scheduled_jobs.note, args=(noted,), every=1)
        assert ("tick", "tests.process.scheduled_jobs.note", "every") == (info.name, info.call, info.rule)
        wait_until(lambda: len(lines(noted)) >= 3)
    found = periods(noted)
    assert found == sorted(set(found))
    assert all(moment == int(moment) for moment in found)


def test_a_job_and_its_status_know_the_schedule_and_the_time(noted):
    with procjobs.Pool(workers=1) as pool:
        pool.schedule("tick", scheduled_jobs.note, args=(noted,), every=1)
        info = wait_until(lambda: next((one for one in pool.schedules() if one.last_state == "succeeded"), None))
        status = pool.status(info.last_job_id)
    assert ("tick", info.last_at) == (status.schedule, status.scheduled_for)
    assert info.last_at in periods(noted)
    assert 0 <= info.last_late


def test_the_time_of_a_run_can_be_an_argument(noted):
    with procjobs.Pool(workers=1) as pool:
        pool.schedule("tick", scheduled_jobs.note_given, args=(noted,), kwargs={"when": procjobs.SCHEDULED_FOR}, every=1)
        wait_until(lambda: lines(noted))
    moment, zone = lines(noted)[0].split()
    assert (float(moment) % 1, "UTC") == (0, zone)


def test_a_decorator_makes_a_schedule_and_leaves_the_function(noted):
    with procjobs.Pool(workers=1) as pool:
        decorate = pool.schedule("tick", args=(noted,), every=1, timeout=30, meta={"why": "test"})
        assert scheduled_jobs.note is decorate(scheduled_jobs.note)
        wait_until(lambda: lines(noted))
        assert {"why": "test"} == pool.status(only(pool).last_job_id).meta


def test_large_arguments_serve_for_every_run(noted):
    with procjobs.Pool(workers=1) as pool:
        pool.schedule("large", scheduled_jobs.length, args=(noted, b"x" * 3_000_000), every=1)
        wait_until(lambda: len(lines(noted)) >= 2)
    assert {"3000000"} == {line.split()[2] for line in lines(noted)}


def test_a_closure_can_be_scheduled(noted):
    def write():
        scheduled_jobs.note(noted, "closure")

    with procjobs.Pool(workers=1) as pool:
        pool.schedule("closure", write, every=1)
        wait_until(lambda: lines(noted))


# Overlap ------------------------------------------------------------------------------------------------------------


def test_skip_leaves_out_times_while_a_run_lasts_and_counts_them(noted, tmp_path):
    with pool_until(tmp_path / "go", workers=2) as pool:
        pool.schedule("slow", scheduled_jobs.note_and_wait, args=(noted, str(tmp_path / "go")), every=1)
        wait_until(lambda: only(pool).skipped >= 2)
        assert (1, 1) == (len(lines(noted)), len(only(pool).running))
        (tmp_path / "go").touch()
        wait_until(lambda: len(lines(noted)) >= 4)


def test_queue_lets_one_run_wait_for_the_end_of_the_other(noted, tmp_path):
    with pool_until(tmp_path / "go", workers=2) as pool:
        pool.schedule("slow", scheduled_jobs.note_and_wait, args=(noted, str(tmp_path / "go")), every=1, overlap="queue")
        first = wait_until(lambda: periods(noted))[0]
        second = first + 1
        wait_until(lambda: only(pool).next_at[0] > first + 3)  # the second one waits, and the third one has come
        assert 1 == len(lines(noted))
        (tmp_path / "go").touch()
        wait_until(lambda: len(lines(noted)) >= 4)
        wait_until(lambda: only(pool).skipped >= 1)
    assert [first, first, second, second] == periods(noted)[:4]


def test_allow_lets_runs_go_side_by_side(noted, tmp_path):
    with pool_until(tmp_path / "go", workers=2) as pool:
        pool.schedule("slow", scheduled_jobs.note_and_wait, args=(noted, str(tmp_path / "go")), every=1, overlap="allow")
        wait_until(lambda: len(lines(noted)) >= 2)
        assert 2 <= len(only(pool).running)


def test_replace_kills_the_run_before(noted, tmp_path):
    with pool_until(tmp_path / "go", workers=2, grace_period=1) as pool:
        pool.schedule("slow", scheduled_jobs.note_and_wait, args=(noted, str(tmp_path / "go")), every=2, overlap="replace")
        wait_until(lambda: len(lines(noted)) >= 2)
        first = periods(noted)[0]
        cancelled = wait_until(lambda: [status for status in pool.jobs() if status.state == "cancelled"])
        assert first == min(status.scheduled_for for status in cancelled)
    assert ["begun", "begun"] == [line.split()[2] for line in lines(noted)[:2]]


# Times --------------------------------------------------------------------------------------------------------------


def schedule_soon(pool, path):
    """Schedule a run that is soon, and not over before the pool has heard of it; return its time."""
    for seconds in (1, 4, 16, 64):
        moment = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
        with contextlib.suppress(procjobs.ConfigurationError):
            pool.schedule("once", scheduled_jobs.note, args=(path,), at=moment)
            return moment
    raise AssertionError("the pool never heard of it in time")


def test_at_runs_once(noted):
    with procjobs.Pool(workers=1) as pool:
        moment = schedule_soon(pool, noted)
        wait_until(lambda: only(pool).last_state == "succeeded", timeout=90)
        assert () == only(pool).next_at
    assert [pytest.approx(moment.timestamp(), abs=1e-6)] == periods(noted)


def test_a_time_that_has_passed_is_refused():
    with procjobs.Pool(workers=1) as pool:
        with pytest.raises(procjobs.ConfigurationError, match="never run"):
            pool.schedule("past", print, at=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        assert [] == pool.schedules()


def test_after_counts_from_the_end_of_the_run_before(noted, tmp_path):
    with pool_until(tmp_path / "go", workers=1) as pool:
        pool.schedule("pause", scheduled_jobs.note_and_wait, args=(noted, str(tmp_path / "go")), after=1)
        wait_until(lambda: lines(noted))
        assert () == only(pool).next_at
        released_at = time.time()
        (tmp_path / "go").touch()
        wait_until(lambda: len(lines(noted)) >= 3)
    assert periods(noted)[2] >= released_at + 1


def test_cron_is_told_in_words_with_its_next_times():
    with procjobs.Pool(workers=1) as pool:
        pool.schedule("nightly", print, cron="30 2 * * *", tz="Europe/Berlin")
        (info,) = pool.schedules(upcoming=3)
    zone = __import__("zoneinfo").ZoneInfo("Europe/Berlin")
    assert {(2, 30)} == {(at.hour, at.minute) for at in (dt.datetime.fromtimestamp(one, zone) for one in info.next_at)}
    assert (3, "30 2 * * *", "Europe/Berlin") == (len(info.next_at), info.expression, info.tz)
    assert "02:30" in info.text


def test_catch_up_needs_a_store():
    with procjobs.Pool(workers=1) as pool, pytest.raises(procjobs.ConfigurationError, match="store"):
        pool.schedule("tick", print, every=1, catch_up="all")


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({}, "cron"), ({"every": 1, "after": 2}, "every"), ({"every": 0.1}, "every"), ({"cron": "61 * * * *"}, "61"),
        ({"cron": "* * *"}, "cron"), ({"every": 5, "overlap": "maybe"}, "overlap"),
        ({"every": 5, "catch_up": "some"}, "catch_up"),
        ({"every": 5, "tz": "Europe/Berlin_"}, "tz"), ({"cron": "@daily", "tz": "Europe/Brelin"}, "Europe/Berlin"),
        ({"every": 5, "jitter": 9}, "jitter"), ({"every": 5, "delay": 3}, "delay"), ({"every": 5, "timeuot": 3}, "timeout"),
        ({"every": 5, "queue": "nowhere"}, "nowhere"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_at_once(times, message):
    with procjobs.Pool(workers=1) as pool:
        with pytest.raises(procjobs.ConfigurationError, match=message):
            pool.schedule("bad", print, **times)
        assert [] == pool.schedules()


# By name ------------------------------------------------------------------------------------------------------------


def test_a_schedule_is_paused_resumed_run_now_and_taken_out(noted):
    with procjobs.Pool(workers=1) as pool:
        pool.schedule("yearly", scheduled_jobs.note, args=(noted,), cron="@yearly")
        pool.pause("yearly")
        assert (True, ()) == (only(pool).is_paused, only(pool).next_at)
        job = pool.run_now("yearly")
        assert job.result(30).split()[1] == "yearly"
        pool.resume("yearly")
        assert (False, 1) == (only(pool).is_paused, len(only(pool).next_at))
        assert (True, False) == (pool.unschedule("yearly"), pool.unschedule("yearly"))
        assert [] == pool.schedules()


@pytest.mark.parametrize("call", ["pause", "resume", "run_now"])
def test_an_unknown_name_is_refused_with_the_one_that_was_meant(call):
    with procjobs.Pool(workers=1) as pool:
        pool.schedule("nightly", print, every=3600)
        with pytest.raises(procjobs.UnknownSchedule, match="did you mean 'nightly'"):
            getattr(pool, call)("nightlly")


def test_a_failed_run_is_told(noted):
    with procjobs.Pool(workers=1) as pool:
        pool.schedule("bad", scheduled_jobs.fail, args=(noted,), every=1)
        info = wait_until(lambda: next((one for one in pool.schedules() if one.last_state == "failed"), None))
        assert "scheduled to fail" in info.last_error


def test_a_new_schedule_takes_the_place_of_that_of_its_name(noted):
    with procjobs.Pool(workers=1) as pool:
        pool.schedule("tick", scheduled_jobs.note, args=(noted, "old"), cron="@yearly")
        pool.schedule("tick", scheduled_jobs.note, args=(noted, "new"), every=1)
        wait_until(lambda: lines(noted))
    assert "new" == lines(noted)[0].split()[2]


# Declared in code ---------------------------------------------------------------------------------------------------

DECLARE = """
import procjobs, sys
from tests.process import scheduled_jobs
tick = procjobs.ScheduledCall("tick", scheduled_jobs.note, args=(sys.argv[2],), every=1)
pool = procjobs.Pool(sys.argv[1], workers=2, schedules=[tick])
print("there", flush=True)
sys.stdin.read()
"""


def declaring(pool_name, noted):
    command = [sys.executable, "-c", DECLARE, pool_name, noted]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=os.getcwd())


def test_one_run_for_each_time_however_many_processes_declare_it(named, pool_name, noted):
    processes = [declaring(pool_name, noted) for _ in range(4)]
    try:
        for process in processes:
            assert "there\n" == process.stdout.readline()
        wait_until(lambda: len(lines(noted)) >= 3)
    finally:
        for process in processes:
            process.communicate()
    found = periods(noted)
    assert found == sorted(set(found))


def test_a_killed_supervisor_is_followed_by_one_with_the_same_schedules(named, noted):
    pool = named(schedules=[procjobs.ScheduledCall("tick", scheduled_jobs.note, args=(noted,), every=1)])
    wait_until(lambda: lines(noted))
    before = pool.stats().supervisor_pid
    os.kill(before, signal.SIGKILL)
    count = len(lines(noted))
    wait_until(lambda: len(lines(noted)) >= count + 2)  # nothing is asked of the pool meanwhile
    assert before != pool.stats().supervisor_pid
    assert periods(noted) == sorted(set(periods(noted)))


def test_a_stopped_pool_is_not_started_again_for_its_schedules(named, pool_name, noted):
    pool = named(schedules=[procjobs.ScheduledCall("tick", scheduled_jobs.note, args=(noted,), every=1)])
    wait_until(lambda: lines(noted))
    supervisor = psutil.Process(pool.stats().supervisor_pid)
    procjobs.Pool(pool_name).stop()
    supervisor.wait(30)
    connection = pool._link.connection
    wait_until(lambda: connection.lifecycle.has_ended)
    assert not rundir.is_held(pool._link.directory.lock)


def test_what_newer_code_does_not_declare_is_taken_out_and_told(named):
    one, two = (procjobs.ScheduledCall(name, print, every=3600) for name in ("one", "two"))
    old = named(schedules=[one, two], version="1")
    dynamic = named(version="1")
    dynamic.schedule("made", print, every=3600)
    wait_until(lambda: ["made", "one", "two"] == [info.name for info in old.schedules()])
    old.shutdown()
    dynamic.shutdown()
    new = named(schedules=[one], version="2")
    wait_until(lambda: ["made", "one"] == [info.name for info in new.schedules()])
    assert "'two' is taken out" in log_of(new)


def test_code_that_is_still_used_keeps_its_schedules(named):
    one, two = (procjobs.ScheduledCall(name, print, every=3600) for name in ("one", "two"))
    old = named(schedules=[one], version="1")
    new = named(schedules=[two], version="2")
    new.submit(pow, 2, 2).result(30)
    assert ["one", "two"] == [info.name for info in new.schedules()]
    old.shutdown()
    wait_until(lambda: ["two"] == [info.name for info in new.schedules()])


def test_modules_of_the_preload_declare_schedules(named, tmp_path, monkeypatch, noted):
    text = (
        "import procjobs\nfrom tests.process import scheduled_jobs\n"
        f"@procjobs.schedule('tick', args=({noted!r},), every=1)\n"
        "def tick(path):\n    scheduled_jobs.note(path, 'preloaded')\n"
        "@procjobs.schedule('elsewhere', every=1, pool='another')\ndef other():\n    pass\n"
    )
    (tmp_path / "preloaded_schedules.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    pool = named(preload=["preloaded_schedules"])
    pool.connect()
    wait_until(lambda: lines(noted))
    assert [("tick", True)] == [(info.name, info.is_declared) for info in pool.schedules()]


def test_a_schedule_of_the_preload_that_cannot_be_pickled_fails_it_and_says_which(named, tmp_path, monkeypatch):
    text = (
        "import procjobs, threading\n"
        "@procjobs.schedule('bad', args=(threading.Lock(),), every=1)\ndef bad(lock):\n    pass\n"
    )
    (tmp_path / "bad_schedules.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    pool = named(preload=["bad_schedules"])
    with pytest.warns(procjobs.PoolDegraded, match="schedule 'bad'"):
        pool.connect()
        job = pool.submit(pow, 2, 2)
        wait_until(lambda: pool.stats().problem)
    job.cancel()


def test_a_list_with_the_same_name_twice_is_refused(pool_name):
    call = procjobs.ScheduledCall("tick", print, every=5)
    with pytest.raises(procjobs.ConfigurationError, match="'tick' is there twice"):
        procjobs.Pool(pool_name, schedules=[call, call])


def test_a_function_without_a_schedule_is_refused(pool_name):
    with pytest.raises(procjobs.ConfigurationError, match="is no schedule"):
        procjobs.Pool(pool_name, schedules=[print])


def test_a_schedule_of_another_pool_is_refused(pool_name):
    call = procjobs.ScheduledCall("tick", print, every=5, pool="elsewhere")
    with pytest.raises(procjobs.ConfigurationError, match="is for pool 'elsewhere'"):
        procjobs.Pool(pool_name, schedules=[call])
