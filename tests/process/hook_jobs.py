"""Hooks for tests. They write what they were told into the directory in PROCJOBS_TEST_HOOKS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time


def _directory():
    return os.environ["PROCJOBS_TEST_HOOKS"]


def _write(name, text):
    with open(f"{_directory()}/{name}", "a") as file:
        file.write(text + "\n")


def tell(status):
    _write("told", json.dumps({**status._asdict(), "hook_pid": os.getpid()}))


async def tell_awaiting(status):
    _write("awaited", status.id)


def _times_called(status):
    _write(f"calls-{status.id}", str(os.getpid()))
    with open(f"{_directory()}/calls-{status.id}") as file:
        return len(file.readlines())


def fail_once(status):
    if _times_called(status) == 1:
        raise ValueError("the mail server is away")
    tell(status)


def die_once(status):
    if _times_called(status) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    tell(status)


def hang_once(status):
    if _times_called(status) == 1:
        child = subprocess.Popen(["sleep", "1000"])
        _write("child", str(child.pid))
        time.sleep(1000)  # job
    tell(status)


def wait_for_go(status):
    while not os.path.exists(f"{_directory()}/go"):
        time.sleep(0.01)  # job
    tell(status)


def kill_supervisor_once(status):
    """Kill the process whose pid the test has written down."""
    victim = f"{_directory()}/victim"
    if os.path.exists(victim):
        with open(victim) as file:
            pid = int(file.read())
        os.unlink(victim)
        os.kill(pid, signal.SIGKILL)
        time.sleep(1000)  # job
    tell(status)
