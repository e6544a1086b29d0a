"""The hopper as applications hold it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

from procjobs.compat.taskhopper.errors import UnknownTask
from procjobs.compat.taskhopper.functions import TasksModule
from procjobs.compat.taskhopper.json_values import pack_arguments
from procjobs.compat.taskhopper.table import MAX_NAME, QUEUED, Task, now
from procjobs.compat.taskhopper.writers import open_writer
from procjobs.errors import ConfigurationError


class TaskHopper:
    """Adds tasks to the table `task_status`; `procjobs tasks run` runs them.

    db: a URL or an Engine (a task is committed at once); or a Connection, Session, scoped_session of SQLAlchemy or a DAL of
        pydal (a task is a row of the transaction that is open there). SQLite or PostgreSQL. The table is created if it is
        not there.
    tasks: the module whose functions are tasks: its name, the path of its file, or the module. It is imported with the first
        task.

    Raise ConfigurationError for a database or module that cannot be used, DatabaseAway if the database does not answer.
    """

    def __init__(self, db: Any, tasks: str | ModuleType = "tasks") -> None:
        self._tasks = TasksModule(tasks)
        self._writer = open_writer(db)

    def add_task(
        self,
        name: str | Callable[..., Any],
        args: Sequence[Any] = (),
        *,
        kwargs: Mapping[str, Any] | None = None,
        at: datetime | None = None,
    ) -> int:
        """Add a call of a task, by its name, and return the id of its row.

        Tasks run in the order of `at`, which is the time of this call if it is not given; a datetime without a zone is
        local time.

        Raise UnknownTask if the module defines no such function, and ArgumentsNotJSON (a TypeError) if the arguments cannot
        be written as JSON; then nothing is added. A Connection, Session or DAL raises its own errors, an Engine or URL
        DatabaseAway.
        """
        created = now()
        found = self._tasks.find(name)
        if len(found) > MAX_NAME:
            raise UnknownTask(f"the task {found[:50]!r}... has a name of more than {MAX_NAME} characters")
        values = {
            "task_name": found, "task_args": pack_arguments(found, args, kwargs), "status": QUEUED, "created_on": created,
            "due_on": created if at is None else _to_utc(at),
        }  # fmt: skip
        return self._writer.insert(values)

    def task(self, task_id: int) -> Task | None:
        """Return the row of a task, with its status, result and traceback; None if there is none with this id."""
        return self._writer.read(task_id)


def _to_utc(at: datetime) -> datetime:
    if not isinstance(at, datetime):
        raise ConfigurationError(f"at={at!r}: expected a datetime; one without a zone is local time")
    try:
        return at.astimezone(UTC).replace(tzinfo=None)
    except (OverflowError, OSError, ValueError) as error:
        raise ConfigurationError(f"at={at!r} cannot be used: {error}") from None
