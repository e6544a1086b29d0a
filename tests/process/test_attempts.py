"""The attempts of a job by its id, without a store: when, on which worker, how each ended, and its traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

import procjobs
from procjobs.shared.table import annex
from tests.process import jobs

from ..conftest import wait_until
from .test_resend import started


def fail_twice_then_die_then_return():
    attempt = procjobs.current_job().attempt
    procjobs.progress(attempt, 9)
    if attempt <= 2:
        raise ValueError(f"number {attempt}")
    if attempt == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def fail_with_long_traceback():
    raise ValueError("x" * 100_000)


def test_each_attempt_has_its_worker_its_times_and_its_traceback(pool):
    before = time.time()
    job = pool.options(retries=5, backoff=0).submit(fail_twice_then_die_then_return)
    pid = job.result(60)
    first, second, third, last = pool.attempts(job.id)
    assert [(1, "raised"), (2, "raised"), (3, "crashed"), (4, None)] == [
        (one.attempt, one.reason) for one in (first, second, third, last)
    ]
    assert ("ValueError: number 1", "1 of 9", None) == (first.error, first.last_progress, first.signal)
    assert "in fail_twice_then_die_then_return" in first.traceback
    assert "number 2" in second.traceback
    assert (signal.SIGKILL, None) == (third.signal, third.traceback)
    assert (pid, None, "") == (last.worker_pid, last.traceback, last.error)
    for one in (first, second, third, last):
        assert one.worker in {0, 1}
        assert one.worker_pid
        assert before <= one.started_at <= one.ended_at <= time.time()
    assert third.worker_pid != last.worker_pid
    assert (None, None) == (job.status().error, job.status().error_details)


def test_traceback_is_read_by_id_in_another_process_and_after_a_kill(pool_name):
    with started(pool_name, workers=1) as pool:
        job = pool.submit(jobs.fail, "this")
        assert job.exception(30)
        assert "in fail" in pool.status(job.id).error_details
        code = f"import procjobs; print(procjobs.Pool({pool_name!r}, start=False).attempts({job.id!r})[0].traceback)"
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert "in fail" in shown.stdout
        os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
        assert "ValueError: this" in pool.status(job.id).error_details


def test_running_job_and_one_that_waits_have_the_attempts_they_have(pool, tmp_path):
    running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"))
    waiting = pool.options(delay=600).submit(jobs.pid)
    wait_until(lambda: running.status().state == "running")
    (one,) = pool.attempts(running.id)
    assert (1, None, None) == (one.attempt, one.reason, one.ended_at)
    assert () == pool.attempts(waiting.id)
    with pytest.raises(procjobs.UnknownJob):
        pool.attempts("01a2294c-85fa-7097-ade7-af90cbb0e664")


def test_attempt_that_waited_for_the_next_one_and_was_cancelled_is_told_once(pool):
    job = pool.options(retries=1, backoff=600, max_backoff=600).submit(jobs.fail)
    wait_until(lambda: job.status().state == "retrying")
    assert "in fail" in job.status().error_details
    assert job.cancel()
    wait_until(lambda: pool.status(job.id).state == "cancelled")
    assert ["raised"] == [one.reason for one in pool.attempts(job.id)]


def test_job_that_was_cancelled_or_stopped_while_it_ran_has_its_attempt(pool, tmp_path):
    job = pool.submit(jobs.wait_for_file, str(tmp_path / "go"))
    wait_until(lambda: job.status().state == "running")
    job.cancel()
    wait_until(lambda: pool.status(job.id).state == "cancelled")
    assert ["cancelled"] == [one.reason for one in pool.attempts(job.id)]
    late = pool.options(timeout=0.2).submit(jobs.wait_for_file, str(tmp_path / "go"))
    assert late.exception(30)
    assert "wait_for_file" in pool.status(late.id).error_details
    assert ["timeout"] == [one.reason for one in pool.attempts(late.id)]


def test_ten_attempts_are_kept_and_long_tracebacks_are_cut(pool):
    job = pool.options(retries=14, backoff=0).submit(fail_with_long_traceback)
    assert job.exception(60)
    attempts = pool.attempts(job.id)
    assert list(range(6, 16)) == [one.attempt for one in attempts]
    assert all(len(one.traceback) <= 17_000 for one in attempts)
    assert 15 == pool.status(job.id).attempt


def test_the_oldest_failures_make_room(pool):
    first = pool.submit(jobs.fail)
    assert first.exception(30)
    others = [pool.submit(fail_with_long_traceback) for _ in range(annex.RING_BYTES // 16_000 + 10)]
    for other in others:
        assert other.exception(60)
    status = pool.status(first.id)
    assert ("failed", None) == (status.state, status.error_details)
    assert [("raised", None)] == [(one.reason, one.traceback) for one in pool.attempts(first.id)]
    assert pool.status(others[-1].id).error_details
    assert os.stat(f"{pool._directory.path}/annex").st_blocks * 512 < annex.RING_BYTES + 4 * 2**20
