"""Rates, buckets and caps as the application sees them, on both databases."""

from __future__ import annotations

import os

import pytest
from sqlalchemy import func, select

from procjobs.compat.taskqueue.sender import start
from procjobs.compat.taskqueue.sender.claims import QueueRow
from procjobs.compat.taskqueue.sender.queue_state import QueueState
from procjobs.compat.taskqueue.settings.queues import QueueSettings, RetryParameters
from procjobs.compat.taskqueue.store import tables
from procjobs.shared import private_files

from ..conftest import wait_until
from .taskqueue_site import SECOND, Server, Site, find_full_window

ONCE = RetryParameters(task_retry_limit=0)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("taskqueue"))
    yield server
    server.stop()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def site(request, server, tmp_path_factory):
    if request.param == "sqlite":
        path = f"{tmp_path_factory.mktemp('taskqueue')}/tasks.db"
        os.close(private_files.open_or_create(path))
        site, name = Site(server, f"sqlite:///{path}"), None
    else:
        postgres = request.getfixturevalue("postgres_server")
        name = postgres.new_database()
        site = Site(server, postgres.url(name))
    site.configure()
    pool = start(site.store)
    site.wait_for_end(site.add(site.queue(f"first-{request.param}")))  # all processes are there
    yield site
    pool.stop()
    site.close()
    if name:
        postgres.drop_database(name)


@pytest.fixture
def name(request):
    """The name of a queue of this test alone: the server serves both databases."""
    return request.node.name.replace("[", "-").replace("]", "").replace("_", "-")[-90:]


@pytest.mark.parametrize(("rate", "size", "count"), [(10.0, 1, 8), (20.0, 5, 20)])
def test_starts_keep_to_bucket_and_rate_in_every_window(site, server, name, rate, size, count):
    queue = site.queue(name, rate=rate, bucket_size=size)
    site.add(queue, count=count)
    times = [request["at"] for request in server.wait_for(queue, count)]
    assert find_full_window(times, rate, size) is None


def test_retries_take_tokens_like_first_attempts(site, server, name):
    queue = site.queue(name, rate=10.0, bucket_size=2, retry=RetryParameters(0.001, 0.001, 0))
    site.add(queue, "/failing/3", count=3)
    times = [request["at"] for request in server.wait_for(queue, 12)]
    assert find_full_window(times, 10.0, 2) is None


def test_no_more_requests_are_under_way_than_the_cap_allows(site, server, name):
    queue = site.queue(name, max_concurrent_requests=2)
    site.add(queue, "/slow/0.5")  # a place that is taken while those of the others become free, one by one
    site.add(queue, "/slow/0.05", count=6)
    wait_until(lambda: all(request["ended"] for request in server.wait_for(queue, 7)))
    requests = server.requests(queue)
    together = [sum(other["at"] <= one["at"] < other["ended"] for other in requests) for one in requests]
    assert 2 == max(together)


def test_overload_slows_its_queue_alone_and_the_rate_comes_back(site, name):
    queue, other = site.queue(name, retry=ONCE), site.queue(f"{name}-other", retry=ONCE)
    site.add(other, "/status/500")
    overloaded = site.add(queue, "/status/503")
    slow = wait_until(lambda: (rate := site.queue_row(queue).enforced_rate or 1000) < 1000 and rate)
    assert 500 <= slow
    assert site.queue_row(other).enforced_rate in {None, 1000}
    assert "given up" == site.wait_for_end(overloaded).outcome
    assert 1000 == wait_until(lambda: (rate := site.queue_row(queue).enforced_rate) == 1000 and rate)


def test_every_start_is_counted_once(site, server, name):
    queue = site.queue(name)
    site.wait_for_end(site.add(queue, "/failing/2"))
    site.add(queue, count=5)
    server.wait_for(queue, 8)
    query = select(func.sum(tables.executions.c.count)).where(tables.executions.c.queue == queue)
    assert 8 == site.database.run(lambda connection: connection.scalar(query))


def test_first_task_due_is_sent_first(site, server, name):
    queue = site.queue(name, rate=0.0, max_concurrent_requests=1)
    names = [site.add(queue, name=f"{name}-{delay}", delay=delay) for delay in (-1, -3, -2)]
    site.queue(name, max_concurrent_requests=1)
    found = [request["headers"]["x-appengine-taskname"] for request in server.wait_for(queue, 3)]
    assert [names[1], names[2], names[0]] == found


def test_tokens_fill_up_while_nobody_sends_but_not_for_requests_that_were_on_their_way():
    row = QueueRow("queue", QueueSettings("queue", rate=2.0, bucket_size=5).to_json(), 1.0, 0, 1.0, None)
    quiet = QueueState(row, 0, 2 * SECOND, was_interrupted=False)
    assert (0.5, 3) == (quiet.throttle.share, quiet.capacity(0))
    interrupted = QueueState(row, 0, 2 * SECOND, was_interrupted=True)
    assert 1 == interrupted.capacity(0)
