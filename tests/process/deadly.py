"""Ways to die, and places in the life of a job or of a worker to do it: imported by workers and templates too."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import enum
import fcntl
import itertools
import os
import resource
import signal
import sys
import time

import procjobs
from procjobs.worker.worker import Worker

MEBIBYTE = 2**20


class Died(Exception):
    pass


class Way(enum.Enum):
    EXCEPTION = enum.auto()
    SYSTEM_EXIT = enum.auto()
    OS_EXIT = enum.auto()
    SIGSEGV = enum.auto()
    SIGABRT = enum.auto()
    SIGKILL = enum.auto()
    SIGSTOP = enum.auto()
    LOOP = enum.auto()
    LOOP_IN_C = enum.auto()
    IGNORING_SIGTERM = enum.auto()
    MEMORY_ERROR = enum.auto()
    MAX_RSS = enum.auto()

    def die(self, *_args):
        _DEATHS[self]()


def _raise():
    raise Died("here")


def _kill(number):
    os.kill(os.getpid(), number)
    _loop()


def _segfault():
    ctypes.string_at(0)


def _loop():
    while True:
        pass


def _loop_in_c():
    collections.deque(itertools.repeat(0), maxlen=0)


def _ignore_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        with contextlib.suppress(BaseException):  # its interruption
            _loop()


def _run_out_of_memory():
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 64 * MEBIBYTE, limits[1]))
    try:
        bytearray(1024 * MEBIBYTE)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _grow():
    _hold = b"x" * (160 * MEBIBYTE)
    while True:
        time.sleep(1)  # job


_DEATHS = {
    Way.EXCEPTION: _raise,
    Way.SYSTEM_EXIT: lambda: sys.exit(4),
    Way.OS_EXIT: lambda: os._exit(7),
    Way.SIGSEGV: _segfault,
    Way.SIGABRT: os.abort,
    Way.SIGKILL: lambda: _kill(signal.SIGKILL),
    Way.SIGSTOP: lambda: _kill(signal.SIGSTOP),
    Way.LOOP: _loop,
    Way.LOOP_IN_C: _loop_in_c,
    Way.IGNORING_SIGTERM: _ignore_sigterm,
    Way.MEMORY_ERROR: _run_out_of_memory,
    Way.MAX_RSS: _grow,
}


class _DiesPickled:
    def __init__(self, way):
        self.way = way

    def __reduce__(self):
        self.way.die()


class _DiesUnpickled:
    def __init__(self, way):
        self.way = way

    def __reduce__(self):
        return Way.die, (self.way,)


class DieAt:
    """Objects in whose handling a process dies: `DieAt.unpickle(Way.SIGSEGV)`."""

    pickle = _DiesPickled
    unpickle = _DiesUnpickled


# Jobs ------------------------------------------------------------------------------------------------


def die(way):
    way.die()


def make(kind, way):
    return kind(way)


def report_dying(way):
    procjobs.progress(40, 100, "nearly", DieAt.pickle(way))


def _this_worker():
    frame = sys._getframe()
    while not isinstance(frame.f_locals.get("self"), Worker):
        frame = frame.f_back
    return frame.f_locals["self"]


def die_after_the_answer(way):
    """Return; the worker dies between its answer and whatever it would do next."""
    worker = _this_worker()
    send = worker._send

    def send_and_die(*args):
        send(*args)
        way.die()

    worker._send = send_and_die
    return "answered"


def die_while_answering(way, path, go):
    """Return when `go` exists what does not fit into the worker's pipe; it dies at SIGUSR1, which is for the test."""
    worker = _this_worker()
    fcntl.fcntl(worker._answers, fcntl.F_SETPIPE_SZ, 4096)
    send = worker._send

    def send_and_die(*args):
        signal.signal(signal.SIGUSR1, way.die)  # one that the job had set would be gone by now
        send(*args)

    worker._send = send_and_die
    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.replace(path + ".new", path)
    while not os.path.exists(go):
        time.sleep(0.002)  # job
    return os.urandom(60_000)


# Templates and workers -------------------------------------------------------------------------------


class Trap:
    """A file that tells the next process that comes by a place to die there: `arm` here, `spring` in that process."""

    def __init__(self, directory):
        self.directory = str(directory)

    def arm(self, place, way):
        with open(f"{self.directory}/{place}.new", "w") as file:
            file.write(way.name)
        os.replace(f"{self.directory}/{place}.new", f"{self.directory}/{place}")

    def is_armed(self, place):
        return os.path.exists(f"{self.directory}/{place}")

    def spring(self, place):
        claimed = f"{self.directory}/{place}-{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{self.directory}/{place}", claimed)
            with open(claimed) as file:
                way = Way[file.read()]
            os.unlink(claimed)
            way.die()


def start_or_die(directory):
    """Count a start in the file `starts`, and die if there is a file `way` that says how."""
    with open(f"{directory}/starts", "a") as file:
        file.write(f"{time.monotonic()}\n")
    try:
        with open(f"{directory}/way") as file:
            way = Way[file.read()]
    except FileNotFoundError:
        return
    way.die()


def start_settings(place, directory):
    """Return the settings of a pool in which `start_or_die` is called in every template, or in every worker."""
    if place == "preload":
        return {"preload": ["preloaded_here"], "version": "1"}
    return {"initializer": start_or_die, "initargs": (str(directory),)}
