"""A pool's own template and workers use it like anybody else, and do not keep it alive."""

from __future__ import annotations

import os
import subprocess
import sys

import procjobs
from procjobs.host import rundir
from tests.process import jobs

from ..conftest import wait_until

MODULE = """
import os
import procjobs
first = procjobs.Pool({first!r}, workers=1, linger=0.1, preload=[__name__])
second = procjobs.Pool({second!r}, workers=1, linger=0.1, preload=[__name__])

def double(number):
    return 2 * number

def nested(number):
    return first.submit(double, number).result(30) if number % 2 else second.submit(double, number).result(30)
"""


def is_gone(name):
    directory = rundir.RunDir(rundir.find_base(), name)
    return not os.path.exists(directory.lock)


def run(text, *arguments, path):
    environment = {**os.environ, "PYTHONPATH": f"{path}:{os.getcwd()}"}
    return subprocess.run(
        [sys.executable, "-P", "-c", text, *arguments],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_module_that_makes_the_pools_that_preload_it_does_not_keep_them_alive(pool_name, tmp_path):
    first, second = f"{pool_name}-1", f"{pool_name}-2"
    (tmp_path / "selfish.py").write_text(MODULE.format(first=first, second=second))
    text = "import selfish as s; print(*[pool.submit(s.double, 2).result(30) for pool in (s.first, s.second)])"
    done = run(text, path=tmp_path)
    assert ("4 4\n", "") == (done.stdout, done.stderr)
    for name in (first, second):
        wait_until(lambda name=name: is_gone(name), dump=lambda name=name: _log(name))


def _log(name):
    with open(rundir.RunDir(rundir.find_base(), name).log) as file:
        return file.read()


def test_job_submits_to_its_own_pool_and_does_not_keep_it_alive(pool_name, tmp_path):
    first = f"{pool_name}-1"
    module = MODULE.format(first=first, second=f"{pool_name}-2")
    (tmp_path / "selfish.py").write_text(module.replace("workers=1", "workers=2"))
    text = "import selfish; print(selfish.first.submit(selfish.nested, 5).result(30))"
    done = run(text, path=tmp_path)
    assert ("10\n", "") == (done.stdout, done.stderr)
    wait_until(lambda: is_gone(first), dump=lambda: _log(first))


def test_job_that_leaves_a_pool_open_does_not_keep_it_alive(pool_name):
    with procjobs.Pool(pool_name, workers=2, linger=0.1) as pool:
        assert 7 == pool.submit(leave_open, pool_name).result(30)
    wait_until(lambda: is_gone(pool_name))


def leave_open(name):
    global left
    left = procjobs.Pool(name)
    return left.submit(jobs.add, 3, 4).result(30)
