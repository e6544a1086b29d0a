"""The functions of `work.py` as Procrastinate's tasks."""

from __future__ import annotations

import os

import procrastinate
import work


def make_app(connector):
    """Return an application, and its tasks by name."""
    made = procrastinate.App(connector=connector)
    return made, {"noop": made.task(name="noop")(work.noop)}


def open_app(address):
    """Return a connected application for submitting, and its tasks by name."""
    made, tasks = make_app(procrastinate.SyncPsycopgConnector(conninfo=address))
    made.open()
    return made, tasks


if "PROCJOBS_BENCHMARK_PROCRASTINATE" in os.environ:  # Procrastinate's worker, which looks for `app` in this module
    app, _ = make_app(procrastinate.PsycopgConnector(conninfo=os.environ["PROCJOBS_BENCHMARK_PROCRASTINATE"]))
