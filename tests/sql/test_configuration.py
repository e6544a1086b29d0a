"""Where the sessions of jobs can come from, and what is refused."""

from __future__ import annotations

import os
import traceback

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import procjobs
from procjobs import sql
from tests.conftest import wait_until
from tests.sql import db_jobs
from tests.sql.models import Thing


@pytest.fixture
def application_pool(database, monkeypatch):
    """Start a pool whose preloaded module has configured the sessions in the given way."""
    pools = []

    def start(how, **settings):
        monkeypatch.setenv("TEST_DATABASE", database.url)
        monkeypatch.setenv("TEST_APPLICATION", how)
        pools.append(procjobs.Pool(workers=1, preload=["tests.sql.application", "tests.sql.db_jobs"], **settings))
        return pools[0]

    yield start
    for pool in pools:
        pool.stop()


@pytest.mark.parametrize("how", ["engine", "sessionmaker", "scoped"])
def test_application_configures_with_what_it_has(application_pool, database, how):
    pool = application_pool(how)
    assert None is pool.submit(db_jobs.add, 1).result(30)
    assert ValueError is type(pool.submit(db_jobs.add_and_fail, 2).exception(30))
    assert {1: "new"} == database.names()


@pytest.mark.parametrize("how", ["scoped", "zope"])
def test_job_that_uses_the_applications_registry_directly_is_a_transaction_too(application_pool, database, how):
    if how == "zope":
        pytest.importorskip("zope.sqlalchemy")
    pool = application_pool(how)
    assert None is pool.submit(db_jobs.add_with_registry, 1).result(30)
    assert {1: "new"} == database.names()
    assert ValueError is type(pool.submit(db_jobs.add_with_registry_and_fail, 2).exception(30))
    assert pool.submit(db_jobs.registry_is_clean).result(30)
    assert None is pool.submit(db_jobs.add, 3).result(30)
    assert [1, 3] == list(database.names())
    assert 0 == database.writers()


@pytest.mark.parametrize("how", ["zope", "scoped"])
def test_failed_commit_of_the_applications_transaction_is_a_failed_job(application_pool, database, how):
    if how == "zope":
        pytest.importorskip("zope.sqlalchemy")
    pool = application_pool(how)
    assert procjobs.CommitFailed is type(pool.submit(db_jobs.add_orphan, 1).exception(30))
    assert None is pool.submit(db_jobs.add, 2).result(30)
    assert [2] == list(database.names())


@pytest.mark.parametrize("how", ["engine used", "sessionmaker used", "scoped used"])
def test_connections_of_the_template_are_not_used_and_stay_as_they_are(application_pool, database, how):
    pool = application_pool(how)
    seen = {pool.submit(db_jobs.use_inherited, number).result(30) for number in range(3)}
    assert 3 == len(database.names())
    if database.engine.dialect.name == "postgresql":
        with database.engine.connect() as connection:
            query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            alive = set(connection.scalars(sa.text(query)))
        # One worker's, and the template's three: neither used nor ended by the worker.
        assert seen < alive
        assert 4 == len(alive)


def test_other_engines_of_the_template_are_replaced_too(application_pool):
    assert not application_pool("scoped").submit(db_jobs.use_engine_that_procjobs_was_not_told_of).result(30)


def test_what_an_initializer_leaves_open_belongs_to_no_job(application_pool, database):
    pool = application_pool("scoped", initializer=db_jobs.leave_registry_open, initargs=(1,))
    pool.submit(db_jobs.add_with_registry, 2).result(30)
    assert [2] == list(database.names())


def test_function_that_returns_an_engine(database):
    url = database.url

    def make_engine():
        return sa.create_engine(url)

    pool = procjobs.Pool(workers=1, database=make_engine)
    try:
        pool.submit(db_jobs.add, 1).result(30)
        assert {1: "new"} == database.names()
    finally:
        pool.stop()


@pytest.mark.filterwarnings("ignore::procjobs.PoolDegraded")
def test_function_that_fails_is_told_and_keeps_the_queue():
    def make_engine():
        raise RuntimeError("no such secret")

    pool = procjobs.Pool(workers=1, database=make_engine)
    try:
        job = pool.submit(db_jobs.do_nothing)
        job.wait_accepted(30)
        wait_until(lambda: "the database failed: RuntimeError: no such secret" in (pool.stats().problem or ""))
        assert "queued" == job.status().state
    finally:
        pool.stop()


@pytest.mark.parametrize(
    ("database", "message"),
    [
        ("no url", "not a URL that SQLAlchemy understands"),
        ("postgres://x:secret@h/d", r"knows no 'postgres' \(did you mean 'postgresql'\?\)"),
        ("sqlite://", "in memory; name a file"),
        ("sqlite+aiosqlite://", "in memory; name a file"),
        (create_async_engine("sqlite+aiosqlite://"), "cannot go to the workers' processes"),
        (async_sessionmaker(), "cannot go to the workers' processes"),
        (async_scoped_session(async_sessionmaker(), int), "give its session_factory"),
        (AsyncSession(), "is one session"),
        (17, "expected a URL"),
        (sa.create_engine("sqlite://"), "cannot go to the workers' processes"),
        (scoped_session(sessionmaker()), "cannot go to the workers' processes"),
        (Session(), "is one session"),
    ],
)
def test_what_is_no_database_is_refused_at_once_without_its_password(database, message):
    with pytest.raises(procjobs.ConfigurationError, match=message) as caught:
        procjobs.Pool(workers=1, database=database)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_unpicklable_function_is_refused():
    lock = __import__("threading").Lock()
    with pytest.raises(procjobs.PayloadError, match="the function given as database cannot be pickled"):
        procjobs.Pool(workers=1, database=lambda: lock)


def test_configure_without_anything_and_with_a_manager_that_is_none():
    with pytest.raises(procjobs.ConfigurationError, match="needs a database"):
        sql.configure()
    with pytest.raises(procjobs.ConfigurationError, match=r"has no begin, commit, abort\(\)"):
        sql.configure("sqlite:///x", transaction_manager=object())


def test_session_outside_a_job_says_so():
    with pytest.raises(procjobs.OutsideJob, match=r"within `with procjobs.sql.transaction\(\):`"):
        sql.session()


def test_session_without_a_database_says_so():
    pool = procjobs.Pool(workers=1)
    try:
        with pytest.raises(procjobs.ConfigurationError, match=r"job .* tests.sql.db_jobs.name_of asked for a session"):
            pool.submit(db_jobs.name_of, 1).result(30)
    finally:
        pool.stop()


@pytest.fixture
def configured_here(database):
    """Configure the process of the tests, and take it back."""
    from procjobs.sql import async_unit, unit
    from procjobs.worker.wrappers import remove_wrapper

    sql.configure(database.url)
    yield database
    engine = unit._database.resolve()._maker.kw["bind"]
    engine.dispose()
    unit.use(None, None)
    remove_wrapper(unit.around_job)
    remove_wrapper(async_unit.around_coroutine)


def test_function_of_a_job_can_be_called_here_in_a_transaction(configured_here):
    with sql.transaction():
        db_jobs.add(1)
        assert {} == configured_here.names()
    assert {1: "new"} == configured_here.names()
    with pytest.raises(ValueError, match="after all"), sql.transaction():
        db_jobs.add_and_fail(2)
    with pytest.raises(procjobs.CommitFailed, match="the block returned"), sql.transaction():
        db_jobs.add_orphan(1)
    assert {1: "new"} == configured_here.names()


def test_transaction_within_a_transaction_is_refused(configured_here):
    with sql.transaction():
        with pytest.raises(procjobs.ConfigurationError, match="a job has one transaction"), sql.transaction():
            pass
        db_jobs.add(1)
    assert {1: "new"} == configured_here.names()


def test_another_database_is_another_generation_of_workers(database, tmp_path, pool_name):
    from tests.sql.models import Database

    other = Database(f"sqlite:///{tmp_path}/other.sqlite")
    with (
        procjobs.Pool(pool_name, workers=1, database=database.url) as first,
        procjobs.Pool(pool_name, workers=1, database=other.url) as second,
    ):
        first.submit(db_jobs.add, 1, "first").result(30)
        second.submit(db_jobs.add, 1, "second").result(30)
    assert ({1: "first"}, {1: "second"}) == (database.names(), other.names())


# Objects of a session as arguments ------------------------------------------------------------------------------


@pytest.fixture
def thing(database):
    database.add(7, "seven")
    with Session(database.engine) as session:
        yield session.get(Thing, 7)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda pool, thing: pool.submit(print, thing), "argument 0 of builtins.print is a Thing"),
        (lambda pool, thing: pool.submit(print, 1, end=thing), "argument 'end' of builtins.print"),
        (lambda pool, thing: pool.submit(print, [1, thing]), "an item of argument 0"),
        (lambda pool, thing: pool.submit(print, {"a": thing}), "an item of argument 0"),
        (lambda pool, thing: pool.submit(thing.__repr__), "what is bound to it"),
        (lambda pool, thing: pool.submit(__import__("functools").partial(print, thing)), "what is bound to it"),
        (lambda pool, thing: pool.map(print, [thing]), "argument 0"),
        (lambda pool, thing: pool.submit(lambda: thing.name), "what is bound to it"),
    ],
)
def test_objects_of_a_session_are_refused_with_their_key(pool, thing, call, what):
    with pytest.raises(procjobs.PayloadError, match=what) as caught:
        list(call(pool, thing))
    assert "pass its primary key (7)" in str(caught.value)


def test_object_without_a_session_is_an_argument_like_others(pool, database):
    assert "x" == pool.submit(getattr, Thing(id=3, name="x"), "name").result(30)
    with Session(database.engine, expire_on_commit=False) as session:
        thing = Thing(id=4, name="y")
        session.add(thing)
        with pytest.raises(procjobs.PayloadError, match="which it gets from a flush"):
            pool.submit(print, thing)
        session.commit()
        session.expunge(thing)
        assert "y" == pool.submit(getattr, thing, "name").result(30)


def test_pool_without_a_database_never_loads_sqlalchemy(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys, procjobs\n"
        "with procjobs.Pool(workers=1) as pool:\n"
        "    there = pool.submit(eval, \"'sqlalchemy' in __import__('sys').modules\").result(30)\n"
        "print(there, 'sqlalchemy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert "False False" == done.stdout.strip()
