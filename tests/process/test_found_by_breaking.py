"""Regressions: each of these has broken the pool once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time

import numpy as np
import pytest

import procjobs
from procjobs.client.job import Job
from procjobs.host import rundir
from procjobs.supervisor.clients.client_link import ClientLink
from tests.process import jobs

from ..conftest import wait_until


def test_many_thousand_buffers_in_one_payload_both_ways(pool):
    arrays = [np.full(2048, n) for n in range(9000)]
    assert (9000, 8999) == pool.submit(lambda a: (len(a), int(a[-1][0])), arrays).result(60)
    result = pool.submit(lambda: [np.full(2048, n) for n in range(9000)]).result(60)
    assert (9000, 8999) == (len(result), result[-1][0])


@pytest.mark.parametrize("text", ["\x00" * 60_000, "\ud800 alone", "ü" * 100_000])
def test_exception_with_any_text_arrives(pool, text):
    assert (text,) == pool.submit(jobs.fail, text).exception(30).args


@pytest.mark.parametrize("name", ["x\udc80", "ü" * 500, "\x00", ""])
def test_job_of_any_name_runs(pool, name):
    assert 3 == pool.options(name=name).submit(jobs.add, 1, 2).result(30)


def test_results_that_cannot_be_spilled_cost_only_themselves(pool_name):
    with procjobs.Pool(pool_name, workers=1, result_memory_bytes=1000) as pool:
        directory = rundir.RunDir(rundir.find_base(), pool_name)
        first = pool.submit(jobs.echo, b"x" * 5000)
        assert b"x" * 5000 == first.result(30)
        for name in os.listdir(directory.path):
            if name.startswith("results-"):
                os.unlink(f"{directory.path}/{name}")
        blocked = [f"{directory.path}/results-{n}" for n in range(1, 60)]
        for path in blocked:
            if not os.path.exists(path):
                os.mkdir(path)  # job: no file can be made there
        handles = [pool.submit(jobs.echo, bytes([n]) * 5000) for n in range(30)]
        assert [bytes([n]) * 5000 for n in range(30)] == [job.result(30) for job in handles]
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)


def test_every_cancelled_job_of_very_many_is_told(tmp_path):
    pool = procjobs.Pool(workers=1)
    blocker = pool.submit(jobs.wait_for_file, str(tmp_path / "go"))
    handles = [pool.submit(jobs.add, n) for n in range(40_000)]
    pool.shutdown(wait=False, cancel_futures=True)
    (tmp_path / "go").touch()
    blocker.result(60)
    kinds = {type(_error(job)) for job in handles}
    assert {procjobs.JobCancelled} == kinds
    pool.shutdown()


def _error(job):
    try:
        return job.exception(60)
    except procjobs.JobCancelled as error:
        return error


def test_callback_that_submits_when_the_supervisor_is_lost(pool_name):
    pool = procjobs.Pool(pool_name, workers=1)
    done = threading.Event()
    again = []

    def resubmit(_job):
        again.append(pool.submit(jobs.add, 20, 22))
        done.set()

    job = pool.submit(jobs.sleep, 600)
    wait_until(job.running)  # one that was not acknowledged would go to the successor
    job.add_done_callback(resubmit)
    os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
    with contextlib.suppress(procjobs.SupervisorLost):  # sent to the one that was just dying
        pool.submit(jobs.add, 1, 2).result(30)
    assert done.wait(30)
    assert 42 == again[0].result(30)
    pool.stop()


def test_large_progress_leaves_no_file_when_its_job_is_evicted(pool_name):
    def report():
        procjobs.progress(1, data=b"x" * 100_000)
        procjobs.progress(2)

    with procjobs.Pool(pool_name, workers=1, result_ttl=0.05) as pool:
        for job in [pool.submit(report) for _ in range(5)]:
            job.result(30)
        path = rundir.RunDir(rundir.find_base(), pool_name).path
        wait_until(lambda: not [name for name in os.listdir(path) if name.startswith("data-")])


def test_named_pools_that_are_let_go_leave_no_thread_and_no_socket(pool_name):
    with procjobs.Pool(pool_name, workers=1):
        before = threading.active_count()
        for n in range(5):
            pool = procjobs.Pool(pool_name)
            job = pool.submit(jobs.add, n)
            pool.shutdown(wait=False)
            assert n == job.result(30)
            del pool, job
        for n in range(5):
            pool = procjobs.Pool(pool_name)
            assert n == pool.submit(jobs.add, n).result(30)
            del pool
        wait_until(lambda: threading.active_count() <= before)


def test_job_that_forks_and_returns_in_both_processes_answers_once(pool):
    assert pool.submit(os.fork).result(30) > 0
    assert list(range(50)) == [pool.submit(jobs.add, n).result(30) for n in range(50)]


def test_pool_started_by_a_job_outlives_the_crash_of_a_worker(pool, pool_name):
    def start(name):
        inner = procjobs.Pool(name, workers=1)
        assert 3 == inner.submit(pow, 3, 1).result(30)
        return inner.stats().supervisor_pid

    supervisor = pool.submit(start, pool_name).result(30)
    for _ in range(2):
        with pytest.raises(procjobs.WorkerCrashed):
            pool.submit(jobs.leave, 3).result(30)
    with procjobs.Pool(pool_name) as inner:
        assert supervisor == inner.stats().supervisor_pid


def test_submission_that_timed_out_half_sent_does_not_run(tmp_path):
    pool = procjobs.Pool(workers=1, submit_timeout=0.2)
    assert 1 == pool.submit(jobs.add, 1).result(30)
    supervisor = pool.stats().supervisor_pid
    running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "done")
    wait_until(running.running)
    os.kill(supervisor, signal.SIGSTOP)
    names, refused = [], None
    try:
        while refused is None:
            name = f"{len(names)},"
            try:
                pool.submit(jobs.append_name, str(tmp_path / "trace"), name + "." * 40_000 + "\n")
                names.append(name)
            except procjobs.SubmitTimeout:
                refused = name
        with pytest.raises(procjobs.SubmitTimeout):
            pool.submit(lambda: "a function that is new")
    finally:
        os.kill(supervisor, signal.SIGCONT)
    (tmp_path / "go").touch()
    assert "new" == pool.submit(lambda: "new").result(30)
    assert "done" == running.result(30)
    pool.shutdown()
    ran = [line.partition(",")[0] + "," for line in (tmp_path / "trace").read_text().splitlines()]
    assert names == ran


def test_wrong_job_is_never_charged_with_a_timeout(pool):
    def spin(seconds):
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    slow, handles = pool.options(timeout=0.001, grace_period=0), []
    for n in range(1500):
        handles.append((True, slow.submit(spin, 0.0005 * (n % 2))))
        handles.append((False, pool.submit(jobs.add, n)))
    for may_time_out, job in handles:
        error = job.exception(60)
        assert error is None or (may_time_out and isinstance(error, procjobs.JobTimeout))


def test_submission_that_comes_behind_a_drain_is_refused(pool_name):
    pool = procjobs.Pool(pool_name, workers=1)
    pool.submit(jobs.add, 1).result(30)
    connection, frames = pool._link.connection, []
    sender = connection.sender
    send = sender._send_bytes
    sender._send_bytes = lambda data, _flags: (frames.append(data), len(data))[1]
    connection.requests.post("drain")
    job = pool.submit(jobs.add, 2)
    sender._send_bytes = send
    sender.post(b"".join(frames))
    assert procjobs.PoolClosed is type(job.exception(30))
    pool.shutdown()


def test_many_large_answers_at_once_are_not_gathered_in_memory():
    class Answered:
        id, attempt, unsent, has_descriptor = bytes(16), 1, 0, False

        def __init__(self):
            self.answer = self

        def fetch(self, _job_id, _attempt):
            return bytes(60_000), None, False

    ours, theirs = socket.socketpair()
    with theirs:
        link = ClientLink(ours)
        for _ in range(100):
            link.queue_answer(Answered())
        assert (2, 98) == (len(link._answers), link.backlog)
        link.close()


def test_snapshot_of_a_job_is_its_result_and_not_what_the_future_holds(pool):
    job = pool.submit(jobs.add, 1, 2)
    job.result(30)
    assert (True, False, 3, None) == job._get_snapshot()


def test_job_may_be_asked_for_by_a_finalizer_while_another_gets_its_listeners(pool, monkeypatch):
    """Making them allocates, so that the garbage collector may run a finalizer right there."""
    other = pool.submit(jobs.add, 1)

    class Finalized:
        def __del__(self):
            other.add_done_callback(lambda _job: None)

    garbage = [Finalized()]
    make = Job._make_listeners
    monkeypatch.setattr(Job, "_make_listeners", lambda job, new: (garbage.clear(), make(job, new))[1])
    handles = pool.submit(jobs.add, 2), pool.submit(jobs.add, 3)
    for job in handles:
        job.add_done_callback(lambda _job: None)
    assert [2, 3] == [job.result(30) for job in handles]
