"""A job that ends otherwise than well leaves a line in the pool's log, whoever waits for it or not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import procjobs
from procjobs.supervisor.failure_log import MAX_LINES
from tests.process import jobs

from ..conftest import wait_until


@pytest.fixture
def pool_settings():
    return {"workers": 1, "preload": ["tests.process.jobs"]}


def log_of(pool):
    return Path(pool._link.directory.log).read_text()


def line_about(pool, job_id):
    """Return the line of a job's end, with the lines below it."""
    text = wait_until(lambda: (log := log_of(pool)) and f"job {job_id} " in log and log)
    lines = text.splitlines()
    first = next(n for n, line in enumerate(lines) if f"job {job_id} " in line and " attempt " in line)
    below = [n for n in range(first + 1, len(lines)) if not lines[n].startswith("    ")]
    return lines[first : below[0] if below else len(lines)]


def test_job_that_raises_leaves_a_line_with_its_traceback(pool):
    job = pool.options(retries=1, backoff=0).submit(jobs.fail, "no\nmore")
    assert isinstance(job.exception(30), ValueError)
    line, *trace = line_about(pool, job.id)
    assert f" WARNING job {job.id} tests.process.jobs.fail failed (raised, attempt 2): ValueError: no" in line
    assert ["    Traceback (most recent call last):", "    ValueError: no", "    more"] == [trace[0], *trace[-2:]]
    assert any("in fail" in line for line in trace)
    assert 1 == log_of(pool).count(f"WARNING job {job.id} ")


CLIENT = "import procjobs, sys; from tests.process import jobs; procjobs.Pool(sys.argv[1]).submit(jobs.fail, 'nobody waits')"


def test_job_that_nobody_waits_for_leaves_a_line_too(pool_name):
    with procjobs.Pool(pool_name, workers=1, preload=["tests.process.jobs"]) as pool:
        subprocess.run([sys.executable, "-c", CLIENT, pool_name], check=True)
        wait_until(lambda: "failed (raised, attempt 1): ValueError: nobody waits" in log_of(pool))
        pool.stop()


@pytest.mark.parametrize(
    ("options", "call", "expected"),
    [
        ({}, (jobs.die_of, 9), "failed (crashed, attempt 1): the worker was killed by SIGKILL"),
        ({"timeout": 0.1}, (jobs.sleep, 60), "failed (timeout, attempt 1): ran longer than its timeout of 0.1 s"),
        ({"max_crashes": 1}, (jobs.die_of, 11), "failed (quarantined, attempt 1): has killed 1 workers"),
        ({}, (jobs.return_unpickleable,), "failed (payload, attempt 1): "),
    ],
    ids=["killed", "timeout", "quarantined", "result that cannot be pickled"],
)
def test_each_way_to_fail_leaves_one_line(pool, options, call, expected):
    job = pool.options(**options).submit(*call)
    assert job.exception(30) is not None
    assert f"WARNING job {job.id} " in line_about(pool, job.id)[0]
    assert expected in line_about(pool, job.id)[0]
    assert 1 == log_of(pool).count(f"WARNING job {job.id} ")


def test_cancelled_job_leaves_a_line_that_is_no_warning_and_expired_one_a_warning(pool):
    running = pool.submit(jobs.sleep, 60)
    wait_until(running.running)
    expired = pool.options(expires=0.01).submit(jobs.add, 1)
    cancelled = pool.submit(jobs.add, 1)
    assert cancelled.cancel()
    assert isinstance(expired.exception(30), procjobs.JobExpired)
    line = line_about(pool, cancelled.id)[0]
    assert (True, False) == ("cancelled (cancelled, attempt 0): was cancelled before it ran" in line, "WARNING" in line)
    line = line_about(pool, expired.id)[0]
    assert f"WARNING job {expired.id} tests.process.jobs.add expired (expired, attempt 0): " in line
    running.cancel()


def test_flood_of_cancelled_jobs_hides_no_failure(pool):
    pool.pause()
    cancelled = [pool.submit(jobs.add, n) for n in range(500)]
    failing = pool.submit(jobs.fail, "not hidden")
    cancelled[-1].wait_accepted(30)
    for job in cancelled:
        assert job.cancel()
    pool.resume()
    assert isinstance(failing.exception(30), ValueError)
    assert "ValueError: not hidden" in line_about(pool, failing.id)[0]
    wait_until(lambda: "more jobs ended in that second since they were cancelled" in log_of(pool))


def test_job_that_succeeds_leaves_no_line(pool):
    job = pool.submit(jobs.add, 1)
    assert 1 == job.result(30)
    assert job.id not in log_of(pool)


def test_flood_of_failures_leaves_some_lines_and_the_number_of_the_others(pool):
    failing = [pool.submit(jobs.fail, str(n)) for n in range(2000)]
    for job in failing:
        assert job.exception(60) is not None
    pool.submit(jobs.add, 1).result(30)

    def accounted():
        lines = [line for line in log_of(pool).splitlines() if " WARNING " in line]
        skipped = [int(line.partition(" WARNING ")[2].split()[0]) for line in lines if "in that second" in line]
        told = len(lines) - len(skipped)
        return told + sum(skipped) == 2000 and (told, len(skipped))

    told, periods = wait_until(accounted, dump=lambda: log_of(pool)[-2000:])
    assert told <= MAX_LINES * (periods + 1)
