"""The watcher with a pool that does what a real one does seldom."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from procjobs import JobStatus, Progress
from procjobs.errors import StoreUnavailable
from procjobs.web import watching
from procjobs.web.pools import Pools
from procjobs.web.seeing import Found

KEY = "01900000-0000-7000-8000-000000000000"


def status(state, version=1):
    return JobStatus(KEY, "f", state, None, 1, None, 1.0, 1.0, 2.0 if state == "succeeded" else None, None, None, {}, None,
                     None, version=version)  # fmt: skip


class ScriptedPool:
    """Shows at each glance the next of what it was given (the last one for ever), and answers questions in the same way."""

    name = "scripted"

    def __init__(self, shown, answers):
        self._shown, self._answers = list(shown), list(answers)
        self.glances = self.questions = 0

    def glance(self, keys, known):
        self.glances += 1
        found = self._give(self._shown)
        return {key: one for key, one in found.items() if one is None or not one.version or one.version != known[key]}

    async def aglance(self, keys, known=()):
        self.questions += 1
        return self._give(self._answers)

    def _give(self, left):
        one = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(one, Exception):
            raise one
        return {KEY: one}


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(watching, "LOOK_INTERVAL", 0.001)
    monkeypatch.setattr(watching, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(watching, "_MAX_PAUSE", 0.001)


def states(pool, first):
    """Return the states that a stream is told, to its end."""
    return [document["state"] for document in documents(pool, first)]


def documents(pool, first):
    """Return the documents that a stream is told, to its end."""

    async def watch():
        watcher = watching.Watcher(Pools(pool))
        lost = [KEY] if first is None else []
        subscription = watcher.subscribe({} if lost else {KEY: Found(pool, first)}, lost, "", {})
        told = []
        while (events := await subscription.next_events()) is not None:
            told += [json.loads(line[6:]) for line in events.decode().splitlines() if line.startswith("data: ")]
        subscription.close()
        return told

    return asyncio.run(asyncio.wait_for(watch(), 20))


def test_job_that_was_evicted_is_found_in_the_store():
    pool = ScriptedPool([status("running", 2), None], [status("succeeded", 0)])
    assert ["queued", "running", "succeeded"] == states(pool, status("queued"))


def test_stream_is_silent_while_the_store_does_not_answer():
    pool = ScriptedPool([None], [StoreUnavailable("down")] * 3 + [status("succeeded", 0)])
    assert ["running", "succeeded"] == states(pool, status("running"))
    assert 4 == pool.questions


def test_job_that_could_not_be_found_at_first_is_found_later():
    pool = ScriptedPool([None], [StoreUnavailable("down"), status("succeeded", 0)])
    assert ["succeeded"] == states(pool, None)


def test_job_that_nobody_knows_any_more_is_unknown():
    assert ["running", "unknown"] == states(ScriptedPool([None], [None]), status("running"))


def test_pool_that_breaks_ends_no_stream():
    shown = [status("running", 2), StoreUnavailable("closed"), None]
    pool = ScriptedPool(shown, [RuntimeError("?"), status("succeeded", 0)])
    assert ["queued", "running", "succeeded"] == states(pool, status("queued"))


def test_job_is_looked_at_once_for_all_of_its_streams():
    async def watch():
        pool = ScriptedPool([status("succeeded", 2)], [])
        watcher = watching.Watcher(Pools(pool))
        found = {KEY: Found(pool, status("running"))}
        subscriptions = [watcher.subscribe(found, [], "", {}) for _ in range(50)]
        told = [await subscription.next_events() for subscription in subscriptions]
        told += [await subscription.next_events() for subscription in subscriptions]
        for subscription in subscriptions:
            subscription.close()
        return pool.glances, len(set(told))

    assert (1, 2) == asyncio.run(asyncio.wait_for(watch(), 20))


def test_page_that_comes_wakes_none_of_the_others():
    """It gets the last event; what has changed since is told to all of them by the next look."""

    async def watch():
        pool = ScriptedPool([status("queued")], [])
        watcher = watching.Watcher(Pools(pool))
        first = watcher.subscribe({KEY: Found(pool, status("queued"))}, [], "", {})
        event = await first.next_events()
        second = watcher.subscribe({KEY: Found(pool, status("running", 2))}, [], "", {})
        assert event == await second.next_events()
        waiting = asyncio.ensure_future(first.next_events())
        await asyncio.sleep(0)
        is_woken = waiting.done()
        waiting.cancel()
        first.close(), second.close()
        return is_woken

    assert not asyncio.run(asyncio.wait_for(watch(), 20))


def test_remaining_time_is_withdrawn_when_a_job_falls_silent():
    """Nothing of the job changes then, but the time."""

    def reported(seconds_ago):
        at = time.time() - seconds_ago
        return status("running")._replace(progress=Progress(50.0, 100.0, None, None, at, at - 60.0))

    pool = ScriptedPool([reported(0.0), reported(0.0), reported(100.0), status("succeeded", 2)], [None])
    told = [document["progress"] and document["progress"]["eta"] is not None for document in documents(pool, reported(0.0))]
    assert (True, False, None) == (told[0], *told[-2:])
