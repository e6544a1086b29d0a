"""The functions of `work.py` as Huey's tasks."""

from __future__ import annotations

import os

import huey
import work

NAMES = ("noop", "sleep")


def noop(*args):
    """Return a result that Huey stores: it does not store None."""
    work.noop(*args)
    return 1


def sleep(seconds):
    work.sleep(seconds)
    return 1


def make_tasks(path):
    """Return the tasks by name, with their storage in this file."""
    global app
    app = huey.SqliteHuey("benchmark", filename=path)
    return {"noop": app.task(name="noop")(noop), "sleep": app.task(name="sleep")(sleep)}


app = None
if "PROCJOBS_BENCHMARK_HUEY" in os.environ:  # Huey's consumer, which looks for `app` in this module
    make_tasks(os.environ["PROCJOBS_BENCHMARK_HUEY"])
