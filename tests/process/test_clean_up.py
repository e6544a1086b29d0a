"""Jobs that are stopped clean up first: an exception is raised in them, and they have the grace period."""

from __future__ import annotations

import random

import psutil
import pytest

import procjobs
from tests.process import clean_up_jobs, jobs, limited_jobs

from ..conftest import wait_until

CLASSES = {"cancel": procjobs.JobCancelled, "timeout": procjobs.JobTimeout, "stall": procjobs.JobStalled}
SLOW = 600.0
"""A grace period that no test waits for."""


@pytest.fixture
def pool_settings():
    """One worker that has imported its jobs, and all the time of the world for these."""
    return {"workers": 1, "grace_period": SLOW, "preload": ["tests.process.clean_up_jobs"]}


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def pid_of(pool):
    (worker,) = pool.workers()
    return worker.pid


def stop_by(pool, how, function, path, *arguments, **options):
    """Run a job until it has begun, stop it in some way, and return its handle and its error."""
    limits = {"timeout": {"timeout": 1.0}, "stall": {"stall_timeout": 1.0}}.get(how, {})
    job = pool.options(**limits, **options).submit(function, str(path), *arguments)
    if how == "cancel":
        wait_until(path.exists)
        assert job.cancel()
    return job, error_of(job)


def error_of(job):
    """Return the error of a job when it has ended; the handle of a cancelled one does not wait for that."""
    try:
        return job.exception(30)
    except procjobs.JobCancelled as error:
        wait_until(lambda: job.status().state == "cancelled")
        return error


@pytest.mark.parametrize("function", [clean_up_jobs.sleep_with_partial_file, clean_up_jobs.await_with_partial_file])
@pytest.mark.parametrize("how", list(CLASSES))
def test_job_that_is_stopped_cleans_up_and_its_worker_goes_on(pool, tmp_path, how, function):
    path = tmp_path / "partial"
    job, error = stop_by(pool, how, function, path)
    assert (CLASSES[how], False) == (type(error), path.exists())
    assert f"{CLASSES[how].__name__} {job.id} 1" == (tmp_path / "partial.seen").read_text()
    worker = pid_of(pool)
    assert (worker, 0) == (pool.submit(jobs.pid).result(30), pool.stats().restarts)


def test_record_of_a_timeout_is_that_of_a_killed_job(pool, tmp_path):
    job, error = stop_by(pool, "timeout", clean_up_jobs.sleep_with_partial_file, tmp_path / "x", retries=1, backoff=0.0)
    assert ("failed", "timeout", 2) == (job.status().state, job.status().reason, job.status().attempt)
    assert "ran longer than its timeout of 1 s" in str(error)
    assert "sleep_with_partial_file" in error.stack
    assert [("timeout", None)] * 2 == [(attempt.reason, attempt.signal) for attempt in error.history]


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_job_that_swallows_its_interruption_and_returns_is_stopped_all_the_same(pool, tmp_path, how):
    path = tmp_path / "partial"
    _, error = stop_by(pool, how, clean_up_jobs.swallow, path)
    assert (CLASSES[how], False) == (type(error), path.exists())
    assert 3 == pool.submit(jobs.add, 1, 2).result(30)


def test_error_in_the_clean_up_is_in_the_output_of_the_job(pool, tmp_path):
    job, error = stop_by(pool, "cancel", clean_up_jobs.fail_in_clean_up, tmp_path / "partial")
    assert procjobs.JobCancelled is type(error)
    wait_until(lambda: "ValueError: it is not here any more" in pool.logs(job.id))
    assert "failed in its clean-up" in pool.logs(job.id)


def test_job_that_loops_in_spite_of_it_is_killed(tmp_path):
    with procjobs.Pool(workers=1, grace_period=0.3) as pool:
        job = pool.submit(jobs.ignore_every_end_and_sleep, str(tmp_path / "pid"))
        wait_until((tmp_path / "pid").exists)
        worker = pid_of(pool)
        assert job.cancel()
        assert procjobs.JobCancelled is type(error_of(job))
        wait_until(lambda: not alive(worker))


def test_programs_that_c_code_waits_for_get_sigterm(pool, tmp_path):
    path = tmp_path / "partial"
    _, error = stop_by(pool, "cancel", clean_up_jobs.wait_in_c_code, path)
    assert (procjobs.JobCancelled, False) == (type(error), path.exists())
    programs = psutil.Process(pid_of(pool)).children(recursive=True)
    assert [] == [program for program in programs if program.name() in {"sleep", "cat", "sh"}]
    assert not (tmp_path / "partial.next").exists(), "the shell gets it, too"


def test_program_that_a_job_leaves_gets_sigterm_before_it_is_killed(pool, tmp_path):
    stop_by(pool, "cancel", clean_up_jobs.start_child, tmp_path / "partial", "end")
    assert "SIGTERM" == (tmp_path / "partial.child").read_text()


def test_program_that_ignores_sigterm_is_killed_within_the_grace_period_and_the_worker_is_not(pool, tmp_path):
    wait = pool.options(grace_period=2.0)
    job = wait.submit(clean_up_jobs.start_child, str(tmp_path / "partial"), "ignore")
    wait_until((tmp_path / "partial.pid").exists)
    worker, child = pid_of(pool), limited_jobs.read_number(tmp_path / "partial.pid")
    assert job.cancel()
    assert procjobs.JobCancelled is type(error_of(job))
    assert not alive(child)
    assert worker == pool.submit(jobs.pid).result(30)


def test_program_that_cleans_up_is_left_to_it(pool, tmp_path):
    stop_by(pool, "cancel", clean_up_jobs.clean_up_with_a_program, tmp_path / "partial")
    assert "0" == (tmp_path / "partial.status").read_text()


def test_children_that_an_earlier_job_has_kept_are_not_those_of_a_job_that_is_stopped(pool, tmp_path):
    pool.options(keep_children=True).submit(limited_jobs.start_children, "session", str(tmp_path / "kept")).result(30)
    kept = [int(pid) for pid in (tmp_path / "kept").read_text().split()]
    jobs_before = pool.submit(limited_jobs.spin, 0.1)  # the kernel counts the starts of processes in ticks
    jobs_before.result(30)
    stop_by(pool, "cancel", clean_up_jobs.wait_in_c_code, tmp_path / "partial")
    stop_by(pool, "cancel", clean_up_jobs.start_child, tmp_path / "partial", "end")
    assert (True, [True]) == (bool(kept), [alive(pid) for pid in kept])


def test_thread_that_a_stopped_job_leaves_sees_it_and_ends_with_the_worker(pool, tmp_path):
    job = pool.submit(clean_up_jobs.wait_with_a_thread, str(tmp_path / "partial"))
    wait_until((tmp_path / "partial").exists)
    worker = pid_of(pool)
    assert job.cancel()
    assert procjobs.JobCancelled is type(error_of(job))
    assert "True" == (tmp_path / "partial.seen").read_text()
    assert worker != pool.submit(jobs.pid).result(30)
    assert (False, 0) == (alive(worker), pool.stats().restarts)


@pytest.mark.parametrize("end", ["stop", "drain"])
def test_jobs_clean_up_when_their_pool_ends(tmp_path, pool_name, end):
    path = tmp_path / "partial"
    pool = procjobs.Pool(pool_name, workers=1, grace_period=SLOW if end == "stop" else 1.0)
    job = pool.submit(clean_up_jobs.sleep_with_partial_file, str(path))
    wait_until(path.exists)
    if end == "stop":
        pool.stop()
    else:
        psutil.Process(pool.stats().supervisor_pid).terminate()  # a drain that ends with the grace period
    assert procjobs.PoolClosed is type(error_of(job))
    assert (False, f"JobCancelled {job.id} 1") == (path.exists(), (tmp_path / "partial.seen").read_text())


def test_interruption_that_is_late_hits_no_other_job(tmp_path):
    """Thousands of tiny jobs are cancelled at every moment of their lives: only those that were say that they were."""
    rng, cancelled, path = random.Random(1), {}, tmp_path / "interrupted"
    path.touch()
    with procjobs.Pool(workers=2, grace_period=SLOW) as pool:
        pool.submit(jobs.add, 1, 2).result(30)
        for round_number in range(100):
            handles = [pool.submit(clean_up_jobs.be_tiny, str(path), round_number * 20 + n) for n in range(20)]
            for n in rng.sample(range(20), 10):
                if rng.random() < 0.5:
                    error_of(handles[n - 1])
                if pool.cancel(handles[n].id):
                    cancelled[handles[n].id] = round_number * 20 + n
            for n, job in enumerate(handles):
                number, error = round_number * 20 + n, error_of(job)
                if job.id in cancelled:
                    assert procjobs.JobCancelled is type(error)
                else:
                    assert (None, number) == (error, job.result(0) if error is None else error)
        assert 0 == pool.stats().restarts
    for line in path.read_text().splitlines():
        number, job_id = line.split()
        assert int(number) == cancelled[job_id]
    assert path.read_text(), "no job was interrupted: this test has tried nothing"


def test_job_that_keeps_checkpoints_is_interrupted_and_its_worker_goes_on(pool, tmp_path):
    for number in range(30):
        path = tmp_path / f"begun {number}"
        _, error = stop_by(pool, "cancel", clean_up_jobs.keep_checkpoints, path)
        assert procjobs.JobCancelled is type(error)
        assert pid_of(pool) == int(path.read_text())
    assert 0 == pool.stats().restarts
