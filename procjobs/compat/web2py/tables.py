"""The four tables of the scheduler in the application's database, column by column as web2py has them."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

from pydal import Field
from pydal.validators import (
    IS_DATETIME,
    IS_EMPTY_OR,
    IS_IN_DB,
    IS_IN_SET,
    IS_INT_IN_RANGE,
    IS_NOT_EMPTY,
    IS_NOT_IN_DB,
)

from procjobs.compat.web2py.context import request
from procjobs.compat.web2py.cron import IS_CRONLINE
from procjobs.compat.web2py.names import QUEUED, RUN_STATUS, TASK_STATUS, WORKER_STATUS

DEFAULT_APPLICATION: Final = "application"
"""The `application_name` of tasks outside of web2py, where a task belongs to the process's own program."""


class TYPE:
    """A validator: the value is JSON of a list, or of another type."""

    def __init__(self, myclass: type = list, parse: bool = False) -> None:
        self.myclass = myclass
        self.parse = parse

    def __call__(self, value: Any, record_id: Any = None) -> tuple[Any, str | None]:
        """Return the value, parsed if so wished, and None or what is wrong with it."""
        try:
            found = json.loads(value)
        except (TypeError, ValueError):
            return value, "invalid json"
        if not isinstance(found, self.myclass):
            return value, f"Not of type: {self.myclass}"
        return (found if self.parse else value), None


class Defaults(NamedTuple):
    """What a scheduler gives to its tables."""

    tasks: Collection[str] | None
    now: Callable[[], dt.datetime]
    worker_name: str
    group_names: list[str]


def define_tables(db: Any, given: Defaults, migrate: bool | str) -> None:
    """Define the tables in a DAL; where they are defined already, make them those of this given."""
    if "scheduler_task" in db.tables:
        _adopt_tables(db, given)
        return

    def migrated(name: str) -> bool | str:
        return f"{migrate}{name}.table" if isinstance(migrate, str) else bool(migrate)

    db.define_table(
        "scheduler_task", *_task_fields(db, given.tasks, given.now), on_define=_set_application,
        migrate=migrated("scheduler_task"), format="(%(id)s) %(task_name)s",
    )  # fmt: skip
    db.define_table("scheduler_run", *_run_fields(given.worker_name), migrate=migrated("scheduler_run"))
    db.define_table("scheduler_worker", *_worker_fields(given.group_names), migrate=migrated("scheduler_worker"))
    db.define_table("scheduler_task_deps", *_dependency_fields(db), migrate=migrated("scheduler_task_deps"))
    if migrate is not False:
        db.commit()


def _adopt_tables(db: Any, given: Defaults) -> None:
    names = _function_names(given.tasks)
    if names is not None:
        db.scheduler_task.function_name.requires = names
    for name in ("start_time", "next_run_time"):
        db.scheduler_task[name].default = given.now
    db.scheduler_run.worker_name.default = given.worker_name
    db.scheduler_worker.group_names.default = given.group_names


def _set_application(table: Any) -> None:
    """Let tasks belong to the application whose request this is."""
    here = request()
    name = f"{here.application}/{here.controller}" if here is not None else DEFAULT_APPLICATION
    table.application_name.default = name


def _function_names(tasks: Collection[str] | None) -> Any:
    return IS_IN_SET(sorted(tasks)) if tasks else None


def new_uuid() -> str:
    """Return the uuid of a new task."""
    return str(uuid.uuid4())


def _task_fields(db: Any, tasks: Collection[str] | None, now: Callable[[], dt.datetime]) -> list[Any]:
    names = _function_names(tasks)
    return [
        Field("application_name", requires=IS_NOT_EMPTY(), default=None, writable=False),
        Field("task_name", default=None),
        Field("group_name", default="main"),
        Field("status", requires=IS_IN_SET(TASK_STATUS), default=QUEUED, writable=False),
        Field("broadcast", "boolean", default=False),
        Field("function_name", **({"requires": names} if names is not None else {})),
        Field("uuid", length=255, requires=IS_NOT_IN_DB(db, "scheduler_task.uuid"), unique=True, default=new_uuid),
        Field("args", "text", default="[]", requires=TYPE(list)),
        Field("vars", "text", default="{}", requires=TYPE(dict)),
        Field("enabled", "boolean", default=True),
        Field("start_time", "datetime", default=now, requires=IS_DATETIME()),
        Field("next_run_time", "datetime", default=now),
        Field("stop_time", "datetime"),
        Field("repeats", "integer", default=1, comment="0=unlimited", requires=IS_INT_IN_RANGE(0, None)),
        Field("retry_failed", "integer", default=0, comment="-1=unlimited", requires=IS_INT_IN_RANGE(-1, None)),
        Field("period", "integer", default=60, comment="seconds", requires=IS_INT_IN_RANGE(0, None)),
        Field("prevent_drift", "boolean", default=False, comment="Starts stay on the grid of start_time and period"),
        Field("cronline", default=None, comment="Instead of the period", requires=IS_EMPTY_OR(IS_CRONLINE())),
        Field("timeout", "integer", default=60, comment="seconds", requires=IS_INT_IN_RANGE(1, None)),
        Field(
            "sync_output", "integer", default=0, comment="seconds between updates of the output: 0=never",
            requires=IS_INT_IN_RANGE(0, None),
        ),
        Field("times_run", "integer", default=0, writable=False),
        Field("times_failed", "integer", default=0, writable=False),
        Field("last_run_time", "datetime", writable=False, readable=False),
        Field("assigned_worker_name", default="", writable=False),
    ]  # fmt: skip


def _run_fields(worker_name: str) -> list[Any]:
    return [
        Field("task_id", "reference scheduler_task"),
        Field("status", requires=IS_IN_SET(RUN_STATUS)),
        Field("start_time", "datetime"),
        Field("stop_time", "datetime"),
        Field("run_output", "text"),
        Field("run_result", "text"),
        Field("traceback", "text"),
        Field("worker_name", default=worker_name),
    ]


def _worker_fields(group_names: list[str]) -> list[Any]:
    return [
        Field("worker_name", length=255, unique=True),
        Field("first_heartbeat", "datetime"),
        Field("last_heartbeat", "datetime"),
        Field("status", requires=IS_IN_SET(WORKER_STATUS)),
        Field("is_ticker", "boolean", default=False, writable=False),
        Field("group_names", "list:string", default=group_names),
        Field("worker_stats", "json"),
    ]


def _dependency_fields(db: Any) -> list[Any]:
    return [
        Field("job_name", default="job_0"),
        Field("task_parent", "integer", requires=IS_IN_DB(db, "scheduler_task.id", "%(task_name)s")),
        Field("task_child", "reference scheduler_task"),
        Field("can_visit", "boolean", default=False),
    ]
