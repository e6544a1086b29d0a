"""What a pool's workers took is known to the next supervisor of that name: real workers, real memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import procjobs
from procjobs.host import footprints

from ..conftest import wait_until

MIB = 1 << 20


def take(mebibytes):
    return len(b"x" * (mebibytes * MIB))


def take_in_a_child(mebibytes):
    return subprocess.run([sys.executable, "-c", f"b'x' * {mebibytes * MIB}"], check=True).returncode


def run(pool_name, *calls, **settings):
    with procjobs.Pool(pool_name, workers=1, **settings) as pool:
        for call in calls:
            pool.submit(*call).result(60)
        pool.stop()


@pytest.mark.parametrize("function", [take, take_in_a_child])
def test_memory_that_a_job_took_is_remembered(pool_name, function):
    run(pool_name, (function, 100), (pow, 2, 2))
    seen = footprints.recall(pool_name)
    assert 1 == seen.runs
    assert 100 * MIB < seen.worker_bytes < 200 * MIB


def test_child_of_a_job_shares_nothing_with_the_pool(pool_name, tmp_path, monkeypatch):
    (tmp_path / "large_module.py").write_text(f"DATA = b'x' * {100 * MIB}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    run(pool_name, (take_in_a_child, 150), (pow, 2, 2), preload=["large_module"])
    assert footprints.recall(pool_name).worker_bytes > 150 * MIB


def test_memory_of_a_worker_that_was_replaced_or_killed_counts(pool_name):
    run(pool_name, (take, 100), (pow, 2, 2), max_jobs_per_worker=1)
    assert footprints.recall(pool_name).worker_bytes > 100 * MIB
    with procjobs.Pool(pool_name, workers=1) as pool:
        pool.submit(take, 200).result(60)
        os.kill(pool.workers()[0].pid, 9)
        assert 4 == pool.submit(pow, 2, 2).result(60)
        pool.stop()
    assert footprints.recall(pool_name).worker_bytes > 200 * MIB


def test_memory_that_all_workers_share_counts_once(pool_name, tmp_path, monkeypatch):
    (tmp_path / "large_module.py").write_text(f"DATA = b'x' * {100 * MIB}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    run(pool_name, (pow, 2, 2), preload=["large_module"])
    seen = footprints.recall(pool_name)
    assert seen.worker_bytes < 50 * MIB
    assert seen.shared_bytes > 100 * MIB


def test_pool_that_has_run_no_job_and_private_pools_leave_nothing(pool_name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    run(pool_name)
    with procjobs.Pool(workers=1) as pool:
        pool.submit(pow, 2, 2).result(60)
    assert [] == list(tmp_path.iterdir())


def test_pool_starts_and_ends_where_nothing_can_be_remembered(pool_name, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nothing")
    run(pool_name, (pow, 2, 2))
    run(pool_name, (pow, 2, 2))


def test_pool_that_ends_by_itself_remembers(pool_name):
    with procjobs.Pool(pool_name, workers=1, linger=0.05) as pool:
        pool.submit(take, 100).result(60)
    wait_until(lambda: footprints.recall(pool_name).runs)
    assert footprints.recall(pool_name).worker_bytes > 100 * MIB
