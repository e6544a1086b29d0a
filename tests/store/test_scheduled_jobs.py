"""What a job knows of its schedule, from its row in the store to its arguments in the worker."""

from __future__ import annotations

import functools
import json
from datetime import UTC, datetime

import pytest

import procjobs

from ..conftest import wait_until
from .test_rescue import kill_all

NOON = 1_900_000_000_000_001
MOMENT = datetime(2030, 3, 17, 17, 46, 40, 1, tzinfo=UTC)
NAME = "Nächtlich \N{OWL} " + "\N{OWL}" * 88


def own_schedule():
    job = procjobs.current_job()
    return job.schedule, job.scheduled_for


def fail_once(trace):
    """Fail in the first attempt, so that the second one is another process of the same job."""
    with open(trace, "a") as file:
        print(procjobs.current_job().scheduled_for.isoformat(), file=file)
    if procjobs.current_job().attempt == 1:
        raise ValueError("once")
    return own_schedule()


def always_fail():
    raise ValueError(str(own_schedule()[1]))


def given(*args, **kwargs):
    return args, kwargs


@pytest.fixture
def left(started, store):
    """Return a function that leaves jobs in the store, as jobs of a schedule, and starts the pool that runs them."""

    def leave(*calls, schedule=NAME, moment=NOON, **settings):
        pool = started(workers=1)
        pool.pause()
        waiting = [pool.options(**options).submit(fn, *args) for fn, args, options in calls]
        waiting[-1].wait_accepted(30)
        pool.stop()
        values = {"schedule": schedule, "moment": moment}
        store.write("UPDATE procjobs_jobs SET schedule = :schedule, scheduled_for = :moment", **values)
        again = started(workers=1, **settings)
        return again, [again.job(job.id) for job in waiting]

    return leave


def test_job_knows_its_schedule_and_so_does_everybody(left):
    pool, (job,) = left((own_schedule, (), {"meta": {"user": 7}}))
    assert (NAME, MOMENT) == job.result(60)
    status = pool.status(job.id)
    assert (NAME, NOON / 1e6, {"user": 7}) == (status.schedule, status.scheduled_for, status.meta)
    assert "2030-03-17T17:46:40.000+00:00" == status.as_dict()["scheduled_for"]
    (found,) = [one for one in pool.jobs() if one.id == job.id]
    assert NAME == found.schedule
    (record,) = pool.history()
    assert (NAME, NOON / 1e6) == (record.schedule, record.scheduled_for)
    plain = pool.submit(own_schedule)
    assert (None, None) == plain.result(30)
    assert (None, None) == (plain.status().schedule, plain.status().scheduled_for)


def test_every_attempt_and_a_job_that_repeats_it_have_the_schedule(left, tmp_path):
    calls = (fail_once, (str(tmp_path / "trace"),), {"retries": 1, "backoff": 0}), (always_fail, (), {})
    pool, (retried, failed) = left(*calls)
    assert (NAME, MOMENT) == retried.result(60)
    assert [MOMENT.isoformat()] * 2 == (tmp_path / "trace").read_text().splitlines()
    assert str(MOMENT) == str(failed.exception(60))
    again = pool.retry(failed.id)
    assert str(MOMENT) == str(again.exception(60))
    assert (NAME, NOON / 1e6) == (pool.status(again.id).schedule, pool.status(again.id).scheduled_for)
    assert [NAME] * 3 == [record.schedule for record in pool.history()]


def test_schedule_survives_a_kill_of_everything(left, started, tmp_path):
    from tests.process import jobs

    trace, go = str(tmp_path / "trace"), str(tmp_path / "go")
    pool, (running, waiting) = left((jobs.append_line_and_wait, (trace, "x", go), {}), (own_schedule, (), {}))
    wait_until(lambda: running.status().state == "running")
    kill_all(pool)
    (tmp_path / "go").touch()
    pool = started(workers=1)
    assert (NAME, MOMENT) == pool.job(waiting.id).result(60)
    assert NAME == pool.status(running.id).schedule


def test_failed_job_is_told_to_hooks_with_its_schedule(left, tmp_path, monkeypatch):
    monkeypatch.setenv("PROCJOBS_TEST_HOOKS", str(tmp_path))
    left((always_fail, (), {}), preload=["tests.process.jobs"], on_failure=["tests.process.hook_jobs:tell"])
    told = tmp_path / "told"
    wait_until(lambda: told.exists() and told.read_text().endswith("\n"))
    record = json.loads(told.read_text())
    assert (NAME, NOON / 1e6) == (record["schedule"], record["scheduled_for"])


def test_placeholder_in_arguments_is_the_time_of_the_run(left):
    then = procjobs.SCHEDULED_FOR
    large = "x" * 200_000
    calls = [
        (given, (then, [then, {"a": (then,)}]), {}),
        (functools.partial(given, key="value"), (then,), {}),
        (given, (large, then), {}),
    ]
    _, (plain, bound, in_file) = left(*calls)
    assert ((MOMENT, [MOMENT, {"a": (MOMENT,)}]), {}) == plain.result(60)
    assert ((MOMENT,), {"key": "value"}) == bound.result(60)
    assert ((large, MOMENT), {}) == in_file.result(60)


def test_placeholder_in_a_function_is_never_the_time_of_another_run(left):
    """A function is unpickled once for many jobs."""
    bound = functools.partial(given, procjobs.SCHEDULED_FOR)
    _, handles = left((bound, (), {}), (bound, (), {}))
    for handle in handles:
        ((found,), _) = handle.result(60)
        assert found in {MOMENT, procjobs.SCHEDULED_FOR}


def test_placeholder_stays_itself_in_a_job_that_no_schedule_has_made(started):
    pool = started(workers=1)
    ((found,), _) = pool.submit(given, procjobs.SCHEDULED_FOR).result(30)
    assert found is procjobs.SCHEDULED_FOR


def test_row_that_others_have_spoilt_runs_as_the_job_of_no_schedule(left):
    _, (job,) = left((own_schedule, (), {}), moment=-5)
    assert (None, None) == job.result(60)
