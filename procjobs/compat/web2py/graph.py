"""Dependencies between tasks: a task waits until all tasks that it depends on are COMPLETED."""

from __future__ import annotations

import contextlib
from graphlib import CycleError, TopologicalSorter
from typing import Any


class JobGraph:
    """The dependencies of one job, a set of tasks; `db` has the tables of a Scheduler."""

    def __init__(self, db: Any, job_name: str | None) -> None:
        self.job_name = job_name or "job_0"
        self.db = db

    def add_deps(self, task_parent: int, task_child: int) -> None:
        """Have the task `task_parent` wait for the task `task_child`. The row follows the caller's commit or rollback."""
        self.db.scheduler_task_deps.insert(task_parent=task_parent, task_child=task_child, job_name=self.job_name)

    def validate(self, job_name: str | None = None) -> list[set[int]] | None:
        """Return the ids of the tasks level by level, the first to run first, and commit.

        Where tasks wait for each other in a circle, or there are no dependencies, roll back and return None. Without
        `job_name`, look at all jobs.
        """
        db = self.db
        deps = db.scheduler_task_deps
        try:
            levels = _levels(db(deps.job_name == job_name if job_name else deps.id > 0).select())
        except CycleError:
            levels = []
        if not levels:
            with contextlib.suppress(Exception):  # the connection may be broken; the caller asked for None then too
                db.rollback()
            return None
        db.commit()
        return levels


def _levels(edges: Any) -> list[set[int]]:
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for edge in edges:
        parent, child = edge.task_parent, int(edge.task_child)
        sorter.add(parent, *({child} - {parent}))  # a task that depends on itself waits for nothing
    sorter.prepare()
    levels = []
    while sorter.is_active():
        ready = sorter.get_ready()
        levels.append(set(ready))
        sorter.done(*ready)
    return levels


def blocked_tasks(db: Any) -> Any:
    """Return a subquery for the ids of the tasks that wait for another one."""
    deps = db.scheduler_task_deps
    waits = (deps.can_visit == False) | (deps.can_visit == None)
    blocked = db(waits & (deps.task_parent != None) & (deps.task_parent != deps.task_child))
    return blocked._select(deps.task_parent)  # noqa: SLF001 - pydal has no public name for a subquery


def unblock_parents(db: Any, task_id: int) -> None:
    """Note that a task is COMPLETED: tasks that wait for it may run."""
    db(db.scheduler_task_deps.task_child == task_id).update(can_visit=True)
