"""Where jobs are: asked for by id, kept of those that were stopped, logged of those that are slow."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

import procjobs
from procjobs.host import rundir
from tests.process import jobs, limited_jobs

from ..conftest import wait_until

NOBODY = "01a1fc86-8f61-7306-aae2-dd2293de919f"


@pytest.fixture
def pool_settings():
    """The workers have imported their jobs: importing counts as run time."""
    return {"preload": ["tests.process.limited_jobs"]}


def wait_ready(path):
    ready = f"{path}-ready"
    wait_until(lambda: os.path.exists(ready))


def test_stack_of_python_code_shows_the_job_and_not_the_worker(pool, tmp_path):
    job = pool.submit(limited_jobs.wait_somewhere_particular, str(tmp_path / "go"))
    wait_until(job.running)
    stack = wait_until(lambda: (text := pool.stack(job.id)) and "wait_for_file" in text and text)
    assert (True, False) == ("in wait_somewhere_particular" in stack, "worker/worker.py" in stack)
    assert stack.index("in wait_for_file") < stack.index("in wait_somewhere_particular")
    (tmp_path / "go").touch()
    assert "done" == job.result(30)
    assert pool.stack(job.id) is None


def test_stack_of_c_code_that_holds_the_gil_is_there_at_once(pool, tmp_path):
    job = pool.submit(limited_jobs.call_c_code, str(tmp_path / "in C"))
    wait_until((tmp_path / "in C").exists)
    started = time.monotonic()
    stack = pool.stack(job.id)
    assert (True, True) == ("in _time_sum" in stack, time.monotonic() - started < 5)
    assert not job.done()
    job.result(30)


def test_stack_of_a_function_that_is_not_written_in_python_says_so(pool):
    job = pool.submit(time.sleep, 60)
    wait_until(job.running)
    wait_until(lambda: "in a function that is not written in Python" in (pool.stack(job.id) or ""))
    job.cancel()


def test_stack_of_several_threads_shows_each(pool, tmp_path):
    job = pool.submit(limited_jobs.wait_with_threads, 3, str(tmp_path / "go"))
    wait_ready(tmp_path / "go")
    stack = wait_until(lambda: (text := pool.stack(job.id)).count("in wait_in_thread") == 3 and text)
    assert (4, 1) == (stack.count("(most recent call first)"), stack.count("Current thread"))
    (tmp_path / "go").touch()
    assert "done" == job.result(30)


def test_job_that_does_not_run_has_no_stack_and_an_unknown_one_is_unknown(tmp_path):
    with procjobs.Pool(workers=1) as pool:
        running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"))
        waiting = pool.submit(jobs.add, 1)
        waiting.wait_accepted(30)
        assert pool.stack(waiting.id) is None
        (tmp_path / "go").touch()
        running.result(30)
        assert 1 == waiting.result(30)
        assert pool.stack(waiting.id) is None
        with pytest.raises(procjobs.UnknownJob, match=NOBODY):
            pool.stack(NOBODY)


@pytest.mark.parametrize("threads", [0, 100])
def test_very_large_stacks_are_cut_and_hold_nobody_up(pool, tmp_path, threads):
    if threads:
        job = pool.submit(limited_jobs.recurse_in_threads, threads, 200, str(tmp_path / "go"))
    else:
        job = pool.submit(limited_jobs.recurse, 900, str(tmp_path / "go"))
    wait_ready(tmp_path / "go")
    for _ in range(3):
        started = time.monotonic()
        stack = pool.stack(job.id)
        assert time.monotonic() - started < 5
        assert (True, True) == ("in recurse" in stack, len(stack) <= 16 * 1024)
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
    (tmp_path / "go").touch()
    assert "done" == job.result(30)


def test_stack_of_very_many_threads_costs_the_supervisor_little(pool, tmp_path):
    job = pool.submit(limited_jobs.wait_with_very_many_threads, 2000, str(tmp_path / "go"))
    wait_ready(tmp_path / "go")
    supervisor = psutil.Process(pool.stats().supervisor_pid)
    before = sum(supervisor.cpu_times()[:2])
    for _ in range(10):
        assert "(most recent call first)" in pool.stack(job.id)
    assert sum(supervisor.cpu_times()[:2]) - before < 2
    (tmp_path / "go").touch()
    assert "done" == job.result(30)


def test_job_that_closes_the_pipe_of_its_stack_does_not_keep_the_supervisor_busy(pool):
    supervisor = psutil.Process(pool.stats().supervisor_pid)
    before = sum(supervisor.cpu_times()[:2])
    pool.submit(limited_jobs.close_stack_pipe, 1.0).result(30)
    assert sum(supervisor.cpu_times()[:2]) - before < 0.5


def test_job_that_blocks_all_signals_does_not_answer_and_is_stopped_all_the_same(pool, tmp_path):
    path = tmp_path / "go"
    job = pool.options(timeout=3.0, soft_timeout=0.5, grace_period=0.2).submit(limited_jobs.block_all_signals, str(path))
    wait_ready(path)
    started = time.monotonic()
    assert "it does not answer; its process is" in pool.stack(job.id)
    assert time.monotonic() - started < 5
    with pytest.raises(procjobs.JobTimeout) as caught:
        job.result(30)
    assert "it does not answer" in caught.value.stack
    assert job.status().finished_at - job.status().started_at < 10


def test_job_that_blocked_all_signals_for_a_while_harms_nobody(tmp_path):
    with procjobs.Pool(workers=1) as pool:
        job = pool.submit(limited_jobs.block_all_signals, str(tmp_path / "go"))
        wait_ready(tmp_path / "go")
        for _ in range(3):
            pool.stack(job.id)
        (tmp_path / "go").touch()
        assert "done" == job.result(30)
        job = pool.submit(limited_jobs.wait_somewhere_particular, str(tmp_path / "go 2"))
        wait_until(job.running)
        assert 1 == wait_until(lambda: pool.stack(job.id).count("in wait_somewhere_particular"))
        (tmp_path / "go 2").touch()
        assert "done" == job.result(30)
        assert 0 == pool.stats().restarts


def test_stopped_job_does_not_answer(pool):
    job = pool.submit(limited_jobs.stop_itself)
    wait_until(job.running)
    assert "its process is stopped" in wait_until(
        lambda: (text := pool.stack(job.id)) and "stopped" in text and text, timeout=5
    )
    job.cancel()


def test_many_clients_ask_for_many_stacks_at_once(pool_name, tmp_path):
    with procjobs.Pool(pool_name, workers=2) as pool:
        handles = [pool.submit(limited_jobs.wait_somewhere_particular, str(tmp_path / "go")) for _ in range(2)]
        wait_until(lambda: all("in wait_somewhere" in (pool.stack(job.id) or "") for job in handles))
        clients = [procjobs.Pool(pool_name) for _ in range(4)]
        answers = []

        def ask(client, job):
            answers.extend(client.stack(job.id) for _ in range(50))

        threads = [threading.Thread(target=ask, args=(client, job)) for client in clients for job in handles]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 400 == len(answers)
        assert {1} == {answer.count("in wait_somewhere_particular") for answer in answers}
        (tmp_path / "go").touch()
        assert ["done", "done"] == [job.result(30) for job in handles]
        for client in clients:
            client.shutdown()
        pool.stop()


def test_stacks_asked_for_while_tiny_jobs_run_harm_nobody(pool):
    handles = [pool.submit(jobs.add, n) for n in range(5000)]
    asked = 0
    for job in handles[::25]:
        pool.stack(job.id)
        asked += 1
    assert list(range(5000)) == [job.result(60) for job in handles]
    assert (200, 0) == (asked, pool.stats().restarts)


def test_worker_that_dies_while_it_is_examined_is_told_as_a_crash(pool):
    job = pool.submit(limited_jobs.stop_itself)
    wait_until(lambda: job.running() and any(w.job_id == job.id for w in pool.workers()))
    (pid,) = [worker.pid for worker in pool.workers() if worker.job_id == job.id]
    answers = []
    thread = threading.Thread(target=lambda: answers.append(pool.stack(job.id)))
    thread.start()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(procjobs.WorkerCrashed):
        job.result(30)
    thread.join()
    assert 1 == len(answers)


def test_timeout_tells_where_the_job_was(pool):
    job = pool.options(timeout=0.2).submit(limited_jobs.sleep)
    with pytest.raises(procjobs.JobTimeout) as caught:
        job.result(10)
    assert "in sleep" in caught.value.stack
    assert caught.value.stack == pool.stack(job.id)


def test_slow_job_is_logged_with_its_stack_once_per_attempt(pool_name, tmp_path):
    with procjobs.Pool(pool_name, workers=1, preload=["tests.process.limited_jobs"]) as pool:
        log = Path(rundir.RunDir(rundir.find_base(), pool_name).log)
        options = {"slow_after": 0.4, "timeout": 2.0, "retries": 1, "backoff": 0}
        job = pool.options(**options).submit(limited_jobs.wait_somewhere_particular, str(tmp_path / "never"))
        with pytest.raises(procjobs.JobTimeout):
            job.result(30)
        text = log.read_text()
        assert 2 == text.count(f"job {job.id} tests.process.limited_jobs.wait_somewhere_particular is slow (slow_after)")
        assert 4 == text.count("in wait_somewhere_particular")  # twice more when it was stopped
        quick = pool.options(slow_after=5).submit(jobs.add, 1)
        assert 1 == quick.result(30)
        assert f"{quick.id} tests.process.jobs.add is slow" not in log.read_text()
        pool.stop()
