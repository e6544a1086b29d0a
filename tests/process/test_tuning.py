"""Threads of numeric libraries and CPUs of workers, as the kernel shows them."""

from __future__ import annotations

import os

import pytest

import procjobs
from procjobs.host.cpus import FOLLOW_OPENMP, ON_THEIR_OWN, OPENMP
from tests.process import tuned_jobs

from ..conftest import wait_until

USABLE = sorted(os.sched_getaffinity(0))
several_cpus = pytest.mark.skipif(len(USABLE) < 2, reason="needs two CPUs to tell one from the other")
ALL = [OPENMP, *FOLLOW_OPENMP, *ON_THEIR_OWN]


@pytest.fixture
def make_pool(monkeypatch):
    """Make private pools that have imported their jobs, in an environment that says nothing of threads."""
    for name in ALL:
        monkeypatch.delenv(name, raising=False)
    made = []

    def make(**settings):
        settings.setdefault("preload", ["tests.process.tuned_jobs"])
        made.append(procjobs.Pool(**settings))
        return made[-1]

    yield make
    for pool in made:
        pool.stop()


# Threads


def test_worker_has_as_many_threads_as_its_share_of_the_cpus(make_pool):
    pool = make_pool(workers=2)
    expected = str(max(1, len(USABLE) // 2))
    assert [expected] * len(ALL) == list(pool.map(tuned_jobs.environment, ALL))


def test_environment_wins_over_auto(make_pool, monkeypatch):
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    assert "7" == make_pool(workers=2).submit(tuned_jobs.environment, "MKL_NUM_THREADS").result(30)


def test_none_sets_nothing(make_pool):
    pool = make_pool(workers=1, threads=None)
    assert [None] * len(ALL) == list(pool.map(tuned_jobs.environment, ALL))


@pytest.mark.parametrize("threads", [1, 2])
def test_numpy_starts_as_many_threads_as_it_is_told(make_pool, threads):
    numpy = pytest.importorskip("numpy")
    if "openblas" not in str(numpy.show_config("dicts")).lower():
        pytest.skip("this numpy has another BLAS")
    pool = make_pool(workers=1, threads=threads)
    # OpenBLAS starts no more than there are CPUs.
    assert min(threads, len(USABLE)) == pool.submit(tuned_jobs.threads_after_matmul).result(30)


def test_numpy_that_is_told_to_start_no_threads_can_be_preloaded(make_pool):
    pytest.importorskip("numpy")
    pool = make_pool(workers=1, threads=1, preload=["numpy"])
    assert pool.submit(tuned_jobs.is_preloaded, "numpy.linalg").result(30)
    assert pool.stats().problem is None


def test_reload_goes_by_the_size_that_the_pool_has_then(make_pool):
    pool = make_pool(workers=1, threads="auto")
    before = pool.submit(tuned_jobs.environment, OPENMP).result(30)
    pool.resize(64)
    pool.reload()
    wait_until(lambda: pool.submit(tuned_jobs.environment, OPENMP).result(30) == "1")
    assert str(len(USABLE)) == before


# Affinity


@several_cpus
def test_workers_are_spread_over_the_cpus_and_so_is_what_they_start(make_pool):
    pool = make_pool(workers=len(USABLE), affinity="spread")
    wait_until(lambda: pool.stats().idle == len(USABLE))
    shown = {tuple(sorted(os.sched_getaffinity(worker.pid))) for worker in pool.workers()}
    assert {(cpu,) for cpu in USABLE} == shown
    assert 1 == len(pool.submit(tuned_jobs.affinity_of_child).result(30))
    assert [1, 1] == [len(cpus) for cpus in pool.submit(tuned_jobs.affinity_of_all_threads).result(30)]


@several_cpus
def test_workers_run_on_the_cpus_that_were_named(make_pool):
    pool = make_pool(workers=2, affinity=[USABLE[-1]])
    assert [USABLE[-1]] == pool.submit(tuned_jobs.affinity).result(30)


def test_workers_may_use_all_cpus_unless_told_otherwise(make_pool):
    assert USABLE == make_pool(workers=1).submit(tuned_jobs.affinity).result(30)


@several_cpus
def test_share_of_a_worker_follows_a_resize_also_while_it_runs_a_job(make_pool, tmp_path):
    pool = make_pool(workers=1, affinity="spread")
    job = pool.submit(tuned_jobs.affinity_when_there, str(tmp_path / "go"))
    wait_until(lambda: job.status().state == "running" and len(os.listdir(f"/proc/{pool.workers()[0].pid}/task")) == 2)
    pid = pool.workers()[0].pid
    assert USABLE == sorted(os.sched_getaffinity(pid))
    pool.resize(len(USABLE))
    wait_until(lambda: pool.stats().idle == len(USABLE) - 1)
    assert [[USABLE[0]]] == [sorted(os.sched_getaffinity(pid))], "it has been told before the call came back"
    shown = {tuple(os.sched_getaffinity(worker.pid)) for worker in pool.workers()}
    assert {(cpu,) for cpu in USABLE} == shown
    (tmp_path / "go").touch()
    assert {(USABLE[0],)} == {tuple(cpus) for cpus in job.result(30)}
    pool.resize(1)
    wait_until(lambda: pool.stats().workers == 1)
    assert USABLE == pool.submit(tuned_jobs.affinity).result(30)


def test_cpu_that_there_is_not_is_refused_before_anything_starts():
    with pytest.raises(procjobs.ConfigurationError, match=r"may not use CPU 9999; it may use \d"):
        procjobs.Pool(workers=1, affinity=[9999])


def test_setting_that_makes_no_sense_is_refused():
    with pytest.raises(procjobs.ConfigurationError, match="affinity"):
        procjobs.Pool(workers=1, affinity="everywhere")
    with pytest.raises(procjobs.ConfigurationError, match="threads"):
        procjobs.Pool(workers=1, threads=0)
