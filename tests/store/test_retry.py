"""Jobs are submitted again by their id out of the store: also under the next supervisor, as long as retry_ttl says."""

from __future__ import annotations

import os
import signal
import time

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

import procjobs
from procjobs.shared.store_address import store_name
from procjobs.store.retention import drop_calls
from tests.process import jobs
from tests.process.test_retry import fail_until

from ..conftest import wait_until

LARGE = b"x" * 200_000


def test_failed_job_is_run_again_under_the_next_supervisor(started, store, tmp_path):
    pool = started(workers=1, result_ttl=0.2)
    terms = pool.options(meta={"user": 7}, key="k")
    small, large = (terms.submit(fail_until, str(tmp_path / "go"), n, data=d) for n, d in ((1, b""), (2, LARGE)))
    assert small.exception(30)
    assert large.exception(30)
    (tmp_path / "go").touch()
    os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
    again = [pool.retry(job.id) for job in (small, large, large)]
    assert [(1, 0, {"user": 7}, 1), *[(2, len(LARGE), {"user": 7}, 1)] * 2] == [job.result(60) for job in again]
    assert [small.id, large.id, large.id] == [pool.status(job.id).retry_of for job in again]
    assert {small.id, large.id, None} == {record.retry_of for record in pool.history()}
    query = "SELECT count(*) FROM procjobs_jobs WHERE call IS NOT NULL AND state = 'succeeded'"
    assert [(0,)] == store.rows(query)
    with pytest.raises(procjobs.RetryRefused, match="succeeded"):
        pool.retry(again[0].id)
    with pytest.raises(procjobs.UnknownJob):
        pool.retry("01a2294c-85fa-7097-ade7-af90cbb0e664")


def test_cancelled_job_is_run_again_and_a_running_one_is_not(started, tmp_path):
    pool = started(workers=1)
    running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "done")
    wait_until(lambda: running.status().state == "running")
    with pytest.raises(procjobs.RetryRefused, match="only jobs that failed"):
        pool.retry(running.id)
    assert pool.cancel(running.id)
    wait_until(lambda: pool.status(running.id).state == "cancelled")
    (tmp_path / "go").touch()
    assert "done" == pool.retry(running.id).result(30)


def test_retry_that_is_asked_for_twice_under_one_id_is_one(started, store):
    pool = started(workers=1)
    failed = pool.submit(jobs.fail)
    assert failed.exception(30)
    connection, new = pool._link.connect(), os.urandom(16).hex()
    replies = [connection.request("retry", id=failed.raw_id.hex(), new=new) for _ in range(2)]
    assert [("", True)] * 2 == [(reply["refusal"], reply["known"]) for reply in replies]
    assert [(2,)] == store.rows("SELECT count(*) FROM procjobs_jobs")


def test_unique_job_is_refused_while_another_one_has_its_key(started, tmp_path):
    pool = started(workers=1)
    unique = pool.options(key="k", unique=True)
    failed = unique.submit(jobs.fail)
    assert failed.exception(30)
    holder = unique.submit(jobs.wait_for_file, str(tmp_path / "go"))
    with pytest.raises(procjobs.RetryRefused, match=rf"job {holder.id} has the key"):
        pool.retry(failed.id)
    (tmp_path / "go").touch()
    holder.result(30)
    assert isinstance(pool.retry(failed.id).exception(30), ValueError)


def test_calls_are_dropped_after_their_time(started, store, pool_name):
    pool, name = started(workers=1), store_name(store.url, pool_name)
    failed = pool.submit(jobs.fail)
    assert failed.exception(30)
    with create_engine(store.url, poolclass=NullPool).begin() as connection:
        drop_calls(connection, name, 3600.0, time.time())
    assert [(1,)] == store.rows("SELECT count(*) FROM procjobs_jobs WHERE call IS NOT NULL")
    with create_engine(store.url, poolclass=NullPool).begin() as connection:
        drop_calls(connection, name, 3600.0, time.time() + 3700.0)
    with pytest.raises(procjobs.RetryRefused, match="retry_ttl"):
        pool.retry(failed.id)
