"""A job goes on from its last checkpoint: after the death of its worker, in a retry, by its id, at a successor."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

import procjobs
from procjobs.client.running_pool import RunningPool
from procjobs.host import rundir
from procjobs.shared import checkpoints

from ..conftest import wait_until
from .test_resend import started


def transcode(trace, frames, stop_at, go):
    """Note each frame that is worked on; wait at one of them until a file appears."""
    first = procjobs.current_job().checkpoint or 0
    for frame in range(first, frames):
        with open(trace, "a") as file:
            file.write(f"{frame}\n")
        procjobs.checkpoint(frame + 1)
        procjobs.progress(frame + 1, frames)
        while frame + 1 == stop_at and not os.path.exists(go):
            time.sleep(0.005)  # job
    return first


def transcode_or_fail(trace, frames, fail_at, go):
    first = procjobs.current_job().checkpoint or 0
    for frame in range(first, frames):
        with open(trace, "a") as file:
            file.write(f"{frame}\n")
        procjobs.checkpoint(frame + 1)
        if frame + 1 == fail_at and not os.path.exists(go):
            raise ValueError("no more")
    return first


def use_checkpoints():
    job = procjobs.current_job()
    seen = [job.checkpoint]
    for data in ({"frame": 1}, [1, 2], "x" * 500_000, None):
        procjobs.checkpoint(data)
        seen.append(procjobs.current_job().checkpoint)
    for bad in (b"x" * checkpoints.MAX_BYTES, threading.Lock()):
        with pytest.raises(procjobs.PayloadError, match="checkpoint"):
            procjobs.checkpoint(bad)
    thread = threading.Thread(target=procjobs.checkpoint, args=("of a thread",))
    thread.start()
    thread.join()
    if (pid := os.fork()) == 0:
        procjobs.checkpoint("of a child")
        os._exit(0)
    os.waitpid(pid, 0)
    return [*seen, job.checkpoint]


def checkpoint_often(count):
    for n in range(count):
        procjobs.checkpoint(n)
    return procjobs.current_job().checkpoint


def files_of(pool):
    return [name for name in os.listdir(pool._directory.path) if name.startswith("checkpoint-")]


def frames(path):
    return [int(line) for line in path.read_text().split()]


def at_frame(pool, job, frame):
    progress = pool.status(job.id).progress
    return progress is not None and progress.value >= frame


def test_job_goes_on_at_its_frame_after_its_worker_was_killed(pool, tmp_path):
    job = pool.options(retries=1, backoff=0).submit(transcode, str(tmp_path / "trace"), 10, 6, str(tmp_path / "go"))
    wait_until(lambda: at_frame(pool, job, 6))
    os.kill(pool.status(job.id).worker_pid, signal.SIGKILL)
    assert 6 == job.result(60)
    assert list(range(10)) == frames(tmp_path / "trace")
    wait_until(lambda: [] == files_of(pool))


def test_retry_and_retry_by_id_go_on(pool, tmp_path):
    arguments = str(tmp_path / "trace"), 10, 4, str(tmp_path / "go")
    job = pool.options(retries=1, backoff=0).submit(transcode_or_fail, *arguments)
    assert job.exception(60) is None, "the second attempt begins behind the frame at which it fails"
    assert 4 == job.result()
    (tmp_path / "trace").unlink()
    failed = pool.submit(transcode_or_fail, *arguments)
    assert failed.exception(60)
    again = [pool.retry(failed.id) for _ in range(2)]
    assert [4, 4] == [one.result(60) for one in again]
    assert [f"checkpoint-{failed.raw_id.hex()}"] == files_of(pool)


def test_checkpoint_is_any_small_data_of_the_job_itself(pool):
    expected = [None, {"frame": 1}, [1, 2], "x" * 500_000, None, "of a thread"]
    assert expected == pool.submit(use_checkpoints).result(60)
    assert procjobs.checkpoint("outside a job") is None


def test_the_last_of_many_checkpoints_counts(pool):
    assert 4999 == pool.submit(checkpoint_often, 5000).result(60)


def test_successor_that_the_pool_is_handed_over_to_goes_on(pool_name, tmp_path):
    with started(pool_name, workers=1) as pool:
        arguments = str(tmp_path / "trace"), 10, 4, str(tmp_path / "go")
        job = pool.options(retries=1, backoff=2, max_backoff=2).submit(transcode_or_fail, *arguments)
        wait_until(lambda: job.status().state == "retrying")
        with RunningPool(rundir.RunDir(rundir.find_base(), pool_name)) as operator:
            pid = operator.stats().supervisor_pid
            operator.drain(hand_over=True)
        assert 4 == job.result(60)
        assert pid != pool.stats().supervisor_pid
        assert list(range(10)) == frames(tmp_path / "trace")
