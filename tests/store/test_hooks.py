"""Hooks (`on_failure`) of a pool with a store: they are called at least once, whatever is killed or stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.process import jobs

from ..conftest import wait_until
from .test_rescue import kill_all, kill_supervisor

MARKS = "SELECT job_id FROM procjobs_hooks"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PROCJOBS_TEST_HOOKS", str(tmp_path))
    return tmp_path


@pytest.fixture
def start(started, folder):
    """Return a function that starts the pool of the test with a hook of `hook_jobs`, or with none."""

    def begin(hook=None, **settings):
        hooks = [f"tests.process.hook_jobs:{hook}"] if hook else []
        return started(workers=1, preload=["tests.process.jobs"], hook_timeout=60, on_failure=hooks, **settings)

    return begin


def told(folder):
    path = folder / "told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ids_told(folder):
    return {record["id"] for record in told(folder)}


def log_of(pool):
    return Path(pool._link.directory.log).read_text()


def fail(pool, count=1):
    failed = [pool.options(meta={"user": n}).submit(jobs.fail, "no such film") for n in range(count)]
    assert all(job.exception(60) is not None for job in failed)
    return [job.id for job in failed]


@pytest.mark.parametrize("strike", [kill_supervisor, kill_all], ids=["supervisor", "all"])
def test_hook_that_was_not_called_when_the_supervisor_was_killed_is_called_by_the_next_one(start, store, folder, strike):
    pool = start("wait_for_go")
    (job_id,) = fail(pool)
    assert [(job_id,)] == store.rows(MARKS)
    strike(pool)
    (folder / "go").touch()
    pool = start("wait_for_go")
    wait_until(lambda: not store.rows(MARKS), dump=lambda: log_of(pool))
    assert {job_id} == ids_told(folder)
    record = told(folder)[-1]
    assert ("failed", "raised", 1, "ValueError: no such film", {"user": 0}) == tuple(
        record[name] for name in ("state", "reason", "attempt", "error", "meta")
    )
    assert record["submitted_at"] <= record["started_at"] <= record["finished_at"]
    assert "in fail" in record["error_details"]


def test_hook_that_kills_the_supervisor_is_called_again_by_the_next_one(start, store, folder):
    pool = start("kill_supervisor_once")
    (folder / "victim").write_text(str(pool.stats().supervisor_pid))
    (job_id,) = fail(pool)
    wait_until(lambda: not (folder / "victim").exists())
    pool = start("kill_supervisor_once")
    wait_until(lambda: told(folder), dump=lambda: log_of(pool))
    assert {job_id} == ids_told(folder)


def test_pool_that_is_stopped_leaves_calls_to_its_next_start(start, store, folder):
    pool = start("wait_for_go")
    failed = fail(pool, 3)
    log = log_of(pool)
    pool.stop()
    assert [] == told(folder)
    assert sorted(failed) == sorted(job_id for (job_id,) in store.rows(MARKS)), log
    (folder / "go").touch()
    pool = start("wait_for_go")
    wait_until(lambda: not store.rows(MARKS), dump=lambda: log_of(pool))
    assert failed == [record["id"] for record in told(folder)]


def test_marks_are_there_only_for_jobs_that_failed_and_hooks_that_wait(start, store, folder):
    pool = start("wait_for_go")
    assert 1 == pool.submit(jobs.add, 1).result(60)
    assert [] == store.rows(MARKS)
    (job_id,) = fail(pool)
    assert [(job_id,)] == store.rows(MARKS)
    (folder / "go").touch()
    wait_until(lambda: not store.rows(MARKS), dump=lambda: log_of(pool))
    assert {job_id} == ids_told(folder)


def test_pool_without_hooks_marks_nothing(start, store):
    fail(start())
    assert [] == store.rows(MARKS)


def test_many_jobs_that_wait_for_their_hooks_are_told_in_turn_once_each(start, store, folder):
    pool = start()
    failed = fail(pool, 120)
    pool.stop()
    store.write("INSERT INTO procjobs_hooks SELECT pool, id, 0 FROM procjobs_jobs")
    store.write("INSERT INTO procjobs_hooks SELECT DISTINCT pool, 'no job', 0 FROM procjobs_jobs")
    pool = start("tell")
    pool.drain()
    wait_until(lambda: not store.rows(MARKS))
    assert failed == [record["id"] for record in told(folder)]


def test_hooks_that_many_supervisors_could_not_call_are_given_up(start, store, folder):
    pool = start()
    (first,) = fail(pool)
    (second,) = fail(pool)
    pool.stop()
    store.write("INSERT INTO procjobs_hooks SELECT pool, id, 0 FROM procjobs_jobs")
    store.write("UPDATE procjobs_hooks SET tries = 10 WHERE job_id = :id", id=first)
    pool = start("tell")
    wait_until(lambda: not store.rows(MARKS), dump=lambda: log_of(pool))
    assert {second} == ids_told(folder)
    assert f"the hooks (on_failure) for job {first} are given up: 10 supervisors could not call them" in log_of(pool)


def test_job_that_is_given_up_since_its_supervisors_die_is_told(start, store, folder, tmp_path):
    pool = start("tell")
    job = pool.submit(jobs.append_line_and_wait, str(tmp_path / "trace"), "running", str(tmp_path / "never"))
    wait_until(lambda: {"running": 1} == store.states())
    store.write("UPDATE procjobs_jobs SET cut_off = 9")
    kill_all(pool)
    pool = start("tell")
    wait_until(lambda: not store.rows(MARKS) and told(folder), dump=lambda: log_of(pool))
    assert [(job.id, "quarantined")] == [(record["id"], record["reason"]) for record in told(folder)]


def test_row_that_others_have_spoilt_keeps_no_other_job_from_being_told(start, store, folder):
    if not store.url.startswith("sqlite"):
        pytest.skip("PostgreSQL takes no such values")
    pool = start()
    first, second = fail(pool, 2)
    pool.stop()
    store.write("UPDATE procjobs_jobs SET error = X'FF00' WHERE id = :id", id=first)
    store.write("INSERT INTO procjobs_hooks SELECT pool, id, 0 FROM procjobs_jobs")
    pool = start("tell")
    wait_until(lambda: not store.rows(MARKS), dump=lambda: log_of(pool))
    assert {second} == ids_told(folder)
    assert f"row '{first}' of procjobs_jobs describes no job that hooks" in log_of(pool)
