"""What a pool is asked for with `await`, and what handles and records say of themselves."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import os
import signal
from datetime import datetime

import pytest

import procjobs
from procjobs.client.connection.requests import RequestChannel
from tests.process import jobs

from ..conftest import wait_until

AWAITED = sorted(
    name for name, _ in inspect.getmembers(procjobs.Pool, inspect.iscoroutinefunction) if name not in {"run", "__aenter__"}
)


def test_each_call_that_may_wait_has_a_form_to_await():
    public = {name for name in dir(procjobs.Pool) if not name.startswith("_")}
    blocking = {
        "arguments", "attempts", "cancel", "connect", "drain", "glance", "history", "job", "jobs", "kinds", "logs", "pause",
        "processes", "progress", "queues", "reload", "resize", "result", "resume", "retry", "run_now", "schedule",
        "schedules", "settings", "shutdown", "stack", "stats", "status", "stop", "trend", "unschedule", "usage", "workers",
    }  # fmt: skip
    assert set() == blocking - public
    assert {f"a{name}" for name in blocking} == set(AWAITED)
    for name in AWAITED:
        plain = inspect.signature(getattr(procjobs.Pool, name[1:]))
        assert list(plain.parameters) == list(inspect.signature(getattr(procjobs.Pool, name)).parameters)


def test_calls_by_id_to_await(pool):
    async def main():
        job = pool.submit(jobs.add, 1, 2)
        assert 3 == await pool.aresult(job.id, 30)
        assert "succeeded" == (await pool.astatus(job.id)).state
        assert 3 == await (await pool.ajob(job.id))
        assert (None, "", None) == (await pool.aprogress(job), await pool.alogs(job), await pool.astack(job))
        assert await pool.acancel(job) is False
        assert (job.id, 2) == ((await pool.ajobs(limit=1))[0].id, (await pool.astats()).most)
        assert 2 == len(await pool.aworkers())
        with pytest.raises(procjobs.UnknownJob):
            await pool.astatus("nonsense")
        with pytest.raises(ValueError, match="invalid literal"):
            await pool.aresult(pool.submit(int, "x"))

    asyncio.run(main())


def test_wait_for_a_result_that_is_given_up_leaves_the_job(pool, tmp_path):
    async def main():
        job = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), 7)
        with pytest.raises(TimeoutError):
            await pool.aresult(job, 0.05)
        (tmp_path / "go").touch()
        assert 7 == await pool.aresult(job, 30)

    asyncio.run(main())


def test_event_loop_goes_on_while_the_supervisor_is_stopped(pool):
    async def main():
        supervisor = pool.stats().supervisor_pid
        os.kill(supervisor, signal.SIGSTOP)
        try:
            job = pool.submit(jobs.add, 1, 2)
            asked = [asyncio.create_task(call) for call in (pool.alogs(job), pool.astatus(job.id), pool.astatus(job.id))]
            await asyncio.sleep(0.02)
            assert not any(task.done() for task in asked)
        finally:
            os.kill(supervisor, signal.SIGCONT)
        assert ["", job.id, job.id] == [getattr(answer, "id", answer) for answer in await asyncio.gather(*asked)]

    asyncio.run(main())


def test_many_tasks_ask_together(pool, monkeypatch):
    from tests.store.test_by_id import moved

    asked = []
    plain = RequestChannel.request

    def request(self, call, timeout, **arguments):
        if call == "known":
            asked.append(len(arguments["ids"]))
        return plain(self, call, timeout, **arguments)

    monkeypatch.setattr(RequestChannel, "request", request)

    async def main():
        outcomes = await asyncio.gather(*(pool.astatus(moved(-1)) for _ in range(300)), return_exceptions=True)
        assert {procjobs.UnknownJob} == set(map(type, outcomes))

    asyncio.run(main())
    assert (300, True) == (sum(asked), len(asked) < 10)


def test_handle_tells_state_logs_stack_and_end(pool, tmp_path):
    job = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), 7)
    wait_until(job.running)
    assert ("running", False) == (job.state, job.wait(0.01))
    wait_until(lambda: "wait_for_file" in job.stack())
    assert "" == job.logs()
    (tmp_path / "go").touch()
    assert (True, "succeeded") == (job.wait(30), job.state)
    failed = pool.submit(int, "x")
    assert (True, "failed") == (failed.wait(), failed.state)
    failed.exception()
    assert "failed" == failed.state
    waiting = pool.options(delay=60).submit(jobs.add, 1, 2)
    waiting.wait_accepted()
    assert "scheduled" == waiting.state
    waiting.cancel()
    assert ("cancelled", True) == (waiting.state, waiting.wait())


@pytest.mark.parametrize("how", ["for", "async for"])
def test_updates_end_with_a_final_status_in_both_ways(pool, how):
    job = pool.submit(jobs.count, 5)

    async def follow():
        return [status async for status in job.updates(interval=0.005)]

    found = asyncio.run(follow()) if how == "async for" else list(job.updates(interval=0.005))
    assert "succeeded" == found[-1].state
    assert all(one != other for one, other in itertools.pairwise(found))
    assert [] == [status for status in found[:-1] if status.done]


def test_result_by_id(pool):
    assert 3 == pool.result(pool.submit(jobs.add, 1, 2).id)
    with pytest.raises(TimeoutError):
        pool.result(pool.options(delay=60).submit(jobs.add, 1, 2), timeout=0.01)
    with pytest.raises(procjobs.UnknownJob):
        pool.result("nonsense")


def test_records_are_ready_for_json(pool, tmp_path):
    job = pool.options(meta={"user": 7}).submit(jobs.report_and_wait, str(tmp_path / "go"), 1, 4, "half", {"frame": 3})
    status = wait_until(lambda: (s := job.status()).progress and s)
    shown = json.loads(json.dumps(status.as_dict()))
    assert ("running", 0.25, False, None, {"user": 7}) == (
        shown["state"], shown["fraction"], shown["done"], shown["finished_at"], shown["meta"],
    )  # fmt: skip
    assert (1, 4, 0.25, "half", {"frame": 3}) == tuple(
        shown["progress"][name] for name in ("value", "total", "fraction", "message", "data")
    )
    submitted = datetime.fromisoformat(shown["submitted_at"])
    assert 0.0 == submitted.utcoffset().total_seconds()
    assert status.submitted_at == pytest.approx(submitted.timestamp(), abs=0.001)
    (tmp_path / "go").touch()
    job.result(30)
    shown = job.status().as_dict()
    assert (1.0, 1.0, 0.0, 1) == (shown["fraction"], shown["progress"]["fraction"], shown["eta"], shown["progress"]["value"])
    assert datetime.fromisoformat(shown["finished_at"])


def test_job_that_has_succeeded_is_complete_though_it_never_reported(pool):
    job = pool.submit(jobs.add, 1, 2)
    job.result(30)
    assert (None, 1.0) == (job.status().progress, job.status().fraction)
    failed = pool.submit(int, "x")
    failed.wait()
    assert (None, None) == (failed.status().fraction, failed.status().as_dict()["eta"])


def test_data_that_is_no_json_is_left_out(pool, tmp_path):
    job = pool.submit(jobs.report_and_wait, str(tmp_path / "go"), 1, 4, None, {1, 2})
    status = wait_until(lambda: (s := job.status()).progress and s)
    assert ({1, 2}, None) == (status.progress.data, status.as_dict()["progress"]["data"])
    (tmp_path / "go").touch()
    with contextlib.suppress(procjobs.ProcjobsError):
        job.result(30)
