"""Kills: whatever ends with SIGKILL, a task that was under way arrives again, once for each kill, and soon."""

from __future__ import annotations

import collections
import os
import signal
import time

import psutil
import pytest
from sqlalchemy import func, select

from procjobs.compat.taskqueue.sender import start
from procjobs.compat.taskqueue.sender.job import name_of
from procjobs.compat.taskqueue.store import tables

from ..conftest import wait_until
from .taskqueue_site import SECOND, Server, Site, find_full_window

RESTART = 15.0
"""Far more than the two seconds that a restart takes: no test depends on the speed of a host."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("taskqueue"))
    yield server
    server.stop()


@pytest.fixture
def site(server, tmp_path):
    site = Site(server, f"sqlite:///{tmp_path}/tasks.db")
    yield site
    site.close()


@pytest.fixture
def pool(site):
    site.configure()
    pool = start(site.store)
    yield pool
    pool.stop()


def processes(pool):
    supervisor = psutil.Process(pool.stats().supervisor_pid)
    workers = {info.pid for info in pool.workers()}
    others = [child for child in supervisor.children() if child.pid not in workers]
    return {"supervisor": [supervisor.pid], "worker": list(workers), "template": [child.pid for child in others]}


@pytest.mark.parametrize("victims", [["worker"], ["supervisor"], ["template"], ["supervisor", "template", "worker"]])
def test_task_under_way_arrives_once_more_and_others_go_on(site, server, pool, victims):
    queue = site.queue("-".join([*victims, "killed"]))
    name = site.add(queue, f"/held/{queue}")
    server.wait_for(queue, 1, name)
    found = processes(pool)
    began = time.monotonic()
    for victim in victims:
        for pid in found[victim]:
            os.kill(pid, signal.SIGKILL)
    # Nothing is asked of the pool meanwhile: this process has it, and does nothing.
    other = site.add(queue)
    again = server.wait_for(queue, 1, other, RESTART)[0]
    print(f"a new task arrives {again['at'] - began:.2f} s after {victims} were killed")
    if victims != ["template"]:
        server.wait_for(queue, 2, name, RESTART)
    server.release(queue)
    row = site.wait_for_end(name)
    site.wait_for_end(other)
    assert ("succeeded", 0) == (row.outcome, row.retry_count)
    requests = server.requests(queue, name)
    assert (1 if victims == ["template"] else 2) == len(requests)
    assert {"0"} == {request["headers"]["x-appengine-taskretrycount"] for request in requests}


def test_no_task_is_lost_and_none_comes_more_often_than_there_are_kills(site, server, pool):
    queue = site.queue("busy-killed", rate=60.0, bucket_size=5, max_concurrent_requests=4)
    site.add(queue, "/slow/0.03", count=60)
    for count in (10, 30):
        server.wait_for(queue, count)
        for info in pool.workers():
            os.kill(info.pid, signal.SIGKILL)
    is_left = select(func.count()).where(tables.tasks.c.queue == queue, tables.tasks.c.outcome.is_distinct_from("succeeded"))
    wait_until(lambda: not site.database.run(lambda connection: connection.scalar(is_left)))
    times = collections.Counter(one["headers"]["x-appengine-taskname"] for one in server.requests(queue))
    assert 60 == len(times)
    assert max(times.values()) <= 3
    assert times.total() <= 60 + 2 * 4  # at most as many again as were under way at a kill


def test_bucket_is_kept_over_kills(site, server, pool):
    rate, size = 5.0, 2
    queue = site.queue("bucket-killed", rate=rate, bucket_size=size)
    site.add(queue, count=9)
    for count in (3, 6):
        server.wait_for(queue, count)
        for info in pool.workers():
            os.kill(info.pid, signal.SIGKILL)
    wait_until(lambda: len({one["headers"]["x-appengine-taskname"] for one in server.requests(queue)}) == 9)
    assert find_full_window([one["at"] for one in server.requests(queue)], rate, size) is None


def test_sender_that_was_stopped_while_another_took_over_writes_nothing(site, server, pool):
    queue = site.queue("stopped")
    name = site.add(queue, "/held/stopped")
    server.wait_for(queue, 1, name)
    run = site.task(name).run
    (worker,) = pool.workers()
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        server.release("stopped")
        lock = site.store.removeprefix("sqlite:///") + ".sender"
        os.unlink(lock)  # so that another process believes that nobody has the lead
        other = start(site.store, f"{name_of(site.store)}-b")
        try:
            server.wait_for(queue, 2, name)
            assert "succeeded" == site.wait_for_end(name).outcome
            site.change(name, state="running", run=run)  # the old sender would find its own attempt as it has left it
            os.kill(worker.pid, signal.SIGCONT)
            wait_until(lambda: pool.stats().finished)
            assert ("running", run) == (site.task(name).state, site.task(name).run)
        finally:
            other.stop()
    finally:
        os.kill(worker.pid, signal.SIGCONT)


def test_second_pool_waits_for_its_turn_and_takes_over(site, server, pool):
    queue = site.queue("two")
    site.wait_for_end(site.add(queue))
    second = start(site.store, f"{name_of(site.store)}-b")
    try:
        wait_until(lambda: second.stats().busy == 1)
        site.wait_for_end(site.add(queue))
        pool.stop()
        site.wait_for_end(site.add(queue))
    finally:
        second.stop()


def test_request_under_way_has_a_moment_to_end_when_the_pool_stops(site, server, pool):
    queue = site.queue("stopping")
    short, long = site.add(queue, "/slow/0.5"), site.add(queue, "/held/stopping")
    server.wait_for(queue, 2)
    pool.stop()
    assert ("succeeded", "waiting") == (site.task(short).outcome, site.task(long).state)
    assert (0, None) == (site.task(long).retry_count, site.task(long).run)
    server.release("stopping")
    assert site.task(long).eta_usec <= time.time() * SECOND
