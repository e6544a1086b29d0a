"""A job is a transaction: it is committed if the job returns, and otherwise never was. Functions and coroutines alike."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
import sqlalchemy as sa

import procjobs
from tests.conftest import wait_until
from tests.sql import async_jobs, db_jobs
from tests.sql.conftest import COROUTINE_DRIVERS, open_database

KINDS = {
    "functions, sqlite": (db_jobs, "sqlite"),
    "functions, postgresql+psycopg": (db_jobs, "postgresql+psycopg"),
    **{f"coroutines, {driver}": (async_jobs, driver) for driver in COROUTINE_DRIVERS},
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def jobs(kind):
    """The module with the jobs, as functions or as coroutines."""
    return kind[0]


@pytest.fixture
def database(request, kind):
    return open_database(request, kind[1])


@pytest.fixture
def pool_settings(database, jobs):
    """A private pool of one worker whose jobs use the database."""
    return {"workers": 1, "database": database.url, "preload": [jobs.__name__]}


def end_of(job):
    try:
        error = job.exception(30)
        return type(error.__cause__ if type(error) is procjobs.JobError else error)
    except procjobs.JobCancelled as error:
        return type(error)


def test_job_is_committed_when_it_is_seen_as_finished(pool, jobs, database):
    for number in range(50):
        assert None is pool.submit(jobs.add, number).result(30)
        assert number in database.names()
    assert "new" == pool.submit(jobs.name_of, 3).result(30)


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, KeyboardInterrupt])
def test_job_that_raises_leaves_nothing(pool, jobs, database, error):
    assert error is end_of(pool.submit(jobs.add_and_fail, 1, error))
    assert {} == database.names()
    assert 0 == database.writers()
    assert None is pool.submit(jobs.add, 2).result(30)


def test_job_that_exits_leaves_nothing(pool, jobs, database):
    assert SystemExit is end_of(pool.submit(jobs.add_and_exit, 1))
    assert {} == database.names()
    wait_until(lambda: database.writers() == 0)


@pytest.mark.parametrize("way", ["cancel", "SIGKILL", "timeout", "soft_timeout"])
def test_job_that_is_ended_in_its_transaction_leaves_nothing(pool, jobs, database, tmp_path, way):
    started = tmp_path / "started"
    # A timeout must not come before the job has written: it is long enough for a host under load, and waited for.
    limits = {"timeout": {"timeout": 2.0, "grace_period": 0.1}, "soft_timeout": {"soft_timeout": 2.0}}.get(way, {})
    job = pool.options(**limits).submit(jobs.add_and_wait, 1, str(started))
    pid = int(wait_until(lambda: started.exists() and started.read_text()))
    if not limits:
        assert 1 == database.writers()
    if way == "cancel":
        pool.cancel(job.id)
    elif way == "SIGKILL":
        os.kill(pid, signal.SIGKILL)
    expected = {"cancel": procjobs.JobCancelled, "SIGKILL": procjobs.WorkerCrashed}.get(way, procjobs.JobTimeout)
    assert expected is end_of(job)
    wait_until(lambda: database.writers() == 0)
    assert {} == database.names()
    assert None is pool.submit(jobs.add, 2).result(30)
    assert {2: "new"} == database.names()


@pytest.mark.parametrize("way", ["cancel", "timeout"])
def test_job_that_swallows_its_interruption_and_returns_leaves_nothing(pool, jobs, database, tmp_path, way):
    started = tmp_path / "started"
    limits = {"timeout": 2.0} if way == "timeout" else {}
    job = pool.options(**limits, grace_period=600).submit(jobs.add_and_swallow_everything, 1, str(started))
    wait_until(started.exists)
    if way == "cancel":
        pool.cancel(job.id)
    assert (procjobs.JobCancelled if way == "cancel" else procjobs.JobTimeout) is end_of(job)
    wait_until(lambda: database.writers() == 0)
    assert {} == database.names()
    assert None is pool.submit(jobs.add, 2).result(30)
    assert ({2: "new"}, 0) == (database.names(), pool.stats().restarts)


@pytest.mark.parametrize("kind", [name for name in KINDS if "postgresql" in name], indirect=True)
def test_soft_timeout_in_the_middle_of_a_statement_ends_the_statement(pool, jobs, database):
    pool.submit(jobs.add, 7, "imports and connects").result(30)
    assert procjobs.JobTimeout is end_of(pool.options(soft_timeout=1).submit(jobs.sleep_in_the_database, 1))
    with database.engine.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()"
        wait_until(lambda: connection.scalar(sa.text(query)) == 0 or connection.rollback())
    assert [7] == list(database.names())
    assert None is pool.submit(jobs.add, 2).result(30)
    assert [2, 7] == list(database.names())


def test_retry_has_a_session_of_its_own(pool, jobs, database, tmp_path):
    started = tmp_path / "started"
    job = pool.options(retries=1, backoff=0).submit(jobs.add_and_wait_once, 1, str(started))
    os.kill(int(wait_until(lambda: started.exists() and started.read_text())), signal.SIGKILL)
    assert None is job.result(30)
    assert {1: "second attempt"} == database.names()


def test_failed_commit_is_a_failed_job_with_its_name(pool, jobs, database):
    job = pool.submit(jobs.add_orphan, 1)
    error = job.exception(30)
    assert procjobs.CommitFailed is type(error)
    assert f"job {job.id} {jobs.__name__}.add_orphan returned" in str(error)
    assert "IntegrityError" in str(error)
    assert (job.id, 1, False) == (error.job_id, error.attempt, error.in_doubt)
    assert "failed" == pool.status(job.id).state
    assert None is pool.submit(jobs.add, 2).result(30)


def test_job_whose_result_cannot_be_pickled_leaves_nothing(pool, jobs, database):
    assert procjobs.PayloadError is end_of(pool.submit(jobs.add_and_return_generator, 1))
    assert {} == database.names()
