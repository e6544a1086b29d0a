"""The queue as its runner sees it: one connection to the database, one lock, one task that runs.

Each statement is a transaction of its own. A change of a row names the state, and the runner, that it expects there: a row
that somebody else has changed stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, null, select, text, update
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from procjobs.compat.locks import FileLock, Lock, SessionLock
from procjobs.compat.taskhopper import databases
from procjobs.compat.taskhopper.errors import RunnerRefused
from procjobs.compat.taskhopper.table import FAILED, QUEUED, RUNNING, SUCCEEDED, Task, clean, now, task_status

T = TypeVar("T")

_SESSION: Final = {
    "tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3",
    "lock_timeout": "10s", "statement_timeout": "60s",
}  # fmt: skip
"""Settings of a session of PostgreSQL. The server ends one whose host is gone, and frees its lock, after 25 seconds."""
_COLUMNS: Final = task_status.c


class TaskQueue:
    """The tasks of a database. Every method may raise DatabaseAway; `open` connects again."""

    def __init__(self, url: str) -> None:
        self._url = databases.check_url(url)
        self._engine = databases.make_engine(self._url)
        self._is_sqlite = self._url.get_backend_name() == "sqlite"
        self._lock: Lock = FileLock(str(self._url.database)) if self._is_sqlite else SessionLock()
        self._connection: Connection | None = None
        self._runner = ""

    @property
    def name(self) -> str:
        """The database in words, without its password."""
        return databases.show(self._url)

    @property
    def can_lose_lock(self) -> bool:
        """Whether the lock goes with the connection to the database."""
        return self._lock.is_of_session

    @property
    def is_open(self) -> bool:
        """Whether there is a connection; after DatabaseAway it may be gone."""
        return self._connection is not None

    def open(self) -> None:
        """Connect, create the table if need be, and take the lock; raise RunnerRefused if another runner has it."""
        self._disconnect()
        try:
            self._ask(self._connect)
        except BaseException:
            self._disconnect()  # nothing may be asked over a connection without the lock
            raise

    def _connect(self, connection: Connection) -> None:
        if not self._is_sqlite:
            name = f"procjobs tasks, process {os.getpid()} on {socket.gethostname()}"[:63]
            settings = {**_SESSION, "application_name": name}
            for key, value in settings.items():
                connection.execute(text("SELECT set_config(:key, :value, false)"), {"key": key, "value": value})
            connection.commit()
        databases.ensure_table(connection)
        connection.commit()
        taken = self._lock.try_take(connection)
        holder = "" if taken else self._lock.describe_holder(connection)
        connection.commit()
        if not taken:
            raise RunnerRefused(f"{holder} works the tasks of {self.name}, and one at a time can; --wait waits for its end")

    def _ask(self, question: Callable[[Connection], T]) -> T:
        """Ask the database in a transaction of its own; raise DatabaseAway if it does not answer."""
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            connection = self._connection
            answer = question(connection)
            connection.commit()
        except (OperationalError, InterfaceError) as error:
            self._let_go_of(error)
            raise databases.away(error, self._url) from None
        return answer

    def _let_go_of(self, error: DBAPIError) -> None:
        """End the transaction; keep the connection where it still stands, as after a timeout: it has the lock."""
        connection = self._connection
        if connection is not None and not error.connection_invalidated and not connection.invalidated:
            try:
                connection.rollback()
            except DBAPIError:
                self._disconnect()
            return
        self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(DBAPIError):
                connection.close()

    def step_aside(self) -> None:
        """Give the lock up for a moment, so that a runner that has lost its connection for a moment can have it back."""
        self._disconnect()
        self._lock.release()

    def close(self) -> None:
        """Give up lock and connection."""
        self.step_aside()
        self._engine.dispose()

    # Asking -----------------------------------------------------------------------------------------------------

    def work_as(self, runner: str) -> None:
        """Take tasks in the name of this runner from now on: text that is in the rows of its tasks."""
        self._runner = runner

    def check(self) -> None:
        """Raise DatabaseAway if the connection is gone."""
        self._ask(lambda connection: connection.execute(text("SELECT 1")))

    def started_by_others(self) -> list[Task]:
        """Return the tasks that another runner has started and not ended."""
        query = select(task_status).where(_COLUMNS.status == RUNNING, _is_other(self._runner)).order_by(_COLUMNS.id)
        return self._ask(lambda connection: [Task(*row) for row in connection.execute(query)])

    def started_by_this(self) -> list[Task]:
        """Return the tasks that this runner has started and not ended."""
        query = select(task_status).where(_COLUMNS.status == RUNNING, _COLUMNS.runner == self._runner)
        return self._ask(lambda connection: [Task(*row) for row in connection.execute(query)])

    def take_next(self) -> Task | None:
        """Return the next task that is due, which is running from now on; None if none is due."""
        moment = now()
        query = (
            select(task_status)
            .where(_COLUMNS.status == QUEUED, _COLUMNS.due_on <= moment)
            .order_by(_COLUMNS.due_on, _COLUMNS.id)
            .limit(1)
        )
        row = self._ask(lambda connection: connection.execute(query).first())
        if row is None:
            return None
        task = Task(*row)
        fresh = {"result": null(), "traceback": None, "finished_on": None}  # of a row that was queued again by hand
        values = {"status": RUNNING, "started_on": moment, "runner": self._runner, **fresh}
        is_taken = self._change(task.id, _COLUMNS.status == QUEUED, **values)
        return task._replace(status=RUNNING, started_on=moment, runner=self._runner) if is_taken else None

    # Ending a task ----------------------------------------------------------------------------------------------

    def succeed(self, task: Task, result: Any) -> bool:
        """Keep the result of a task; return False if its row is not this runner's any more."""
        values = {"status": SUCCEEDED, "result": result, "finished_on": now(), "traceback": None}
        return self._change(task.id, _is_run_by(task.runner), **values)

    def fail(self, task: Task, why: str) -> bool:
        """Keep why a task has failed; return False if its row is not this runner's any more."""
        return self._change(task.id, _is_run_by(task.runner), status=FAILED, finished_on=now(), traceback=clean(why))

    def put_back(self, task: Task) -> bool:
        """Queue a task again, in its old place; return False if its row is not as it was any more."""
        return self._change(task.id, _is_run_by(task.runner), status=QUEUED, started_on=None, runner=None)

    def _change(self, task_id: int, is_expected: Any, **values: Any) -> bool:
        change = update(task_status).where(_COLUMNS.id == task_id, is_expected)
        return self._ask(lambda connection: connection.execute(change.values(values)).rowcount) == 1


def _is_run_by(runner: str | None) -> Any:
    is_same = _COLUMNS.runner.is_(None) if runner is None else _COLUMNS.runner == runner
    return (_COLUMNS.status == RUNNING) & is_same


def _is_other(runner: str) -> Any:
    return _COLUMNS.runner.is_(None) | (_COLUMNS.runner != runner)
