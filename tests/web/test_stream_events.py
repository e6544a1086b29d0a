"""Live events of jobs: what comes, in which order, and what happens when things go wrong in between."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import ExitStack

import pytest

from procjobs.web import progress, sign, streams

from ..waiting import wait_until
from . import jobs
from .servers import Stream

UNKNOWN = "01900000-0000-7000-8000-000000000000"  # made in 2024: no supervisor is asked for it


@pytest.fixture
def served(serve, pool):
    return serve(progress(pool))


def until(stream, condition):
    """Read events until one has a document that is wanted; return its id and the document."""
    while True:
        _, event_id, document = stream.read_event()
        assert document, "the stream has ended"
        if condition(document):
            return event_id, document


def has_value(value):
    return lambda document: (document["progress"] or {}).get("value") == value


def test_stream_tells_each_change_and_ends_by_itself(served, pool, tmp_path):
    job = pool.submit(jobs.stepping, str(tmp_path))
    with Stream(served, [sign(job)]) as stream:
        headers = stream.response.headers
        assert ("text/event-stream; charset=utf-8", "no", "identity", "no-store, no-transform") == tuple(
            headers[name] for name in ("Content-Type", "X-Accel-Buffering", "Content-Encoding", "Cache-Control")
        )
        assert ["retry: 3000"] == stream.read_block()
        for step in (1, 2, 3):
            (tmp_path / str(step)).touch()
            event_id, document = until(stream, has_value(step))
            assert event_id.startswith(f"{job.id}:")
            assert f"step {step}" == document["progress"]["message"]
        (tmp_path / "end").touch()
        last = stream.read_documents()[-1]
        assert (job.id, "succeeded", 1.0) == (last["id"], last["state"], last["progress"]["fraction"])


def test_page_that_comes_back_is_not_told_what_it_has_seen(served, pool, tmp_path):
    job = pool.submit(jobs.stepping, str(tmp_path), total=2)
    (tmp_path / "1").touch()
    with Stream(served, [sign(job)]) as stream:
        event_id, _ = until(stream, has_value(1))
    with Stream(served, [sign(job)], {"Last-Event-ID": event_id}) as stream:
        (tmp_path / "2").touch()
        assert has_value(2)(stream.read_event()[2])
    (tmp_path / "end").touch()
    job.result(30)
    with Stream(served, [sign(job)]) as stream:
        event_id, *_ = stream.read_event()[1:]
        assert ("end", None, {}) == stream.read_event()
    with Stream(served, [sign(job)], {"Last-Event-ID": event_id}) as stream:
        assert ("end", None, {}) == stream.read_event()


def test_one_stream_tells_of_several_jobs_also_of_those_nobody_knows(served, pool, tmp_path):
    quick, slow = pool.submit(pow, 2, 3), pool.submit(jobs.stepping, str(tmp_path), total=1)
    quick.result(30)
    with Stream(served, [sign(quick), sign(slow), sign(UNKNOWN), f"{quick.id}.1.x", f"{UNKNOWN}x"]) as stream:
        told = {}
        while len(told) < 4:
            document = stream.read_event()[2]
            told[document["id"]] = document["state"]
        assert {quick.id: "succeeded", UNKNOWN: "unknown", f"{UNKNOWN}x": "unknown", slow.id: told[slow.id]} == told
        (tmp_path / "1").touch()
        (tmp_path / "end").touch()
        assert "succeeded" == stream.read_documents()[-1]["state"]


@pytest.mark.parametrize(
    ("ids", "status"), [([], 400), ([UNKNOWN], 403), ([f"{UNKNOWN}.1.AAAA"], 403), ([str(n) for n in range(101)], 400)]
)
def test_streams_that_cannot_be_are_refused_at_once(served, ids, status):
    assert status == served.get("api/1/events", id=ids).status


def test_id_of_several_lines_adds_no_lines_to_the_stream(serve, pool):
    odd = "x\n\nevent: end\ndata: {}\n"
    with Stream(serve(progress(pool, access="id")), [odd]) as stream:
        assert ["retry: 3000"] == stream.read_block()
        assert ["event: status", "id: x%0A%0Aevent%3A%20end%0Adata%3A%20%7B%7D%0A:unknown"] == stream.read_block()[:2]
        assert ["event: end", "data: {}"] == stream.read_block()


def test_silent_stream_is_pinged(served, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "PING_INTERVAL", 0.05)
    job = pool.submit(jobs.stepping, str(tmp_path))
    with Stream(served, [sign(job)]) as stream:
        while (block := stream.read_block()) != [": ping"]:
            assert block is not None


@pytest.mark.parametrize("limit", ["MAX_STREAMS", "MAX_STREAMS_PER_CLIENT"])
def test_streams_beyond_the_limit_are_sent_away(served, pool, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(streams, limit, 2)
    monkeypatch.setattr(streams, "_is_loopback", lambda _: False)
    job = pool.submit(jobs.stepping, str(tmp_path))
    with Stream(served, [sign(job)]), Stream(served, [sign(job)]) as second:
        refused = served.get("api/1/events", id=sign(job))
        assert (503, "10") == (refused.status, refused.headers["Retry-After"])
        assert 200 == served.get("api/1/status", id=sign(job)).status
        second.__exit__()
        wait_until(lambda: streams_are_open(served, job))


def streams_are_open(served, job):
    with Stream(served, [sign(job)]) as stream:
        return stream.response.status == 200


def test_readers_that_never_read_keep_nobody_waiting(served, pool, tmp_path):
    job = pool.submit(jobs.stepping, str(tmp_path))
    with ExitStack() as held:
        sleeping = [held.enter_context(Stream(served, [sign(job)])) for _ in range(100)]
        (tmp_path / "1").touch()
        with Stream(served, [sign(job)]) as stream:
            until(stream, has_value(1))
        assert 200 == served.get("api/1/status", id=sign(job)).status
        for name in ("2", "3", "end"):
            (tmp_path / name).touch()
        assert {"succeeded"} == {stream.read_documents()[-1]["state"] for stream in sleeping}


def scope_of(job):
    """Return the scope of a request for the stream of a job, as an ASGI server makes it."""
    query = f"id={sign(job)}".encode()
    return {"type": "http", "method": "GET", "path": "/api/1/events", "query_string": query, "headers": [],
            "client": ("127.0.0.1", 1)}  # fmt: skip


def test_slow_reader_loses_events_in_between_and_never_the_last(pool):
    """The application is called as a server calls it; the server takes nothing until it is released."""
    job = pool.submit(jobs.counting, 50)
    app = progress(pool)
    sent = []

    async def read_slowly():
        released = asyncio.Event()

        async def send(message):
            sent.append(message.get("body", b""))
            if b"event: status" in sent[-1]:
                await released.wait()

        async def receive():
            await asyncio.Event().wait()

        call = asyncio.create_task(app(scope_of(job), receive, send))
        while not any(b"event: status" in part for part in sent):
            await asyncio.sleep(0)
        await asyncio.to_thread(job.result, 30)
        while not watched(app)[0].is_final:
            await asyncio.sleep(0.01)
        released.set()
        await call

    def watched(app):
        [on_loop] = app._loops.values()
        return list(on_loop.streams._watcher._jobs.values())

    asyncio.run(read_slowly())
    events = [part for part in sent if b"event: status" in part]
    assert 2 == len(events)
    assert 1 == events[1].count(b"event: status")
    assert b'"state":"succeeded"' in events[1]


def test_page_that_takes_nothing_gives_its_place_to_others(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "SEND_TIMEOUT", 0.05)
    monkeypatch.setattr(streams, "MAX_STREAMS", 1)
    job = pool.submit(jobs.stepping, str(tmp_path))
    app = progress(pool)

    async def ask():
        statuses = []

        async def send(message):
            statuses.append(message.get("status"))
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        async def receive():
            await asyncio.Event().wait()

        await app(scope_of(job), receive, send)
        return statuses[0]

    async def ask_twice():
        return [await ask(), await ask()]

    assert [200, 200] == asyncio.run(asyncio.wait_for(ask_twice(), 20))


class TestSupervisorThatIsKilled:
    @pytest.fixture
    def pool_settings(self, tmp_path):
        return {"store": f"sqlite:///{tmp_path}/jobs.db", "retries": 2}

    def test_stream_goes_on_with_its_successor(self, served, pool, tmp_path):
        job = pool.submit(jobs.stepping, str(tmp_path), total=2)
        (tmp_path / "1").touch()
        with Stream(served, [sign(job)]) as stream:
            until(stream, has_value(1))
            os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
            (tmp_path / "2").touch()
            (tmp_path / "end").touch()
            assert "succeeded" == stream.read_documents()[-1]["state"]


def test_watcher_sleeps_when_nobody_looks(pool, tmp_path):
    job = pool.submit(jobs.stepping, str(tmp_path))
    app = progress(pool)

    async def look_and_leave():
        came = asyncio.Event()

        async def send(message):
            if b"event: status" in message.get("body", b""):
                came.set()

        async def receive():
            await came.wait()
            return {"type": "http.disconnect"}

        await app(scope_of(job), receive, send)
        names = {task.get_name() for task in asyncio.all_tasks() if not task.cancelling()}
        return {name for name in names if name.startswith("procjobs")}

    assert set() == asyncio.run(look_and_leave())
