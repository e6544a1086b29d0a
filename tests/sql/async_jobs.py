"""Jobs that are coroutines and use their AsyncSession."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import sqlalchemy as sa

import procjobs
from procjobs import sql
from tests.sql.models import Part, Thing


async def add(number, name="new"):
    sql.async_session().add(Thing(id=number, name=name))


async def add_and_fail(number, error=ValueError):
    sql.async_session().add(Thing(id=number))
    await sql.async_session().flush()
    raise error("after all")


async def add_and_exit(number):
    sql.async_session().add(Thing(id=number))
    await sql.async_session().flush()
    raise SystemExit(7)


async def add_and_wait(number, started):
    """Write, tell that it is written, and wait with the transaction open."""
    sql.async_session().add(Thing(id=number))
    await sql.async_session().flush()
    Path(f"{started}.new").write_text(str(os.getpid()))
    os.replace(f"{started}.new", started)
    await asyncio.sleep(600)


async def add_and_swallow_everything(number, started):
    """Write, and return in spite of an interruption."""
    with contextlib.suppress(procjobs.JobError):
        await add_and_wait(number, started)


async def add_and_wait_once(number, started):
    if procjobs.current_job().attempt == 1:
        await add_and_wait(number, started)
    await add(number, "second attempt")


async def sleep_in_the_database(number):
    await add(number)
    await sql.async_session().flush()
    await sql.async_session().execute(sa.text("SELECT pg_sleep(600)"))


async def add_orphan(number):
    """Add what the database refuses at the commit only."""
    session = sql.async_session()
    if session.get_bind().dialect.name == "sqlite":
        await session.execute(sa.text("PRAGMA foreign_keys=ON"))
    session.add(Part(id=number, thing_id=12345))
    await session.flush()


async def add_and_return_generator(number):
    await add(number)
    return (item for item in ())


async def name_of(number):
    return (await sql.async_session().get(Thing, number)).name


async def add_in_tasks(number):
    """Use the session in a task of the job's, and tell whether it is the same one there."""

    async def inner():
        await add(number, "in a task")
        return sql.async_session()

    return await asyncio.create_task(inner()) is sql.async_session()


async def session_facts():
    session = sql.async_session()
    await session.execute(sa.text("SELECT 1"))
    count = session.sync_session.info["count"] = session.sync_session.info.get("count", 0) + 1
    return session is sql.async_session(), count


async def add_with_session_for_functions(number):
    sql.session().add(Thing(id=number, name="from a coroutine"))
    await asyncio.sleep(0)


async def add_with_both(number):
    sql.session().add(Thing(id=number))
    sql.session().commit()
    sql.async_session().add(Thing(id=number + 1))


def ask_for_async_session():
    sql.async_session()


async def wait_for_thing(number):
    found = await sql.async_wait_for(sa.select(Thing).where(Thing.id == number), 30)
    found.name = f"{found.name} seen"


async def use_inherited(number):
    """Return the process on the server's side of the engine that the preload has used, after a change there."""
    session = sql.async_session()
    session.add(Thing(id=number))
    if session.get_bind().dialect.name == "postgresql":
        return await session.scalar(sa.text("SELECT pg_backend_pid()"))
    return None


async def add_and_fork(number):
    """Fork in the middle; the child is no job."""
    await add(number)
    await sql.async_session().flush()
    pid = os.fork()
    if pid == 0:
        try:
            sql.async_session()
        except procjobs.OutsideJob:
            os._exit(3)
        os._exit(4)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
