"""Tasks that belong to a transaction of the application: there if and only if it commits."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, event, func, insert, select
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from procjobs.compat.taskqueue.errors import (
    BadTransactionStateError,
    DatastoreError,
    InvalidTaskNameError,
    TooManyTasksError,
    TransactionalRequestTooLargeError,
    TransientError,
)
from procjobs.compat.taskqueue.store import rows, tables, transactional
from procjobs.compat.taskqueue.store.database import Database
from procjobs.errors import ConfigurationError
from tests.compat.conftest import open_queues
from tests.compat.taskqueue_tasks import Child, new_queue, pull, push, rows_of
from tests.waiting import wait_until

things = Table("things", MetaData(), Column("id", Integer, primary_key=True), Column("value", Integer))


def make_engine(url):
    """The engine of an application. SQLite's savepoints need transactions that SQLAlchemy begins, as it documents."""
    engine = create_engine(url, poolclass=NullPool)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def connect(connection, record):
            connection.isolation_level = None

        @event.listens_for(engine, "begin")
        def begin(connection):
            connection.exec_driver_sql("BEGIN")

    return engine


@pytest.fixture(scope="module")
def engine(taskqueue_database):
    engine = make_engine(taskqueue_database.url)
    things.create(engine)
    # SQLite keeps the descriptors of closed connections for later ones, as long as the process has another connection.
    with engine.connect() as first, engine.connect() as second:
        assert [[], []] == [connection.execute(select(things)).all() for connection in (first, second)]
    return engine


@pytest.fixture
def database(taskqueue_database):
    return taskqueue_database


@pytest.fixture
def queue():
    return new_queue()


@pytest.fixture
def session(engine):
    """The session of an application's threads."""
    session = scoped_session(sessionmaker(engine))
    yield session
    session.remove()


def is_there(database, queue):
    """Whether the rows of a queue are there for others, as many as were added."""
    return len(rows_of(database, queue))


def test_a_task_is_there_when_its_transaction_commits_and_has_its_name_at_once(database, queue, session):
    session.execute(insert(things).values(value=1))
    (added,) = transactional.add(session, database, queue.name, [push()])
    assert added.error is None
    session.commit()
    assert [added.name] == [*rows_of(database, queue)]


def test_a_task_is_not_there_when_its_transaction_is_rolled_back(database, queue, session):
    session.begin()
    transactional.add(session, database, queue.name, [push(stored=("id-1", b"large"))])
    session.rollback()
    assert {} == rows_of(database, queue)
    assert 0 == database.run(lambda connection: connection.scalar(select(func.count()).select_from(tables.payloads)))


def test_nobody_sees_a_task_before_the_commit(queue, tmp_path, postgres_url):
    with open_queues(postgres_url) as database, Session(make_engine(postgres_url)) as session, session.begin():
        transactional.add(session, database, queue.name, [push()])
        assert {} == rows_of(database, queue)


def test_savepoints_keep_and_drop_tasks(database, queue, session):
    session.begin()
    transactional.add(session, database, queue.name, [push(payload=b"outside")])
    with session.begin_nested():
        transactional.add(session, database, queue.name, [push(payload=b"kept")])
    dropped = session.begin_nested()
    transactional.add(session, database, queue.name, [push(payload=b"dropped")])
    dropped.rollback()
    session.commit()
    assert {b"outside", b"kept"} == {row.payload for row in rows_of(database, queue).values()}


def test_a_task_of_a_process_that_is_killed_before_the_commit_is_not_there(database, queue, engine, tmp_path):
    def add_and_wait():
        with Session(engine) as session, session.begin():
            transactional.add(session, database, queue.name, [push()])
            (tmp_path / "added").touch()
            threading.Event().wait()

    child = Child(add_and_wait)
    child.go()
    wait_until((tmp_path / "added").exists)
    child.kill()
    assert {} == rows_of(database, queue)
    rows.add(database, queue.name, [push("others-can-write")])


def test_a_task_beside_the_transaction_that_has_sqlites_only_lock_is_refused_with_advice(queue, tmp_path):
    with open_queues(f"sqlite:///{tmp_path}/queues.db") as database:
        engine = make_engine(database.url)
        things.create(engine)
        with engine.connect() as connection:
            connection.execute(insert(things).values(value=1))
            with pytest.raises(TransientError, match="add its tasks with transactional=True"):
                rows.add(database, queue.name, [push()])
            connection.rollback()


# Where a transaction is -----------------------------------------------------------------------------------------


def test_outside_a_transaction_nothing_is_added(database, queue, session, engine):
    maker = sessionmaker(engine)
    transactional.check_source(maker)
    with Session(engine) as plain, engine.connect() as connection:
        for source in (session, maker, plain, connection, lambda: plain, lambda: None):
            with pytest.raises(BadTransactionStateError, match="no session of this thread has begun one"):
                transactional.add(source, database, queue.name, [push()])
    session.execute(select(things))
    session.commit()
    with pytest.raises(BadTransactionStateError):
        transactional.add(session, database, queue.name, [push()])
    assert {} == rows_of(database, queue)


def test_the_session_may_be_given_in_many_ways(database, queue, engine):
    maker = sessionmaker(engine)
    transactional.check_source(maker)
    with maker.begin() as own:
        for source in (own, maker, lambda: own, lambda: maker):
            transactional.add(source, database, queue.name, [push()])
    with engine.begin() as connection:
        transactional.add(connection, database, queue.name, [push()])
    assert 5 == is_there(database, queue)


def test_of_a_sessionmaker_it_is_the_newest_transaction_of_this_thread(database, queue, engine):
    maker = sessionmaker(engine)
    transactional.check_source(maker)
    transactional.check_source(maker)
    outer = maker()
    outer.execute(select(things))
    with maker() as inner:
        inner.begin()
        with ThreadPoolExecutor() as others, pytest.raises(BadTransactionStateError):
            others.submit(find, maker).result()
        assert find(maker) is inner.connection()
    assert find(maker) is outer.connection()
    outer.close()
    with pytest.raises(BadTransactionStateError):
        find(maker)


find = transactional.find_transaction


@pytest.mark.parametrize("source", [5, "session", None])
def test_what_can_be_no_source_is_refused(source):
    with pytest.raises(ConfigurationError, match="session="):
        transactional.check_source(source)


def test_a_function_that_returns_no_session_is_refused(database, queue):
    with pytest.raises(ConfigurationError, match="a Session is needed"):
        transactional.add(lambda: 5, database, queue.name, [push()])


def test_a_session_of_another_database_is_refused_and_its_transaction_goes_on(database, queue, tmp_path, postgres_url):
    for url in (f"sqlite:///{tmp_path}/other.db", postgres_url):
        other = make_engine(url)
        things.create(other)
        with Session(other) as session:
            session.execute(insert(things).values(value=1))
            with pytest.raises(ConfigurationError, match=r"store= of configure\(\)"):
                transactional.add(session, database, queue.name, [push()])
            session.commit()
            assert 1 == session.scalar(select(func.count()).select_from(things))


def test_the_tables_are_made_by_the_first_transactional_task(queue, tmp_path, postgres_url):
    for url in (f"sqlite:///{tmp_path}/new.db", postgres_url):
        engine = make_engine(url)
        things.create(engine)
        with Session(engine) as session, session.begin():
            session.execute(insert(things).values(value=1))  # has the only lock of SQLite
            transactional.add(session, Database(url), queue.name, [push()])
        with open_queues(url) as database:
            assert 1 == is_there(database, queue)


# Limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [DatastoreError, BadTransactionStateError, TooManyTasksError])
def test_a_transaction_has_at_most_five_tasks(database, queue, session, error):
    session.begin()
    transactional.add(session, database, queue.name, [push(), push(), push()])
    with pytest.raises(error, match="can have 5 tasks: this one has 3, and 3 are added"):
        transactional.add(session, database, queue.name, [push(), push(), push()])
    transactional.add(session, database, new_queue("pull").name, [pull(), pull()])
    with pytest.raises(error):
        transactional.add(session, database, queue.name, [push()])
    session.commit()
    session.begin()
    transactional.add(session, database, queue.name, [push()])
    session.commit()
    assert 4 == is_there(database, queue)


def test_tasks_of_a_savepoint_that_was_rolled_back_do_not_count(database, queue, session):
    session.begin()
    for _ in range(3):
        savepoint = session.begin_nested()
        transactional.add(session, database, queue.name, [push(), push(), push()])
        savepoint.rollback()
    transactional.add(session, database, queue.name, [push() for _ in range(5)])
    session.commit()
    assert 5 == is_there(database, queue)


def test_the_tasks_of_a_transaction_have_at_most_a_mebibyte(database, queue, session):
    session.begin()
    transactional.add(session, database, queue.name, [pull(size=2**20 - 10)])
    with pytest.raises(TransactionalRequestTooLargeError, match=f"{2**20} bytes, and these have {2**20 + 1}"):
        transactional.add(session, database, queue.name, [pull(size=11)])
    transactional.add(session, database, queue.name, [pull(size=10)])
    session.commit()
    assert 2 == is_there(database, queue)


def test_a_task_of_a_transaction_has_no_name_of_its_own(database, queue, session):
    session.begin()
    with pytest.raises(InvalidTaskNameError):
        transactional.add(session, database, queue.name, [push(), push("named")])
    session.commit()
    assert {} == rows_of(database, queue)


def test_a_row_that_the_database_refuses_is_a_datastore_error(database, queue, session):
    session.begin()
    with pytest.raises(DatastoreError, match="has refused a task"):
        transactional.add(session, database, queue.name, [push(url=None)])
    session.rollback()
