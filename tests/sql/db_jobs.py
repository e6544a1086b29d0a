"""Jobs that use their session."""

from __future__ import annotations

import contextlib
import os

import sqlalchemy as sa

import procjobs
from procjobs import sql
from tests.process.jobs import wait_for_file
from tests.sql.models import Part, Thing


def add(number, name="new"):
    sql.session().add(Thing(id=number, name=name))


def add_and_fail(number, error=ValueError):
    sql.session().add(Thing(id=number))
    sql.session().flush()
    raise error("after all")


def add_and_exit(number):
    sql.session().add(Thing(id=number))
    sql.session().flush()
    raise SystemExit(7)


def add_and_wait(number, started, go=None):
    """Write, tell that it is written, and wait with the transaction open: for ever without `go`."""
    sql.session().add(Thing(id=number))
    sql.session().flush()
    with open(started, "w") as file:
        file.write(str(os.getpid()))
    wait_for_file(go or "/nonexistent/file")


def add_and_swallow_everything(number, started):
    """Write, and return in spite of an interruption."""
    with contextlib.suppress(procjobs.JobError):
        add_and_wait(number, started)


def add_and_wait_once(number, started):
    """Wait for ever in the first attempt, and return in the second."""
    if procjobs.current_job().attempt == 1:
        add_and_wait(number, started)
    add(number, "second attempt")


def add_orphan(number):
    """Add what the database refuses at the commit only."""
    session = sql.session()
    if session.get_bind().dialect.name == "sqlite":
        session.execute(sa.text("PRAGMA foreign_keys=ON"))
    session.add(Part(id=number, thing_id=12345))
    session.flush()


def add_and_return_generator(number):
    add(number)
    return (item for item in ())


def name_of(number):
    return sql.session().get(Thing, number).name


def session_facts():
    """Return what tells whether two jobs have had the same session, and whether a second call returns another one."""
    session = sql.session()
    same = session is sql.session()
    seen = session.info.setdefault("seen by", os.getpid())
    count = session.info["count"] = session.info.get("count", 0) + 1
    return same, seen, count


def do_nothing():
    return os.getpid()


def sleep_in_the_database(number):
    add(number)
    sql.session().flush()
    sql.session().execute(sa.text("SELECT pg_sleep(600)"))


def add_and_fork(number):
    """Come back in two processes; the child is no job."""
    add(number)
    sql.session().flush()
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return None
    try:
        sql.session()
    except procjobs.OutsideJob:
        add_outside = "refused"
    return add_outside


def wait_for_thing(number, timeout=30.0):
    found = sql.wait_for(sa.select(Thing).where(Thing.id == number), timeout)
    if found is not None:
        found.name = f"{found.name} seen"
    return found is not None


def snapshot_then_wait(number, isolation, looked):
    """Take a snapshot in which the row is not there yet, then wait for the row."""
    session = sql.session()
    if isolation:
        session.connection(execution_options={"isolation_level": isolation})
    assert session.scalars(sa.select(Thing)).all() == []
    open(looked, "w").close()
    return sql.wait_for(session.query(Thing).filter_by(id=number), 30).name


def wait_with_changes(number):
    add(number)
    sql.session().flush()
    return sql.wait_for(sa.select(Thing).where(Thing.id == 999), 30)


def add_with_registry(number, name="new"):
    """Use the application's registry and nothing of procjobs."""
    from tests.sql import application

    application.DBSession.add(Thing(id=number, name=name))


def add_with_registry_and_fail(number):
    add_with_registry(number)
    raise ValueError("after all")


def registry_is_clean():
    from tests.sql import application

    return not application.DBSession.registry.has() or not application.DBSession().in_transaction()


def use_inherited(number):
    """Return the process on the server's side of the engine that the preload has used, after a change there."""
    from tests.sql import application

    session = sql.session()
    session.add(Thing(id=number))
    return application.backend_of(session.connection())


def use_engine_that_procjobs_was_not_told_of():
    """Return whether the connection is the one that the template has opened."""
    from tests.sql import application

    with application.other_engine.connect() as connection:
        return application.backend_of(connection) == application.other_backend


def leave_registry_open(number):
    """Leave a change behind that no job has made."""
    add_with_registry(number)
    from tests.sql import application

    application.DBSession.flush()
