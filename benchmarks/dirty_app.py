"""The functions of `work.py` as an application of gunicorn's dirty workers, and gunicorn's configuration for it."""

from __future__ import annotations

import os

import work
from gunicorn.dirty import DirtyApp

worker_class = "sync"


def when_ready(_server):
    """Write the path of the dirty workers' socket into a file when they listen."""
    path = os.environ["PROCJOBS_BENCHMARK_DIRTY"]
    with open(f"{path}.new", "w") as file:
        file.write(os.environ["GUNICORN_DIRTY_SOCKET"])
    os.rename(f"{path}.new", path)


class Work(DirtyApp):
    """Calls the function with the name of the action, and answers with its result."""

    def __call__(self, action, *args, **kwargs):
        return getattr(work, action)(*args, **kwargs)


def application(_environ, start_response):
    start_response("204 No Content", [])
    return []
