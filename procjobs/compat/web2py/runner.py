"""Runs tasks on a pool of this process: one worker, a new process for each task.

The pool ends with this process, also if that is killed, and every process that a task has started with it. Its processes
come from a template that has never been connected to a database, so that tasks make connections of their own.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

from procjobs import Job, JobCancelled, JobTimeout, Pool, ProcjobsError
from procjobs.compat.web2py import alias
from procjobs.compat.web2py.context import request
from procjobs.compat.web2py.in_worker import Call, Report, Web2py, after_clear, run_task
from procjobs.compat.web2py.names import FAILED, STOPPED, TIMEOUT
from procjobs.compat.web2py.taking import Task

_GRACE_PERIOD: Final = 2.0
"""Seconds that a task has to clean up when its time is out or somebody stops it."""


class Run:
    """A task in the pool."""

    def __init__(self, job: Job[Report]) -> None:
        self._job = job

    def wait(self, seconds: float) -> bool:
        """Wait for the end, at most so long; return whether it has come."""
        return self._job.wait(seconds)

    def cancel(self) -> None:
        """Interrupt the task, and kill it after the grace period. Does not wait."""
        self._job.cancel()

    def output(self) -> str:
        """Return the end (16 KiB) of what the task has printed."""
        try:
            return after_clear(self._job.logs())
        except ProcjobsError:  # the pool has been killed, and its successor does not know the job
            return ""

    def report(self) -> Report:
        """Return how the task has ended."""
        try:
            return self._job.result()
        except JobTimeout as error:
            return self._cut_off(TIMEOUT, error)
        except JobCancelled as error:
            return self._cut_off(STOPPED, error)
        except Exception as error:  # noqa: BLE001 - a crash, or a report that cannot be read: it has failed
            return self._cut_off(FAILED, error)

    def _cut_off(self, status: str, error: BaseException) -> Report:
        text = "".join(traceback.format_exception(error)) if status != STOPPED else str(error)
        return Report(status, None, self.output(), text)


class Failed(Run):
    """A task that could not be handed to the pool."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def wait(self, seconds: float) -> bool:
        """Return at once."""
        return True

    def cancel(self) -> None:
        """Do nothing: nothing runs."""

    def output(self) -> str:
        """Return the output that a task has that never ran."""
        return ""

    def report(self) -> Report:
        """Return why it could not be handed over."""
        return self._cut_off(FAILED, self._error)


class Runner:
    """A pool for the tasks of one worker, started when it is made."""

    def __init__(self, tasks: Mapping[str, Callable[..., Any]] | None) -> None:
        self._tasks = tasks or {}
        self._web2py = _describe_web2py()
        preload = [run_task.__module__, *(["gluon.shell"] if self._web2py else [])]
        self._pool = Pool(
            workers=1, max_jobs_per_worker=1, grace_period=_GRACE_PERIOD, preload=preload, version="web2py", retries=0,
            store=None,
        )  # fmt: skip

    def start(self, task: Task) -> Run:
        """Start a task; its time runs from the start of its process on."""
        function = None if self._web2py else self._tasks.get(task.function_name)
        marks = {"id": task.id, "uuid": task.uuid, "run_id": task.run_id}
        call = Call(task.application_name, task.function_name, function, task.args, task.vars, marks, self._web2py)
        try:
            pool = self._pool.options(timeout=task.timeout or None, name=task.function_name or None)
            return Run(pool.submit(run_task, call))
        except ProcjobsError as error:  # a function that cannot be pickled
            return Failed(error)

    def stop(self) -> None:
        """End the pool and everything in it; return when it has ended."""
        with contextlib.suppress(ProcjobsError):
            self._pool.stop()


def _describe_web2py() -> Web2py | None:
    """Return what the worker needs of web2py, None where this process runs in no web2py."""
    if request() is None:
        return None
    settings = sys.modules.get("gluon.settings")
    options = settings.global_settings.cmd_options if settings is not None else None
    return Web2py(options, alias.is_installed())
