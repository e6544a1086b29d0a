"""A process of a pool may open no more files: the job that needs one says so, and nobody else is killed or blamed."""

from __future__ import annotations

import os
import resource

import numpy as np
import psutil

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
