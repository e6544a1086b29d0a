"""`on_failure`: functions that are called with each job that ended otherwise than well, whatever killed it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

import procjobs
from tests.process import hook_jobs, jobs

from ..conftest import wait_until


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PROCJOBS_TEST_HOOKS", str(tmp_path))
    return tmp_path


@pytest.fixture
def make_pool(folder):
    """Make private pools with hooks; they are stopped at the end."""
    pools = []

    def make(on_failure, **settings):
        settings = {"workers": 1, "preload": ["tests.process.jobs"], "hook_timeout": 60, **settings}
        pools.append(procjobs.Pool(on_failure=on_failure, **settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.stop()


def told(folder, name="told"):
    path = folder / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def log_of(pool):
    return Path(pool._link.directory.log).read_text()


def fail(pool, *args, **options):
    job = pool.options(**options).submit(*(args or (jobs.fail, "no such film")))
    assert job.exception(30) is not None
    return job


@pytest.mark.parametrize(
    ("options", "call", "expected"),
    [
        ({"retries": 1, "backoff": 0}, (jobs.fail, "no such film"), ("failed", "raised", 2, "ValueError: no such film")),
        ({}, (jobs.die_of, 9), ("failed", "crashed", 1, "the worker was killed by SIGKILL")),
        ({"timeout": 0.1}, (jobs.sleep, 60), ("failed", "timeout", 1, "ran longer than its timeout")),
        ({"max_crashes": 1}, (jobs.die_of, 11), ("failed", "quarantined", 1, "has killed 1 workers")),
    ],
    ids=["raised", "killed", "timed out", "quarantined"],
)
def test_hook_is_told_of_each_job_that_failed_in_a_process_that_runs_no_jobs(make_pool, folder, options, call, expected):
    pool = make_pool("tests.process.hook_jobs:tell")
    job = fail(pool, *call, meta={"user": 7}, **options)
    wait_until(lambda: told(folder), dump=lambda: log_of(pool))
    (record,) = told(folder)
    assert (job.id, *expected[:3]) == (record["id"], record["state"], record["reason"], record["attempt"])
    assert expected[3] in record["error"]
    assert {"user": 7} == record["meta"]
    assert record["submitted_at"] <= record["started_at"] <= record["finished_at"]
    assert record["hook_pid"] not in {worker.pid for worker in pool.workers()} | {pool.stats().supervisor_pid, os.getpid()}
    if expected[1] == "raised":
        assert "in fail" in record["error_details"]


def test_jobs_that_succeed_or_are_cancelled_are_not_told_and_those_that_expire_are(make_pool, folder):
    pool = make_pool("tests.process.hook_jobs:tell")
    assert 1 == pool.submit(jobs.add, 1).result(30)
    running = pool.submit(jobs.sleep, 60)
    wait_until(running.running)
    expired = pool.options(expires=0.01).submit(jobs.add, 1)
    assert isinstance(expired.exception(30), procjobs.JobExpired)
    running.cancel()
    failed = fail(pool)
    wait_until(lambda: len(told(folder)) >= 2, dump=lambda: log_of(pool))
    assert [expired.id, failed.id] == [record["id"] for record in told(folder)]


def test_functions_lambdas_coroutines_and_several_hooks_can_be_given(make_pool, folder):
    path = str(folder / "closure")

    def note(status):
        with open(path, "a") as file:
            file.write(status.id)

    pool = make_pool([hook_jobs.tell, note, "tests.process.hook_jobs:tell_awaiting"])
    job = fail(pool)
    awaited = folder / "awaited"
    wait_until(lambda: awaited.exists() and job.id in awaited.read_text(), dump=lambda: log_of(pool))
    assert [job.id] == [record["id"] for record in told(folder)]
    assert job.id == (folder / "closure").read_text()


@pytest.mark.parametrize(
    ("hook", "why"),
    [("fail_once", "ValueError: the mail server is away"), ("die_once", "its process has ended: it was killed by SIGKILL")],
)
def test_hook_that_fails_or_dies_is_called_again(make_pool, folder, hook, why):
    pool = make_pool(f"tests.process.hook_jobs:{hook}")
    job = fail(pool)
    wait_until(lambda: told(folder), dump=lambda: log_of(pool))
    assert [job.id] == [record["id"] for record in told(folder)]
    line = f"the hook tests.process.hook_jobs:{hook} for job {job.id} tests.process.jobs.fail has failed"
    assert f"{line}, and is called again in 1 s: {why}" in log_of(pool)


def test_hook_that_hangs_is_ended_with_everything_that_it_started_and_called_again(make_pool, folder):
    pool = make_pool("tests.process.hook_jobs:hang_once", hook_timeout=0.5)
    fail(pool)
    wait_until(lambda: told(folder), dump=lambda: log_of(pool))
    assert "it did not end within 0.5 s (hook_timeout)" in log_of(pool)
    wait_until(lambda: not psutil.pid_exists(int((folder / "child").read_text())))


def test_hook_that_does_not_exist_is_given_up_after_some_tries_and_jobs_go_on(make_pool, monkeypatch):
    pool = make_pool("tests.process.hook_jobs:no_such_hook")
    job = fail(pool)
    wait_until(lambda: "has failed, and is called again in 2 s" in log_of(pool), dump=lambda: log_of(pool))
    assert "AttributeError: module 'tests.process.hook_jobs' has no attribute 'no_such_hook'" in log_of(pool)
    assert 1 == pool.submit(jobs.add, 1).result(30)
    assert "failed" == pool.status(job.id).state


def test_slow_hook_holds_up_no_jobs_and_is_waited_for_when_the_pool_ends(make_pool, folder):
    pool = make_pool("tests.process.hook_jobs:wait_for_go")
    failed = [fail(pool).id for _ in range(3)]
    for n in range(100):
        assert n == pool.submit(jobs.add, n).result(30)
    assert [] == told(folder)
    (folder / "go").touch()
    pool.stop()
    assert failed == [record["id"] for record in told(folder)]


def test_killed_process_of_hooks_is_replaced_for_the_next_job(make_pool, folder):
    pool = make_pool("tests.process.hook_jobs:tell")
    fail(pool)
    wait_until(lambda: told(folder), dump=lambda: log_of(pool))
    os.kill(told(folder)[0]["hook_pid"], signal.SIGKILL)
    second = fail(pool)
    wait_until(lambda: len(told(folder)) == 2, dump=lambda: log_of(pool))
    assert second.id == told(folder)[1]["id"]


def test_hooks_of_a_pool_with_a_store_are_told_after_the_commit(make_pool, folder):
    pool = make_pool("tests.process.hook_jobs:tell", store=f"sqlite:///{folder}/jobs.db")
    job = fail(pool)
    wait_until(lambda: told(folder), dump=lambda: log_of(pool))
    assert job.id == told(folder)[0]["id"]


@pytest.mark.parametrize("value", ["app.jobs.tell", 7, ["app.jobs:tell", 7], {"a": 1}])
def test_hooks_that_are_none_are_refused(value):
    with pytest.raises(procjobs.ConfigurationError, match=r"on_failure=.*: expected 'module:function'"):
        procjobs.Pool(on_failure=value)


def test_hooks_come_from_the_environment_and_the_settings_file(folder, monkeypatch, pool_name):
    (folder / "procjobs.toml").write_text('[default]\non_failure = "tests.process.hook_jobs:tell"\nhook_timeout = "1m"\n')
    monkeypatch.setenv("PROCJOBS_CONFIG", str(folder / "procjobs.toml"))
    monkeypatch.setenv("PROCJOBS_HOOK_TIMEOUT", "20s")
    with procjobs.Pool(pool_name, workers=1, preload=["tests.process.jobs"]) as pool:
        fail(pool)
        wait_until(lambda: told(folder), dump=lambda: log_of(pool))
        settings = pool._link.connect().welcome["settings"]
        assert (["tests.process.hook_jobs:tell"], 20.0) == (settings["on_failure"], settings["hook_timeout"])
        pool.stop()
