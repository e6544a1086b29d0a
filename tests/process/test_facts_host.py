"""What can be seen of a pool's processes on the host: those of a job, and what all of them use."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import psutil
import pytest

import procjobs
from procjobs.client.running_pool import RunningPool
from procjobs.host import rundir
from tests.process import jobs

from ..conftest import wait_until


def look_at(name):
    return RunningPool(rundir.RunDir(rundir.find_base(), name))


@contextlib.contextmanager
def job_with_children(pool, path):
    """Yield a job that has started two processes, one of them in a session of its own; and their pids."""
    job = pool.submit(jobs.start_child_and_wait, str(path))
    try:
        wait_until(path.exists)
        yield job, [int(pid) for pid in path.read_text().split()]
    finally:
        job.cancel()


def test_processes_of_a_job_are_its_worker_and_all_that_it_has_started(tmp_path):
    with procjobs.Pool(workers=1) as pool:
        with job_with_children(pool, tmp_path / "pids") as (job, children):
            found = pool.processes(job.id)
            assert [pool.status(job.id).worker_pid, *children] == [one.pid for one in found]
            assert [found[0].pid] * 2 == [one.parent_pid for one in found[1:]]
            assert ["sleep 600", "sleep 601"] == [one.command for one in found[1:]]
            assert ["sleep", "sleep"] == [one.name for one in found[1:]]
            for one in found:
                seen = psutil.Process(one.pid)
                assert one.threads == seen.num_threads()
                assert one.started_at == pytest.approx(seen.create_time(), abs=1.0)
                assert one.rss > 0
            assert [one.pid for one in found] == [one.pid for one in asyncio.run(pool.aprocesses(job.id.upper()))]
        wait_until(lambda: pool.status(job.id).done)
        assert [] == pool.processes(job.id)


def test_processes_of_a_job_that_waits_or_is_unknown_are_none(tmp_path):
    with procjobs.Pool(workers=1) as pool:
        first = pool.submit(jobs.wait_for_file, str(tmp_path / "go"))
        waiting = pool.submit(jobs.pid)
        assert [] == pool.processes(waiting.id)
        assert [] == pool.processes("01890000-0000-7000-8000-000000000000")
        (tmp_path / "go").touch()
        first.result()
        waiting.result()


def test_any_process_sees_the_processes_and_none_after_the_supervisor_was_killed(pool_name, tmp_path):
    with (
        procjobs.Pool(pool_name, workers=1) as pool,
        job_with_children(pool, tmp_path / "pids") as (job, children),
        look_at(pool_name) as operator,
    ):
        assert children == [one.pid for one in operator.processes(job.id)[1:]]
        assert operator.usage().processes >= 2 + len(children)
        os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
        wait_until(lambda: not operator.is_running())
        assert [] == operator.processes(job.id)
        usage = operator.usage()
        assert (0, 0, 0.0) == (usage.processes, usage.rss, usage.cpu_seconds)


def compute_for(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_usage_counts_the_time_of_processes_that_have_ended():
    with procjobs.Pool(workers=1, max_jobs_per_worker=1) as pool:
        pool.submit(jobs.pid).result()
        before = pool.usage()
        pool.submit(compute_for, 0.3).result()
        wait_until(lambda: pool.usage().cpu_seconds - before.cpu_seconds >= 0.29)
        pool.submit(jobs.pid).result()  # by another worker: the one that has computed has ended
        after = asyncio.run(pool.ausage())
        assert after.cpu_seconds - before.cpu_seconds >= 0.29
        assert after.at - before.at >= 0.3


def test_usage_says_how_much_memory_and_how_many_cpus_there_are(monkeypatch):
    usable = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, usable[:1])  # the supervisor inherits it
    try:
        pool = procjobs.Pool(workers=1)
    finally:
        os.sched_setaffinity(0, usable)
    with pool:
        usage = pool.usage()
        assert 0 < usage.cpus <= 1
        assert 0 < usage.pss <= usage.rss
        assert usage.processes >= 2
        assert pool.usage(pss=False).pss is None
