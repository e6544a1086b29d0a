"""Two releases of procjobs on one pool: told by name, with what to do; and a newer one takes over from an older one."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import procjobs
from procjobs.client import takeover
from procjobs.host import rundir
from procjobs.shared import hello, wire
from tests.process import jobs

from ..conftest import wait_until

SOURCE = Path(procjobs.__file__).parent


@pytest.fixture
def release(tmp_path):
    """Return the folder of a copy of procjobs that is of another release."""

    def copy(version, wire_version):
        folder = tmp_path / version
        shutil.copytree(SOURCE, folder / "procjobs", ignore=shutil.ignore_patterns("__pycache__"))
        replace(folder / "procjobs/version.py", r'__version__: Final = ".*"', f'__version__: Final = "{version}"')
        replace(folder / "procjobs/shared/wire.py", r"WIRE_VERSION: Final = \d+", f"WIRE_VERSION: Final = {wire_version}")
        return folder

    return copy


def replace(path, pattern, text):
    changed, count = re.subn(pattern, text, path.read_text())
    assert count == 1
    path.write_text(changed)


@contextlib.contextmanager
def client(folder, text, *arguments):
    """Run a program with another release; it says what it has done, line by line, and goes on when it is told."""
    prelude = "import procjobs, sys, os\nfrom tests.process import jobs\n"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", prelude + text, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": f"{folder}:{os.getcwd()}"},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


WAITING = """
pool = procjobs.Pool(sys.argv[1], workers=1).connect()
first = pool.submit(jobs.wait_for_file, sys.argv[2] + '/go', 'first')
waiting = [pool.submit(jobs.wait_for_file, sys.argv[2] + '/go', n) for n in range(3)]
waiting[-1].wait_accepted(30)
while first.status().state != 'running':
    pass
print(pool.stats().supervisor_pid, flush=True)
sys.stdin.readline()
print(first.result(30), flush=True)
try:
    pool.submit(pow, 2, 3).result(30)
except procjobs.ProcjobsError as error:
    print(error, flush=True)
"""


IDLE = """
pool = procjobs.Pool(sys.argv[1], workers=1).connect()
print(pool.stats().supervisor_pid, flush=True)
sys.stdin.readline()
"""


def test_client_of_an_older_release_is_told_both_releases_and_what_to_do(release, pool_name):
    older = release("0.0.9", wire.WIRE_VERSION - 1)
    with procjobs.Pool(pool_name, workers=1) as pool:
        text = "try: procjobs.Pool(sys.argv[1]).connect()\nexcept procjobs.SupervisorRefused as why: print(why, flush=True)"
        with client(older, text, pool_name) as script:
            said = script.communicate(timeout=60)[0]
        here = procjobs.__version__
        assert f"pool {pool_name!r} is run by procjobs {here} (pid {pool.stats().supervisor_pid})" in said
        assert "this process has procjobs 0.0.9" in said
        assert "restart this process with the newer release" in said
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)


def test_pool_of_an_older_release_is_handed_over_to_a_newer_client(release, pool_name, tmp_path):
    older = release("0.0.9", wire.WIRE_VERSION - 1)
    with client(older, WAITING, pool_name, tmp_path) as script:
        before = int(script.stdout.readline())
        (tmp_path / "go").touch()
        with procjobs.Pool(pool_name, workers=1) as pool:
            assert before != pool.stats().supervisor_pid
            assert 3 == pool.submit(jobs.add, 1, 2).result(30)
            wait_until(lambda: pool.stats().finished >= 1 and not pool.stats().queued)  # some may have ended before
            script.stdin.write("\n")
            script.stdin.flush()
            assert "first\n" == script.stdout.readline()
            assert "restart this process with the newer release" in script.stdout.readline()


def test_older_client_does_not_take_the_pool_back(release, pool_name):
    older = release("0.0.9", wire.WIRE_VERSION - 1)
    with client(older, IDLE, pool_name) as script:
        script.stdout.readline()
    with procjobs.Pool(pool_name, workers=1) as pool:
        pid = pool.stats().supervisor_pid
        with client(older, "procjobs.Pool(sys.argv[1]).connect()", pool_name) as script:
            assert "SupervisorRefused" in script.communicate(timeout=60)[0]
        assert pid == pool.stats().supervisor_pid


def test_pool_of_a_newer_release_is_left_alone(release, pool_name, tmp_path):
    newer = release("9.9.9", wire.WIRE_VERSION + 1)
    with client(newer, WAITING, pool_name, tmp_path) as script:
        pid = script.stdout.readline().strip()
        with pytest.raises(procjobs.SupervisorRefused, match=rf"is run by procjobs 9\.9\.9 \(pid {pid}\)") as caught:
            procjobs.Pool(pool_name, workers=1).connect()
        assert ("9.9.9", int(pid)) == (caught.value.supervisor["version"], caught.value.supervisor["pid"])
        (tmp_path / "go").touch()
        script.stdin.write("\n")
        script.stdin.flush()
        assert "first\n" == script.stdout.readline()
    assert takeover.stop(rundir.RunDir(rundir.find_base(), pool_name))


@pytest.mark.parametrize("distance", [-1, 1])
def test_stop_ends_a_pool_of_another_release(release, pool_name, distance):
    pytest.importorskip("click")
    other = release("7.7.7", wire.WIRE_VERSION + distance)
    with client(other, IDLE, pool_name) as script:
        script.stdout.readline()
        directory = rundir.RunDir(rundir.find_base(), pool_name)
        with open(f"{directory.path}/table", "r+b") as table:
            table.write(b"another layout of the table")
        done = subprocess.run(
            [sys.executable, "-m", "procjobs", "stop", pool_name], capture_output=True, text=True, timeout=60, check=False
        )
        assert (0, f"pool {pool_name} has ended\n") == (done.returncode, done.stdout), done.stderr
        assert not os.path.exists(directory.lock)


@pytest.mark.parametrize(
    ("values", "wire_version", "told"),
    [
        ({}, 0, "is run by procjobs"),
        ({"version": "12.0", "future": [1, {"a": 2}]}, 65535, "this process has procjobs"),
        ({"ask": "sing", "pid": 1}, wire.WIRE_VERSION, "does not know the wish 'sing'"),
        ({"ask": "hand_over", "pid": "x"}, 77, "does not know the wish"),
        ({"ask": ["stop"]}, 1, "does not know the wish"),
        ({"version": 5, "pid": None}, 1, "is run by procjobs"),
    ],
)
def test_every_hello_gets_an_answer_in_words(pool_name, values, wire_version, told):
    with procjobs.Pool(pool_name, workers=1) as pool, contextlib.closing(socket.socket(socket.AF_UNIX)) as stranger:
        stranger.settimeout(30)
        stranger.connect(rundir.RunDir(rundir.find_base(), pool_name).socket)
        stranger.sendall(hello.hello_frame(values, wire_version=wire_version))
        received = b""
        while data := stranger.recv(10_000):
            received += data
        assert told in wire.parse_json(received[wire.BODY :])["message"]
        assert wire.Frame.REFUSED == received[4]
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
