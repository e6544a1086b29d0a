"""Looks at the table from outside of an application: creates nothing, and closes its connection."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import InterfaceError, OperationalError

from procjobs.compat.taskhopper import databases, table
from procjobs.compat.taskhopper.table import Task, task_status
from procjobs.errors import ConfigurationError

T = TypeVar("T")


def read_tasks(url: str, *, state: str | None = None, limit: int = 50) -> list[Task]:
    """Return the newest tasks, all or those in a state. Raise ConfigurationError if there is no such table there."""
    query = select(task_status).order_by(task_status.c.id.desc()).limit(limit)
    if state is not None:
        query = query.where(task_status.c.status == state)
    return _read(url, lambda connection: [Task(*row) for row in connection.execute(query)])


def read_task(url: str, task_id: int) -> Task | None:
    """Return a task, None if there is none with this id. Raise ConfigurationError if there is no such table there."""
    query = select(task_status).where(task_status.c.id == task_id)
    return next(iter(_read(url, lambda connection: [Task(*row) for row in connection.execute(query)])), None)


def _read(given: str, question: Callable[[Connection], T]) -> T:
    url = databases.check_url(given)
    shown = databases.show(url)
    if url.get_backend_name() == "sqlite" and not os.path.exists(str(url.database)):
        raise ConfigurationError(f"database {shown}: there is no such file")
    engine = databases.make_engine(url)
    try:
        with engine.connect() as connection:
            columns = connection.scalars(text(table.COLUMNS_QUERIES[engine.dialect.name]))
            if not table.check_columns(set(columns), shown):
                raise ConfigurationError(f"database {shown}: it has no table task_status; a TaskHopper or a runner makes it")
            return question(connection)
    except (OperationalError, InterfaceError) as error:
        raise databases.away(error, url) from None
    finally:
        engine.dispose()
