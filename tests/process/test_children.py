"""What jobs start: gone with the job, however that ends and whatever was done to hide it, unless it is to be kept."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

import procjobs
from tests.process import jobs, limited_jobs

from ..conftest import wait_until

HOWS = ["subprocess", "session", "environment", "process", "pool", "daemon", "deep"]


@pytest.fixture
def pool_settings():
    """The workers have imported their jobs: importing counts as run time."""
    return {"preload": ["tests.process.limited_jobs"]}


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pids_in(path):
    return [int(pid) for pid in path.read_text().split()]


def end_by(pool, end, function, arguments, path, *, timeout=1.0):
    """Run a job that starts children to its end of some kind, and return the pids of those."""
    options = pool.options(timeout=timeout, grace_period=0.5) if end == "timeout" else pool.options()
    job = options.submit(function, "wait" if end in {"timeout", "cancel"} else end, *arguments, str(path))
    if end == "return":
        job.result(30)
        return pids_in(path)
    if end == "cancel":
        wait_until(path.exists)
        assert job.cancel()
    with pytest.raises(
        {"timeout": procjobs.JobTimeout, "cancel": procjobs.JobCancelled, "crash": procjobs.WorkerCrashed}[end]
    ):
        job.result(30)
    if end == "timeout" and not path.exists():  # the host is slow
        return end_by(pool, end, function, arguments, path, timeout=4 * timeout)
    return pids_in(path)


@pytest.fixture(scope="module")
def ffmpeg():
    return pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()


@pytest.mark.parametrize("how", HOWS)
def test_children_are_gone_when_the_result_is_there(pool, tmp_path, how):
    pids = end_by(pool, "return", limited_jobs.start_children_and, (how,), tmp_path / "pids")
    assert (True, []) == (bool(pids), [pid for pid in pids if alive(pid)])
    assert 0 == pool.stats().restarts


@pytest.mark.parametrize("end", ["timeout", "cancel", "crash"])
@pytest.mark.parametrize("how", HOWS)
def test_children_are_gone_soon_after_any_other_end(pool, tmp_path, how, end):
    pids = end_by(pool, end, limited_jobs.start_children_and, (how,), tmp_path / "pids")
    assert pids
    wait_until(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.parametrize("end", ["return", "timeout", "cancel", "crash"])
def test_ffmpeg_that_transcodes_is_ended(pool, tmp_path, ffmpeg, end):
    pids = end_by(pool, end, limited_jobs.transcode, (ffmpeg,), tmp_path / "ffmpeg")
    assert 1 == len(pids)
    wait_until(lambda: not any(alive(pid) for pid in pids), timeout=0.001 if end == "return" else 30)
    assert 3 == pool.submit(jobs.add, 1, 2).result(30)


def test_kept_children_run_on_until_their_worker_ends(tmp_path):
    with procjobs.Pool(workers=1) as pool:
        pool.options(keep_children=True).submit(limited_jobs.start_children, "session", str(tmp_path / "kept")).result(30)
        pool.submit(limited_jobs.start_children, "session", str(tmp_path / "other")).result(30)
        kept, other = pids_in(tmp_path / "kept"), pids_in(tmp_path / "other")
        assert ([True], [False]) == ([alive(pid) for pid in kept], [alive(pid) for pid in other])
        with pytest.raises(procjobs.WorkerCrashed):
            pool.submit(jobs.leave, 3).result(30)
        wait_until(lambda: not alive(kept[0]))


def test_kept_children_end_with_a_worker_that_is_retired(tmp_path):
    with procjobs.Pool(workers=1, max_jobs_per_worker=1) as pool:
        pool.options(keep_children=True).submit(limited_jobs.start_children, "daemon", str(tmp_path / "kept")).result(30)
        (kept,) = pids_in(tmp_path / "kept")
        wait_until(lambda: not alive(kept))
        assert 0 == pool.stats().restarts


def test_shared_memory_and_its_tracker_work_over_many_jobs_without_a_warning():
    script = """if True:
        import procjobs
        from tests.process import limited_jobs
        with procjobs.Pool(workers=1) as pool:
            pids = [pool.submit(limited_jobs.use_shared_memory, n).result(30) for n in range(20)]
        assert [(n, pids[0][1]) for n in range(20)] == pids, pids
    """
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_multiprocessing_pool_in_a_job_works_in_one_job_after_another(pool):
    for _ in range(5):
        assert [0, 1, 4, 9] == pool.submit(limited_jobs.map_in_multiprocessing, 4).result(30)
    assert 0 == pool.stats().restarts


def test_named_pool_started_by_a_job_survives_the_job_its_worker_and_its_pool(pool_name):
    with procjobs.Pool(workers=1) as pool:
        value, supervisor = pool.submit(limited_jobs.start_named_pool, pool_name).result(60)
        assert (3, True) == (value, alive(supervisor))
        with pytest.raises(procjobs.WorkerCrashed):
            pool.submit(jobs.leave, 1).result(30)
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        assert alive(supervisor)
    assert alive(supervisor)
    other = procjobs.Pool(pool_name)
    assert (supervisor, 3) == (other.stats().supervisor_pid, other.submit(jobs.add, 1, 2).result(30))
    other.stop()


def test_end_of_children_does_not_hold_up_the_result(pool, tmp_path):
    waits = []
    for n in range(20):
        path = tmp_path / f"pids{n}"
        job = pool.submit(limited_jobs.start_children_and, "return", "session", str(path))
        job.result(30)
        waits.append(time.time() - path.stat().st_mtime)
    waits.sort()
    assert waits[10] < 2, f"median {waits[10] * 1000:.1f} ms, most {waits[-1] * 1000:.1f} ms"
