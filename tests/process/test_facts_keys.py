"""Queue and key of a job, by its id: in any process, and after the supervisor was killed."""

from __future__ import annotations

import os
import signal

import pytest

import procjobs
from procjobs.client.running_pool import RunningPool
from procjobs.host import rundir
from procjobs.shared.table import annex
from tests.process import jobs

from ..conftest import wait_until

QUEUES = {"mail": procjobs.Queue(limit=1), "größer": {}}


def shown(pool, job):
    status = pool.status(job.id)
    return status.queue, status.key


def test_status_of_a_job_has_its_queue_and_its_key(pool_name):
    with procjobs.Pool(pool_name, workers=1, queues=QUEUES) as pool:
        both = pool.options(queue="größer", key="Nutzer 7 ♥", meta={"a": 1}).submit(jobs.fail)
        queue, key = pool.options(queue="mail").submit(jobs.pid), pool.options(key="7").submit(jobs.pid)
        for job in (queue, key):
            job.result()
        assert ("mail", None) == shown(pool, queue)
        assert (None, "7") == shown(pool, key)
        assert isinstance(both.exception(), ValueError)  # a failed attempt is written beside them
        again = pool.retry(both.id)
        again.exception()
        assert [("größer", "Nutzer 7 ♥")] * 2 == [shown(pool, both), shown(pool, again)]
        assert ({"a": 1}, both.id) == (pool.status(again.id).meta, pool.status(again.id).retry_of)
        assert [both.id, again.id] == sorted(status.id for status in pool.jobs(search="NUTZER"))
        assert [queue.id] == [status.id for status in pool.jobs(search="mail")]
        with RunningPool(rundir.RunDir(rundir.find_base(), pool_name)) as operator:
            os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
            wait_until(lambda: not operator.is_running())
            assert ("größer", "Nutzer 7 ♥") == shown(operator, both)


@pytest.mark.parametrize(("key", "text"), [("k" * 200, "k" * 200), ("k" * 201, "sha256:")])
def test_key_that_is_too_long_for_the_table_is_shown_by_its_digest(key, text):
    with procjobs.Pool(workers=1) as pool:
        job = pool.options(key=key).submit(jobs.pid)
        job.result()
        assert pool.status(job.id).key.startswith(text)


def test_longest_queue_key_and_meta_have_room_together():
    name, key, meta = "\U0001f600" * 100, "k" * 200, {"m": "x" * 2000}
    with procjobs.Pool(workers=1, queues={name: {}}) as pool:
        handles = [pool.options(queue=name, key=key, meta=meta).submit(jobs.pid) for _ in range(3)]
        for job in handles:
            job.result()
            assert (name, key) == shown(pool, job)
            assert meta == pool.status(job.id).meta


def test_jobs_without_queue_and_key_write_nothing_beside_the_table(pool_name):
    with procjobs.Pool(pool_name, workers=1) as pool:
        job = pool.submit(jobs.pid)
        job.result()
        assert (None, None) == shown(pool, job)
        assert 0 == os.stat(f"{pool._directory.path}/{annex.NAME}").st_blocks
        pool.stop()
