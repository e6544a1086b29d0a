"""Jobs that wait in the store alone: which are loaded and when, and which questions about them are answered meanwhile."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

import procjobs
from tests.process import jobs

from ..conftest import wait_until
from .conftest import recorder_of
from .test_rescue import lines


def leave_waiting(started, count, **options):
    """Submit to a pool that starts nothing, and stop it: the jobs wait in the store."""
    pool = started(workers=1, queues={"one": procjobs.Queue(limit=1)})
    pool.pause()
    handles = [pool.options(**options).submit(jobs.echo, n) for n in range(count)]
    handles[-1].wait_accepted(30)
    pool.stop()
    return handles


def test_job_that_may_run_does_not_wait_behind_scheduled_ones(started, store):
    pool = started(workers=1, max_queued=4)
    for _ in range(4):
        pool.options(delay=3600).submit(jobs.echo, "later").wait_accepted(30)
    with Session(create_engine(store.url, poolclass=NullPool)) as session:
        job = pool.submit_on_commit(session, jobs.echo, "now")
        session.commit()
    assert "now" == job.result(30)


def test_job_that_waits_in_the_store_alone_starts_when_its_time_has_come(started, store):
    handles = leave_waiting(started, 10, delay=3600)
    store.write("UPDATE procjobs_jobs SET not_before = :when WHERE id = :id", when=time.time() + 2, id=handles[-1].id)
    pool = started(workers=1, max_queued=4)
    assert 9 == pool.job(handles[-1].id).result(30)
    assert {"scheduled": 9, "succeeded": 1} == store.states()


def test_client_that_awaits_a_job_in_the_store_hears_that_it_was_cancelled(started, store):
    handles = leave_waiting(started, 10)
    pool = started(workers=1, max_queued=4)
    pool.pause()
    awaited = pool.job(handles[-1].id)
    assert pool.cancel(handles[-1].id)
    with pytest.raises(procjobs.JobCancelled):
        awaited.result(30)


def test_job_that_expired_while_the_pool_was_down_is_not_started(started, store, tmp_path):
    pool = started(workers=1)
    pool.pause()
    job = pool.options(expires=3600).submit(jobs.append_line, str(tmp_path / "trace"), "ran")
    job.wait_accepted(30)
    pool.stop()
    store.write("UPDATE procjobs_jobs SET expires_at = expires_at - 7200")
    pool = started(workers=1)
    with pytest.raises(procjobs.JobExpired):
        pool.job(job.id).result(30)
    assert [] == lines(tmp_path / "trace")


def test_retry_that_waits_when_the_pool_stops_was_not_interrupted(started, store):
    pool = started(workers=1)
    job = pool.options(retries=1, backoff=3600, max_backoff=3600).submit(jobs.fail)
    wait_until(lambda: store.states() == {"retrying": 1})
    pool.stop()
    assert [(1, "raised")] == store.attempts(job)
    assert [(1, 0)] == store.rows("SELECT attempt, cut_off FROM procjobs_jobs")
    store.write("UPDATE procjobs_jobs SET not_before = 1")
    pool = started(workers=1)
    assert isinstance(pool.job(job.id).exception(30), ValueError)
    assert [(1, "raised"), (2, "raised")] == store.attempts(job)


def test_job_that_is_on_its_way_from_the_store_can_be_cancelled(started, store, tmp_path):
    """The recorder has loaded the job when it is asked to cancel it, and its LOADED comes after the question."""
    handles = leave_waiting(started, 10)
    never = str(tmp_path / "never")
    pool = started(workers=1, max_queued=4, initializer=jobs.wait_for_file, initargs=(never,))  # no job is started
    wait_until(lambda: 4 == pool.stats().queued)
    recorder = psutil.Process(recorder_of(pool))
    recorder.suspend()
    with ThreadPoolExecutor(1) as thread:
        assert [True] * 4 == [pool.job(job.id).cancel() for job in handles[:4]]  # now there is room for others
        wait_until(lambda: 0 == pool.stats().queued)
        cancelled = thread.submit(pool.cancel, handles[4].id)
        while not cancelled.done():
            with contextlib.suppress(psutil.NoSuchProcess):  # it was stopped for so long that it was replaced
                recorder.resume()
    assert cancelled.result()
    wait_until(lambda: 5 == store.states().get("cancelled"))


_ASK_AND_READ_NOTHING = """
import os, sys, procjobs
from procjobs.client.connection.connection import Connection

Connection.start_receiving = lambda connection: None
pool = procjobs.Pool(sys.argv[1], store=sys.argv[2], workers=2)
connection = pool._link.connect()
for job_id in sys.argv[3:]:
    connection.watch(procjobs.Job(pool, bytes.fromhex(job_id.replace("-", "")), "echo"))
os.kill(os.getpid(), 9 if not sys.stdin.read() else 0)
"""


@pytest.mark.parametrize("store", ["sqlite_url"], indirect=True)
def test_results_from_the_store_for_a_client_that_does_not_take_them(started, store, pool_name):
    pool = started()
    data = os.urandom(100_000)
    handles = [pool.submit(jobs.echo, data) for _ in range(400)]
    assert all(job.result(60) == data for job in handles)
    pool.stop()
    pool = started()
    supervisor = psutil.Process(pool.stats().supervisor_pid)
    before = supervisor.num_fds()
    command = [sys.executable, "-c", _ASK_AND_READ_NOTHING, pool_name, store.url, *[job.id for job in handles]]
    with subprocess.Popen(command, stdin=subprocess.PIPE):
        wait_until(lambda: supervisor.num_fds() > before + 50)
        assert data == pool.job(handles[0].id).result(30)
    wait_until(lambda: supervisor.num_fds() <= before, dump=lambda: str(supervisor.num_fds() - before))


def test_job_that_may_run_does_not_wait_behind_those_of_a_throttled_queue(started, store):
    pool = started(workers=2, max_queued=4, queues={"mail": procjobs.Queue(rate="1/d")})
    mails = [pool.options(queue="mail").submit(jobs.echo, n) for n in range(4)]
    assert 0 == mails[0].result(30)
    wait_until(lambda: [3] == [queue.held for queue in pool.queues()])
    with Session(create_engine(store.url, poolclass=NullPool)) as session:
        job = pool.submit_on_commit(session, jobs.echo, "passes by")
        more = pool.options(queue="mail").submit_on_commit(session, jobs.echo, "waits in the store")
        session.commit()
    assert "passes by" == job.result(30)
    assert "queued" == pool.status(more.id).state
    assert [3] == [queue.held for queue in pool.queues()]


def test_jobs_of_a_crowded_queue_are_loaded_as_it_empties(started, store):
    waiting = leave_waiting(started, 9, queue="one")
    pool = started(workers=2, max_queued=4, queues={"one": procjobs.Queue(limit=1)})
    assert list(range(9)) == [pool.job(job.id).result(60) for job in waiting]


def test_jobs_left_in_the_store_come_before_new_submissions(started, store, tmp_path):
    """Otherwise a client that submits jobs faster than they run would keep those of the pool's last life in the store."""
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=1)
    pool.pause()
    old = [pool.submit(jobs.append_line, str(trace), n) for n in range(2)]
    old[-1].wait_accepted(30)
    pool.stop()
    pool = started(workers=1, max_queued=6, max_jobs_per_worker=1000, is_available=False)
    first = pool.submit(jobs.append_line_and_wait, str(trace), "first", str(go))
    new = [pool.submit(jobs.append_line, str(trace), "new") for _ in range(3)]
    # Where the store is there before the first one, that one comes after those of the store, too.
    wait_until(lambda: (s := pool.stats()).busy == 1 and s.queued + s.finished == 5, dump=lambda: str(pool.stats()))
    go.touch()
    assert ["first", "new", "new", "new"] == [job.result(30) for job in [first, *new]]
    assert [0, 1] == [pool.job(job.id).result(30) for job in old]
    assert ["0", "1", "new", "new", "new"] == [line for line in lines(trace) if line != "first"]
