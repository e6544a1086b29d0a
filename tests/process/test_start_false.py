"""`Pool(name, start=False)`: it waits for the pool that somebody else starts, and never starts one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading

import pytest

import procjobs
from procjobs.client.running_pool import RunningPool
from procjobs.host import rundir
from tests.process import jobs

from ..conftest import wait_until


@pytest.fixture
def place(pool_name):
    return rundir.RunDir(rundir.find_base(), pool_name)


@contextlib.contextmanager
def attached(name, **settings):
    pool = procjobs.Pool(name, start=False, **settings)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False)


def test_nothing_is_started_or_waited_for_when_it_is_made(pool_name, place):
    with attached(pool_name):
        assert not os.path.exists(place.lock)


@pytest.mark.parametrize(
    "call",
    [
        lambda pool: pool.submit(jobs.add, 1, 2),
        lambda pool: pool.stats(),
        lambda pool: pool.status("00000000-0000-7000-8000-000000000000"),
        lambda pool: pool.jobs(),
        lambda pool: pool.workers(),
        lambda pool: pool.cancel("00000000-0000-7000-8000-000000000000"),
        lambda pool: list(pool.map(jobs.add, [1])),
        lambda pool: asyncio.run(pool.run(jobs.add, 1)),
    ],
    ids=["submit", "stats", "status", "jobs", "workers", "cancel", "map", "run"],
)
def test_calls_say_that_nothing_serves_the_pool(pool_name, place, call):
    with attached(pool_name, start_timeout=0.05) as pool:
        with pytest.raises(procjobs.PoolNotRunning, match=rf"nothing serves pool '{pool_name}'.*procjobs serve {pool_name}"):
            call(pool)
        assert not os.path.exists(place.lock)


def test_submission_waits_for_the_pool(pool_name):
    results = []
    with attached(pool_name) as pool:
        threads = [threading.Thread(target=lambda: results.append(pool.submit(jobs.add, 1, 2).result(30))) for _ in range(3)]
        for thread in threads:
            thread.start()
        with procjobs.Pool(pool_name, workers=1):
            for thread in threads:
                thread.join(30)
        assert [3, 3, 3] == results


def test_threads_that_wait_do_not_wait_one_after_the_other(pool_name):
    errors = []

    def submit():
        try:
            pool.submit(jobs.add, 1, 2)
        except procjobs.PoolNotRunning as error:
            errors.append(error)

    with attached(pool_name, start_timeout=1.0) as pool:
        threads = [threading.Thread(target=submit) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)  # one after the other they would take 30
        assert 30 == len(errors)


def test_shutdown_ends_the_wait(pool_name):
    errors = []

    def submit():
        with pytest.raises(procjobs.PoolClosed) as caught:
            pool.submit(jobs.add, 1, 2)
        errors.append(caught.value)

    with attached(pool_name, start_timeout=600) as pool:
        thread = threading.Thread(target=submit)
        thread.start()
        pool.shutdown()
        thread.join(30)
        assert 1 == len(errors)


def test_event_loop_goes_on_while_a_pool_is_waited_for(pool_name):
    async def main():
        waiting = asyncio.ensure_future(pool.run(jobs.add, 1, 2))
        await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert not waiting.done()
        starter = await asyncio.to_thread(procjobs.Pool(pool_name, workers=1).connect)
        try:
            return await waiting
        finally:
            await asyncio.to_thread(starter.shutdown)

    with attached(pool_name) as pool:
        assert 3 == asyncio.run(main())


def test_stop_of_a_pool_that_is_not_there_returns(pool_name, place):
    procjobs.Pool(pool_name, start=False, start_timeout=600).stop()
    assert not os.path.exists(place.lock)


def test_jobs_ride_out_a_restart_of_the_service(pool_name, place, tmp_path):
    service = procjobs.Pool(pool_name, workers=1).connect()
    with attached(pool_name) as pool:
        running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "running")
        waiting = [pool.submit(jobs.add, n, 1) for n in range(20)]
        running_by = pool.stats().supervisor_pid
        wait_until(lambda: running.status().state == "running")
        service.shutdown(wait=False)
        with RunningPool(place) as operator:
            operator.drain(hand_over=True)
        late = pool.submit(jobs.add, 100, 1)
        (tmp_path / "go").touch()
        wait_until(lambda: not os.path.exists(f"/proc/{running_by}"))
        gap = []
        thread = threading.Thread(target=lambda: gap.append(pool.submit(jobs.add, 200, 1).result(30)))
        thread.start()
        assert not os.path.exists(place.lock)
        with procjobs.Pool(pool_name, workers=2) as successor:
            thread.join(30)
            assert ["running", *(n + 1 for n in range(20)), 101] == [job.result(30) for job in [running, *waiting, late]]
            assert ([201], successor.stats().supervisor_pid) == (gap, pool.stats().supervisor_pid)


def test_handles_say_that_nothing_came_after_the_service(pool_name, place, tmp_path):
    service = procjobs.Pool(pool_name, workers=1).connect()
    with attached(pool_name, start_timeout=0.2) as pool:
        running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "running")
        waiting = pool.submit(jobs.add, 1, 2)
        wait_until(lambda: running.status().state == "running")
        service.shutdown(wait=False)
        with RunningPool(place) as operator:
            operator.drain(hand_over=True)
        (tmp_path / "go").touch()
        assert "running" == running.result(30)
        with pytest.raises(procjobs.SupervisorLost, match=r"has handed job .* over.*nothing serves pool"):
            waiting.result(30)
    with procjobs.Pool(pool_name, workers=1) as pool:
        assert 3 == pool.job(waiting.id).result(30)  # it was kept for the next start


def test_service_that_is_killed_has_a_successor_that_somebody_else_starts(pool_name, place):
    service = procjobs.Pool(pool_name, workers=1).connect()
    with attached(pool_name) as pool:
        pid = pool.stats().supervisor_pid
        service.shutdown(wait=False)
        os.kill(pid, 9)
        answers = []
        thread = threading.Thread(target=lambda: answers.append(pool.submit(jobs.add, 1, 2).result(30)))
        thread.start()
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
        with procjobs.Pool(pool_name, workers=1):
            thread.join(30)
        assert [3] == answers


def test_it_is_a_setting(pool_name, place, monkeypatch, tmp_path):
    monkeypatch.setenv("PROCJOBS_START", "no")
    pool = procjobs.Pool(pool_name, start_timeout=0.05)
    with pytest.raises(procjobs.PoolNotRunning):
        pool.submit(jobs.add, 1, 2)
    pool.shutdown()
    with procjobs.Pool(workers=1) as private:  # nobody else can start it
        assert 3 == private.submit(jobs.add, 1, 2).result(30)
    monkeypatch.delenv("PROCJOBS_START")
    (tmp_path / "procjobs.toml").write_text(f"[pool.{pool_name}]\nstart = false\nstart_timeout = 0.05\n")
    monkeypatch.setenv("PROCJOBS_CONFIG", str(tmp_path / "procjobs.toml"))
    with contextlib.closing(_Closing(procjobs.Pool(pool_name))) as closing, pytest.raises(procjobs.PoolNotRunning):
        closing.pool.submit(jobs.add, 1, 2)


class _Closing:
    def __init__(self, pool):
        self.pool = pool
        self.close = pool.shutdown


def test_private_pool_must_be_started_by_its_process():
    with pytest.raises(procjobs.ConfigurationError, match="start=False is for a pool with a name"):
        procjobs.Pool(start=False)
