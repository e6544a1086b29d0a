"""Somebody sets the clock of the host: stored jobs start at their times all the same."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ..builds import make_build

WALL = "from time import time as wall\n"
SET_WALL = '''
import os, time

def wall():
    """The time of a host whose clock somebody sets."""
    with open(os.environ["CLOCK_OFFSET"]) as file:
        return time.time() + float(file.read())
'''
CLIENT = """
import os, sys, time
import procjobs
from tests.waiting import wait_until

name, store = sys.argv[1:]

def set_clock(offset):
    with open(os.environ["CLOCK_OFFSET"] + ".new", "w") as file:
        file.write(str(offset))
    os.rename(os.environ["CLOCK_OFFSET"] + ".new", os.environ["CLOCK_OFFSET"])

pool = procjobs.Pool(name, store=store, workers=1)
job = pool.options(delay=0.5).submit(time.time)
job.wait_accepted(30)
pool.stop()
set_clock(-7200)
pool = procjobs.Pool(name, store=store, workers=1)
wait_until(lambda: pool.stats().scheduled)  # it is loaded, and waits for two hours
set_clock(0)
print("ran", pool.job(job.id).result(60) > 0)
pool.stop()
"""


@pytest.mark.timeout(150)
def test_job_that_was_loaded_while_the_clock_was_behind_comes_when_the_clock_is_right(tmp_path, pool_name):
    environment = make_build(tmp_path / "build", "clock.py", WALL, SET_WALL)
    (tmp_path / "offset").write_text("0")
    environment["CLOCK_OFFSET"] = str(tmp_path / "offset")
    command = [sys.executable, "-c", CLIENT, pool_name, f"sqlite:///{tmp_path}/jobs.db"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert "ran True\n" == done.stdout, done.stderr
