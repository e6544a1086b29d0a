"""Tasks of the tests for procjobs.compat.web2py; they are imported by the processes of workers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from procjobs.compat import web2py


def add(*args, **kwargs):
    print(f"adding {args} {kwargs}")
    return sum(args) + sum(kwargs.values())


def nothing():
    print("I return nothing")


def give(value):
    return value


def fail():
    print("before")
    raise ValueError("no such film")


def leave():
    sys.exit(3)


def crash():
    os.kill(os.getpid(), signal.SIGKILL)


def fail_until(path, times):
    """Fail so many times, as a file counts."""
    with open(path, "a") as file:
        file.write("run\n")
    if len(Path(path).read_text().splitlines()) <= times:
        raise ValueError("not yet")
    return "well"


def note(path, text):
    with open(path, "a") as file:
        file.write(f"{text}\n")


def hold(path, seconds=600):
    """Note the process's id, and stay."""
    note(path, os.getpid())
    print("holding")
    time.sleep(seconds)  # job
    return "held"


def ignore_everything(path):
    """Refuse to end: only a kill helps."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"  # job
    child = subprocess.Popen([sys.executable, "-c", code])
    note(path, os.getpid())
    note(path, child.pid)
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(600)  # job


def print_for_ever():
    while True:
        print("and on")


def print_in_parts(path):
    print("first half")
    while not os.path.exists(path):
        time.sleep(0.01)  # job
    print("!clear!second half")
    return 1


def print_much():
    for number in range(20_000):
        print(f"line {number}")
    return 1


def print_nul():
    print("a\0b \udcff")
    return 1


def marks():
    task = web2py.current.W2P_TASK
    return [task.id, task.uuid, task["run_id"]]


def write_without_commit(uri, folder):
    from pydal import DAL, Field

    db = DAL(uri, folder=folder)
    db.define_table("film", Field("title"), migrate=False)
    db.film.insert(title="lost")
    return os.getpid()


TASKS = {
    function.__name__: function
    for function in (
        add, nothing, give, fail, leave, crash, fail_until, note, hold, ignore_everything, print_for_ever, print_in_parts,
        print_much, print_nul, marks, write_without_commit,
    )
}  # fmt: skip
