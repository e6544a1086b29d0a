"""A supervisor, or the owner of a private pool, that is process 1 of a container: it is given everybody's orphans."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from procjobs.host import rundir

from ..conftest import wait_until

UNSHARE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def can_unshare():
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = pytest.mark.skipif(not can_unshare(), reason="PID namespaces need root, or the host does not permit them")

SUPERVISOR = """
import json, os, sys
from procjobs.shared.config import PoolSettings
from procjobs.host import rundir
directory = rundir.RunDir(rundir.find_base(), sys.argv[1])
settings = PoolSettings(workers=(2, 2)).validated().to_json()
boot = {"base": directory.base, "name": directory.name, "settings": settings, "owner_pid": None}
lock, (ready_read, ready_write) = rundir.try_lock(directory.lock), os.pipe()
fd = os.memfd_create("boot")
os.write(fd, json.dumps(boot).encode())
os.lseek(fd, 0, os.SEEK_SET)
high = [os.dup(fd) for fd in (lock.fileno(), ready_write)]
lock.close()
high = [__import__("fcntl").fcntl(fd, 0, 100 + n) for n, fd in enumerate(high)]
os.dup2(fd, 0)
os.dup2(high[0], 3)
os.dup2(high[1], 4)
os.closerange(5, 200)
if os.fork() == 0:  # a stranger beside the pool: another program of the container
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[2], sys.argv[1]])
from procjobs.supervisor.boot import main
main()
"""

PRELUDE = """
import os, subprocess, sys, time
os.closerange(3, 20)
def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.005)  # job
def daemon(*command):
    "Start a process that becomes an orphan, and return its pid."
    text = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=2).pid, flush=True)"
    return int(subprocess.run([sys.executable, "-c", text, *command], stdout=subprocess.PIPE, check=True).stdout)
def state(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return tuple(file.read().rpartition(")")[2].split()[:2])
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
"""

STRANGER = (
    PRELUDE
    + """
import procjobs
from procjobs.host import rundir
from tests.process import jobs
from tests.process.test_pid_one import start_and_leave
wait_until(lambda: os.path.exists(rundir.RunDir(rundir.find_base(), sys.argv[1]).socket))
pool = procjobs.Pool(sys.argv[1], workers=2)
assert pool.stats().supervisor_pid == 1, pool.stats()
living = daemon("sleep", "600")
assert state(living)[1] == "1", "it is not the supervisor's child"
dying = [daemon("sh", "-c", f"sleep 0.05; exit {n % 7}") for n in range(40)]
killed = [daemon("sh", "-c", "kill -9 $$") for n in range(10)]
assert 3 == pool.submit(jobs.add, 1, 2).result(30)
wait_until(lambda: {"gone"} == {state(pid) for pid in dying + killed})
crash = pool.submit(start_and_leave)
try:
    crash.result(30)
except procjobs.WorkerCrashed as error:
    assert error.exit_code == 3, error
    started = [int(pid) for pid in error.last_progress.split(", ")[1].split()]
wait_until(lambda: {"gone"} == {state(pid) for pid in started})
assert list(range(50)) == [pool.submit(jobs.add, n).result(30) for n in range(50)]
stats = pool.stats()
assert (stats.restarts, stats.crashed, stats.problem) == (1, 1, None), stats
assert state(living)[1] == "1"
print("as expected", flush=True)
pool.stop()  # ends process 1, and with it everything
"""
)

OWNER = (
    PRELUDE
    + """
import procjobs
from tests.process import jobs
from tests.process.test_pid_one import start_and_leave
if __name__ == "__main__":
    assert os.getpid() == 1
    with procjobs.Pool(workers=2) as pool:
        living, dying = daemon("sleep", "600"), daemon("sh", "-c", "exit 3")
        crash = pool.submit(start_and_leave).exception(30)
        started = [int(pid) for pid in crash.last_progress.split(", ")[1].split()]
        wait_until(lambda: {"gone"} == {state(pid) for pid in started})
        assert list(range(20)) == [pool.submit(jobs.add, n).result(30) for n in range(20)]
        supervisor = pool.stats().supervisor_pid
        assert (1, None) == (pool.stats().restarts, pool.stats().problem)
    assert state(living)[1] == "1", "the orphan of process 1 was touched"
    assert "gone" == state(supervisor)
    print("as expected", flush=True)
"""
)


def start_and_leave():
    """Start a child and a grandchild in a session of its own, tell their pids, and crash."""
    import procjobs

    child = subprocess.Popen(["sleep", "500"])
    text = "import subprocess; print(subprocess.Popen(['sleep', '501'], start_new_session=True, stdout=2).pid, flush=True)"
    done = subprocess.run([sys.executable, "-c", text], stdout=subprocess.PIPE, check=True)
    procjobs.progress(1, 2, f"{child.pid} {int(done.stdout)}")
    os._exit(3)


def run_as_process_1(*arguments):
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-c", *arguments], capture_output=True, text=True, timeout=90, check=False
    )
    return done.stdout, done.stderr


def test_supervisor_that_is_process_1_reaps_strangers_and_ends_what_jobs_have_left(pool_name):
    out, errors = run_as_process_1(SUPERVISOR, pool_name, STRANGER)
    log = ""
    path = rundir.RunDir(rundir.find_base(), pool_name).log
    if os.path.exists(path):
        with open(path) as file:
            log = file.read()
    assert ("as expected\n", "") == (out, errors), log
    wait_until(lambda: not os.path.exists(os.path.dirname(path)), dump=lambda: log)


def test_owner_of_a_private_pool_that_is_process_1():
    assert ("as expected\n", "") == run_as_process_1(OWNER)
