"""Fixtures of the adapters' tests."""

from __future__ import annotations

import contextlib

import pytest

from procjobs.compat import asyncjob
from procjobs.compat.asyncjob import current, starting
from procjobs.compat.asyncjob.progress import asyncjobs_progress_status
from procjobs.compat.taskqueue.store.database import Database
from procjobs.store import consumers
from tests.databases import database_url, postgres_server, postgres_url, redis_server, sqlite_url  # noqa: F401


def stop_asyncjob():
    """Stop the pool, and forget that it was started."""
    worker = current.try_running()
    if worker is not None and worker._pool is not None:
        worker.pool.stop()
    current.set_running(None)
    asyncjobs_progress_status._tracker = None
    starting._settings.clear()


@pytest.fixture
def fresh_asyncjob(pool_name):
    """asyncjob as it is before anything has started it; afterwards the same."""
    yield pool_name
    stop_asyncjob()


@pytest.fixture
def start_asyncjob(fresh_asyncjob):
    """Start asyncjob on a pool of this test, with further settings."""

    def start(tracker=None, **settings):
        asyncjob.configure(**{"name": fresh_asyncjob, "workers": 1, **settings})
        return asyncjob.start_async_worker(progress_tracker=tracker)

    return start


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def taskqueue_database(request, tmp_path_factory):
    """A database of task queues that the tests of a module share, open already; once of each kind."""
    if request.param == "sqlite":
        with open_queues(f"sqlite:///{tmp_path_factory.mktemp('queues')}/queues.db") as database:
            yield database
        return
    server = request.getfixturevalue("postgres_server")
    name = server.new_database()
    with open_queues(server.url(name)) as database:
        yield database
    server.drop_database(name)


@contextlib.contextmanager
def open_queues(url):
    """Make the tables of task queues, and close everything afterwards."""
    database = Database(url)
    database.run(lambda connection: None)
    yield database
    consumers.forget_all()
