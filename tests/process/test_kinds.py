"""Counters and run times by kind, and for how long the oldest job has waited: in shared memory, for any process."""

from __future__ import annotations

import os
import signal

import pytest

import procjobs
from procjobs.client.running_pool import RunningPool, find_pool
from tests.process import jobs

from ..conftest import wait_until


@pytest.fixture
def pool_settings():
    return {"workers": 1, "preload": ["tests.process.jobs"]}


def kind_of(pool, name):
    return next((kind for kind in pool.kinds() if kind.name == name), None)


def test_kinds_count_how_jobs_end_and_how_long_they_run(pool):
    for n in range(10):
        assert n == pool.submit(jobs.add, n).result(30)
    pool.options(retries=2, backoff=0).submit(jobs.fail).exception(30)
    pool.options(timeout=0.3).submit(jobs.sleep, 60).exception(30)
    blocker = pool.submit(jobs.sleep, 60)
    wait_until(blocker.running)
    assert pool.submit(jobs.add, 1).cancel()
    assert isinstance(pool.options(expires=0.01).submit(jobs.add, 1).exception(30), procjobs.JobExpired)
    blocker.cancel()

    def counted():
        kinds = {kind.name.rpartition(".")[2]: kind for kind in pool.kinds()}
        return kinds.keys() == {"add", "fail", "sleep"} and kinds["sleep"].cancelled and kinds["add"].expired and kinds

    kinds = wait_until(counted)
    assert ("tests.process.jobs.add", 10, 0, 1, 1, 0) == kinds["add"][:6]
    assert (0, 1, 0, 0, 2) == kinds["fail"][1:6]
    assert (0, 1, 1, 0, 0) == kinds["sleep"][1:6]
    assert (10, 3, 1) == tuple(kinds[name].seconds.samples for name in ("add", "fail", "sleep"))
    assert 0.25 <= kinds["sleep"].seconds.total < 30  # the one that was stopped at its timeout


def test_kinds_and_the_age_of_the_oldest_job_are_read_while_the_supervisor_is_stopped(pool):
    blocker = pool.submit(jobs.sleep, 60)
    wait_until(blocker.running)
    wait_until(lambda: 0.0 == pool.stats().oldest_waiting)
    pool.submit(jobs.add, 1)
    pool.submit(jobs.add, 2)
    wait_until(lambda: pool.stats().oldest_waiting > 0.0)
    supervisor = pool.stats().supervisor_pid
    os.kill(supervisor, signal.SIGSTOP)
    try:
        before = pool.stats().oldest_waiting
        wait_until(lambda: pool.stats().oldest_waiting > before + 0.1)
        assert [] == [kind for kind in pool.kinds() if kind.succeeded]
    finally:
        os.kill(supervisor, signal.SIGCONT)
    blocker.cancel()
    wait_until(lambda: 0.0 == pool.stats().oldest_waiting)


def test_age_by_queue_counts_jobs_that_their_limit_holds(pool_name):
    queues = {"mail": procjobs.Queue(limit=1), "films": procjobs.Queue(limit=1)}
    with procjobs.Pool(pool_name, workers=2, preload=["tests.process.jobs"], queues=queues) as pool:
        assert {"mail": 0.0, "films": 0.0} == pool.stats().waits
        running = pool.options(queue="mail").submit(jobs.sleep, 60)
        wait_until(running.running)
        held = pool.options(queue="mail").submit(jobs.add, 1)
        with RunningPool(find_pool(pool_name)) as other:
            wait_until(lambda: (stats := other.stats()).waits["mail"] > 0.0 == stats.oldest_waiting)
            assert 0.0 == other.stats().waits["films"]
            running.cancel()
            assert 1 == held.result(30)
            wait_until(lambda: 0.0 == other.stats().waits["mail"])
        pool.stop()


def test_kinds_of_a_pool_with_a_store_are_counted_when_they_are_committed(pool_name, tmp_path):
    url = f"sqlite:///{tmp_path}/jobs.db"
    with procjobs.Pool(pool_name, workers=1, preload=["tests.process.jobs"], store=url) as pool:
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        pool.submit(jobs.fail).exception(30)
        wait_until(lambda: (kind := kind_of(pool, "tests.process.jobs.fail")) and 1 == kind.failed)
        assert 1 == kind_of(pool, "tests.process.jobs.add").succeeded
        pool.stop()
