"""Jobs for the tests of `tune`: each does one thing and takes a short time."""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path


def nap(seconds=0.002):
    time.sleep(seconds)  # job


def record(first, second=None, *, folder):
    """Write a file with the arguments."""
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
    """Crash if the pool has two workers: with the template, the supervisor then has three children."""
    if workers_beside() > 2:
        os._exit(3)


def stay(folder, workers):
    """If the pool has `workers` workers, and so one child more with the template, run until a file appears."""
    print("what a job prints")
    if workers_beside() > workers and not os.path.exists(f"{folder}/go"):
        Path(folder, "stays.new").write_text(str(os.getpid()))
        Path(folder, "stays.new").rename(Path(folder, "stays"))
        while not os.path.exists(f"{folder}/go"):
            time.sleep(0.005)  # job
