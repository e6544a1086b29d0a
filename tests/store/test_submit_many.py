"""Jobs that are submitted together are in one transaction of the store."""

from __future__ import annotations

import os
import random
import signal
import socket
import time

import pytest

import procjobs
from procjobs.shared import recorder_wire
from procjobs.shared.recorder_wire import Submit, pack_batch
from procjobs.store.supervisor_link import SupervisorLink
from procjobs.supervisor.durable.uncommitted import Entry, UncommittedEvents
from tests.process import jobs

from ..conftest import wait_until
from .conftest import recorder_of

COUNT = 3000


def count_jobs(store):
    return store.rows("SELECT count(*) FROM procjobs_jobs WHERE name <> 'first'")[0][0]


def test_batch_is_in_the_store_when_it_is_accepted(started, store):
    pool = started()
    pool.pause()
    calls = [procjobs.Call(jobs.add, n).options(meta={"n": n}) for n in range(20)]
    handles = pool.options(delay="1h").submit_many([*calls, (jobs.add, 1), (jobs.echo, b"x" * 200_000)])
    handles[-1].wait_accepted(30)
    assert 22 == count_jobs(store)
    assert [3] == [record.meta["n"] for record in pool.history(meta={"n": 3})]


def test_one_that_the_store_cannot_keep_keeps_all_out(started, store, monkeypatch):
    pool = started()
    handles = pool.submit_many([(jobs.add, 1), (jobs.echo, b"x" * (recorder_wire.MAX_STORED_BYTES + 1))])
    assert [procjobs.PayloadError] * 2 == [type(job.exception(60)) for job in handles]
    assert "are larger than what the store keeps" in str(handles[0].exception())
    assert 0 == count_jobs(store)


@pytest.mark.parametrize("attempt", range(6))
def test_kill_in_the_middle_leaves_all_or_nothing(started, store, pool_name, attempt):
    pool = started(workers=1)
    pool.options(name="first").submit(jobs.add, 1).result(60)
    pool.pause()
    pid = pool.stats().supervisor_pid
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        mine = procjobs.Pool(pool_name, store=store.url, start=False)
        mine.stats()
        mine.submit_many([(jobs.add, n) for n in range(COUNT)])
        os.write(writes, b"x")
        signal.pause()
    try:
        assert b"x" == os.read(reads, 1)
        os.kill(child, signal.SIGKILL)  # it would send them again
        time.sleep(random.Random(attempt).uniform(0, 0.1))  # job: a random moment of the transaction
        os.kill(pid if attempt % 2 else recorder_of(pool), signal.SIGKILL)
    finally:
        os.close(reads)
        os.close(writes)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    wait_until(lambda: pool.stats().store == "available")
    pool.options(name="first").submit(jobs.add, 2).wait_accepted(60)  # whatever was under way is decided
    assert count_jobs(store) in ({0, COUNT} if attempt % 2 else {COUNT})


# The events between supervisor and recorder --------------------------------------------------------------------------


def submit_event(number):
    return Submit(bytes([number]) * 16, 1, b"call", False, 0.0, 0.0, 0.0, b"", None)


def test_part_of_a_batch_says_that_it_goes_on(monkeypatch):
    monkeypatch.setattr("procjobs.supervisor.durable.uncommitted.MAX_EVENTS", 2)
    events = UncommittedEvents()
    for number in range(1, 6):
        events.append(Entry(submit_event(number), is_followed=2 <= number < 5))
    reader = recorder_wire.BatchReader()
    found = []
    while (part := events.next_batch()) is not None:
        reader.feed(part[0])
        found.append(reader.next()[1::2])
    assert [(2, True), (4, True), (5, False)] == found


def test_recorder_takes_a_batch_when_it_is_whole_and_drops_the_part_that_a_dead_supervisor_has_left():
    ours, theirs = socket.socketpair()
    link = SupervisorLink(ours)
    theirs.sendall(pack_batch([submit_event(1)], 1) + pack_batch([submit_event(2)], 2, is_open=True))
    assert [1] == [batch.last for batch in link.read(0.1)]
    theirs.sendall(pack_batch([submit_event(3)], 3, is_open=True))
    assert [] == link.read(0.0)
    theirs.sendall(pack_batch([submit_event(4)], 4) + pack_batch([submit_event(5)], 5, is_open=True))
    assert [2, 3, 4] == [batch.last for batch in link.read(0.1)]
    theirs.close()
    assert ([], True) == (link.read(None), link.has_ended)
    ours.close()
