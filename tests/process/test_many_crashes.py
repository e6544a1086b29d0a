"""One job in ten kills its worker, thousands of times: every answer is right, and the supervisor does not grow."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

import procjobs

from ..conftest import wait_until

IS_LONG = os.environ.get("PROCJOBS_TEST_LONG") == "1"
JOBS, BATCH = (10_000, 500) if IS_LONG else (900, 300)


def square_or_die(n):
    if n % 20 == 3:
        os._exit(n % 250 + 1)
    if n % 20 == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return n * n


def expected(n):
    if n % 20 == 3:
        return None, n % 250 + 1
    if n % 20 == 13:
        return signal.SIGKILL, None
    return n * n


def outcome(job):
    error = job.exception(60)
    if error is None:
        return job.result()
    assert procjobs.WorkerCrashed is type(error)
    assert (job.id, 1) == (error.job_id, error.attempt)
    return error.signal, error.exit_code


@pytest.mark.timeout(900 if IS_LONG else 400)
def test_supervisor_stays_as_it_is_while_one_job_in_ten_kills_its_worker(capsys):
    # Few results are kept, so that what is kept of answered jobs does not look like a leak.
    with procjobs.Pool(workers=2, result_ttl=0.5, result_memory_bytes=0) as pool:
        supervisor = psutil.Process(pool.stats().supervisor_pid)
        readings = []
        for first in range(0, JOBS, BATCH):
            numbers = range(first, first + BATCH)
            handles = [pool.submit(square_or_die, n) for n in numbers]
            assert [expected(n) for n in numbers] == [outcome(job) for job in handles]
            wait_until(lambda: pool.stats().idle == 2, dump=pool.stats)
            readings.append((supervisor.num_fds(), supervisor.memory_info().rss, len(supervisor.children())))
        stats = pool.stats()
    crashes = JOBS // 10
    assert (JOBS, crashes, crashes, crashes) == (stats.finished, stats.failed, stats.crashed, stats.restarts)
    with capsys.disabled():
        if IS_LONG:
            print(f"\ndescriptors, resident KiB, children after each {BATCH} jobs:")
            print([(fds, rss // 1024, children) for fds, rss, children in readings])
    warm, last = readings[1], readings[-1]
    assert (warm[0], warm[2]) == (last[0], last[2])
    assert last[1] - warm[1] < 8 * 2**20, readings
