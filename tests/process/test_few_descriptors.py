"""A process of a pool may open no more files: the job that needs one says so, and nobody else is killed or blamed."""

from __future__ import annotations

import contextlib
import os
import resource

import numpy as np
import psutil
import pytest

import procjobs
from tests.process import jobs


def leave_no_room(pid):
    """Let a process open no more files than it has now."""
    taken = set(map(int, os.listdir(f"/proc/{pid}/fd")))
    _, hard = psutil.Process(pid).rlimit(resource.RLIMIT_NOFILE)
    psutil.Process(pid).rlimit(resource.RLIMIT_NOFILE, (next(n for n in range(hard) if n not in taken), hard))


def leave_room(pid):
    _, hard = psutil.Process(pid).rlimit(resource.RLIMIT_NOFILE)
    psutil.Process(pid).rlimit(resource.RLIMIT_NOFILE, (hard, hard))


def large_error():
    raise ValueError(np.zeros(100_000))


def test_supervisor_that_has_no_descriptor_for_a_result(pool_name):
    with procjobs.Pool(pool_name, workers=2) as pool:
        workers = {pool.submit(os.getpid).result(30) for _ in range(20)}
        supervisor = pool.stats().supervisor_pid
        pool.submit(np.zeros, 100_000).result(30)  # it fits
        leave_no_room(supervisor)
        error = pool.submit(np.zeros, 100_000).exception(30)
        assert isinstance(error, procjobs.PayloadError)
        assert f"the supervisor (pid {supervisor}) has as many files open as it may" in str(error)
        assert "ulimit -n" in str(pool.submit(large_error).exception(30))
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        leave_room(supervisor)
        assert 100_000 == len(pool.submit(np.zeros, 100_000).result(30))
        assert {pool.submit(os.getpid).result(30) for _ in range(20)} <= workers
        assert 0 == pool.stats().crashed
        pool.stop()


def test_worker_that_has_no_descriptor_for_its_arguments(pool_name):
    size = 100_000
    with procjobs.Pool(pool_name, workers=1) as pool:
        worker = pool.submit(os.getpid).result(30)
        assert size == pool.submit(len, np.zeros(size)).result(30)
        leave_no_room(worker)
        error = pool.submit(len, np.zeros(size)).exception(30)
        assert isinstance(error, procjobs.PayloadError)
        assert f"the worker (pid {worker}) has as many files open as it may" in str(error)
        leave_room(worker)
        assert size == pool.submit(len, np.zeros(size)).result(30)
        assert worker == pool.submit(os.getpid).result(30)
        pool.stop()


@contextlib.contextmanager
def no_room_here():
    """Let this process open no more files than it has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_client_that_has_no_descriptor_for_a_result_loses_that_one_alone(pool, tmp_path):
    pool.submit(jobs.add, 1, 2).result(30)
    waiting = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "came")
    with no_room_here():
        lost = [pool.submit(np.zeros, 100_000), pool.submit(large_error)]
        texts = [str(job.exception(30)) for job in lost]
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
    assert all(f"(pid {os.getpid()}) has as many files open as it may" in text for text in texts)
    assert isinstance(lost[0].exception(), procjobs.PayloadError)
    assert 100_000 == len(pool.submit(np.zeros, 100_000).result(30))
    assert not waiting.done()
    (tmp_path / "go").touch()
    assert "came" == waiting.result(30)
    assert 0 == pool.stats().crashed


def keep(array, kept=[]):  # noqa: B006 - kept from one job to the next
    kept.append(array)
    return len(os.listdir("/proc/self/fd"))


def test_arrays_that_are_kept_take_no_descriptor(pool):
    pool.submit(np.zeros, 25_000).result(30)
    before = len(os.listdir("/proc/self/fd"))
    kept = list(pool.map(np.zeros, [25_000] * 100))
    assert before == len(os.listdir("/proc/self/fd"))
    for array in kept:
        array[:] = 1.0  # each is the caller's own
    assert 100 * 25_000 == sum(array.sum() for array in kept)


def test_arguments_that_jobs_keep_take_no_descriptor():
    with procjobs.Pool(workers=1) as pool:
        first, *_, last = [pool.submit(keep, np.zeros(25_000)).result(30) for _ in range(20)]
    assert first == last


def test_call_for_whose_arguments_the_client_has_no_descriptor_names_the_limit(pool):
    assert 100_000 == pool.submit(len, np.zeros(100_000)).result(30)
    with no_room_here():
        with pytest.raises(procjobs.PayloadError, match=r"a process may open no more than \d+ files: raise the limit"):
            pool.submit(len, np.zeros(100_000))
        with pytest.raises(procjobs.SupervisorError, match=r"a process may open no more than \d+ files: raise the limit"):
            procjobs.Pool(workers=1)
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
    assert 100_000 == pool.submit(len, np.zeros(100_000)).result(30)
