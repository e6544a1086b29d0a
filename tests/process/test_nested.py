"""Jobs that wait for other jobs of their pool: another worker works in their place, and what would hang is refused."""

from __future__ import annotations

import os

import pytest

import procjobs
from procjobs import Queue, WaitRefused
from tests.process import nested_jobs as jobs
from tests.waiting import wait_until


@pytest.fixture
def start():
    pools = []

    def start(workers=1, **settings):
        # With the client in the template, a new worker need not import it: there are a hundred of them.
        settings = {"preload": [jobs.__name__, "procjobs.client.pool"], **settings}
        pool = procjobs.Pool(f"nested-{os.getpid()}-{len(pools)}", workers=workers, **settings)
        pools.append(pool)
        return pool, pool.name

    yield start
    for pool in pools:
        pool.stop()


@pytest.mark.parametrize("workers", [1, 2])
def test_tree_of_jobs_needs_as_many_workers_as_it_is_deep(start, workers):
    pool, name = start(workers)
    assert 144 == pool.submit(jobs.fibonacci, name, 12).result(100)
    assert pool.stats().workers <= 12 * workers + 1


def test_fifty_jobs_one_within_the_other(start):
    pool, name = start()
    assert 50 == pool.submit(jobs.descend, name, 50).result(100)
    wait_until(lambda: (0, 0) == (pool.stats().busy, pool.stats().waiting_workers))


WAYS = {
    jobs.by_exception: None, jobs.by_wait: 9900, jobs.by_as_completed: 72, jobs.by_map: [0, 2, 4, 6, 8],
    jobs.by_unordered_map: [0, 2, 4, 6, 8], jobs.by_id: 8, jobs.in_a_thread: [8], jobs.by_await: 8, jobs.by_run: 8,
    jobs.by_job_wait: True, jobs.by_updates: "succeeded", jobs.by_gather: [0, 2, 4], jobs.by_executor: 8,
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_job_may_wait_in_any_way(start, way):
    pool, name = start()
    assert WAYS[way] == pool.submit(way, name).result(60)


def test_spare_worker_is_seen_and_ends(start, tmp_path):
    pool, name = start(worker_idle=0.05)
    job = pool.submit(jobs.wait_until_held, name, str(tmp_path / "go"))
    wait_until(lambda: [worker.state for worker in pool.workers()] == ["waiting", "busy"], dump=pool.workers)
    assert (2, 2, 1) == (pool.stats().workers, pool.stats().busy, pool.stats().waiting_workers)
    (tmp_path / "go").touch()
    assert "held" == job.result(60)
    wait_until(lambda: pool.stats().workers == 1, dump=pool.stats)


def test_job_whose_wait_has_timed_out_counts_again(start, tmp_path):
    pool, name = start()
    held = pool.job(pool.submit(jobs.wait_a_moment, name, str(tmp_path / "go")).result(60))
    wait_until(lambda: pool.stats().waiting_workers == 0)
    assert not held.done()
    (tmp_path / "go").touch()
    assert "held" == held.result(60)


def test_worker_that_is_killed_while_its_job_waits_leaves_no_wait(start, tmp_path):
    pool, name = start()
    mark = str(tmp_path / "mark")
    job = pool.options(retries=1, backoff=0.0).submit(jobs.die_while_waiting, name, str(tmp_path / "go"), mark)
    wait_until(lambda: os.path.exists(mark))
    (tmp_path / "go").touch()
    assert "the second attempt" == job.result(60)
    assert (0, 8) == (pool.stats().waiting_workers, pool.submit(jobs.double, 4).result(60))


def test_job_is_cancelled_and_timed_out_while_it_waits(start, tmp_path):
    pool, name = start(2)
    cancelled = pool.submit(jobs.wait_until_held, name, str(tmp_path / "go"))
    wait_until(lambda: pool.stats().waiting_workers == 1)
    assert cancelled.cancel()
    with pytest.raises(procjobs.JobTimeout):
        pool.options(timeout=0.5).submit(jobs.wait_until_held, name, str(tmp_path / "go")).result(60)
    (tmp_path / "go").touch()
    wait_until(lambda: (pool.stats().waiting_workers, pool.stats().busy) == (0, 0), dump=pool.stats)
    assert 8 == pool.submit(jobs.double, 4).result(60)


# Refused


def refusal(job):
    error = job.exception(60)
    assert isinstance(error, WaitRefused)
    assert job.id == error.job_id
    return str(error)


def test_job_that_waits_for_itself_is_told(start):
    pool, name = start()
    assert "that is the job itself" in refusal(pool.submit(jobs.wait_for_itself, name))


def test_job_that_waits_for_one_with_its_key_is_told(start):
    pool, name = start()
    told = refusal(pool.options(key="film 7").submit(jobs.wait_for_same_key, name))
    assert "no more than 1 of the jobs of the key 'film 7' may run at once" in told
    assert "double" in told
    wait_until(lambda: pool.stats().finished == 2)
    assert 0 == pool.stats().failed - 1, "the inner job has run when the outer one had ended"


@pytest.mark.parametrize("way", [jobs.wait_in_queue, jobs.await_in_queue])
def test_job_that_waits_for_one_of_its_own_narrow_queue_is_told(start, way):
    pool, name = start(queues={"narrow": Queue(limit=1)})
    assert "of queue 'narrow' may run at once" in refusal(pool.options(queue="narrow").submit(way, name))
    told = pool.options(queue="narrow").submit(jobs.wait_in_queue_with_others, name).result(60)
    assert ["WaitRefused", "WaitRefused"] == told
    assert 8 == pool.options(queue="narrow").submit(jobs.double, 4).result(60)


def test_tree_that_is_too_deep_ends_with_an_error_that_says_so(start):
    pool, name = start()
    error = pool.submit(jobs.descend, name, 110).exception(110)
    assert isinstance(error, WaitRefused)
    assert "all workers have jobs that wait, 101 with all spare ones" in str(error)
    assert 8 == pool.submit(jobs.double, 4).result(60)
