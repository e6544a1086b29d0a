"""Jobs for the tests of the command line: each waits for an event or does one thing."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import procjobs


def echo(*args, **kwargs):
    return {"args": list(args), "kwargs": kwargs}


def affinity():
    return sorted(os.sched_getaffinity(0))


def say(text):
    print(text, flush=True)
    return text.upper()


def fail(text):
    raise ValueError(text)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def touch(path):
    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.replace(path + ".new", path)


def wait_for(path, text="", value=1, total=4):
    """Report, print, and wait for a file."""
    procjobs.progress(value, total, "waiting")
    if text:
        print(text, flush=True)
    while not os.path.exists(path):
        time.sleep(0.005)  # job
    return "it came"


def hang(begun, ended):
    """Write a file at the begin, and another one when it is stopped."""
    touch(begun)
    try:
        time.sleep(600)  # job
    finally:
        touch(ended)


def hang_stubbornly(begun):
    touch(begun)
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(600)  # job


EVIL = "\x1b]0;title\x07\x1b[2J\x9b31m\u202eevil"


class Evil(Exception):
    """An error of a job that takes aim at the terminal of its reader."""


def attack(path=None, how="return"):
    """Put control characters into everything that is shown of a job; how it ends is chosen."""
    procjobs.progress(1, 4, EVIL)
    print(EVIL, flush=True)
    while path is not None and not os.path.exists(path):
        time.sleep(0.005)  # job
    if how == "raise":
        raise Evil(EVIL)
    return EVIL


class Unshowable:
    def __repr__(self):
        raise RuntimeError("no repr")


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no str")


def unshowable():
    return Unshowable()


def list_of_unshowable():
    return [Unshowable()]


def not_a_number():
    return float("nan")


def raise_unshowable():
    raise Unspeakable
