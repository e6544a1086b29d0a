"""Jobs that say which code they ran, and when; and modules on disk whose code changes."""

from __future__ import annotations

import fcntl
import importlib
import os
import time
import uuid

from tests.process import jobs


class Code:
    """A module in a folder that is on `sys.path`, rewritten from version to version.

    Every version has another size: Python takes a cached .pyc for current that was made within the same second from a
    source of the same size.
    """

    def __init__(self, folder):
        self.name = f"code_{uuid.uuid4().hex[:12]}"
        self.path = folder / f"{self.name}.py"
        self.sizes = 0
        self.write("one")

    def write(self, version, also=""):
        """Make this the code: its jobs return `version`; `also` is run when it is imported."""
        self.sizes += 1
        new = self.path.with_suffix(".new")
        new.write_text(f"VERSION = {version!r}  #{'.' * self.sizes}\n{also}\n{FUNCTIONS}")
        os.replace(new, self.path)


FUNCTIONS = """
import os
from tests.process import jobs

def version():
    return VERSION

def report(path):
    jobs.append_name(path, VERSION)
    return VERSION

def wait(path):
    jobs.wait_for_file(path)
    return VERSION

def wait_and_fail_on_one(path):
    jobs.wait_for_file(path)
    if VERSION == "one":
        raise ValueError("this code has a bug")
    return VERSION
"""


def call(module, function, *args):
    """Call a function of a module that only the worker imports."""
    return getattr(importlib.import_module(module), function)(*args)


def note(path, *words):
    """Append a line to a file, whole, and flush it."""
    with open(path, "a") as file:
        file.write(" ".join(map(str, words)) + "\n")


def alone(path, name, seconds=0.0, result=None):
    """Run while nobody else does who is given the same path; note the beginning, and an overlap."""
    with open(path + ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(path, name, "OVERLAPS")
            raise
        note(path, name)
        if seconds:
            time.sleep(seconds)  # job
    return result


def alone_until(path, name, go):
    """Run like `alone` until a file is there."""
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        note(path, name)
        return jobs.wait_for_file(go, name)


def alone_and_die(path, name):
    note(path, name)
    os._exit(3)


def alone_and_fail(path, name):
    alone(path, name)
    raise ValueError(name)


def lines(path):
    """Return the lines that have been noted."""
    try:
        with open(path) as file:
            return file.read().split("\n")[:-1]
    except FileNotFoundError:
        return []
