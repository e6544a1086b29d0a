"""The supervisor gives back everything that it keeps of a job. Its objects are counted: bytes depend on the allocator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..builds import make_build

PROGRAMS = Path(__file__).parents[2] / "benchmarks"
if not PROGRAMS.is_dir():  # where the built wheel is tested
    pytest.skip("the benchmarks are not here", allow_module_level=True)
ANCHOR = '    notify_manager(manager, "READY=1")\n'
CENSUS = '''
import collections, gc, json, os, signal

def count(*_):
    counts = collections.Counter(type(one).__qualname__ for one in gc.get_objects())
    with open(os.environ["CENSUS"] + ".new", "w") as file:
        json.dump(counts, file)
    os.rename(os.environ["CENSUS"] + ".new", os.environ["CENSUS"])

signal.signal(signal.SIGUSR1, count)
'''
CLIENT = """
import json, os, signal, sys
import procjobs
from memory_jobs import QUEUES, Mix, fetch
from tests.waiting import wait_until

def count(supervisor):
    if os.path.exists(os.environ["CENSUS"]):
        os.unlink(os.environ["CENSUS"])
    os.kill(supervisor, signal.SIGUSR1)
    wait_until(lambda: os.path.exists(os.environ["CENSUS"]))
    with open(os.environ["CENSUS"]) as file:
        return json.load(file)

def live_through(jobs):
    pool = procjobs.Pool(sys.argv[1], workers=2, queues=QUEUES, result_ttl=0.2, linger=60)
    mix = Mix(pool)
    for _ in range(jobs // 200):
        fetch([mix.submit() for _ in range(200)])
    wait_until(lambda: not pool.jobs(limit=1))
    supervisor = pool.stats().supervisor_pid
    pool.shutdown()  # with it go the functions that this client has described
    wait_until(lambda: count(supervisor).get("ClientLink", 0) == 0)
    print(json.dumps(count(supervisor)), flush=True)

live_through(3600)
live_through(3600)
procjobs.Pool(sys.argv[1]).stop()
"""
MAX_LEFT_OVER = 300
"""Queues may keep 100 jobs each that do not wait in them any more; each round has 3600 jobs."""


@pytest.mark.timeout(120)
def test_supervisor_keeps_nothing_of_jobs_that_print_report_fail_and_carry_keys_and_closures(tmp_path, pool_name):
    build, imported = tmp_path / "build", f"    from procjobs import _census  # noqa\n{ANCHOR}"
    environment = make_build(build, "supervisor/boot.py", ANCHOR, imported)
    (build / "procjobs/_census.py").write_text(CENSUS)
    environment |= {"PYTHONPATH": f"{environment['PYTHONPATH']}:{PROGRAMS}", "CENSUS": str(tmp_path / "census")}
    command = [sys.executable, "-c", CLIENT, pool_name]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    kept = {name: second.get(name, 0) for name in ("SupervisedJob", "SupervisedKind", "Transcript", "Limiter", "Answer")}
    assert {name: number for name, number in kept.items() if number > MAX_LEFT_OVER} == {}
    growth = {name: number - first.get(name, 0) for name, number in second.items()}
    assert {name: number for name, number in growth.items() if number > MAX_LEFT_OVER} == {}


@pytest.mark.timeout(120)
def test_program_shows_every_process_and_judges(tmp_path):
    command = [sys.executable, str(PROGRAMS / "memory.py"), "--jobs", "1200", "--rows", "6", "--store", "sqlite"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(PROGRAMS.parent)}
    roles = {"client", "supervisor", "template", "workers", "recorder", "files"}
    for limit, code in [("1e9", 0), ("-1e9", 1)]:
        done = subprocess.run(
            [*command, f"--limit={limit}"], env=environment, capture_output=True, text=True, timeout=55, check=False
        )
        assert code == done.returncode, done.stdout + done.stderr
        verdict = done.stdout.partition("growth after 800 jobs:\n")[2]
        assert roles == {line.split()[0] for line in verdict.splitlines()}
