"""Timeouts, cancels, crashes: who is ended, who is told, and that nobody else notices."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

import procjobs
from tests.process import jobs

from ..conftest import wait_until


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("function", "argument", "number", "code"),
    [
        (jobs.die_of, signal.SIGKILL, signal.SIGKILL, None),
        (jobs.die_of, signal.SIGABRT, signal.SIGABRT, None),
        (jobs.leave, 7, None, 7),
        (jobs.leave, 0, None, 0),
    ],
)
def test_worker_that_dies_costs_only_its_job(pool, tmp_path, function, argument, number, code):
    other = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "other")
    wait_until(other.running)
    waiting = [pool.submit(function, argument), *(pool.submit(jobs.add, n) for n in range(20))]
    with pytest.raises(procjobs.WorkerCrashed) as caught:
        waiting[0].result(30)
    assert (number, code, 1) == (caught.value.signal, caught.value.exit_code, caught.value.attempt)
    assert (waiting[0].id, True) == (caught.value.job_id, waiting[0].id in str(caught.value))
    assert list(range(20)) == [job.result(30) for job in waiting[1:]]
    (tmp_path / "go").touch()
    assert "other" == other.result(30)
    assert ("failed", "crashed") == (waiting[0].status().state, waiting[0].status().reason)


def test_segfault_is_told_with_the_last_progress(pool):
    def report_and_crash():
        procjobs.progress(40, 100, "nearly")
        jobs.segfault()

    with pytest.raises(procjobs.WorkerCrashed, match=r"SIGSEGV.*last progress: 40 of 100, nearly") as caught:
        pool.submit(report_and_crash).result(30)
    assert "40 of 100, nearly" == caught.value.last_progress


def test_idle_worker_that_is_killed_is_replaced(pool):
    wait_until(lambda: pool.stats().idle == 2)
    before = {worker.pid for worker in pool.workers()}
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert 3 == pool.submit(jobs.add, 1, 2).result(30)
    wait_until(lambda: pool.stats().idle == 2 and not before & {worker.pid for worker in pool.workers()})
    assert 2 == pool.stats().restarts


def test_tiny_jobs_sent_ahead_of_a_dying_worker_are_run_by_another(tmp_path):
    with procjobs.Pool(workers=1) as pool:
        for job in [pool.submit(jobs.add, n) for n in range(200)]:  # now the pool knows that they are tiny
            job.result(30)
        trace = str(tmp_path / "trace")
        handles = []
        for n in range(300):
            handles.append(pool.submit(jobs.add, n))
            if n % 50 == 25:
                handles.append(pool.submit(jobs.append_and_die, trace))
        results = [job.exception(60) or job.result() for job in handles]
    crashes = [r for r in results if isinstance(r, procjobs.WorkerCrashed)]
    assert (6, list(range(300))) == (len(crashes), [r for r in results if not isinstance(r, Exception)])
    assert "x" * 6 == (tmp_path / "trace").read_text()


def test_long_job_does_not_hold_back_tiny_ones_sent_behind_it(pool, tmp_path):
    def maybe_wait(path):
        return jobs.wait_for_file(path) if path else None

    for job in [pool.submit(maybe_wait, "") for _ in range(200)]:
        job.result(30)
    handles = [pool.submit(maybe_wait, str(tmp_path / "go") if n == 3 else "") for n in range(50)]
    for n, job in enumerate(handles):
        if n != 3:
            job.result(30)
    assert not handles[3].done()
    (tmp_path / "go").touch()
    handles[3].result(30)


def test_timeout_ends_the_children_of_the_job_and_what_left_their_group(pool, tmp_path):
    path = tmp_path / "pids"
    job = pool.options(timeout=0.7).submit(jobs.start_child_and_wait, str(path))
    with pytest.raises(procjobs.JobTimeout, match=r"timeout of 0\.7 s") as caught:
        job.result(30)
    assert isinstance(caught.value, TimeoutError)
    assert ("failed", "timeout") == (job.status().state, job.status().reason)
    pids = [int(pid) for pid in path.read_text().split()]
    wait_until(lambda: not any(alive(pid) for pid in pids))


def test_job_that_ignores_its_interruption_is_killed_after_the_grace_period(pool, tmp_path):
    path = tmp_path / "pid"
    job = pool.options(timeout=0.5, grace_period=0.2).submit(jobs.ignore_every_end_and_sleep, str(path))
    with pytest.raises(procjobs.JobTimeout):
        job.result(30)
    assert not alive(int(path.read_text()))


def test_c_code_that_holds_the_gil_is_stopped_at_its_timeout(pool):
    job = pool.options(timeout=0.3, grace_period=1.0).submit(pow, 3, 10**9)
    with pytest.raises(procjobs.JobTimeout):
        job.result(30)


def test_cancel_of_a_queued_job(tmp_path):
    with procjobs.Pool(workers=1) as pool:
        first = pool.submit(jobs.wait_for_file, str(tmp_path / "go"))
        second = pool.submit(jobs.append_name, str(tmp_path / "trace"), "x")
        second.wait_accepted(30)
        assert second.cancel()
        with pytest.raises(procjobs.JobCancelled):
            second.result(30)
        wait_until(lambda: pool.status(second.id).state == "cancelled")
        (tmp_path / "go").touch()
        first.result(30)
        assert not first.cancel()
    assert not (tmp_path / "trace").exists()


def test_cancel_of_a_running_job_by_id_from_another_pool_object(pool_name, tmp_path):
    with procjobs.Pool(pool_name, workers=1) as one, procjobs.Pool(pool_name) as two:
        job = one.submit(jobs.start_child_and_wait, str(tmp_path / "pids"))
        wait_until((tmp_path / "pids").exists)
        assert two.cancel(job.id)
        with pytest.raises(procjobs.JobCancelled):
            job.result(30)
        assert not two.cancel(job.id)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        wait_until(lambda: not any(alive(pid) for pid in pids))
        assert "cancelled" == two.status(job.id).state


def test_retries_run_again_with_backoff_until_one_succeeds(pool, tmp_path):
    job = pool.options(retries=3, backoff=0.01).submit(jobs.append_and_fail, str(tmp_path / "runs"), 3)
    assert (3, 3) == (job.result(30), job.status().attempt)


def test_retries_are_counted_for_crashes_too(pool, tmp_path):
    job = pool.options(retries=2, backoff=0.01).submit(jobs.append_and_die, str(tmp_path / "runs"))
    with pytest.raises(procjobs.WorkerCrashed, match="attempt 3 of 3"):
        job.result(30)
    assert "xxx" == (tmp_path / "runs").read_text()


def test_failing_initializer_is_told_and_the_queue_kept(tmp_path):
    flag = tmp_path / "works"

    def initialize(path):
        if not os.path.exists(path):
            raise RuntimeError("no licence file")

    with pytest.warns(procjobs.PoolDegraded, match="no licence file"):
        pool = procjobs.Pool(workers=1, initializer=initialize, initargs=(str(flag),))
        job = pool.submit(jobs.add, 1, 1)
        wait_until(lambda: "no licence file" in (pool.stats().problem or ""))
        flag.touch()
        assert 2 == job.result(30)
        wait_until(lambda: pool.stats().problem is None)
        pool.shutdown()


def test_status_is_readable_while_the_supervisor_is_stopped_and_dead(tmp_path):
    pool = procjobs.Pool(workers=1, submit_timeout=0.2)
    job = pool.submit(jobs.report_and_wait, str(tmp_path / "go"), 1, 2)
    wait_until(job.progress)
    supervisor = pool.stats().supervisor_pid
    os.kill(supervisor, signal.SIGSTOP)
    try:
        assert ("running", 1) == (pool.status(job.id).state, pool.progress(job.id).value)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    workers = [worker.pid for worker in pool.workers()]
    os.kill(supervisor, signal.SIGKILL)
    with pytest.raises(procjobs.SupervisorLost):
        job.result(30)
    assert 1 == pool.status(job.id).progress.value
    wait_until(lambda: not any(alive(pid) for pid in workers))
    assert 5 == pool.submit(jobs.add, 2, 3).result(30)  # a new supervisor
    pool.shutdown()


def test_killed_supervisor_takes_workers_and_their_children_along(pool_name, tmp_path):
    pool = procjobs.Pool(pool_name, workers=2)
    job = pool.submit(jobs.start_child_and_wait, str(tmp_path / "pids"))
    wait_until((tmp_path / "pids").exists)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()] + [w.pid for w in pool.workers()]
    os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
    with pytest.raises(procjobs.SupervisorLost, match=job.id):
        job.result(30)
    wait_until(lambda: not any(alive(pid) for pid in pids))
    assert 3 == pool.submit(jobs.add, 1, 2).result(30)
    pool.stop()


def test_stopped_supervisor_kills_nobody_when_it_comes_back(tmp_path):
    with procjobs.Pool(workers=1, timeout=1.0) as pool:
        job = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "done")
        wait_until(job.running)
        supervisor = pool.stats().supervisor_pid
        os.kill(supervisor, signal.SIGSTOP)
        deadline = time.monotonic() + 1.5
        wait_until(lambda: time.monotonic() > deadline)
        (tmp_path / "go").touch()
        os.kill(supervisor, signal.SIGCONT)
        assert "done" == job.result(30)


def test_killed_template_is_replaced_and_running_jobs_go_on(pool, tmp_path):
    job = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "done")
    wait_until(lambda: job.running() and pool.stats().idle == 1)
    supervisor = psutil.Process(pool.stats().supervisor_pid)
    workers = {worker.pid for worker in pool.workers()}
    (template,) = (child for child in supervisor.children() if child.pid not in workers)
    template.kill()
    with pytest.raises(procjobs.WorkerCrashed):
        pool.submit(jobs.leave, 1).result(30)
    assert 3 == pool.submit(jobs.add, 1, 2).result(30)
    (tmp_path / "go").touch()
    assert "done" == job.result(30)


def test_submit_raises_when_a_stopped_supervisor_takes_no_bytes():
    pool = procjobs.Pool(workers=1, submit_timeout=0.3, max_queued=1_000_000)
    supervisor = pool.stats().supervisor_pid
    os.kill(supervisor, signal.SIGSTOP)
    data = b"x" * 30_000
    handles = []
    try:
        with pytest.raises(procjobs.SubmitTimeout, match="SIGSTOP"):
            handles.extend(pool.submit(jobs.echo, data) for _ in range(10_000))
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert [data] * len(handles) == [job.result(60) for job in handles]
    assert 3 == pool.submit(jobs.add, 1, 2).result(30)
    pool.shutdown()


def test_first_sigterm_lets_running_jobs_end_second_stops_at_once(pool_name, tmp_path):
    pool = procjobs.Pool(pool_name, workers=1)
    job = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "done")
    wait_until(job.running)
    os.kill(pool.stats().supervisor_pid, signal.SIGTERM)
    wait_until(lambda: _is_refused(pool))
    (tmp_path / "go").touch()
    assert "done" == job.result(30)
    pool.shutdown()

    pool = procjobs.Pool(pool_name, workers=1)
    job = pool.submit(jobs.wait_for_file, str(tmp_path / "never"))
    wait_until(job.running)
    os.kill(pool.stats().supervisor_pid, signal.SIGTERM)
    wait_until(lambda: _is_refused(pool))
    os.kill(pool.stats().supervisor_pid, signal.SIGTERM)
    with pytest.raises(procjobs.PoolClosed):
        job.result(30)
    pool.shutdown()


def _is_refused(pool):
    job = pool.submit(jobs.add, 1)
    try:
        job.result(0.1)
    except procjobs.PoolClosed:
        return True
    except TimeoutError:  # taken just before the signal
        job.cancel()
    return False


def test_stop_gives_up_what_waits_and_stops_what_runs(tmp_path):
    pool = procjobs.Pool(workers=1)
    running = pool.submit(jobs.wait_for_file, str(tmp_path / "never"))
    waiting = pool.submit(jobs.add, 1)
    wait_until(running.running)
    pool.stop()
    for job in (running, waiting):
        with pytest.raises(procjobs.PoolClosed, match="the pool was stopped"):
            job.result(30)


SCRIPT = """
import procjobs, sys, time
with procjobs.Pool(workers=2) as pool:
    jobs = [pool.submit(time.sleep, 600) for _ in range(4)]
    while pool.stats().busy < 2: time.sleep(0.01)  # job
    print("busy", pool.stats().supervisor_pid, flush=True)
    jobs[0].result()
"""


def test_ctrl_c_ends_a_script_with_one_traceback_and_leaves_nothing():
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    supervisor = int(script.stdout.readline().split()[1])
    os.killpg(script.pid, signal.SIGINT)
    _, errors = script.communicate(timeout=30)
    assert (1, True) == (errors.count("Traceback"), errors.strip().endswith("KeyboardInterrupt"))
    assert not alive(supervisor)


def test_private_pool_ends_with_its_process_even_when_that_is_killed():
    script = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True)
    supervisor = int(script.stdout.readline().split()[1])
    workers = psutil.Process(supervisor).children(recursive=True)
    script.kill()
    script.communicate()
    wait_until(lambda: not any(alive(pid) for pid in [supervisor, *(worker.pid for worker in workers)]))


def test_private_pool_that_is_forgotten_ends():
    pool = procjobs.Pool(workers=1)
    assert 3 == pool.submit(jobs.add, 1, 2).result(30)
    supervisor = pool.stats().supervisor_pid
    del pool
    gc.collect()
    wait_until(lambda: not alive(supervisor))


def test_worker_that_was_just_forked_is_stopped_without_waiting_for_the_grace_period():
    for _ in range(5):
        with procjobs.Pool(workers=4, grace_period=3600) as pool:
            pool.submit(jobs.add, 1).result(30)


def test_job_that_waits_for_its_retry_is_shown_as_retrying_and_why(pool):
    job = pool.options(retries=1, backoff=600.0).submit(jobs.fail, "not yet")
    wait_until(lambda: job.status().state == "retrying")
    status = job.status()
    assert ("raised", 1, "ValueError: not yet", False) == (status.reason, status.attempt, status.error, status.done)
    assert job.cancel()
    wait_until(lambda: pool.status(job.id).state == "cancelled")
