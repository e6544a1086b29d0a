"""The functions of `work.py` as an application of gunicorn's dirty workers, and gunicorn's configuration for it."""

from __future__ import annotations

import os

import work
from gunicorn.dirty import DirtyApp

worker_class = "sync"


def when_ready(_server):
    """Tell where the dirty workers listen, once they do."""
    path = os.environ["PROCJOBS_BENCHMARK_DIRTY"]
    with open(f"{path}.new", "w") as file:
        file.write(os.environ["GUNICORN_DIRTY_SOCKET"])
    os.rename(f"{path}.new", path)


class Work(DirtyApp):
    """Answers with what the function of that name returns."""

    def __call__(self, action, *args, **kwargs):
        return getattr(work, action)(*args, **kwargs)


def application(_environ, start_response):
    start_response("204 No Content", [])
    return []
