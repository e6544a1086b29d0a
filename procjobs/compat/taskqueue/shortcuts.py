"""A task made and added in one call."""

from __future__ import annotations

from typing import Any

from procjobs.compat.taskqueue.results import Result
from procjobs.compat.taskqueue.settings.queues import DEFAULT_QUEUE
from procjobs.compat.taskqueue.task import Task


def add(
    payload: str | bytes | None = None, *, queue_name: str = DEFAULT_QUEUE, transactional: bool = False, **options: Any
) -> Task:
    """Make a Task of these arguments, add it to a queue, and return it; raise what `Task` and `Queue.add` raise."""
    added: Task = Task(payload, **options).add(queue_name=queue_name, transactional=transactional)
    return added


def add_async(
    payload: str | bytes | None = None, *, queue_name: str = DEFAULT_QUEUE, transactional: bool = False, **options: Any
) -> Result[Task]:
    """Do as `add` does; `get_result()` returns the task, or raises what the database says."""
    return Task(payload, **options).add_async(queue_name=queue_name, transactional=transactional)
