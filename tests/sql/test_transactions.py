"""A job is a transaction: what it returns from is committed, what it does not return from never was."""

from __future__ import annotations

import concurrent.futures
import os
import signal

import pytest
import sqlalchemy as sa

import procjobs
from tests.conftest import wait_until
from tests.sql import db_jobs


def end_of(job):
    try:
        return type(job.exception(30))
    except procjobs.JobCancelled as error:
        return type(error)


def test_what_a_job_has_done_is_committed_when_it_is_seen_as_finished(pool, database):
    for number in range(50):
        assert None is pool.submit(db_jobs.add, number).result(30)
        assert number in database.names()


def test_job_that_raises_leaves_nothing(pool, database):
    assert ValueError is end_of(pool.submit(db_jobs.add_and_fail, 1))
    assert {} == database.names()
    assert 0 == database.writers()


def test_job_that_exits_leaves_nothing(pool, database):
    assert procjobs.WorkerCrashed is end_of(pool.submit(db_jobs.add_and_exit, 1))
    assert {} == database.names()
    wait_until(lambda: database.writers() == 0)


@pytest.mark.parametrize("way", ["cancel", "SIGKILL", "timeout", "soft_timeout"])
def test_job_that_is_ended_in_its_transaction_leaves_nothing(pool, database, tmp_path, way):
    started = tmp_path / "started"
    # A timeout must not come before the job has written: it is long enough for a host under load, and waited for.
    limits = {"timeout": {"timeout": 2.0, "grace_period": 0.1}, "soft_timeout": {"soft_timeout": 2.0}}.get(way, {})
    job = pool.options(**limits).submit(db_jobs.add_and_wait, 1, str(started))
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
    assert None is pool.submit(db_jobs.add, 2).result(30)
    assert {2: "new"} == database.names()


def test_soft_timeout_in_the_middle_of_a_statement_ends_the_statement(postgres_url):
    from tests.sql.models import Database

    database = Database(postgres_url)
    pool = procjobs.Pool(workers=1, database=postgres_url)
    try:
        assert procjobs.JobTimeout is end_of(pool.options(soft_timeout=1).submit(db_jobs.sleep_in_the_database, 1))
        with database.engine.connect() as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()"
            wait_until(lambda: connection.scalar(sa.text(query)) == 0 or connection.rollback())
        assert {} == database.names()
        assert None is pool.submit(db_jobs.add, 2).result(30)
    finally:
        pool.stop()


def test_soft_timeout_is_the_jobs_and_not_the_commits(postgres_url):
    from tests.sql.models import Database

    database = Database(postgres_url)
    with database.engine.begin() as connection:
        body = "BEGIN IF NEW.name = 'slow' THEN PERFORM pg_sleep(5); END IF; RETURN NULL; END"
        connection.execute(sa.text(f"CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $${body}$$"))
        trigger = "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON things DEFERRABLE INITIALLY DEFERRED"
        connection.execute(sa.text(f"{trigger} FOR EACH ROW EXECUTE FUNCTION slow()"))
    pool = procjobs.Pool(workers=1, database=postgres_url)
    try:
        pool.submit(db_jobs.add, 1, "imports and connects").result(30)
        pool.options(soft_timeout=2.5).submit(db_jobs.add, 2, "slow").result(30)
        assert [1, 2] == list(database.names())
    finally:
        pool.stop()


def test_retry_has_a_session_of_its_own(pool, database, tmp_path):
    started = tmp_path / "started"
    job = pool.options(retries=1, backoff=0).submit(db_jobs.add_and_wait_once, 1, str(started))
    os.kill(int(wait_until(lambda: started.exists() and started.read_text())), signal.SIGKILL)
    assert None is job.result(30)
    assert {1: "second attempt"} == database.names()


def test_failed_commit_is_a_failed_job_with_its_name(pool, database):
    job = pool.submit(db_jobs.add_orphan, 1)
    error = job.exception(30)
    assert procjobs.CommitFailed is type(error)
    assert f"job {job.id} tests.sql.db_jobs.add_orphan returned" in str(error)
    assert "IntegrityError" in str(error)
    assert (job.id, 1, False) == (error.job_id, error.attempt, error.in_doubt)
    assert "failed" == pool.status(job.id).state
    assert None is pool.submit(db_jobs.add, 2).result(30)


def test_job_whose_result_cannot_be_pickled_leaves_nothing(pool, database):
    assert procjobs.PayloadError is end_of(pool.submit(db_jobs.add_and_return_generator, 1))
    assert {} == database.names()


def test_session_is_the_same_within_a_job_and_another_one_in_the_next(pool):
    first, second = (pool.submit(db_jobs.session_facts).result(30) for _ in range(2))
    assert (True, first[1], 1) == first == second


def test_nothing_is_open_after_a_job(pool, database):
    pool.submit(db_jobs.add, 1).result(30)
    assert 0 == database.writers()
    if database.engine.dialect.name == "postgresql":
        with database.engine.connect() as connection:
            states = "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            assert ["idle"] == connection.scalars(sa.text(states)).all()


def test_job_that_asks_for_no_session_opens_no_connection(postgres_server):
    name = postgres_server.new_database()
    pool = procjobs.Pool(workers=1, database=postgres_server.url(name))
    try:
        pool.submit(db_jobs.do_nothing).result(30)
        assert [] == postgres_server.connections(name)
    finally:
        pool.stop()
        postgres_server.drop_database(name)


def test_process_that_a_job_forks_leaves_the_transaction_to_the_job(pool, database):
    assert None is pool.submit(db_jobs.add_and_fork, 1).result(30)
    assert {1: "new"} == database.names()
    assert "new" == pool.submit(db_jobs.name_of, 1).result(30)


def test_many_workers_write_side_by_side(database):
    pool = procjobs.Pool(workers=2, database=database.url)
    try:
        jobs = [pool.submit(db_jobs.add, number) for number in range(100)]
        assert set() == concurrent.futures.wait(jobs, 60).not_done
        assert list(range(100)) == list(database.names())
    finally:
        pool.stop()


def test_server_that_restarts_between_two_jobs_is_not_noticed(own_postgres_server):
    name = own_postgres_server.new_database()
    from tests.sql.models import Database

    database = Database(own_postgres_server.url(name))
    pool = procjobs.Pool(workers=1, database=database.url)
    try:
        pool.submit(db_jobs.add, 1).result(30)
        own_postgres_server.stop("immediate")
        assert sa.exc.OperationalError is end_of(pool.submit(db_jobs.add_and_fail, 3))
        own_postgres_server.start()
        pool.submit(db_jobs.add, 2).result(30)
        assert [1, 2] == list(database.names())
    finally:
        pool.stop()
