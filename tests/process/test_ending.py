"""The ends of workers: the finalizer of the pool, and functions of atexit."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

import procjobs
from tests.process import ending_jobs, jobs

from ..conftest import wait_until

PRELOAD = ["tests.process.ending_preload"]


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """The file into which finalizers write."""
    path = tmp_path / "trace"
    path.touch()
    monkeypatch.setenv("ENDING_TRACE", str(path))
    return path


def lines(path):
    return path.read_text().splitlines()


def log_of(pool):
    with open(pool._link.directory.log) as file:
        return file.read()


def test_finalizer_runs_when_the_pool_stops_then_what_jobs_have_registered(trace):
    with procjobs.Pool(workers=1, finalizer=ending_jobs.finalize, preload=PRELOAD) as pool:
        pid, _ = [pool.submit(ending_jobs.register, number).result(30) for number in (1, 2)]
        assert [] == lines(trace)
    first, *registered = lines(trace)
    assert f"finalizer {pid}" == first
    expected = {f"{what} of job {number}" for what in ("atexit", "weak finalizer") for number in (1, 2)}
    assert (expected, 4) == (set(registered), len(registered))


def test_what_jobs_have_registered_is_called_without_a_finalizer_too(trace):
    with procjobs.Pool(workers=1, preload=PRELOAD) as pool:
        pool.submit(ending_jobs.register, 1).result(30)
    assert {"atexit of job 1", "weak finalizer of job 1"} == set(lines(trace))


def test_finalizer_runs_after_max_jobs(trace):
    with procjobs.Pool(workers=1, max_jobs_per_worker=1, finalizer=ending_jobs.finalize, preload=PRELOAD) as pool:
        pids = [pool.submit(jobs.pid).result(30) for _ in range(3)]
        wait_until(lambda: [f"finalizer {pid}" for pid in pids] == lines(trace)[:3])
        assert 0 == pool.stats().restarts


def test_finalizer_runs_when_the_pool_shrinks_and_when_it_loads_its_code_anew(trace, pool_name):
    with procjobs.Pool(pool_name, workers=2, finalizer=ending_jobs.finalize, preload=PRELOAD) as pool:
        wait_until(lambda: [worker.state for worker in pool.workers()] == ["idle", "idle"])
        pids = {worker.pid for worker in pool.workers()}
        pool.resize(1)
        wait_until(lambda: len(lines(trace)) == 1)
        pool.reload()
        wait_until(lambda: {f"finalizer {pid}" for pid in pids} <= set(lines(trace)))


def test_killed_worker_calls_nothing(trace):
    with procjobs.Pool(workers=1, finalizer=ending_jobs.finalize, preload=PRELOAD) as pool:
        pid = pool.submit(ending_jobs.register, 1).result(30)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(pid))
        assert pid != pool.submit(jobs.pid).result(30)
    assert (1, False) == (len(lines(trace)), f"finalizer {pid}" in lines(trace))


@pytest.mark.parametrize(
    ("finalizer", "said"),
    [
        (ending_jobs.finalize_badly, "ValueError: the meter is stuck"),
        (ending_jobs.exit_in_the_middle, "SystemExit: 3"),
    ],
)
def test_finalizer_that_fails_is_in_the_log_and_harms_nothing(trace, finalizer, said):
    with procjobs.Pool(workers=1, max_jobs_per_worker=1, finalizer=finalizer, preload=PRELOAD) as pool:
        pool.submit(ending_jobs.register, 1).result(30)
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        wait_until(lambda: said in log_of(pool))
        assert f"in {finalizer.__name__}" in log_of(pool)
        assert "atexit of job 1" in lines(trace)
        assert 0 == pool.stats().restarts


def test_finalizer_that_hangs_is_killed_after_the_grace_period(trace):
    settings = {"max_jobs_per_worker": 1, "grace_period": 0.3, "finalizer": ending_jobs.finalize_for_ever}
    with procjobs.Pool(workers=1, preload=PRELOAD, **settings) as pool:
        pid = pool.submit(jobs.pid).result(30)
        wait_until(lambda: not psutil.pid_exists(pid))
        assert "finalizer that hangs" in lines(trace)
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)


def test_finalizer_that_cannot_be_one_is_refused():
    with pytest.raises(TypeError, match="finalizer must be a callable"):
        procjobs.Pool(finalizer="app.jobs:close")
    with open(os.devnull) as file, pytest.raises(procjobs.PayloadError, match="the finalizer or its arguments"):
        procjobs.Pool(finalizer=lambda: file)
