"""A worker takes a task that is assigned to it, and writes down how its run has ended."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from procjobs.compat.web2py.graph import unblock_parents
from procjobs.compat.web2py.in_worker import Report
from procjobs.compat.web2py.names import ASSIGNED, COMPLETED, QUEUED, RUNNING, STOPPED
from procjobs.compat.web2py.rules import Change, after_failure, after_success, next_start


@dataclass(frozen=True)
class Task:
    """A task that this worker runs, as it was when the run began."""

    id: int
    uuid: str
    run_id: int
    """0 where runs are not kept."""
    application_name: str
    function_name: str
    args: str
    vars: str
    timeout: int | None
    sync_output: int
    repeats: int
    retry_failed: int
    times_run: int
    times_failed: int
    stop_time: dt.datetime | None
    next_run_time: dt.datetime
    """When it is due again."""


class Taker:
    """Takes the tasks of one worker, and closes their runs."""

    def __init__(self, db: Any, worker_name: str, *, keeps_runs: bool, stop_after_failure: bool) -> None:
        self._db = db
        self._name = worker_name
        self._keeps_runs = keeps_runs
        self._stop_after_failure = stop_after_failure

    def take(self, now: dt.datetime) -> Task | None:
        """Make the task that is due longest RUNNING, and its run; return it, None if there is none."""
        tasks = self._db.scheduler_task
        mine = (tasks.assigned_worker_name == self._name) & (tasks.status == ASSIGNED)
        row = self._db(mine).select(tasks.ALL, orderby=tasks.next_run_time | tasks.id, limitby=(0, 1)).first()
        # Somebody may have stopped the task, or given it to another worker, since it was read.
        if row is None or not self._db((tasks.id == row.id) & mine).update(status=RUNNING, last_run_time=now):
            return None
        run_id = 0
        if self._keeps_runs:
            runs = self._db.scheduler_run
            run_id = int(runs.insert(task_id=row.id, status=RUNNING, start_time=now, worker_name=self._name))
        return _task(row, run_id, next_start(row, now))

    def is_still_ours(self, task: Task) -> bool:
        """Return whether the task is to go on: nobody has stopped it, taken it out, or given it to another worker."""
        tasks = self._db.scheduler_task
        mine = (tasks.id == task.id) & (tasks.status == RUNNING) & (tasks.assigned_worker_name == self._name)
        return not self._db(mine).isempty()

    def write_output(self, task: Task, output: str) -> None:
        """Write what a running task has printed so far."""
        self._db(self._db.scheduler_run.id == task.run_id).update(run_output=_clean(output))

    def finish(self, task: Task, report: Report, now: dt.datetime) -> None:
        """Write how a run has ended, and what becomes of its task."""
        self._close_run(task, report, now)
        if report.status == COMPLETED:
            change = after_success(task)
        else:
            status = "FAILED" if report.status == STOPPED else report.status
            change = after_failure(task, status, stop_after_failure=self._stop_after_failure)
        if self._change(task, change, next_run_time=task.next_run_time) and change.status == COMPLETED:
            unblock_parents(self._db, task.id)

    def stop(self, task: Task, report: Report, now: dt.datetime) -> None:
        """Write that somebody has stopped a task for good."""
        self._close_run(task, report._replace(status=STOPPED), now)
        self._change(task, Change(STOPPED, task.times_run, task.times_failed))

    def give_back(self, task: Task, report: Report, now: dt.datetime) -> None:
        """Write that this worker has ended in the middle of a run: the task is queued again as if it had not begun."""
        self._close_run(task, report._replace(status=STOPPED), now)
        self._change(task, Change(QUEUED, task.times_run, task.times_failed), assigned_worker_name="")

    def _close_run(self, task: Task, report: Report, now: dt.datetime) -> None:
        run = self._db(self._db.scheduler_run.id == task.run_id)
        if report.status == COMPLETED and report.result == "null":  # nothing to keep, as in the original
            run.delete()
        elif task.run_id:
            run.update(
                status=report.status, stop_time=now, run_result=report.result, run_output=_clean(report.output),
                traceback=report.traceback and _clean(report.traceback),
            )  # fmt: skip

    def _change(self, task: Task, change: Change, **columns: Any) -> bool:
        """Change the task's row, if it is still ours: what somebody has made of it meanwhile holds."""
        tasks = self._db.scheduler_task
        mine = (tasks.id == task.id) & (tasks.status == RUNNING) & (tasks.assigned_worker_name == self._name)
        return bool(self._db(mine).update(**change._asdict(), **columns))


def _task(row: Any, run_id: int, next_run_time: dt.datetime) -> Task:
    """Return a task with the defaults of the columns that are empty: its row may have been written by hand."""
    return Task(
        id=int(row.id), uuid=row.uuid, run_id=run_id, application_name=row.application_name or "",
        function_name=row.function_name or "", args=row.args or "[]", vars=row.vars or "{}",
        timeout=row.timeout, sync_output=row.sync_output or 0, repeats=1 if row.repeats is None else row.repeats,
        retry_failed=row.retry_failed or 0, times_run=row.times_run or 0, times_failed=row.times_failed or 0,
        stop_time=row.stop_time, next_run_time=next_run_time,
    )  # fmt: skip


def _clean(text: str) -> str:
    """Return a text that every database takes."""
    return text.replace("\0", "").encode(errors="replace").decode()
