"""A job that kills its workers is quarantined; every attempt of it is accounted for."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time

import pytest

import procjobs
from tests.process import deadly, jobs
from tests.process.deadly import Way

from ..conftest import wait_until


def report_and_die(way, path):
    """Tell which attempt this is, on standard error and as progress, and die."""
    with open(path, "a") as file:
        file.write("x")
    attempt = procjobs.current_job().attempt
    print(f"attempt {attempt} was here", file=sys.stderr)
    procjobs.progress(attempt, 10, "going down")
    way.die()


def raise_or_die(ways, path):
    """Do what is to be done in this attempt: return where there is no way to die."""
    with open(path, "a") as file:
        file.write("x")
    way = ways[procjobs.current_job().attempt - 1]
    if way is not None:
        way.die()
    return procjobs.current_job().attempt


def test_job_that_kills_its_workers_is_quarantined_with_its_history(pool, tmp_path):
    other = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "other")
    wait_until(other.running)
    before = time.time()
    quick = pool.options(retries=50, backoff=0.01)
    guilty = quick.submit(report_and_die, Way.SIGKILL, str(tmp_path / "runs"))
    waiting = [pool.submit(jobs.add, n) for n in range(20)]
    error = guilty.exception(30)
    after = time.time()
    assert (procjobs.JobQuarantined, "xxx") == (type(error), (tmp_path / "runs").read_text())
    assert (signal.SIGKILL, None, 3, guilty.id) == (error.signal, error.exit_code, error.attempt, error.job_id)
    assert "has killed 3 workers (max_crashes=3) and is not started again" in str(error)
    assert ("3 of 10, going down", "attempt 3 was here\n") == (error.last_progress, error.stderr[-19:])
    assert ("failed", "quarantined", 3) == (guilty.status().state, guilty.status().reason, guilty.status().attempt)
    for number, attempt in enumerate(error.history, 1):
        assert (number, "crashed", signal.SIGKILL, None) == (
            attempt.attempt,
            attempt.reason,
            attempt.signal,
            attempt.exit_code,
        )
        last = attempt.last_progress, attempt.stderr[-19:]
        assert (f"{number} of 10, going down", f"attempt {number} was here\n") == last
        assert f"attempt {number} of 51" in attempt.error
        assert before <= attempt.started_at <= attempt.ended_at <= after
        before = attempt.ended_at
    assert 3 == len(error.history)
    assert list(range(20)) == [job.result(30) for job in waiting]
    (tmp_path / "go").touch()
    assert "other" == other.result(30)
    assert {1} == {job.status().attempt for job in (other, *waiting)}
    wait_until(lambda: pool.stats().idle == 2)
    assert (3, 3) == (pool.stats().crashed, pool.stats().restarts)


@pytest.mark.parametrize(
    ("way", "number", "code"),
    [
        (Way.SIGSEGV, signal.SIGSEGV, None),
        (Way.SIGABRT, signal.SIGABRT, None),
        (Way.OS_EXIT, None, 7),
    ],
)
def test_every_death_of_the_worker_counts_as_a_crash(pool, tmp_path, way, number, code):
    quick = pool.options(retries=50, backoff=0.01, max_crashes=2)
    error = quick.submit(report_and_die, way, str(tmp_path / "runs")).exception(30)
    assert (procjobs.JobQuarantined, "xx", number, code) == (
        type(error),
        (tmp_path / "runs").read_text(),
        error.signal,
        error.exit_code,
    )
    assert [(1, number, code), (2, number, code)] == [(a.attempt, a.signal, a.exit_code) for a in error.history]


def test_first_crash_is_the_last_with_max_crashes_1(pool, tmp_path):
    once = pool.options(retries=50, backoff=0.01, max_crashes=1)
    job = once.submit(report_and_die, Way.OS_EXIT, str(tmp_path / "runs"))
    error = job.exception(30)
    assert (procjobs.JobQuarantined, 1, "x") == (type(error), len(error.history), (tmp_path / "runs").read_text())
    assert 3 == pool.submit(jobs.add, 1, 2).result(30)


@pytest.mark.parametrize("retries", [0, 1])
def test_crashes_within_the_retries_stay_worker_crashed(pool, tmp_path, retries):
    job = pool.options(retries=retries, backoff=0.01).submit(report_and_die, Way.SIGKILL, str(tmp_path / "runs"))
    error = job.exception(30)
    assert (procjobs.WorkerCrashed, "x" * (retries + 1)) == (type(error), (tmp_path / "runs").read_text())
    assert ("crashed", retries + 1) == (job.status().reason, len(error.history))


def test_exceptions_between_crashes_use_up_retries_but_not_crashes(pool, tmp_path):
    ways = [Way.EXCEPTION, Way.OS_EXIT, Way.EXCEPTION, Way.SIGKILL, Way.EXCEPTION, Way.SIGSEGV, None]
    job = pool.options(retries=50, backoff=0.01).submit(raise_or_die, ways, str(tmp_path / "runs"))
    error = job.exception(30)
    assert (procjobs.JobQuarantined, "x" * 6) == (type(error), (tmp_path / "runs").read_text())
    assert [
        ("raised", None, None),
        ("crashed", None, 7),
        ("raised", None, None),
        ("crashed", signal.SIGKILL, None),
        ("raised", None, None),
        ("crashed", signal.SIGSEGV, None),
    ] == [(a.reason, a.signal, a.exit_code) for a in error.history]
    assert ["tests.process.deadly.Died: here"] * 3 == [a.error for a in error.history if a.reason == "raised"]


def test_job_that_crashed_less_often_than_max_crashes_may_succeed(pool, tmp_path):
    ways = [Way.SIGKILL, Way.EXCEPTION, Way.OS_EXIT, None]
    job = pool.options(retries=3, backoff=0.01).submit(raise_or_die, ways, str(tmp_path / "runs"))
    assert (4, "succeeded") == (job.result(30), job.status().state)


def test_exception_after_crashes_arrives_as_itself(pool, tmp_path):
    ways = [Way.SIGKILL, Way.SIGKILL, Way.EXCEPTION]
    job = pool.options(retries=2, backoff=0.01).submit(raise_or_die, ways, str(tmp_path / "runs"))
    assert (deadly.Died, "raised", 3) == (type(job.exception(30)), job.status().reason, job.status().attempt)


def test_timeouts_are_no_crashes(pool, tmp_path):
    quick = pool.options(retries=3, backoff=0.01, timeout=0.2, grace_period=60, max_crashes=1)
    error = quick.submit(report_and_die, Way.LOOP, str(tmp_path / "runs")).exception(30)
    assert (procjobs.JobTimeout, ["timeout"] * 4) == (type(error), [attempt.reason for attempt in error.history])
    assert [None] * 4 == [attempt.signal for attempt in error.history], "it was interrupted, and its worker lives"


def test_history_has_the_last_ten_attempts(pool, tmp_path):
    ways = [Way.EXCEPTION] * 13 + [Way.SIGKILL]
    quick = pool.options(retries=50, backoff=0.0, max_crashes=1)
    error = quick.submit(raise_or_die, ways, str(tmp_path / "runs")).exception(30)
    assert (procjobs.JobQuarantined, list(range(5, 15))) == (type(error), [a.attempt for a in error.history])


@pytest.mark.parametrize(("way", "fault"), [(Way.SIGSEGV, "Segmentation fault"), (Way.SIGABRT, "Aborted")])
def test_python_stack_of_a_fault_is_in_stderr(pool, tmp_path, way, fault):
    quick = pool.options(retries=50, backoff=0.01, max_crashes=2)
    error = quick.submit(report_and_die, way, str(tmp_path / "runs")).exception(30)
    for text in (error.stderr, error.history[1].stderr):
        assert [True] * 2 == [part in text for part in (f"Fatal Python error: {fault}", "in report_and_die")]
        assert "procjobs/worker" not in text
    assert "attempt 2 was here" in error.stderr


def test_tail_of_stderr_is_kept_when_a_job_floods_it(pool):
    def flood():
        for n in range(20_000):
            print(f"line {n}", file=sys.stderr)
        os._exit(1)

    error = pool.submit(flood).exception(30)
    assert (True, True) == (error.stderr.endswith("line 19998\nline 19999\n"), len(error.stderr) <= 4096)


def test_errors_are_the_same_after_pickling(pool, tmp_path):
    quick = pool.options(retries=50, backoff=0.01, max_crashes=2)
    crashed = pool.submit(report_and_die, Way.SIGSEGV, str(tmp_path / "runs")).exception(30)
    quarantined = quick.submit(report_and_die, Way.SIGSEGV, str(tmp_path / "runs")).exception(30)
    timeout = pool.options(timeout=0.2).submit(report_and_die, Way.LOOP, str(tmp_path / "runs")).exception(30)
    assert [procjobs.WorkerCrashed, procjobs.JobQuarantined, procjobs.JobTimeout] == [
        type(error) for error in (crashed, quarantined, timeout)
    ]
    for error in (crashed, quarantined, timeout):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            copy = pickle.loads(pickle.dumps(error, protocol))
            assert (type(error), str(error), error.__dict__) == (type(copy), str(copy), copy.__dict__)
            assert (error.history, error.stack) == (copy.history, copy.stack)


def test_result_asked_for_by_id_in_another_pool_object_has_the_history_too(pool_name, tmp_path):
    with procjobs.Pool(pool_name, workers=1) as one, procjobs.Pool(pool_name) as two:
        quick = one.options(retries=50, backoff=0.01)
        job = quick.submit(report_and_die, Way.SIGKILL, str(tmp_path / "runs"))
        first, second = job.exception(30), two.job(job.id).exception(30)
        assert (procjobs.JobQuarantined, first.__dict__) == (type(second), second.__dict__)
