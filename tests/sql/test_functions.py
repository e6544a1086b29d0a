"""A job that is an ordinary function is a transaction on a Session."""

from __future__ import annotations

import concurrent.futures

import sqlalchemy as sa

import procjobs
from tests.sql import db_jobs
from tests.sql.models import Database
from tests.sql.test_transactions import end_of


def test_soft_timeout_is_the_jobs_and_not_the_commits(postgres_url):
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
