"""The table `task_status`. docs/coming-from-a-task-hopper.md describes the columns for readers.

All times are UTC, without a zone. `due_on` is the earliest start: the time that was given, else that of the call. `runner`
says which process had the task last (see `processes`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import JSON, Column, DateTime, Dialect, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.schema import CreateIndex, CreateTable

from procjobs.errors import ConfigurationError

QUEUED: Final = "queued"
RUNNING: Final = "running"
SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
STATES: Final = (QUEUED, RUNNING, SUCCEEDED, FAILED)

MAX_NAME: Final = 255
task_status: Final = Table(
    "task_status",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("task_name", String(MAX_NAME), nullable=False),
    Column("task_args", JSON, nullable=False),
    Column("status", String(16), nullable=False),
    Column("result", JSON),
    Column("created_on", DateTime, nullable=False),
    Column("due_on", DateTime, nullable=False),
    Column("started_on", DateTime),
    Column("finished_on", DateTime),
    Column("traceback", Text),
    Column("runner", Text),
    sqlite_autoincrement=True,  # an id is not given again
)
_next_index: Final = Index("task_status_next", task_status.c.status, task_status.c.due_on, task_status.c.id)

COLUMNS_QUERIES: Final = {
    "sqlite": "SELECT name FROM pragma_table_info('task_status')",
    "postgresql": "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('task_status') AND attnum > 0 "
    "AND NOT attisdropped",
}
"""For each database the query for the names of the table's columns; it finds no rows where there is no such table."""


class Task(NamedTuple):
    """A row of `task_status`. Times are datetimes in UTC without a zone, None for what has not happened.

    `status` is queued, running, succeeded or failed; `task_args` is {"args": [...], "kwargs": {...}}. `traceback` says why a
    task has failed: the traceback of its exception, or a sentence where it raised none.
    """

    id: int
    task_name: str
    task_args: Any
    status: str
    result: Any
    created_on: datetime
    due_on: datetime
    started_on: datetime | None
    finished_on: datetime | None
    traceback: str | None
    runner: str | None


def now() -> datetime:
    """Return the time as the table has it."""
    return datetime.now(UTC).replace(tzinfo=None)


def creation(dialect: Dialect) -> list[str]:
    """Return the statements that create the table and its index where they do not exist."""
    statements = CreateTable(task_status, if_not_exists=True), CreateIndex(_next_index, if_not_exists=True)
    return [str(statement.compile(dialect=dialect)).strip() for statement in statements]


def check_columns(found: set[str], where: str) -> bool:
    """Return whether the table exists; raise ConfigurationError if it is another one with the same name."""
    missing = [column.name for column in task_status.columns if column.name not in found]
    if found and missing:
        raise ConfigurationError(
            f"the table task_status in {where} is not that of a task hopper: it has no {', '.join(missing)}. Rename it, or "
            "give the hopper another database"
        )
    return bool(found)


def clean(text: str) -> str:
    """Return text as every database takes it: PostgreSQL refuses zero characters, and both refuse lone surrogates."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()
