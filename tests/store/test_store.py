"""Jobs in a database: acknowledged jobs are there, and the ends of jobs can be read."""

from __future__ import annotations

import os
import re
import signal

import psutil
import pytest

import procjobs
from tests.process import jobs

from ..conftest import wait_until
from .conftest import recorder_of, submit_again


def test_job_is_in_the_database_when_it_is_acknowledged(started, store, tmp_path):
    pool = started(workers=1)
    go = str(tmp_path / "go")
    running = pool.submit(jobs.append_line_and_wait, str(tmp_path / "trace"), "running", go)
    wait_until(lambda: store.states().get("running") == 1)
    waiting = pool.options(name="shrink", priority=3).submit(jobs.add, 20)
    waiting.wait_accepted(30)
    row = store.rows("SELECT name, state, attempt, priority FROM procjobs_jobs WHERE id = :id", id=waiting.id)
    assert [("shrink", "queued", 0, 3)] == row
    open(go, "w").close()
    assert ["running", 20] == [running.result(30), waiting.result(30)]


def test_submission_is_not_acknowledged_with_a_later_one_that_was_known(started):
    """Clients count acknowledgements; they come in the order of the submissions."""
    pool = started()
    known = pool.submit(jobs.add, 1)
    known.result(30)
    recorder = psutil.Process(recorder_of(pool))
    recorder.suspend()
    try:
        job = pool.submit(jobs.add, 2)
        assert 1 == submit_again(pool, known, jobs.add, 1).result(30)
        with pytest.raises(TimeoutError):
            job.wait_accepted(0.2)
    finally:
        recorder.resume()
    assert 2 == job.result(30)


def test_answer_comes_after_its_commit(started, store):
    pool = started()
    handles = [pool.submit(jobs.add, n) for n in range(300)]
    for n, job in enumerate(handles):
        assert n == job.result(30)
        assert [("succeeded",)] == store.rows("SELECT state FROM procjobs_jobs WHERE id = :id", id=job.id)
    assert 300 == store.states()["succeeded"]


def test_ends_are_recorded_with_their_attempts(started, store):
    pool = started()
    failing = pool.options(retries=2, backoff=0).submit(jobs.fail, "no")
    assert isinstance(failing.exception(30), Exception)
    assert [(1, "raised"), (2, "raised"), (3, "raised")] == store.attempts(failing)
    row = store.rows("SELECT state, reason, attempt, error FROM procjobs_jobs WHERE id = :id", id=failing.id)
    assert [("failed", "raised", 3)] == [r[:3] for r in row]
    assert "no" in row[0][3]
    killed = pool.submit(os.kill, 0, signal.SIGKILL)
    assert isinstance(killed.exception(30), procjobs.WorkerCrashed)
    assert [(1, "crashed")] == store.attempts(killed)


def test_large_arguments_and_results_pass_through_the_store(started, store):
    pool = started()
    data = os.urandom(3_000_000)
    assert data == pool.submit(jobs.echo, data).result(30)
    sizes = store.rows("SELECT length(answer_data) FROM procjobs_jobs")
    assert sizes[0][0] >= len(data)


def test_recorder_closes_the_descriptors_that_it_has_written(started):
    pool = started()
    data = os.urandom(100_000)
    assert data == pool.submit(jobs.echo, data).result(30)
    recorder = psutil.Process(recorder_of(pool))
    before = recorder.num_fds()
    for _ in range(5):
        assert data == pool.submit(jobs.echo, data).result(30)
    assert before == recorder.num_fds()


def test_arguments_too_large_for_the_store_are_refused_with_a_way_out(started):
    pool = started()
    job = pool.submit(jobs.echo, bytes(65 * 2**20))
    with pytest.raises(procjobs.PayloadError, match="Write them to a file"):
        job.result(30)
    assert 2 == pool.submit(jobs.add, 2).result(30)


@pytest.mark.parametrize("store", ["sqlite_url"], indirect=True)
def test_result_too_large_for_the_store_goes_to_clients_that_wait_for_it(started, store):
    pool = started(workers=1)
    size = 65 * 2**20
    job = pool.submit(bytes, size)
    assert size == len(job.result(30))
    pool.stop()
    with pytest.raises(procjobs.UnknownJob, match="larger than what the store keeps"):
        started(workers=1).job(job.id).result(30)
    assert {"succeeded": 1} == store.states()


@pytest.mark.parametrize("store", ["sqlite_url"], indirect=True)
def test_large_arguments_count_until_they_are_committed(started, store):
    """They may take 256 MiB together while they wait for that."""
    pool = started(workers=1)
    data = bytes(60 * 2**20)
    assert [len(data)] * 5 == [pool.submit(len, data).result(30) for _ in range(5)]


def test_cancelled_jobs_are_cancelled_in_the_database(started, store, tmp_path):
    pool = started(workers=1)
    go = str(tmp_path / "go")
    running = pool.submit(jobs.append_line_and_wait, str(tmp_path / "trace"), "running", go)
    waiting = pool.submit(jobs.add, 1)
    assert waiting.cancel()
    wait_until(lambda: store.states().get("cancelled") == 1)
    open(go, "w").close()
    running.result(30)


def test_recorder_alone_has_sqlalchemy(started):
    pool = started()
    pool.submit(jobs.add, 1).result(30)

    def has_sqlalchemy(pid):
        with open(f"/proc/{pid}/maps") as file:
            return "sqlalchemy" in file.read() or "_sqlite3" in file.read()

    pids = [pool.stats().supervisor_pid, *(worker.pid for worker in pool.workers())]
    assert [] == [pid for pid in pids if has_sqlalchemy(pid)]
    assert has_sqlalchemy(recorder_of(pool))


def test_unusable_stores_are_refused_with_a_reason():
    for url, text in (
        ("sqlite://", "path of a file"),
        ("sqlite:///:memory:", "path of a file"),
        ("mysql://x", "expected sqlite"),
        (7, "expected a URL"),
        ("sqlite:///x.db?procjobs_synchronos=full", "did you mean 'procjobs_synchronous'"),
        ("sqlite:///x.db?procjobs_synchronous=off", "expected normal or full"),
        ("postgresql://h/d?procjobs_synchronous=full", "for SQLite"),
    ):
        with pytest.raises(procjobs.ConfigurationError, match=text):
            procjobs.Pool(store=url)
    with pytest.raises(procjobs.ConfigurationError, match="named pool"):
        procjobs.Pool(store=True)


def test_store_true_is_a_file_in_the_state_directory(pool_name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    pool = procjobs.Pool(pool_name, store=True, workers=1)
    try:
        assert 1 == pool.submit(jobs.add, 1).result(30)
        assert (tmp_path / "procjobs" / f"{pool_name}.db").exists()
        assert "available" == pool.stats().store
    finally:
        pool.stop()


def test_sqlite_file_belongs_to_one_pool(started, store):
    if not store.url.startswith("sqlite"):
        pytest.skip("a PostgreSQL database has room for many")
    first = started()
    first.submit(jobs.add, 1).result(30)
    with procjobs.Pool(workers=1, store=store.url) as second:
        wait_until(lambda: re.search(r"in use by pool \S+ \(supervisor \d+\)\. An", second.stats().store or ""))
    assert 1 == first.submit(jobs.add, 1).result(30)


@pytest.mark.parametrize("store", ["sqlite_url"], indirect=True)
def test_functions_may_be_more_than_the_recorder_remembers(started, store):
    pool = started()
    handles = [pool.submit(lambda n=n: n) for n in range(2500)]
    assert list(range(2500)) == [job.result(60) for job in handles]
    assert [(2500,)] == store.rows("SELECT count(*) FROM procjobs_kinds")
    assert pool.submit(len, "x").result(30)


def test_text_that_no_database_takes_is_cleaned(started, store):
    pool = started(workers=1)
    pool.submit(jobs.add, 1).result(30)
    named = pool.options(name="a\0b \ud800", retries=1, backoff=0, delay=0.01).submit(jobs.fail, "zero \0 and \ud800")
    assert isinstance(named.exception(30), Exception)
    assert 1 == pool.submit(jobs.add, 1).result(30)
    (record,) = pool.history(state="failed")
    assert "zero \ufffd and ?" in record.error
