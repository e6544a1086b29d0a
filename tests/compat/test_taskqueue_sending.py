"""From configure() and add() to a pool that sends: real pools, a real server, processes that come and go."""

from __future__ import annotations

import os

import pytest

import procjobs
from procjobs.compat import taskqueue
from procjobs.compat.taskqueue import Queue, Task, sender, sending
from procjobs.compat.taskqueue.settings import configuration
from procjobs.store import own_connection

from ..conftest import wait_until
from .taskqueue_site import Server

QUICK = "queue:\n- name: default\n  rate: 500/s\n  bucket_size: 100\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def site(server, tmp_path):
    """A configuration of its own, with a pool that is stopped afterwards."""
    (tmp_path / "queue.yaml").write_text(QUICK)
    values = {"base_url": server.url, "queue_yaml": tmp_path / "queue.yaml", "store": f"sqlite:///{tmp_path}/tasks.db"}
    yield values
    if sending._state.pool is not None:
        sending._state.pool.stop()
    sending._state.pool = sending._state.started = sending._state.published = None
    configuration.forget()
    own_connection.forget_all()


def in_child(function):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    assert 0 == os.waitpid(child, 0)[1]


def add_as_a_client_of_its_own():
    """Add a task in a child, which keeps the pool alive when its parent has ended."""
    of_parent = sending._state.pool
    taskqueue.add(url="/ok", name="of-a-child")
    assert sending._state.pool is not of_parent


def test_tasks_are_sent_from_configure_on(server, site, tmp_path):
    taskqueue.configure(**site)
    task = taskqueue.add(url="/ok", params={"a": "\xfc"})
    (request,) = server.wait_for("default", 1, task.name)
    assert ("POST", "/ok", "a=%C3%BC") == (request["method"], request["target"], request["body"])

    # Headers are UTF-8, and bytes what they were; those of the queue are its own.
    headers = {"X-Text": "\xfc", "X-Bytes": b"\xff", "X-Two": ["1", "2"], "X-AppEngine-QueueName": "no", "Host": "a.example"}
    task = taskqueue.add(url="/ok", headers=headers)
    (request,) = server.wait_for("default", 1, task.name)
    pairs = [(name, value) for name, value in request["pairs"] if name.startswith("X-") and name[2] in "TB"]
    assert [("X-Text", "\xc3\xbc"), ("X-Bytes", "\xff"), ("X-Two", "1"), ("X-Two", "2")] == [tuple(pair) for pair in pairs]
    assert "a.example" == request["headers"]["host"]

    # A child is a client of its own.
    in_child(add_as_a_client_of_its_own)
    server.wait_for("default", 1, "of-a-child")

    # A changed file holds as soon as it is configured.
    (tmp_path / "queue.yaml").write_text(QUICK + "- name: paused\n  rate: 0\n")
    taskqueue.configure()
    Queue("paused").add(Task(url="/ok", name="paused"))
    assert 0 == Queue("paused").fetch_statistics().enforced_rate
    (tmp_path / "queue.yaml").write_text(QUICK + "- name: paused\n  rate: 500/s\n")
    assert [] == server.requests("paused")
    taskqueue.configure()
    server.wait_for("paused", 1, "paused")

    # A target is another application, from the call on that tells of it.
    taskqueue.configure(targets={"api": f"{server.url}/status"})
    taskqueue.add(url="/204", target="api", name="to-a-target")
    assert ["/status/204"] == [request["target"] for request in server.wait_for("default", 1, "to-a-target")]

    # An ended task leaves nothing in the statistics but that it was executed.
    wait_until(lambda: Queue("paused").fetch_statistics().tasks == 0)
    statistics = Queue("paused").fetch_statistics()
    assert (None, 1, 0, 500) == (
        statistics.oldest_eta_usec, statistics.executed_last_minute, statistics.in_flight, statistics.enforced_rate
    )  # fmt: skip


def test_tasks_of_an_earlier_process_are_sent_without_a_new_one(server, site, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sending, "ensure", lambda current: None)
        taskqueue.configure(**site)
        taskqueue.add(url="/ok", name="left-over")
    taskqueue.configure()
    server.wait_for("default", 1, "left-over")


def test_a_pool_of_the_application_sends(server, site, pool_name):
    pool = procjobs.Pool(pool_name, workers=2, store=site.pop("store"))
    taskqueue.configure(**site, pool=pool)
    assert pool.store == configuration.current().store
    taskqueue.add(url="/ok", name="own-pool")
    server.wait_for("default", 1, "own-pool")
    assert 4 == pool.submit(pow, 2, 2).result()


def test_where_no_pool_can_be_started_nothing_is_added(site, monkeypatch):
    taskqueue.configure(**site | {"base_url": None})
    monkeypatch.setattr(sender, "start", refuse)
    taskqueue.configure(base_url="http://127.0.0.1:9")
    with pytest.raises(taskqueue.TransientError, match="cannot be started: not now"):
        taskqueue.add(url="/ok")
    assert 0 == Queue().fetch_statistics().tasks


def refuse(store, pool):
    raise procjobs.PoolNotRunning("not now")
