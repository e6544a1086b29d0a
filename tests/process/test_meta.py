"""The meta of a job: read by its id in any process, and in the job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import procjobs
from procjobs.client.running_pool import RunningPool
from procjobs.host import rundir
from procjobs.shared.meta import MAX_META_BYTES
from tests.process import jobs

from ..conftest import wait_until
from .test_resend import LARGE, started, stop_supervisor

META = {"user": 7, "trace": "00-ä-01", "tags": ["a", None, True, 1.5], "more": {"b": {}}}


def own_meta():
    return procjobs.current_job().meta


def test_meta_is_that_of_its_job_alone(pool):
    with_meta = pool.options(meta=META)
    first, plain = with_meta.submit(own_meta), pool.submit(own_meta)
    second = with_meta.options(meta={"user": 8}, key="k").submit(own_meta)
    unique = pool.options(meta={"user": 9}, key="u", unique=True).submit(own_meta)
    large = with_meta.submit(jobs.echo, LARGE)
    submitted = {first: META, plain: {}, second: {"user": 8}, unique: {"user": 9}}
    assert list(submitted.values()) == [job.result(30) for job in submitted]
    assert LARGE == large.result(30)
    assert [*submitted.values(), META] == [pool.status(job.id).meta for job in [*submitted, large]]
    assert META in [status.meta for status in pool.jobs()]


def test_jobs_that_are_submitted_together_have_their_meta(pool):
    calls = [procjobs.Call(own_meta), procjobs.Call(own_meta).options(meta={"user": 8})]
    handles = pool.options(meta=META).submit_many(calls)
    assert [META, {"user": 8}] == [job.result(30) for job in handles] == [pool.status(job.id).meta for job in handles]


def test_meta_is_read_in_another_process_also_when_the_supervisor_was_killed(pool_name):
    with started(pool_name, workers=1) as pool:
        job = pool.options(meta=META).submit(jobs.pid)
        job.result(30)
        code = f"import procjobs; print(procjobs.Pool({pool_name!r}, start=False).status({job.id!r}).meta == {META!r})"
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert "True\n" == shown.stdout
        os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
        assert META == pool.status(job.id).meta


def test_row_of_a_job_with_meta_goes_to_one_without(tmp_path):
    with procjobs.Pool(workers=1, result_ttl=0.0) as pool:
        first = pool.options(meta=META).submit(jobs.pid)
        first.result(30)
        wait_until(lambda: first.id not in [status.id for status in pool.jobs()])
        second = pool.submit(jobs.wait_for_file, str(tmp_path / "go"))
        assert {} == second.status().meta
        with pytest.raises(procjobs.UnknownJob):
            pool.status(first.id)
        (tmp_path / "go").touch()


def test_meta_goes_along_when_the_job_is_sent_again(pool_name, tmp_path):
    with started(pool_name, workers=1) as pool:
        pool.submit(jobs.pid).result(30)
        pid = stop_supervisor(pool)
        job = pool.options(meta=META, key="k", expires=600).submit(own_meta)
        assert ("queued", META) == (job.status().state, job.status().meta)
        os.kill(pid, signal.SIGKILL)
        assert META == job.result(60)
        assert META == pool.status(job.id).meta


def test_meta_goes_to_the_successor_that_a_pool_is_handed_over_to(pool_name, tmp_path):
    with started(pool_name, workers=1) as pool:
        running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"))
        waiting = pool.options(meta=META).submit(own_meta)
        plain = pool.submit(own_meta)
        wait_until(lambda: running.status().state == "running")
        with RunningPool(rundir.RunDir(rundir.find_base(), pool_name)) as operator:
            operator.drain(hand_over=True)
        (tmp_path / "go").touch()
        assert [META, {}] == [waiting.result(60), plain.result(60)]
        assert META == pool.status(waiting.id).meta


@pytest.mark.parametrize(
    ("meta", "why"),
    [
        ([("user", 7)], "expected a dict"),
        ({7: "user"}, "texts as keys"),
        ({"user": (1, 2)}, "only what JSON has"),
        ({"user": float("nan")}, "cannot be written as JSON"),
        ({"user": object()}, "cannot be written as JSON"),
        ({"user": "\ud800"}, "cannot be written as JSON"),
        ({"user": "\0"}, "zero characters"),
        ({"user": "x" * MAX_META_BYTES}, f"{MAX_META_BYTES} are allowed"),
    ],
)
def test_meta_that_is_none_is_refused_at_once(pool, meta, why):
    with pytest.raises(procjobs.ConfigurationError, match=why):
        pool.options(meta=meta)


def test_largest_meta_is_taken(pool):
    meta = {"x": "é" * ((MAX_META_BYTES - 8) // 2)}
    job = pool.options(meta=meta).submit(own_meta)
    assert meta == job.result(30) == job.status().meta


def test_job_is_refused_where_its_meta_finds_no_room(pool, monkeypatch):
    """A full file system is an error for the one job that needs more of it."""
    limit = rundir.RunDir(rundir.find_base(), os.path.basename(pool._directory.path))
    supervisor = pool.stats().supervisor_pid
    import resource

    resource.prlimit(supervisor, resource.RLIMIT_FSIZE, (4096, 4096))
    assert os.path.exists(f"{limit.path}/annex")
    refused = pool.options(meta=META).submit(jobs.pid)
    assert "no room for the meta" in str(refused.exception(30))
    assert isinstance(refused.exception(30), procjobs.QueueFull)
    assert isinstance(pool.submit(jobs.pid).result(30), int)
