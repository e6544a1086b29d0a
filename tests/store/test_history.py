"""The history of jobs in the store: every attempt, within the limits of the settings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import procjobs
from tests.process import jobs

from ..conftest import wait_until


def compute_and_report():
    until = time.process_time() + 0.03
    memory = bytearray(30_000_000)
    while time.process_time() < until:
        memory[0] ^= 1
    print("said by the job", flush=True)
    procjobs.progress(7, 10, "seven")
    if procjobs.current_job().attempt < 2:
        raise ValueError("not yet")
    return len(memory)


def test_every_attempt_has_its_account(started):
    before = time.time()
    pool = started(workers=1)
    job = pool.options(retries=1, backoff=0, name="compute", priority=2).submit(compute_and_report)
    assert 30_000_000 == job.result(30)
    (record,) = pool.history()
    assert (job.id, "compute", "succeeded", None, 2, 2, 0) == (
        record.id, record.name, record.state, record.reason, record.priority, record.attempt, record.cut_off
    )  # fmt: skip
    assert before <= record.submitted_at <= record.started_at <= record.finished_at <= time.time()
    first, second = record.attempts
    assert (1, "raised", 2, "succeeded") == (first.attempt, first.outcome, second.attempt, second.outcome)
    assert "ValueError: not yet" in first.error
    assert second.error is None
    for run in record.attempts:
        assert "7 of 10, seven" == run.progress
        assert "said by the job" in run.log
        assert 0.03 <= run.cpu_seconds < 30
        assert run.peak_bytes > 30_000_000
        assert 0 == run.worker
        assert run.worker_pid
        assert before <= run.started_at <= run.ended_at


def compute_and_crash(file):
    if os.path.exists(file):
        return
    open(file, "w").close()
    os.kill(os.getpid(), signal.SIGKILL)


def test_account_of_a_crashed_attempt_has_nothing_of_the_attempt_before_it(started, tmp_path):
    pool = started(workers=1)
    pool.options(retries=1, backoff=0).submit(compute_and_report).result(30)
    pool.options(retries=1, backoff=0).submit(compute_and_crash, str(tmp_path / "crashed")).result(30)
    crashed, returned = pool.history(limit=1)[0].attempts
    assert ("crashed", 9, None, None) == (crashed.outcome, crashed.signal, crashed.cpu_seconds, crashed.peak_bytes)
    assert ("succeeded", None) == (returned.outcome, returned.signal)


def test_history_is_filtered(started):
    pool = started(workers=1)
    pool.options(name="one").submit(jobs.add, 1).result(30)
    middle = time.time()
    two = pool.options(name="two").submit(jobs.fail)
    assert two.exception(30)
    three = pool.options(name="three").submit(jobs.add, 1)
    three.result(30)
    assert ["three", "two", "one"] == [record.name for record in pool.history()]
    assert ["two"] == [record.name for record in pool.history(state="failed")]
    assert ["three"] == [record.name for record in pool.history(limit=1)]
    assert ["three", "two"] == [record.name for record in pool.history(name="t%")]
    assert ["one"] == [record.name for record in pool.history(name="one")]
    assert ["three", "two"] == [record.name for record in pool.history(since=middle)]
    with pytest.raises(procjobs.ConfigurationError, match="did you mean 'failed'"):
        pool.history(state="faild")


def test_pool_without_a_store_has_no_history(pool):
    with pytest.raises(procjobs.ConfigurationError, match="started without store"):
        pool.history()


def test_old_results_and_old_jobs_are_dropped(started, store):
    pool = started(workers=1)
    handles = [pool.submit(jobs.add, n) for n in range(6)]
    assert list(range(6)) == [job.result(30) for job in handles]
    pool.stop()
    store.write("UPDATE procjobs_jobs SET finished_at = finished_at - 100")  # no client may send them again any more
    store.write("UPDATE procjobs_jobs SET finished_at = finished_at - 7200 WHERE id = :id", id=handles[0].id)
    pool = started(workers=1, result_ttl=3600, history_limit=4)
    wait_until(lambda: store.states() == {"succeeded": 4})
    assert [(4,)] == store.rows("SELECT count(*) FROM procjobs_attempts")
    pool.stop()
    store.write("UPDATE procjobs_jobs SET finished_at = finished_at - 7200 WHERE id = :id", id=handles[5].id)
    pool = started(workers=1, result_ttl=3600, history_ttl=86_400)
    wait_until(lambda: store.rows("SELECT count(*) FROM procjobs_jobs WHERE answer IS NULL") == [(1,)])
    with pytest.raises(procjobs.UnknownJob, match="result_ttl"):
        pool.job(handles[5].id).result(30)
    assert 4 == pool.job(handles[4].id).result(30)
    assert "succeeded" == pool.status(handles[5].id).state
    pool.stop()
    pool = started(workers=1, history_ttl=0)
    wait_until(lambda: store.states() == {})
    wait_until(lambda: store.rows("SELECT count(*) FROM procjobs_kinds") == [(0,)])
    assert 9 == pool.submit(jobs.add, 9).result(30)


def test_command_line_shows_the_history_of_a_pool_that_runs_or_not(started, store, pool_name):
    pytest.importorskip("click")
    pool = started(workers=1)
    job = pool.options(retries=1, backoff=0, name="compute").submit(compute_and_report)
    job.result(30)

    def run(*arguments):
        command = [sys.executable, "-m", "procjobs", "history", pool_name, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    lines = run().splitlines()
    assert ["JOB", "SUBMITTED", "NAME", "RUN", "OUTCOME", "TOOK", "CPU", "MEMORY", "DETAIL"] == lines[0].split()
    assert "raised" in lines[1]
    assert "ValueError: not yet" in lines[1]
    assert "succeeded" in lines[2]
    pool.stop()
    (document,) = json.loads(run("--store", store.url, "--json"))
    assert (job.id, ["raised", "succeeded"]) == (document["id"], [run["outcome"] for run in document["attempts"]])
    assert "the store has no such job" in run("--store", store.url, "--state", "failed")


def test_log_of_a_job_that_the_pool_has_forgotten_comes_from_the_store(started):
    pool = started(workers=1)
    job = pool.options(retries=1, backoff=0).submit(print_and_fail, "its last words")
    assert job.exception(30)
    pool.stop()
    again = started(workers=1)
    assert ["its last words"] * 2 == again.logs(job.id).splitlines()
    with pytest.raises(procjobs.UnknownJob, match="nor to its store"):
        again.logs("01a1fd57-cd2f-7ad2-96aa-13760a4968b6")


def print_and_fail(text):
    print(text)
    raise ValueError(text)


def test_database_that_no_pool_has_used_has_a_message_of_its_own(store):
    from procjobs.store.reading import find_history

    store.write("CREATE TABLE films (id INTEGER)")
    wanted = {"state": None, "name": None, "since": None, "limit": 1}
    with pytest.raises(procjobs.StoreUnavailable, match="cannot be read: no pool has used it yet"):
        find_history(store.url, "media", **wanted)
    with pytest.raises(procjobs.StoreUnavailable, match=r"cannot be read: [A-Z][A-Za-z]+Error: ") as caught:
        find_history("sqlite:////nonexistent/jobs.db", "media", **wanted)
    assert "SELECT" not in str(caught.value)


def test_tracebacks_are_in_the_store(started, store):
    pool = started(workers=1, result_ttl=0.2)
    job = pool.options(retries=1, backoff=0).submit(jobs.fail, "no")
    assert job.exception(30)
    wait_until(lambda: job.id not in [status.id for status in pool.jobs()])
    first, second = pool.attempts(job.id)
    assert [(1, "raised"), (2, "raised")] == [(one.attempt, one.reason) for one in (first, second)]
    assert "in fail" in first.traceback
    assert "in fail" in second.traceback
    assert 0 == second.worker
    assert "ValueError: no" in pool.status(job.id).error_details
    assert "in fail" in pool.history()[0].attempts[1].traceback
    rows = store.rows("SELECT traceback FROM procjobs_attempts ORDER BY attempt")
    assert [(first.traceback,), (second.traceback,)] == rows
