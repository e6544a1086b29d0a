"""Checkpoints in the store: a job goes on from there under the next supervisor, whatever was killed."""

from __future__ import annotations

import os
import signal

from tests.process.test_checkpoint import at_frame, checkpoint_often, frames, transcode, transcode_or_fail

from ..conftest import wait_until


def saved(store):
    return store.rows("SELECT count(*) FROM procjobs_checkpoints")[0][0]


def test_job_goes_on_at_its_frame_after_everything_was_killed(started, store, tmp_path):
    pool = started(workers=1)
    job = pool.submit(transcode, str(tmp_path / "trace"), 10, 6, str(tmp_path / "go"))
    wait_until(lambda: at_frame(pool, job, 6))
    wait_until(lambda: is_saved(store, 6))
    os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
    assert 6 == job.result(60)
    assert list(range(10)) == frames(tmp_path / "trace")
    wait_until(lambda: not saved(store))


def is_saved(store, value):
    import pickle

    return [value] == [pickle.loads(row[0]) for row in store.rows("SELECT data FROM procjobs_checkpoints")]


def test_retry_by_id_goes_on_under_the_next_supervisor(started, store, tmp_path):
    pool = started(workers=1)
    failed = pool.submit(transcode_or_fail, str(tmp_path / "trace"), 10, 4, str(tmp_path / "go"))
    assert failed.exception(60)
    os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
    assert 4 == pool.retry(failed.id).result(60)
    assert list(range(10)) == frames(tmp_path / "trace")


def test_rapid_checkpoints_are_coalesced(started, store, pool_name):
    pool = started(workers=1)
    job = pool.submit(checkpoint_often, 3000)
    assert 2999 == job.result(60)
    wait_until(lambda: not saved(store))


def test_pool_that_is_stopped_keeps_the_checkpoint(started, store, tmp_path):
    pool = started(workers=1)
    job = pool.submit(transcode, str(tmp_path / "trace"), 10, 6, str(tmp_path / "go"))
    wait_until(lambda: at_frame(pool, job, 6))
    pool.stop()
    again = started(workers=1)
    assert 6 == again.job(job.id).result(60)
    assert list(range(10)) == frames(tmp_path / "trace")
