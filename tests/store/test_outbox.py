"""submit_on_commit: a job exists if, and only if, the caller's own transaction was committed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading

import psutil
import pytest
from sqlalchemy import create_engine, event, make_url, text
from sqlalchemy.exc import OperationalError, PendingRollbackError, ProgrammingError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

import procjobs
from procjobs.client import outbox
from procjobs.shared.ids import new_id, to_text
from procjobs.store import schema
from tests.process import jobs

from ..conftest import wait_until
from .conftest import recorder_of
from .test_rescue import lines


@pytest.fixture
def session(store):
    engine = create_engine(store.url, poolclass=NullPool)
    with Session(engine) as session:
        session.execute(text("CREATE TABLE films (name TEXT)"))
        session.commit()
        yield session


def test_job_runs_after_the_commit_and_not_before(started, store, session, tmp_path):
    pool = started(workers=1)
    session.execute(text("INSERT INTO films VALUES ('one')"))
    job = pool.submit_on_commit(session, jobs.append_line, str(tmp_path / "trace"), "ran", os.urandom(100_000))
    assert "queued" == job.status().state
    assert [] == lines(tmp_path / "trace")
    session.commit()
    assert "ran" == job.result(30)
    assert {"succeeded": 1} == store.states()
    assert [(0,)] == store.rows("SELECT count(*) FROM procjobs_outbox")
    assert "succeeded" == pool.status(job.id).state


def test_job_of_a_transaction_that_is_rolled_back_has_never_been(started, store, session, tmp_path):
    pool = started(workers=1)
    session.execute(text("INSERT INTO films VALUES ('one')"))
    job = pool.submit_on_commit(session, jobs.append_line, str(tmp_path / "trace"), "ran")
    session.rollback()
    with pytest.raises(procjobs.UnknownJob):
        job.result(30)
    assert {} == store.states()


@pytest.mark.parametrize("store", ["postgres_url"], indirect=True)
def test_role_of_the_application_needs_no_right_but_to_insert(started, store, postgres_server):
    pool = started(workers=1)
    database = make_url(store.url).database
    postgres_server.execute("CREATE ROLE application LOGIN")
    postgres_server.execute("GRANT INSERT ON procjobs_outbox TO application", database)
    engine = create_engine(make_url(store.url).set(username="application"), poolclass=NullPool)
    try:
        with Session(engine) as session:
            job = pool.submit_on_commit(session, jobs.add, 1, 2)
            session.commit()
        assert 3 == job.result(30)
        with Session(engine) as session, pytest.raises(ProgrammingError, match="permission denied"):
            session.execute(text("SELECT * FROM procjobs_jobs"))
    finally:
        postgres_server.execute("REVOKE ALL ON procjobs_outbox FROM application", database)
        postgres_server.execute("DROP ROLE application")


def test_savepoints_decide_about_the_jobs_submitted_in_them(started, store, session, tmp_path):
    trace = str(tmp_path / "trace")
    pool = started(workers=1)
    before = pool.submit_on_commit(session, jobs.append_line, trace, "before")
    with session.begin_nested():
        kept = pool.submit_on_commit(session, jobs.append_line, trace, "kept")
    savepoint = session.begin_nested()
    undone = pool.submit_on_commit(session, jobs.append_line, trace, "undone")
    savepoint.rollback()
    assert [] == lines(tmp_path / "trace")
    session.commit()
    assert ["before", "kept"] == [job.result(30) for job in (before, kept)]
    with pytest.raises(procjobs.UnknownJob):
        undone.result(30)
    again = pool.submit_on_commit(session, jobs.append_line, trace, "again")
    session.commit()
    assert "again" == again.result(30)
    assert ["before", "kept", "again"] == lines(tmp_path / "trace")


def test_jobs_that_a_dead_process_has_committed_are_swept_up(started, pool_name, store, session, tmp_path):
    pool = started(workers=1)
    program = textwrap.dedent(f"""
        import os, procjobs
        from sqlalchemy import create_engine, event
        from sqlalchemy.orm import Session
        from tests.process import jobs
        pool = procjobs.Pool({pool_name!r}, store={store.url!r}, workers=1)
        with Session(create_engine({store.url!r})) as session:
            job = pool.submit_on_commit(session, jobs.append_line, {str(tmp_path / "trace")!r}, "ran")
            event.listen(session, "after_commit", lambda session: os.kill(os.getpid(), 9))
            print(job.id, flush=True)
            session.commit()
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert -9 == done.returncode, done.stderr
    wait_until(lambda: lines(tmp_path / "trace"))
    assert "ran" == pool.job(done.stdout.strip()).result(30)


def test_options_are_those_of_other_jobs(started, store, session):
    pool = started(workers=1)
    job = pool.options(name="late", delay=0.05, retries=1, backoff=0, key="k").submit_on_commit(session, jobs.fail)
    session.commit()
    assert isinstance(job.exception(30), Exception)
    (record,) = pool.history()
    assert ("late", 2) == (record.name, len(record.attempts))


def test_unusable_sessions_are_refused(started, store, session, tmp_path):
    pool = started(workers=1)
    with (
        Session(create_engine(f"sqlite:///{tmp_path}/other.db")) as other,
        pytest.raises(procjobs.ConfigurationError, match="same database"),
    ):
        pool.submit_on_commit(other, jobs.add, 1)
    with pytest.raises(procjobs.ConfigurationError, match="takes an SQLAlchemy Session or AsyncSession, not object"):
        pool.submit_on_commit(object(), jobs.add, 1)
    with pytest.raises(procjobs.PayloadError):
        pool.submit_on_commit(session, jobs.add, threading.Lock())
    with procjobs.Pool(workers=1) as plain, pytest.raises(procjobs.ConfigurationError, match="has no store"):
        plain.submit_on_commit(session, jobs.add, 1)


def test_registries_of_sessions_are_taken(started, store):
    pool = started(workers=1)
    registry = scoped_session(sessionmaker(create_engine(store.url, poolclass=NullPool)))
    job = pool.submit_on_commit(registry, jobs.add, 1, 2)
    registry.commit()
    assert 3 == job.result(30)
    registry.remove()


def test_job_that_a_hook_of_the_commit_submits_is_part_of_it(started, session):
    pool = started(workers=1)
    submitted = []

    def submit(*_):
        if len(submitted) < 2:
            submitted.append(pool.submit_on_commit(session, jobs.add, len(submitted), 1))

    event.listen(session, "before_commit", submit)
    event.listen(session, "after_flush", submit)
    session.commit()
    assert [1, 2] == [job.result(30) for job in submitted]


def test_transaction_that_has_failed_takes_nothing(started, session):
    pool = started(workers=1)
    first = pool.submit_on_commit(session, jobs.add, 1, 2)
    event.listen(session, "after_flush", fail_once := FailOnce())
    with pytest.raises(ValueError, match="once"):
        session.flush()
    assert fail_once.has_failed
    with pytest.raises(PendingRollbackError):
        pool.submit_on_commit(session, jobs.add, 1, 2)
    session.rollback()
    with pytest.raises(procjobs.UnknownJob):
        first.result(30)


class FailOnce:
    has_failed = False

    def __call__(self, *_):
        if not self.has_failed:
            self.has_failed = True
            raise ValueError("once")


def test_zope_commits_a_transaction_whose_only_change_is_a_job(started, store):
    zope = pytest.importorskip("zope.sqlalchemy")
    transaction = pytest.importorskip("transaction")
    pool = started(workers=1)
    session = Session(create_engine(store.url, poolclass=NullPool))
    zope.register(session)
    job = pool.submit_on_commit(session, jobs.add, 1, 2)
    transaction.commit()
    assert 3 == job.result(30)
    undone = pool.submit_on_commit(session, jobs.add, 1, 2)
    transaction.abort()
    with pytest.raises(procjobs.UnknownJob):
        undone.result(30)


def test_object_of_the_session_is_refused_as_an_argument(started, session):
    pool = started(workers=1)
    row = outbox.OutboxRow({"id": "7"})
    session.add(row)
    with pytest.raises(procjobs.PayloadError, match="pass its primary key"):
        pool.submit_on_commit(session, print, row)


def test_first_transaction_of_all_makes_the_tables(started, store, session):
    """Its write to an SQLite file keeps the recorder of a new pool from making them."""
    session.execute(text("INSERT INTO films VALUES ('one')"))
    pool = started(workers=1, is_available=False)
    job = pool.submit_on_commit(session, jobs.add, 1, 2)
    session.commit()
    assert 3 == job.result(30)
    assert [("one",)] == store.rows("SELECT name FROM films")


def test_first_transaction_of_all_leaves_no_tables_when_it_is_rolled_back(store, session, pool_name):
    with procjobs.Pool(pool_name, workers=1, store=store.url) as pool:
        for number in (1, 2):  # after the second one, the recorder's first look into the outbox is over
            assert number == pool.submit(jobs.echo, number).result(30)
        recorder = psutil.Process(recorder_of(pool))
        recorder.suspend()  # else it would make the tables again as soon as it misses them
        try:
            for table in schema.metadata.tables:
                store.write(f"DROP TABLE {table}")
            session.execute(text("INSERT INTO films VALUES ('one')"))  # with which sqlite3 begins its transaction
            pool.submit_on_commit(session, jobs.add, 1, 2)
            session.flush()
            session.rollback()
            with pytest.raises(ProgrammingError if "postgresql" in store.url else OperationalError):
                store.rows("SELECT * FROM procjobs_jobs")
            pool.submit_on_commit(session, jobs.add, 1, 2)
            session.commit()
            assert [(1,)] == store.rows("SELECT count(*) FROM procjobs_outbox")
        finally:
            recorder.resume()
        pool.stop()


def test_row_that_is_no_job_and_one_that_is_there_twice_keep_no_other_in_the_outbox(started, store, session, tmp_path):
    pool = started(workers=1)
    twice = pool.submit_on_commit(session, jobs.append_line, str(tmp_path / "trace"), "once")
    session.commit()
    assert "once" == twice.result(30)
    columns = "id, pool, description, function, call, submitted_at"
    for job_id, description in (("no id", b"{}"), (new_text(), b"\xff"), (new_text(), b"{}"), (twice.id, b"{}")):
        values = {"i": job_id, "p": pool._link.connection.welcome["store_name"], "d": description}
        store.write(f"INSERT INTO procjobs_outbox ({columns}) VALUES (:i, :p, :d, :d, :d, 0)", **values)
    good = pool.submit_on_commit(session, jobs.add, 1, 2)
    session.commit()
    assert 3 == good.result(30)
    assert [(0,)] == store.rows("SELECT count(*) FROM procjobs_outbox")
    assert ["once"] == lines(tmp_path / "trace")
    assert "available" == pool.stats().store


def new_text():
    return to_text(new_id())
