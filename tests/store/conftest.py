"""The stores that the conformance suite runs on: SQLite in a file, PostgreSQL as a server of this run's own."""

from __future__ import annotations

import contextlib

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

import procjobs
from procjobs.client.connection.submission import Terms, submission_of
from procjobs.shared.ids import from_text
from procjobs.store import engines
from tests.databases import own_postgres_server, postgres_server, postgres_url, sqlite_url  # noqa: F401

from ..conftest import wait_until


class Store:
    """A database for one test."""

    def __init__(self, url):
        self.url = url
        self._engine = create_engine(url, poolclass=NullPool)

    def rows(self, statement, **values):
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement), values)]

    def write(self, statement, **values):
        with self._engine.begin() as connection:
            connection.execute(text(statement), values)

    def states(self):
        return dict(self.rows("SELECT state, count(*) FROM procjobs_jobs GROUP BY state"))

    def attempts(self, job):
        query = "SELECT attempt, outcome FROM procjobs_attempts WHERE job_id = :id ORDER BY attempt"
        return self.rows(query, id=job.id)


@pytest.fixture(params=["sqlite_url", "postgres_url"], ids=["sqlite", "postgresql"])
def store(request):
    """A store that has nothing yet, once in each kind of database."""
    found = Store(request.getfixturevalue(request.param))
    yield found
    engines.dispose(found.url)  # for tests that read it without a pool


@pytest.fixture
def started(pool_name, store):
    """Return a function that starts the pool of the test, or attaches to it; the pool is stopped at the end."""
    pools = []

    def start(*, is_available=True, **settings):
        pool = procjobs.Pool(pool_name, store=store.url, **{"workers": 2, **settings})
        pools.append(pool)
        if is_available:
            wait_until(lambda: pool.stats().store == "available", dump=lambda: str(pool.stats()))
        return pool

    yield start
    for pool in reversed(pools):
        pool.stop()


def submit_again(pool, known, fn, *args):
    """Send a job again, as a client that has not heard of its acknowledgement does; return another handle of it."""
    connection = pool._link.connect()
    again = procjobs.Job(pool, from_text(known.id), known.name)
    options = pool._link.plan.job_defaults
    kind = connection.register(fn, options)
    connection.submit(submission_of(again, kind, options, (fn, args, {}), Terms()))
    return again


def recorder_of(pool):
    """Return the pid of a pool's recorder."""
    import psutil

    def find():
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(pool.stats().supervisor_pid).children()
            return next((c.pid for c in children if c.name() == "procjobs-record"), None)
        return None

    return wait_until(find)
