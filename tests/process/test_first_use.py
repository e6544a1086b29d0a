"""A pool with a name is started, or connected to, when it is first used."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import procjobs
from procjobs.host import rundir
from tests.process import jobs


@pytest.fixture
def place(pool_name):
    return rundir.RunDir(rundir.find_base(), pool_name)


def test_import_of_a_module_that_makes_a_pool_starts_nothing(pool_name, place, tmp_path):
    (tmp_path / "app.py").write_text(f"import procjobs\npool = procjobs.Pool({pool_name!r}, workers=1)\n")
    done = subprocess.run(
        [sys.executable, "-c", "import app; print(app.pool)"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (f"<Pool {pool_name}>\n", "") == (done.stdout, done.stderr)
    assert not os.path.exists(place.lock)


USES = {
    "submit": lambda pool: pool.submit(jobs.add, 1, 2).result(30),
    "options": lambda pool: pool.options(timeout=30).submit(jobs.add, 1, 2).result(30),
    "map": lambda pool: sum(pool.map(jobs.add, [1], [2])),
    "connect": lambda pool: pool.connect() is pool and 3,
    "stats": lambda pool: pool.stats().most + 2,
    "queues": lambda pool: len(pool.queues()) + 3,
    "worker_count": lambda pool: pool.worker_count() + 2,
    "jobs": lambda pool: len(pool.jobs()) + 3,
}


@pytest.mark.parametrize("use", USES)
def test_first_use_starts_it(pool_name, place, use):
    pool = procjobs.Pool(pool_name, workers=1)
    assert not os.path.exists(place.lock)
    assert 3 == USES[use](pool)
    assert os.path.exists(place.lock)
    pool.stop()


def test_with_block_starts_it(pool_name, place):
    pool = procjobs.Pool(pool_name, workers=1)
    with pool as entered:
        assert entered is pool
        assert os.path.exists(place.lock)
    pool.stop()


def test_end_of_a_pool_that_was_not_used_starts_nothing(pool_name, place):
    for end in (procjobs.Pool.stop, procjobs.Pool.shutdown):
        pool = procjobs.Pool(pool_name)
        end(pool)
        assert not os.path.exists(place.lock)
        with pytest.raises(procjobs.PoolClosed):
            pool.submit(jobs.add, 1, 2)


def test_stop_of_a_pool_that_others_use(pool_name, place):
    with procjobs.Pool(pool_name, workers=1) as pool:
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        procjobs.Pool(pool_name).stop()
        assert not os.path.exists(place.lock)


def test_unknown_queue_is_refused_in_the_first_submission(pool_name):
    pool = procjobs.Pool(pool_name, workers=1, queues={"mail": {"limit": 1}})
    with pytest.raises(procjobs.ConfigurationError, match="mail"):
        pool.options(queue="mial").submit(jobs.add, 1, 2)
    pool.stop()


def test_private_pool_is_there_at_once():
    with procjobs.Pool(workers=1) as pool:
        child = os.fork()
        if child == 0:
            os._exit(0 if 3 == pool.submit(jobs.add, 1, 2).result(30) else 1)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
