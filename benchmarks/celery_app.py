"""The functions of `work.py` as Celery tasks."""

from __future__ import annotations

import os

import celery
import work

NAMES = ("noop", "sleep", "hold")


def make_app(path):
    """Return an application that uses this Redis, and its tasks by name."""
    made = celery.Celery("celery_app")
    made.conf.broker_url = made.conf.result_backend = f"redis+socket://{path}"
    made.conf.task_acks_late = os.environ.get("PROCJOBS_BENCHMARK_ACKS_LATE") == "1"
    made.conf.worker_hijack_root_logger = False
    return made, {name: made.task(getattr(work, name), name=name) for name in NAMES}


if "PROCJOBS_BENCHMARK_REDIS" in os.environ:  # Celery's worker, which looks for an application in this module
    app, _ = make_app(os.environ["PROCJOBS_BENCHMARK_REDIS"])
