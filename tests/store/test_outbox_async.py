"""submit_on_commit with an AsyncSession: from code that cannot wait, with the guarantees of the synchronous one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

import procjobs
from procjobs.client import outbox
from tests.process import jobs

from ..conftest import wait_until
from .test_rescue import lines


def async_url(store):
    return store.url.replace("sqlite:", "sqlite+aiosqlite:")


@pytest.fixture
def sessions(store):
    """Return a function that opens an AsyncSession on the store's database, which has a table of the application's own."""
    store.write("CREATE TABLE films (name TEXT)")

    @asynccontextmanager
    async def open_session(url=None, **options):
        engine = create_async_engine(url or async_url(store), poolclass=NullPool)
        try:
            async with AsyncSession(engine, **options) as session:
                yield session
        finally:
            await engine.dispose()

    return open_session


def films(store):
    return [name for (name,) in store.rows("SELECT name FROM films ORDER BY name")]


def test_job_of_an_async_session_runs_after_its_commit_and_not_before(started, store, sessions, tmp_path):
    pool, trace = started(workers=1), tmp_path / "trace"

    async def request():
        async with sessions() as session:
            await session.execute(text("INSERT INTO films VALUES ('one')"))
            job = pool.submit_on_commit(session, jobs.append_line, str(trace), "ran", os.urandom(100_000))
            await session.flush()
            assert "queued" == job.status().state
            assert [] == lines(trace)
            await session.commit()
            assert "ran" == await asyncio.wait_for(job, 30)
            return job

    job = asyncio.run(request())
    assert {"succeeded": 1} == store.states()
    assert [(0,)] == store.rows("SELECT count(*) FROM procjobs_outbox")
    assert "succeeded" == pool.status(job.id).state
    assert ["one"] == films(store)


@pytest.mark.parametrize("flushed", [True, False], ids=["flushed", "not flushed"])
@pytest.mark.parametrize("how", ["rollback", "close", "raise"])
def test_job_of_an_async_session_that_does_not_commit_has_never_been(started, store, sessions, tmp_path, how, flushed):
    pool, trace = started(workers=1), tmp_path / "trace"

    async def request():
        async with sessions() as session:
            try:
                async with session.begin():
                    job = pool.submit_on_commit(session, jobs.append_line, str(trace), "ran")
                    if flushed:
                        await session.flush()
                    if how == "raise":
                        raise ValueError
                    await (session.rollback() if how == "rollback" else session.close())
            except ValueError:
                pass
            with pytest.raises(procjobs.UnknownJob):
                await asyncio.wait_for(job, 30)
            await session.commit()

    asyncio.run(request())
    assert {} == store.states()
    assert [(0,)] == store.rows("SELECT count(*) FROM procjobs_outbox")


@pytest.mark.parametrize("autoflush", [True, False], ids=["autoflush", "no autoflush"])
def test_savepoints_of_an_async_session_decide_about_the_jobs_submitted_in_them(
    started, sessions, store, tmp_path, autoflush
):
    pool, trace = started(workers=1), tmp_path / "trace"

    def submit(session, name):
        return pool.submit_on_commit(session, jobs.append_line, str(trace), name)

    async def request():
        async with sessions(autoflush=autoflush) as session:
            before = submit(session, "before")
            async with session.begin_nested():
                kept = submit(session, "kept")
                inner = await session.begin_nested()
                undone = [submit(session, "inner")]
                await session.execute(text("INSERT INTO films VALUES ('inner')"))
                await inner.rollback()
            outer = await session.begin_nested()
            undone.append(submit(session, "outer"))
            async with session.begin_nested():
                undone.append(submit(session, "released, then undone"))
            await outer.rollback()
            last = submit(session, "last")
            assert [] == lines(trace)
            await session.commit()
            assert ["before", "kept", "last"] == [await asyncio.wait_for(job, 30) for job in (before, kept, last)]
            for job in undone:
                with pytest.raises(procjobs.UnknownJob):
                    await asyncio.wait_for(job, 30)
            again = submit(session, "again")
            await session.commit()
            assert "again" == await asyncio.wait_for(again, 30)

    asyncio.run(request())
    assert {"before", "kept", "last", "again"} == set(lines(trace))
    assert [] == films(store)


def test_jobs_that_a_dead_process_has_committed_in_an_async_session_are_swept_up(started, pool_name, store, tmp_path):
    pool = started(workers=1)
    program = textwrap.dedent(f"""
        import asyncio, os, procjobs
        from sqlalchemy import event
        from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
        from tests.process import jobs
        pool = procjobs.Pool({pool_name!r}, store={store.url!r}, workers=1)
        async def request():
            async with AsyncSession(create_async_engine({async_url(store)!r})) as session:
                job = pool.submit_on_commit(session, jobs.append_line, {str(tmp_path / "trace")!r}, "ran")
                event.listen(session.sync_session, "after_commit", lambda session: os.kill(os.getpid(), 9))
                print(job.id, flush=True)
                await session.commit()
        asyncio.run(request())
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert -signal.SIGKILL == done.returncode, done.stderr
    wait_until(lambda: lines(tmp_path / "trace"))
    assert "ran" == pool.job(done.stdout.strip()).result(30)


def test_drivers_and_registries_of_the_same_database_are_taken(started, store, sessions):
    pool = started(workers=1)
    urls = [async_url(store)]
    if store.url.startswith("postgresql"):
        pytest.importorskip("asyncpg")
        urls.append(store.url.replace("+psycopg", "+asyncpg"))

    async def request(url):
        async with sessions(url) as session:
            job = pool.submit_on_commit(session, jobs.add, 1, 2)
            await session.commit()
            assert 3 == await asyncio.wait_for(job, 30)
            registry = async_scoped_session(async_sessionmaker(session.bind), asyncio.current_task)
            job = pool.submit_on_commit(registry, jobs.add, 3, 4)
            await registry.commit()
            assert 7 == await asyncio.wait_for(job, 30)
            await registry.remove()

    for url in urls:
        asyncio.run(request(url))


def test_async_session_of_another_database_is_refused(started, store, sessions, tmp_path):
    pool = started(workers=1)

    async def request():
        async with sessions(f"sqlite+aiosqlite:///{tmp_path}/other.db") as other:
            with pytest.raises(procjobs.ConfigurationError, match="same database"):
                pool.submit_on_commit(other, jobs.add, 1)
            assert not other.in_transaction()
        with pytest.raises(procjobs.ConfigurationError, match="no database for the table procjobs_outbox"):
            pool.submit_on_commit(AsyncSession(), jobs.add, 1)

    asyncio.run(request())


def test_first_transaction_of_all_makes_the_tables(started, sessions):
    """Its write to an SQLite file keeps the recorder of a new pool from making them."""

    async def request():
        async with sessions() as session:
            await session.execute(text("INSERT INTO films VALUES ('one')"))
            pool = started(workers=1, is_available=False)
            job = pool.submit_on_commit(session, jobs.add, 1, 2)
            await session.commit()
            assert 3 == await asyncio.wait_for(job, 30)

    asyncio.run(request())


def test_event_loop_does_not_wait_for_a_supervisor_after_the_commit(started, sessions, monkeypatch):
    pool = started(workers=1)
    told, let_go = threading.Event(), threading.Event()
    ask = outbox._ask_for_answer

    def ask_slowly(*entry):  # as where the supervisor is stopped and takes no bytes
        told.set()
        assert let_go.wait(30)
        ask(*entry)

    monkeypatch.setattr(outbox, "_ask_for_answer", ask_slowly)

    async def request():
        async with sessions() as session:
            first = pool.submit_on_commit(session, jobs.add, 1, 2)
            await session.commit()
            assert await asyncio.to_thread(told.wait, 30)
            second = pool.submit_on_commit(session, jobs.add, 3, 4)
            await session.commit()
            assert not first.done()
            let_go.set()
            assert [3, 7] == [await asyncio.wait_for(job, 30) for job in (first, second)]

    asyncio.run(request())
    wait_until(lambda: not outbox._notifier._is_running)
