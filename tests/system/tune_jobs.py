"""Jobs for the tests of `tune`: each does one thing, and none takes long."""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path


def nap(seconds=0.002):
    time.sleep(seconds)  # job


def record(first, second=None, *, folder):
    """Leave a file with the arguments."""
    name = Path(folder, uuid.uuid4().hex)
    name.with_suffix(".new").write_text(json.dumps([first, second]))
    name.with_suffix(".new").rename(name)


def fail(film=None):
    if film:
        raise ValueError(f"no {film}")


def workers_beside():
    """Return how many processes beside this one have the same parent."""
    parent = os.getppid()
    return len(Path(f"/proc/{parent}/task/{parent}/children").read_text().split())


def die_in_company(_folder):
    """Crash where the pool has two workers; with the template, that is three children of the supervisor."""
    if workers_beside() > 2:
        os._exit(3)


def stay(folder, workers):
    """Run on where the pool has so many workers, until it is let go."""
    print("what a job prints")
    if workers_beside() > workers and not os.path.exists(f"{folder}/go"):
        Path(folder, "stays.new").write_text(str(os.getpid()))
        Path(folder, "stays.new").rename(Path(folder, "stays"))
        while not os.path.exists(f"{folder}/go"):
            time.sleep(0.005)  # job
