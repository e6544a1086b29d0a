"""Jobs that clean up when they are stopped, or do not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time

import procjobs
from tests.process.limited_jobs import write

CHILD = """
import os, signal, sys, time
def end(*_):
    with open(sys.argv[1] + ".new", "w") as file:
        file.write("SIGTERM")
    os.replace(sys.argv[1] + ".new", sys.argv[1])
    sys.exit()
signal.signal(signal.SIGTERM, end if sys.argv[2] == "end" else signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)  # job
"""


@contextlib.contextmanager
def partial_file(path):
    """Stand for everything that a job removes at its end."""
    write(path, os.getpid())
    try:
        yield
    finally:
        os.unlink(path)


def sleep_with_partial_file(path):
    """Leave the name of the interruption beside the file that is removed."""
    try:
        with partial_file(path):
            time.sleep(600)  # job
    except procjobs.JobError as error:
        write(path + ".seen", f"{type(error).__name__} {error.job_id} {error.attempt}")
        raise


async def await_with_partial_file(path):
    try:
        with partial_file(path):
            await asyncio.gather(asyncio.sleep(600), asyncio.sleep(600))
    except procjobs.JobError as error:
        write(path + ".seen", f"{type(error).__mro__[1].__name__} {error.job_id} {error.attempt}")
        raise


def swallow(path):
    """Return in spite of everything."""
    with contextlib.suppress(procjobs.JobCancelled, procjobs.JobTimeout), partial_file(path):
        time.sleep(600)  # job
    return "in spite of it"


def fail_in_clean_up(path):
    try:
        with partial_file(path):
            time.sleep(600)  # job
    finally:
        raise ValueError("it is not here any more")


def wait_in_c_code(path):
    """Wait in the C function system(3), which no signal to this process ends. Its shell makes the file."""
    try:
        os.system(f"sleep 600 | cat & echo > {path}; sleep 601; echo > {path}.next; sleep 602")
    finally:
        os.unlink(path)


def start_child(path, how):
    child = subprocess.Popen([sys.executable, "-c", CHILD, path + ".child", how], stdout=subprocess.PIPE)
    child.stdout.readline()
    with partial_file(path):
        write(path + ".pid", child.pid)
        time.sleep(600)  # job


def clean_up_with_a_program(path):
    """Run a program at the end that takes longer than a job may take to notice its interruption."""
    try:
        with partial_file(path):
            time.sleep(600)  # job
    finally:
        done = subprocess.run([sys.executable, "-c", "import time; time.sleep(0.5)"], check=False)  # job
        write(path + ".status", done.returncode)


def wait_with_a_thread(path):
    """Have a thread that goes on, and looks whether the job is cancelled."""
    seen = threading.Event()

    def look():
        while not procjobs.current_job().cancelled:
            time.sleep(0.001)  # job
        seen.set()
        time.sleep(600)  # job

    threading.Thread(target=look, daemon=True).start()
    try:
        with partial_file(path):
            time.sleep(600)  # job
    finally:
        write(path + ".seen", seen.wait(30))


def be_tiny(path, number):
    """Leave a mark, unless it is interrupted."""
    try:
        for _ in range(20):
            time.sleep(0.000_02)  # job
    except procjobs.JobCancelled as error:
        with open(path, "a") as file:
            file.write(f"{number} {error.job_id}\n")
        raise
    return number


def keep_checkpoints(path):
    """Keep one checkpoint after the other; each may be told to the supervisor."""
    write(path, os.getpid())
    number = 0
    while True:
        number += 1
        procjobs.checkpoint(number)
