"""Jobs for the tests: each waits for an event or does one thing."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import procjobs
from procjobs.worker import context as worker_context


def add(a, b=0):
    return a + b


def echo(value):
    return value


def has_loaded(name):
    return name in sys.modules


def pid():
    return os.getpid()


def wait_for_file(path, result=None):
    """Wait for a file; for ten minutes at the most: else the pool of a killed test run would stay for ever."""
    given_up_at = time.monotonic() + 600
    while not os.path.exists(path) and time.monotonic() < given_up_at:
        time.sleep(0.005)  # job
    return result


def wait_for_file_and_fail(path):
    wait_for_file(path)
    raise ValueError(path)


def report_and_wait(path, value, total, message=None, data=None):
    procjobs.progress(value, total, message, data)
    return wait_for_file(path, value)


def report_without_room(path, message, data, *, again=False):
    """Report while no file may grow, as on a full file system; return the reports that were left half written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        procjobs.progress(3, 9, message, data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if again:
        procjobs.progress(4, 9, message, data)
    directory = worker_directory()
    wait_for_file(path)
    return [name for name in os.listdir(directory) if name.endswith(".new")]


def worker_directory():
    """Return the run directory of the pool that this worker belongs to."""
    return worker_context._writer._directory


def fail(text="no"):
    raise ValueError(text)


def die_of(number):
    os.kill(os.getpid(), number)
    time.sleep(60)  # job


def segfault():
    ctypes.string_at(0)


def leave(code):
    os._exit(code)


def system_exit(code):
    sys.exit(code)


def sleep(seconds):
    time.sleep(seconds)  # job
    return seconds


def ignore_every_end_and_sleep(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(600)  # job


def start_child_and_wait(path):
    child = subprocess.Popen(["sleep", "600"])
    grandchild = subprocess.Popen(["sleep", "601"], start_new_session=True)
    with open(path + ".new", "w") as file:
        file.write(f"{child.pid} {grandchild.pid}")
    os.replace(path + ".new", path)
    time.sleep(600)  # job


def append_and_fail(path, until):
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < until:
        raise ValueError("again")
    return os.path.getsize(path)


def append_and_die(path):
    with open(path, "a") as file:
        file.write("x")
    os._exit(3)


def append_name(path, name):
    with open(path, "a") as file:
        file.write(name)


def context():
    job = procjobs.current_job()
    return job.id, job.name, job.attempt, job.deadline is not None, job.cancelled


def count(n):
    for _ in procjobs.track(range(n), message="counting"):
        pass
    return n


class LeavesTrace:
    """Writes the pid of every process that unpickles it into a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return _trace, (self.path,)


def _trace(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    return


class UnpicklesNowhere:
    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise RuntimeError("this cannot be unpickled")


def return_unpicklable_here():
    return UnpicklesNowhere()


def return_unpickleable():
    return (i for i in range(3))


class BadError(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


def raise_bad_error():
    raise BadError(1, 2)


def raise_with_generator():
    raise ValueError(i for i in range(3))


def append_line(path, value, _data=b""):
    with open(path, "a") as file:
        file.write(f"{value}\n")
    return value


def submit_for_ever(name, size):
    with procjobs.Pool(name) as pool:
        while True:
            pool.submit(len, b"x" * size).result()


def append_line_and_wait(path, value, go):
    append_line(path, value)
    return wait_for_file(go, value)


@functools.lru_cache
def echo_cached(value):
    return value


def return_with_lock():
    return {"lock": threading.Lock()}


def patch(library):
    """Patch the standard library of the worker."""
    if library == "gevent":
        from gevent import monkey

        monkey.patch_all()
    else:
        import eventlet

        eventlet.monkey_patch()
    return library


def sleep_for_ever():
    while True:
        time.sleep(0.01)  # job


def leave_a_child():
    return subprocess.Popen(["sleep", "60"]).pid
