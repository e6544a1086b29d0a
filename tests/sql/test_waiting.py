"""wait_for: the row that somebody else is about to commit."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import procjobs
from procjobs import sql
from tests.conftest import wait_until
from tests.sql import db_jobs
from tests.sql.models import Thing


def test_job_waits_for_the_row_and_changes_it(pool, database):
    job = pool.submit(db_jobs.wait_for_thing, 1)
    job.wait_accepted(30)
    wait_until(lambda: pool.status(job.id).state == "running")
    database.add(1, "late")
    assert job.result(30)
    assert {1: "late seen"} == database.names()


@pytest.mark.parametrize("isolation", [None, "REPEATABLE READ"])
def test_row_is_seen_whatever_the_session_has_seen_before(pool, database, tmp_path, isolation):
    if isolation and database.engine.dialect.name == "sqlite":
        isolation = "SERIALIZABLE"
    looked = tmp_path / "looked"
    job = pool.submit(db_jobs.snapshot_then_wait, 1, isolation, str(looked))
    wait_until(looked.exists)
    database.add(1, "late")
    assert "late" == job.result(30)


def test_nothing_is_locked_and_no_transaction_open_between_looks(pool, database):
    job = pool.submit(db_jobs.wait_for_thing, 1)
    job.wait_accepted(30)
    wait_until(lambda: pool.status(job.id).state == "running")
    if database.engine.dialect.name == "postgresql":
        with database.engine.connect() as connection:
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle' "
                "AND query = 'ROLLBACK'"
            )
            wait_until(lambda: connection.scalar(sa.text(query)) == 1 or connection.rollback())
    with database.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE things ADD COLUMN other INTEGER"))  # needs the table for itself
    database.add(1, "late")
    assert job.result(30)


def test_none_when_the_time_is_out(pool):
    assert False is pool.submit(db_jobs.wait_for_thing, 1, 0.05).result(30)
    assert False is pool.submit(db_jobs.wait_for_thing, 1, 0).result(30)


def test_changes_are_not_lost_silently(pool, database):
    job = pool.submit(db_jobs.wait_with_changes, 1)
    with pytest.raises(procjobs.ConfigurationError, match="has changes that would be lost"):
        job.result(30)
    assert {} == database.names()


def test_row_of_several_columns_one_column_and_null(database):
    database.add(1, None)
    with Session(database.engine) as session:
        assert (1, None) == tuple(sql.wait_for(sa.select(Thing.id, Thing.name), 30, session=session))
        assert 1 == sql.wait_for(sa.select(Thing.id), 30, session=session)
        assert None is sql.wait_for(sa.select(Thing.name), 30, session=session)
        assert 1 == sql.wait_for(session.query(Thing), 30).id
        assert 1 == sql.wait_for(sa.text("SELECT id FROM things"), 30, session=session)


def test_own_session_sees_the_row_whatever_it_has_seen_before(database):
    isolation = "SERIALIZABLE" if database.engine.dialect.name == "sqlite" else "REPEATABLE READ"
    looked = threading.Event()
    with Session(database.engine.execution_options(isolation_level=isolation)) as session:
        sa.event.listen(session, "do_orm_execute", lambda _state: looked.set())
        with concurrent.futures.ThreadPoolExecutor() as threads:
            found = threads.submit(sql.wait_for, sa.select(Thing), 30, session=session)
            assert looked.wait(30)
            database.add(1, "late")
            assert "late" == found.result(30).name


def test_core_statements_and_flushes_count_as_changes(database):
    for change in (
        lambda session: session.execute(sa.insert(Thing).values(id=1)),
        lambda session: session.add(Thing(id=1)),
        lambda session: (session.add(Thing(id=1)), session.flush()),
    ):
        with Session(database.engine) as session:
            sql.wait_for(sa.select(Thing), 0, session=session)
            change(session)
            with pytest.raises(procjobs.ConfigurationError, match="changes"):
                sql.wait_for(sa.select(Thing), 30, session=session)
            session.rollback()
            assert None is sql.wait_for(sa.select(Thing), 0, session=session)


def test_wrong_arguments_are_refused(database):
    with Session(database.engine) as session:
        with pytest.raises(procjobs.ConfigurationError, match="timeout=-1"):
            sql.wait_for(sa.select(Thing), -1, session=session)
        with pytest.raises(procjobs.ConfigurationError, match="async_wait_for"):
            sql.wait_for(sa.select(Thing), session=object())
    with pytest.raises(procjobs.OutsideJob):
        sql.wait_for(sa.select(Thing))


def test_async_session_waits_while_other_tasks_go_on(database):
    pytest.importorskip("greenlet")
    pytest.importorskip("aiosqlite")
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    url = database.url.replace("sqlite:", "sqlite+aiosqlite:")

    async def main():
        engine = create_async_engine(url)
        try:
            async with AsyncSession(engine) as session:
                assert None is await sql.async_wait_for(sa.select(Thing), 0, session=session)
                waiting = asyncio.create_task(sql.async_wait_for(sa.select(Thing), 30, session=session))
                for _ in range(20):
                    await asyncio.sleep(0)
                await asyncio.to_thread(database.add, 1, "late")
                assert "late" == (await waiting).name
        finally:
            await engine.dispose()

    asyncio.run(main())


def test_pauses_double_up_to_a_second():
    from procjobs.sql.waiting import _pauses

    pauses = [pause for pause, _ in zip(_pauses(86_400.0), range(10), strict=False)]
    assert pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0, 1.0]) == pauses
