"""Jobs of the tests of the API."""

from __future__ import annotations

from pathlib import Path

import procjobs
from tests.process.jobs import wait_for_file


def wait_for(path, begun=None):
    """Report, note that it runs, and go on when a file is there."""
    procjobs.progress(1, 3, "begun \x1b[31mred\x1b[0m")
    print("a line of the log")
    if begun is not None:
        Path(begun).touch()
    return wait_for_file(path, "it came")


def add(first, second):
    return first + second


def fail(text="as asked"):
    raise ValueError(text)


def fail_once(path):
    """Fail, unless a file is there."""
    if not Path(path).exists():
        raise ValueError("not yet")
    return "at last"


def tell():
    return "told"


def take(value, *, text):
    assert value
    assert text
    return "taken"


def report(path):
    """Report an object as data that notes where it is unpickled."""
    from .test_api_arguments import Trap

    procjobs.progress(1, 2, "with data", data=Trap(path))
    return "reported"
