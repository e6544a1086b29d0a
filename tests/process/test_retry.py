"""A job that ended otherwise than well is submitted again by its id."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import procjobs
from tests.process import jobs

from ..conftest import wait_until
from .test_resend import LARGE, started


def fail_until(path, value, *, data=b""):
    if not os.path.exists(path):
        raise ValueError("not yet")
    return value, len(data), procjobs.current_job().meta, procjobs.current_job().attempt


def test_failed_job_is_run_again_with_the_same_call(pool, tmp_path):
    terms = pool.options(meta={"user": 7}, name="film", key="k", priority=3, timeout=60)
    small = terms.submit(fail_until, str(tmp_path / "go"), 1)
    large = terms.submit(fail_until, str(tmp_path / "go"), 2, data=LARGE)
    assert small.exception(30)
    assert large.exception(30)
    first = pool.retry(small.id)
    assert isinstance(first.exception(30), ValueError)
    assert "failed" == pool.status(small.id).state
    (tmp_path / "go").touch()
    again = [pool.retry(job.id) for job in (small, large, large, first)]
    assert [1, 2, 2, 1] == [job.result(30)[0] for job in again]
    assert [0, len(LARGE), len(LARGE), 0] == [job.result()[1] for job in again]
    assert all(({"user": 7}, 1) == job.result()[2:] for job in again)
    assert [small.id, large.id, large.id, first.id] == [pool.status(job.id).retry_of for job in again]
    assert {"film"} == {pool.status(job.id).name for job in again}
    assert pool.status(small.id).retry_of is None


def test_cancelled_expired_crashed_and_quarantined_jobs_are_run_again(pool, tmp_path):
    go = str(tmp_path / "go")
    waiting = pool.options(delay=600).submit(jobs.echo, "cancelled")
    waiting.cancel()
    late = pool.options(delay=1, expires=0.01).submit(jobs.echo, "expired")
    dead = pool.options(max_crashes=1).submit(jobs.append_and_die, go)
    for job, state in ((waiting, "cancelled"), (late, "expired"), (dead, "failed")):
        wait_until(lambda job=job, state=state: pool.status(job.id).state == state)
    assert "quarantined" == pool.status(dead.id).reason
    assert "cancelled" == pool.retry(waiting.id).result(30)
    assert "expired" == pool.retry(late.id).result(30)
    assert isinstance(pool.retry(dead.id).exception(30), procjobs.JobQuarantined)


def test_job_that_goes_on_or_has_succeeded_is_refused(pool, tmp_path):
    running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"))
    done = pool.submit(jobs.add, 1)
    done.result(30)
    with pytest.raises(procjobs.RetryRefused, match=rf"job {done.id} .* is succeeded"):
        pool.retry(done.id)
    wait_until(lambda: running.status().state == "running")
    with pytest.raises(procjobs.RetryRefused, match="is running"):
        pool.retry(running.id)
    with pytest.raises(procjobs.UnknownJob):
        pool.retry("01a2294c-85fa-7097-ade7-af90cbb0e664")


def test_unique_job_is_unique_again_unless_another_one_has_its_key(pool, tmp_path):
    unique = pool.options(key="k", unique=True)
    failed = unique.submit(jobs.fail)
    assert failed.exception(30)
    again = pool.retry(failed.id)
    assert again.exception(30)
    holder = unique.submit(jobs.wait_for_file, str(tmp_path / "go"))
    wait_until(lambda: holder.status().state == "running")
    with pytest.raises(procjobs.RetryRefused, match=rf"job {holder.id} has the key"):
        pool.retry(failed.id)
    (tmp_path / "go").touch()
    holder.result(30)
    assert pool.retry(failed.id).exception(30)


def test_calls_are_kept_within_their_bounds(pool):
    data = b"x" * 30 * 2**20
    first = pool.submit(fail_until, "/nowhere", 1, data=data)
    assert first.exception(30)
    others = [pool.submit(fail_until, "/nowhere", 2, data=data) for _ in range(2)]
    for job in others:
        assert job.exception(30)
    with pytest.raises(procjobs.RetryRefused, match="not kept any more"):
        pool.retry(first.id)
    assert isinstance(pool.retry(others[1].id).exception(30), ValueError)


def test_another_process_repeats_a_job(pool_name, tmp_path):
    with started(pool_name, workers=1) as pool:
        failed = pool.submit(fail_until, str(tmp_path / "go"), 5)
        assert failed.exception(30)
        (tmp_path / "go").touch()
        code = f"import procjobs; print(procjobs.Pool({pool_name!r}, start=False).retry({failed.id!r}).result(30)[0])"
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert "5\n" == shown.stdout
