"""Schedules of a pool with a store: each period once, whatever is killed; what was missed; what outlives the pool."""

from __future__ import annotations

import os
import signal
import time

import pytest

import procjobs
from procjobs.client import launcher
from procjobs.host import rundir
from tests.process import scheduled_jobs
from tests.process.scheduled_jobs import lines, periods

from ..conftest import wait_until
from .conftest import recorder_of

KILLS = int(os.environ.get("PROCJOBS_TEST_SCHEDULE_KILLS", "8"))


@pytest.fixture
def noted(tmp_path):
    return str(tmp_path / "noted")


def only(pool):
    (info,) = pool.schedules()
    return info


def set_back(store, seconds):
    """Let the store believe that the schedules were looked at last some time ago."""
    store.write("UPDATE procjobs_schedules SET cursor = cursor - :step", step=int(seconds * 1_000_000))


def stop(pool):
    pool.stop()
    assert not rundir.is_held(pool._link.directory.lock)


def test_a_run_is_a_job_of_the_store_with_its_schedule_and_time(started, store, noted):
    pool = started()
    pool.schedule("tick", scheduled_jobs.note, args=(noted,), every=1)
    wait_until(lambda: len(lines(noted)) >= 2)
    job_id = only(pool).last_job_id
    rows = store.rows("SELECT schedule, scheduled_for FROM procjobs_jobs WHERE id = :id", id=job_id)
    status = pool.status(job_id)
    assert [("tick", round(status.scheduled_for * 1_000_000))] == rows
    wait_until(lambda: pool.history(limit=10)[0].schedule == "tick")


def test_a_schedule_lives_in_the_store_until_it_is_taken_out(started, noted):
    pool = started()
    pool.schedule("tick", scheduled_jobs.note, args=(noted, "kept"), every=1)
    stop(pool)
    count = len(lines(noted))
    pool = started()
    pool.submit(pow, 2, 2).result(30)
    wait_until(lambda: len(lines(noted)) > count)
    assert pool.unschedule("tick")
    stop(pool)
    assert [] == started().schedules()


def test_a_paused_schedule_stays_paused(started, noted):
    pool = started()
    pool.schedule("tick", scheduled_jobs.note, args=(noted,), every=1)
    pool.pause("tick")
    stop(pool)
    pool = started()
    assert only(pool).is_paused
    count = len(lines(noted))
    pool.resume("tick")
    wait_until(lambda: len(lines(noted)) > count)


@pytest.mark.parametrize(("catch_up", "expected"), [("all", 5), ("last", 1), (None, 1), ("none", 0)])
def test_what_was_missed_is_made_up_for_as_asked(started, store, noted, catch_up, expected):
    pool = started()
    pool.schedule("hourly", scheduled_jobs.note, args=(noted,), every=3600, catch_up=catch_up)
    stop(pool)
    set_back(store, 5 * 3600)
    pool = started()
    pool.submit(pow, 2, 2).result(30)
    wait_until(lambda: len(lines(noted)) + only(pool).missed == 5)
    wait_until(lambda: len(lines(noted)) == expected)
    assert periods(noted) == sorted(periods(noted))
    assert all(moment % 3600 == 0 for moment in periods(noted))
    assert time.time() - 5 * 3600 - 1 <= min(periods(noted), default=time.time())


def test_the_same_times_declared_again_go_on_where_they_were_and_others_begin_now(started, store, noted):
    def declare(pool, **times):
        pool.schedule("hourly", scheduled_jobs.note, args=(noted,), catch_up="all", **times)
        pool.submit(pow, 2, 2).result(30)

    pool = started()
    declare(pool, every=3600)
    stop(pool)
    set_back(store, 2 * 3600)
    pool = started()
    declare(pool, every=3600)
    wait_until(lambda: pool.stats().finished == 3)  # a run that is cut off after its line begins anew
    assert 2 == len(lines(noted))
    stop(pool)
    set_back(store, 2 * 3600)
    pool = started()
    declare(pool, every=1800)
    assert 2 == len(lines(noted))
    assert 0 == only(pool).missed


def test_each_period_runs_once_however_often_the_supervisor_is_killed(started, store, noted):
    pool = started()
    pool.schedule("tick", scheduled_jobs.note, args=(noted,), every=1, catch_up="all", overlap="allow", retries=0)
    for _ in range(KILLS):
        latest = max(periods(noted), default=0)
        os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
        # Nothing is asked of the pool meanwhile. Earlier runs that were cut off begin anew beside the next one.
        wait_until(lambda: max(periods(noted), default=0) > latest, dump=lambda: str(pool.schedules()))  # noqa: B023
    _check_each_once(pool, store, noted, may_begin_anew=True)


def test_each_period_runs_once_however_often_the_recorder_is_killed(started, store, noted):
    pool = started()
    pool.schedule("tick", scheduled_jobs.note, args=(noted,), every=1, catch_up="all", overlap="allow")
    for _ in range(KILLS):
        count = len(lines(noted))
        os.kill(recorder_of(pool), signal.SIGKILL)
        wait_until(lambda: len(lines(noted)) > count, dump=lambda: str(pool.schedules()))  # noqa: B023 - waited for here
    _check_each_once(pool, store, noted, may_begin_anew=False)


def _check_each_once(pool, store, noted, *, may_begin_anew):
    """One job for each second, with none left out, and each has run. One that a kill has interrupted begins anew."""
    pool.pause("tick")
    wait_until(lambda: set(store.states()) <= {"succeeded"}, dump=store.states)
    jobs = store.rows("SELECT scheduled_for FROM procjobs_jobs WHERE schedule = 'tick' ORDER BY scheduled_for")
    moments = [moment // 1_000_000 for (moment,) in jobs]
    assert list(range(moments[0], moments[-1] + 1)) == moments
    runs = sorted(map(int, periods(noted)))
    assert moments == (sorted(set(runs)) if may_begin_anew else runs)


def test_a_run_that_waits_in_a_stopped_pool_keeps_the_next_one_back(started, store, noted, tmp_path):
    pool = started(workers=1)
    pool.schedule("slow", scheduled_jobs.note_and_wait, args=(noted, str(tmp_path / "go")), every=1)
    wait_until(lambda: lines(noted))
    os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
    pool = started(workers=1)
    wait_until(lambda: only(pool).running)
    wait_until(lambda: only(pool).skipped >= 2)
    assert 1 == len(store.rows("SELECT id FROM procjobs_jobs WHERE schedule = 'slow'"))
    (tmp_path / "go").touch()
    wait_until(lambda: len(store.rows("SELECT id FROM procjobs_jobs WHERE schedule = 'slow'")) >= 2)


def test_run_now_is_a_job_of_its_own(started, store, noted):
    pool = started()
    pool.schedule("yearly", scheduled_jobs.note, args=(noted,), cron="@yearly")
    job = pool.run_now("yearly")
    assert "yearly" == job.result(30).split()[1]
    assert (job.id, "succeeded") == (only(pool).last_job_id, only(pool).last_state)


def test_a_schedule_outlives_the_history_of_its_jobs(started, store, noted):
    pool = started(history_limit=1)
    pool.schedule("tick", scheduled_jobs.note, args=(noted,), every=1)
    wait_until(lambda: len(lines(noted)) >= 3)
    assert [] == [kind for kind in store.rows("SELECT kind FROM procjobs_schedules") if not _has_kind(store, kind[0])]


def _has_kind(store, digest):
    return store.rows("SELECT digest FROM procjobs_kinds WHERE digest = :digest", digest=digest)


def test_a_schedule_with_large_arguments_outlives_the_pool(started, noted):
    pool = started()
    pool.schedule("large", scheduled_jobs.length, args=(noted, b"x" * 3_000_000), every=1)
    stop(pool)
    pool = started()
    pool.submit(pow, 2, 2).result(30)
    wait_until(lambda: lines(noted))
    assert "3000000" == lines(noted)[-1].split()[2]


def test_declared_schedules_are_retired_in_the_store_too(started):
    one, two = (procjobs.ScheduledCall(name, print, every=3600) for name in ("one", "two"))
    pool = started(schedules=[one, two], version="1")
    wait_until(lambda: 2 == len(pool.schedules()))
    stop(pool)
    pool = started(schedules=[one], version="2")
    pool.submit(pow, 2, 2).result(30)
    wait_until(lambda: ["one"] == [info.name for info in pool.schedules()])
    stop(pool)
    assert ["one"] == [info.name for info in started(version="2").schedules()]


def test_a_pool_whose_only_client_was_killed_before_it_came_ends_by_itself(pool_name, store):
    """Its store may have jobs, but it has no code to run them with."""
    pool = procjobs.Pool(pool_name, store=store.url, workers=1, linger=0.1)
    link = pool._link
    sock = launcher.reach(link.directory, link.plan.for_supervisor, private=False)
    sock.close()
    wait_until(lambda: not rundir.is_held(link.directory.lock))


@pytest.mark.parametrize("has_store", [False, True], ids=["in memory", "in a store"])
def test_runs_of_schedules_do_not_keep_a_pool_that_nobody_uses(pool_name, store, noted, has_store):
    settings = {"store": store.url} if has_store else {}
    pool = procjobs.Pool(pool_name, workers=1, linger=2, **settings)
    pool.schedule("tick", scheduled_jobs.note, args=(noted,), every=1)
    wait_until(lambda: lines(noted))
    pool.shutdown()
    wait_until(lambda: not rundir.is_held(pool._link.directory.lock))
    if has_store:
        pool = procjobs.Pool(pool_name, workers=1, **settings)
        count = len(lines(noted))
        assert ["tick"] == [info.name for info in pool.schedules()]
        pool.submit(pow, 2, 2).result(30)
        wait_until(lambda: len(lines(noted)) > count)
        pool.stop()
