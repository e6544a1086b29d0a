"""The ticker's work: which worker gets which task.

Tasks that are due go to workers that are idle, the longest due first, evenly. A task that waits for a busy worker goes to
an idle one as soon as there is one. All changes hold only if the task is still as it was read, so that nobody's decision,
not even that of a second ticker, can run a task twice.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from procjobs.compat.web2py.graph import blocked_tasks
from procjobs.compat.web2py.names import ACTIVE, ASSIGNED, COMPLETED, EXPIRED, PICK, QUEUED, RUNNING, STOP_TASK
from procjobs.compat.web2py.register import BROADCAST_PREFIX
from procjobs.compat.web2py.rules import next_start
from procjobs.compat.web2py.tables import DEFAULT_APPLICATION, new_uuid

_WAITING: Final = (QUEUED, ASSIGNED)
_AHEAD: Final = 10
"""How many tasks wait for one worker at the most. It takes the next one without a word from the ticker."""
_WORKING: Final = frozenset({ACTIVE, PICK, STOP_TASK})


def due_tasks(db: Any, now: dt.datetime, group_names: Sequence[str]) -> Any:
    """Return the query for the tasks of some groups that could run now."""
    tasks = db.scheduler_task
    return (
        tasks.status.belongs(_WAITING)
        & ((tasks.next_run_time <= now) | (tasks.next_run_time == None))
        & ((tasks.enabled == True) | (tasks.enabled == None))
        & tasks.group_name.belongs(list(group_names))
        & ~tasks.id.belongs(blocked_tasks(db))
    )


def complete_rows(db: Any) -> None:
    """Fill in what other programs have left out that wrote tasks into the table themselves."""
    tasks = db.scheduler_task
    bare = db((tasks.status == None) | (tasks.uuid == None) | (tasks.group_name == None))
    for row in bare.select(tasks.ALL):
        row.update_record(
            status=row.status or QUEUED, uuid=row.uuid or new_uuid(), group_name=row.group_name or "main",
            application_name=row.application_name or tasks.application_name.default or DEFAULT_APPLICATION,
        )  # fmt: skip


def expire_tasks(db: Any, now: dt.datetime) -> None:
    """Give up tasks whose stop_time has passed before they could run."""
    tasks = db.scheduler_task
    late = db(tasks.status.belongs(_WAITING) & (tasks.stop_time < now))
    if not late.isempty():  # to look costs no lock
        late.update(status=EXPIRED)


def deal(db: Any, now: dt.datetime, workers: Sequence[Any]) -> int:
    """Hand tasks out to workers, whose rows are given; return how many were."""
    working = [row for row in workers if row.status in _WORKING]
    groups = _by_group(working)
    tasks = db.scheduler_task
    rows = db(due_tasks(db, now, list(groups))).select(
        tasks.ALL, orderby=tasks.next_run_time | tasks.id, limitby=(0, 2 * _AHEAD * max(len(working), 1))
    )
    idle = {row.worker_name for row in working if (row.worker_stats or {}).get("status") != RUNNING}
    load = Counter(row.assigned_worker_name for row in rows if row.status == ASSIGNED)
    dealt = 0
    for task in rows:
        names = [worker.worker_name for worker in groups.get(task.group_name, ())]
        if task.broadcast:
            dealt += _broadcast(db, task, now)
        elif not task.uuid.startswith(BROADCAST_PREFIX) and not (
            task.status == ASSIGNED and task.assigned_worker_name in idle
        ):
            choice = min((name for name in names if name in idle), key=lambda name: load[name], default=None)
            if choice is not None and load[choice] < _AHEAD and _assign(db, task, choice):
                load[choice] += 1
                dealt += 1
        elif task.status == QUEUED and _assign(db, task, task.assigned_worker_name):  # a copy that is tried again
            dealt += 1
    return dealt


def _by_group(workers: Sequence[Any]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for worker in workers:
        for name in worker.group_names or ():
            groups.setdefault(name, []).append(worker)
    return groups


def _assign(db: Any, task: Any, worker_name: str) -> bool:
    """Give a task to a worker, unless somebody has changed its status or worker since it was read."""
    tasks = db.scheduler_task
    as_read = (tasks.id == task.id) & (tasks.status == task.status)
    if task.status == ASSIGNED:
        as_read &= tasks.assigned_worker_name == task.assigned_worker_name
    return bool(db(as_read).update(status=ASSIGNED, assigned_worker_name=worker_name))


def _broadcast(db: Any, task: Any, now: dt.datetime) -> int:
    """Make a copy of a task for each worker of its group; return how many.

    The workers are read anew: one that has come after `workers` were read may have been there before the task.
    """
    tasks, workers = db.scheduler_task, db.scheduler_worker
    rows = db(workers.status.belongs(list(_WORKING))).select(workers.worker_name, workers.group_names)
    names = [row.worker_name for row in rows if task.group_name in (row.group_names or ())]
    times_run = (task.times_run or 0) + 1
    repeats = 1 if task.repeats is None else task.repeats
    as_read = (tasks.id == task.id) & (tasks.status == QUEUED) & (tasks.next_run_time == task.next_run_time)
    changed = db(as_read).update(
        status=COMPLETED if repeats and times_run >= repeats else QUEUED, times_run=times_run, last_run_time=now,
        next_run_time=next_start(task, now),
    )  # fmt: skip
    if not changed:
        return 0
    for name in names:
        db.scheduler_task.insert(
            application_name=task.application_name, task_name=task.task_name, group_name=task.group_name, status=ASSIGNED,
            broadcast=False, function_name=task.function_name, args=task.args, vars=task.vars, timeout=task.timeout,
            uuid=f"{BROADCAST_PREFIX}{new_uuid()}", start_time=now, next_run_time=now, repeats=1, period=task.period,
            retry_failed=task.retry_failed, sync_output=task.sync_output, assigned_worker_name=name,
        )  # fmt: skip
    return len(names)
