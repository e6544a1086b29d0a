"""A coroutine that is a job is a transaction on an AsyncSession, within its event loop."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

import procjobs
from procjobs import sql
from tests.conftest import wait_until
from tests.sql import async_jobs, db_jobs
from tests.sql.conftest import COROUTINE_DRIVERS, open_database
from tests.sql.models import Database
from tests.sql.test_transactions import end_of


@pytest.fixture(params=COROUTINE_DRIVERS)
def driver(request):
    return request.param


@pytest.fixture
def database(request, driver):
    """A database with tables, whose `url` is for the driver."""
    return open_database(request, driver)


@pytest.fixture
def pool_settings(database):
    """A private pool of one worker whose jobs use the database."""
    return {"workers": 1, "database": database.url, "preload": ["tests.sql.async_jobs"]}


@pytest.fixture
def postgres(postgres_url):
    pytest.importorskip("asyncpg")
    return Database(postgres_url)


def for_asyncpg(url):
    return url.replace("+psycopg", "+asyncpg")


def test_session_is_the_same_in_all_tasks_of_a_job_and_another_one_in_the_next(pool, database):
    assert pool.submit(async_jobs.add_in_tasks, 1).result(30)
    assert {1: "in a task"} == database.names()
    assert [(True, 1)] * 2 == [pool.submit(async_jobs.session_facts).result(30) for _ in range(2)]


def test_no_connection_outlives_its_job(pool, database):
    pool.submit(async_jobs.add, 1).result(30)
    assert 0 == database.writers()
    if database.engine.dialect.name == "postgresql":
        with database.engine.connect() as connection:
            query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            wait_until(lambda: connection.scalars(sa.text(query)).all() == [] or connection.rollback())


def test_process_that_a_coroutine_forks_leaves_the_transaction_to_the_job(pool, database):
    assert 3 == pool.submit(async_jobs.add_and_fork, 1).result(30)
    assert {1: "new"} == database.names()


def test_coroutine_waits_for_a_row_with_its_own_session(pool, database):
    job = pool.submit(async_jobs.wait_for_thing, 1)
    wait_until(lambda: job.status().state == "running")
    database.add(1, "one")
    job.result(30)
    assert {1: "one seen"} == database.names()


def test_url_of_a_driver_for_both_serves_functions_and_coroutines(postgres):
    with procjobs.Pool(workers=1, database=postgres.url) as pool:
        pool.submit(db_jobs.add, 1).result(30)
        pool.submit(async_jobs.add, 2).result(30)
        pool.submit(async_jobs.add_with_session_for_functions, 3).result(30)
        pool.submit(async_jobs.add_with_both, 4).result(30)
        assert ValueError is end_of(pool.submit(db_jobs.add_and_fail, 6))
    assert [1, 2, 3, 4, 5] == list(postgres.names())


# Who asks for the wrong kind --------------------------------------------------------------------------------------------


def test_wrong_kind_of_session_is_told_with_what_to_do(sqlite_url):
    with procjobs.Pool(workers=1, database=f"{sqlite_url}.2".replace("sqlite:", "sqlite+aiosqlite:")) as pool:
        told = r"asked for session\(\), but .*sqlite.2 is for asyncio; make it"
        with pytest.raises(procjobs.ConfigurationError, match=told):
            pool.submit(db_jobs.add, 1).result(30)
        with pytest.raises(procjobs.ConfigurationError, match="is an ordinary function; make it an `async def`"):
            pool.submit(async_jobs.ask_for_async_session).result(30)
        with pytest.raises(procjobs.ConfigurationError, match=r"asked for session\(\), but"):
            pool.submit(async_jobs.add_with_session_for_functions, 1).result(30)
    told = r"its database sqlite:.* has no driver for asyncio; use session\(\)"
    with procjobs.Pool(workers=1, database=sqlite_url) as pool, pytest.raises(procjobs.ConfigurationError, match=told):
        pool.submit(async_jobs.add, 1).result(30)
    with procjobs.Pool(workers=1) as pool, pytest.raises(procjobs.ConfigurationError, match="its pool has no database"):
        pool.submit(async_jobs.add, 1).result(30)
    with pytest.raises(procjobs.OutsideJob, match=r"async with procjobs.sql.async_transaction\(\)"):
        sql.async_session()


# Where they come from -----------------------------------------------------------------------------------------------


# A connection of aiosqlite is a thread, and a module that leaves one cannot be preloaded: "used" is for PostgreSQL.
@pytest.mark.parametrize(
    ("driver", "how"),
    [(driver, how) for driver in COROUTINE_DRIVERS for how in ("engine", "maker")]
    + [(driver, how) for driver in COROUTINE_DRIVERS[1:] for how in ("engine used", "maker used")],
    indirect=["driver"],
)
def test_application_configures_with_its_engine_which_may_have_been_used(database, monkeypatch, how):
    monkeypatch.setenv("TEST_DATABASE", database.url)
    monkeypatch.setenv("TEST_APPLICATION", how)
    pool = procjobs.Pool(workers=1, preload=["tests.sql.async_application", "tests.sql.async_jobs"])
    try:
        seen = [pool.submit(async_jobs.use_inherited, number).result(30) for number in range(3)]
        assert ValueError is end_of(pool.submit(async_jobs.add_and_fail, 9))
        assert 3 == len(database.names())
        if database.engine.dialect.name == "postgresql":
            assert 3 == len(set(seen))  # a connection for each loop

            def left():
                with database.engine.connect() as connection:
                    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    return set(connection.scalars(sa.text(query)))

            wait_until(lambda: not left() & set(seen))  # a connection that was closed goes from there a moment later
            assert (2 if how.endswith("used") else 0) == len(left())  # the template's are neither used nor ended
    finally:
        pool.stop()


def test_function_that_returns_an_async_engine_is_called_once_in_each_worker(postgres, tmp_path):
    url, calls = for_asyncpg(postgres.url), str(tmp_path / "calls")

    def make_engine():
        from sqlalchemy.ext.asyncio import create_async_engine

        with open(calls, "a") as file:
            file.write("called ")
        return create_async_engine(url)

    with procjobs.Pool(workers=1, database=make_engine) as pool:
        for number in range(3):
            pool.submit(async_jobs.add, number).result(30)
    assert [0, 1, 2] == list(postgres.names())
    assert "called " == (tmp_path / "calls").read_text()


@pytest.mark.filterwarnings("ignore::procjobs.PoolDegraded")
def test_driver_that_is_not_installed_is_told():
    pool = procjobs.Pool(workers=1, database="mysql+asyncmy://host/name")
    try:
        wait_until(lambda: "the database failed: ModuleNotFoundError" in (pool.stats().problem or ""))
    finally:
        pool.stop()


def test_ordinary_functions_of_a_pool_with_a_database_do_not_load_asyncio(postgres):
    from tests.process import jobs

    with procjobs.Pool(workers=1, database=postgres.url) as pool:
        pool.submit(db_jobs.add, 1).result(30)
        assert not pool.submit(jobs.has_loaded, "sqlalchemy.ext.asyncio").result(30)


def test_coroutine_of_a_job_can_be_awaited_here_in_a_transaction(database):
    from procjobs.sql import async_unit, unit
    from procjobs.worker.wrappers import remove_wrapper

    async def use():
        async with sql.async_transaction():
            await async_jobs.add(1)
            with pytest.raises(procjobs.ConfigurationError, match="a job has one transaction"):
                async with sql.async_transaction():
                    pass
            assert {} == database.names()
        with pytest.raises(ValueError, match="after all"):
            async with sql.async_transaction():
                await async_jobs.add_and_fail(2)
        with pytest.raises(procjobs.CommitFailed, match="the block returned"):
            async with sql.async_transaction():
                await async_jobs.add_orphan(1)

    sql.configure(database.url)
    try:
        asyncio.run(use())
    finally:
        unit.use(None, None)
        remove_wrapper(unit.around_job)
        remove_wrapper(async_unit.around_coroutine)
    assert {1: "new"} == database.names()
