"""A pool with (least, most) on this host, however busy it is: it grows under load, shrinks when idle, and tells why."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import procjobs
from procjobs.dispatch.model import Slot, SlotState
from procjobs.host import footprints, observe
from procjobs.supervisor.workers.host_load import HostLoad
from tests.process import jobs, tuned_jobs

from ..conftest import wait_until

GROWN = 90.0
"""A host whose CPUs are full lets jobs starve for ten seconds first."""


@pytest.fixture
def scaled():
    """A private pool that grows to two workers, which it keeps for a moment."""
    pool = procjobs.Pool(workers=(1, 2), worker_idle=0.2, preload=["tests.process.jobs"])
    yield pool
    pool.stop()


def bounds_and_change(pool):
    stats = pool.stats()
    return stats.least, stats.most, stats.scaling


def read_log(pool):
    with open(f"{pool._link.directory.path}/log") as file:
        return file.read()


def test_pool_grows_under_load_and_shrinks_when_idle_and_no_job_is_harmed(scaled, tmp_path):
    wait_until(lambda: scaled.stats().idle == 1)
    assert (1, 2, None) == bounds_and_change(scaled)
    assert scaled.stats().scaled_at is None
    running = [scaled.submit(jobs.wait_for_file, str(tmp_path / name), name) for name in ("long", "short")]
    wait_until(lambda: scaled.stats().busy == 2, timeout=GROWN, dump=lambda: str(scaled.stats()))
    stats = scaled.stats()
    assert stats.scaling.startswith("1 -> 2 workers: 1 job waits ")
    assert pytest.approx(os.stat(scaled._link.directory.log).st_mtime, abs=60) == stats.scaled_at
    assert stats.scaling in read_log(scaled)
    pids = {worker.job_id: worker.pid for worker in scaled.workers()}
    (tmp_path / "short").touch()
    assert "short" == running[1].result(30)
    wait_until(lambda: scaled.stats().workers == 1, dump=lambda: str(scaled.stats()))
    assert "2 -> 1 workers: 1 not needed for 0.2 s" == scaled.stats().scaling
    assert ("running", pids[running[0].id]) == (running[0].status().state, scaled.workers()[0].pid)
    (tmp_path / "long").touch()
    assert "long" == running[0].result(30)
    assert (0, 0) == (scaled.stats().restarts, scaled.stats().failed)


def test_resize_gives_a_scaled_pool_a_number_and_a_pool_of_a_number_bounds(scaled):
    scaled.resize(3)
    wait_until(lambda: scaled.stats().idle == 3)
    assert (3, 3, "1 -> 3 workers: resized to 3") == bounds_and_change(scaled)
    scaled.resize((1, 4))
    wait_until(lambda: scaled.stats().workers == 1, dump=lambda: str(scaled.stats()))
    assert (1, 4) == bounds_and_change(scaled)[:2]


def test_fewer_workers_end_with_their_jobs_and_more_come_at_once(tmp_path):
    with procjobs.Pool(workers=3, preload=["tests.process.jobs"]) as pool:
        wait_until(lambda: pool.stats().idle == 3)
        running = [pool.submit(jobs.wait_for_file, str(tmp_path / str(n)), n) for n in range(3)]
        wait_until(lambda: pool.stats().busy == 3)
        pool.resize(1)
        assert [3, 3] == [pool.stats().workers, pool.stats().busy]
        for number in range(3):
            (tmp_path / str(number)).touch()
        assert [0, 1, 2] == [job.result(30) for job in running]
        wait_until(lambda: pool.stats().workers == 1)
        pool.resize(2)
        wait_until(lambda: pool.stats().idle == 2)
        assert 0 == pool.stats().restarts


def test_supervisor_of_an_idle_scaled_pool_sleeps(scaled):
    wait_until(lambda: scaled.stats().idle == 1)
    scaled.submit(jobs.add, 1).result(30)
    switches = f"/proc/{scaled.stats().supervisor_pid}/status"

    def count():
        with open(switches) as file:
            return [line for line in file if line.startswith("voluntary_ctxt_switches")]

    seen = []

    def has_stayed():
        seen.append(count())
        return len(seen) > 400 and len(set(map(str, seen[-400:]))) == 1

    wait_until(has_stayed)


@pytest.mark.parametrize("workers", [(2, 1), (0, 2), (1,), (1, 2, 3)])
def test_bounds_that_make_no_sense_are_refused(workers):
    with pytest.raises((procjobs.ConfigurationError, ValueError), match="workers"):
        procjobs.Pool(workers=workers)


def test_memory_of_a_worker_is_that_of_all_that_its_job_has_started(scaled, tmp_path):
    job = scaled.submit(tuned_jobs.start_large_grandchild, str(tmp_path), 40 * 2**20)
    wait_until((tmp_path / "pid").exists, dump=lambda: str(job.status()))
    worker, grandchild = job.status().worker_pid, int((tmp_path / "pid").read_text())
    family = observe.family(worker)
    assert (worker, True) == (family[0], grandchild in family)
    slot = Slot(0)
    slot.state, slot.pid, slot.baseline_bytes = SlotState.BUSY, worker, 2**20
    facts = HostLoad().memory([slot, Slot(1)])
    (taken,) = facts.worker_bytes
    assert 40 * 2**20 < taken < facts.total_bytes
    assert 0 < facts.free_bytes < facts.total_bytes
    (tmp_path / "go").touch()
    job.result(30)


def test_what_workers_took_in_earlier_runs_is_expected_of_named_pools(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    peaks = observe.WorkerPeaks()
    peaks.workers, peaks.worker_bytes = 2, 3 * 2**30
    footprints.remember("films", peaks)
    expected = [HostLoad(pool).memory([]).expected_bytes for pool in ("films", "songs", None)]
    assert [3 * 2**30, 0, 0] == expected


def test_what_a_process_has_that_has_gone_is_nothing():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert ([child.pid], 0) == (observe.family(child.pid), observe.rss_of([child.pid]))
