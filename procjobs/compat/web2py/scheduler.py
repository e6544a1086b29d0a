"""`Scheduler`: web2py's class, with web2py's signature. It makes the tables; programs queue tasks, workers call `loop()`."""

from __future__ import annotations

import datetime as dt
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from procjobs.compat.web2py import queueing, tables, workers
from procjobs.compat.web2py.context import Storage, find_current
from procjobs.compat.web2py.loop import Loop, Wishes
from procjobs.compat.web2py.names import ACTIVE, DISABLED, HEARTBEAT, KILL, TERMINATE

_GOING: Final = (KILL, TERMINATE)


class Scheduler:
    """The tasks in the tables of a pydal database.

    db: a pydal DAL, or web2py's. The tables are defined in it, and made unless `migrate` is False.
    tasks: functions by name. Without it, in web2py, a task is a function that the application's models define. Outside of
        web2py it is needed by workers; functions that can be imported travel by name, others by value.
    worker_name: the name of the worker that `loop()` makes of this process; default: host and process id.
    group_names: the groups whose tasks it takes: ["main"]. It can be set until `loop()` is called.
    heartbeat: seconds between its looks for `max_empty_runs`, and at most between its heartbeats.
    max_empty_runs: after this number of heartbeats without work `loop()` returns; 0: never.
    discard_results: keep no rows of runs.
    utc_time: all times are in UTC, else in local time.
    use_spawn: accepted; tasks never run in a copy of this process, so there is nothing to choose.
    stop_after_failure: a periodic task that fails, with no retries left, never runs again, as in the original.

    Raise TypeError for a `tasks` that is no dict.
    """

    def __init__(
        self,
        db: Any,
        tasks: Mapping[str, Callable[..., Any]] | None = None,
        migrate: bool | str = True,
        worker_name: str | None = None,
        group_names: Sequence[str] | None = None,
        heartbeat: float = HEARTBEAT,
        max_empty_runs: int = 0,
        discard_results: bool = False,
        utc_time: bool = False,
        use_spawn: bool = False,
        *,
        stop_after_failure: bool = False,
    ) -> None:
        if tasks is not None and not isinstance(tasks, Mapping):
            raise TypeError(f"tasks is a dict of functions by name, not {tasks!r}")
        self.db = db
        self.tasks = tasks
        self.worker_name = worker_name or f"{socket.gethostname()}#{os.getpid()}"
        self.group_names = list(group_names) if group_names else ["main"]
        self.heartbeat = heartbeat
        self.max_empty_runs = max_empty_runs
        self.discard_results = discard_results
        self.utc_time = utc_time
        self.use_spawn = use_spawn
        self.stop_after_failure = stop_after_failure
        vars(find_current())["_scheduler"] = self  # its name in web2py, which `web2py.py -K` uses
        self.define_tables(db, migrate=migrate)

    def define_tables(self, db: Any, migrate: bool | str) -> None:
        """Define the four tables in a DAL; where another Scheduler has defined them, nothing is defined twice."""
        given = tables.Defaults(self.tasks, self.now, self.worker_name, self.group_names)
        tables.define_tables(db, given, migrate)

    def now(self) -> dt.datetime:
        """Return the current time as the tables have it: without a time zone, local or UTC."""
        now = dt.datetime.now(dt.UTC)
        return (now if self.utc_time else now.astimezone()).replace(tzinfo=None)

    def loop(self, worker_name: str | None = None) -> None:
        """Work on tasks, until `max_empty_runs`, the row's status TERMINATE or KILL, SIGTERM or SIGINT.

        For the main thread. Blocks. Everything that it has started ends with this process, also if that is killed. Raise
        SystemExit(1) when it gives up: the database was away for five minutes, or another worker has this name.
        """
        wishes = Wishes(
            worker_name=worker_name or self.worker_name, group_names=list(self.group_names), heartbeat=self.heartbeat,
            max_empty_runs=self.max_empty_runs, discard_results=self.discard_results, tasks=self.tasks, now=self.now,
            stop_after_failure=self.stop_after_failure,
        )  # fmt: skip
        Loop(self.db, wishes).run()

    # Tasks ------------------------------------------------------------------------------------------------------

    def queue_task(
        self,
        function: str | Callable[..., Any],
        pargs: Sequence[Any] = (),
        pvars: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Insert a task for a function, or its name, with JSON arguments; return its `id`, its `uuid` and `errors`.

        Options are the columns of scheduler_task, and `immediate`. A wrong one comes back in `errors`; id and uuid are None
        then, and nothing is inserted. The task is there for workers when the caller commits.

        Raise TypeError if the arguments are not JSON.
        """
        arguments = list(pargs) if isinstance(pargs, tuple) else pargs
        return queueing.queue_task(self.db, self.now, function, arguments, {} if pvars is None else pvars, kwargs)

    def task_status(self, ref: Any, output: bool = False) -> Any:
        """Return the row of a task: `ref` is its id, its uuid, or a query, of which the newest is taken. None without one.

        With `output` it has the rows `scheduler_task` and `scheduler_run`, the last run, whose columns are all None without
        one, and `result`, the decoded result of that. Raise SyntaxError for another kind of `ref`.
        """
        return queueing.task_status(self.db, ref, output=output)

    def stop_task(self, ref: int | str) -> int | None:
        """Stop a task for good, by its id or uuid, whether it waits or runs; return 1, or None if there is none to stop.

        A running one is interrupted within a second after the caller's commit. Raise SyntaxError for another kind of `ref`.
        """
        return queueing.stop_task(self.db, ref, self.now())

    # Workers ----------------------------------------------------------------------------------------------------

    def set_worker_status(
        self,
        group_names: str | Sequence[str] | None = None,
        action: str = ACTIVE,
        exclude: Sequence[str] | None = None,
        limit: int | None = None,
        worker_name: str | None = None,
    ) -> None:
        """Give a status to workers; the calls below do that with their names. It holds when the caller commits."""
        groups = [group_names] if isinstance(group_names, str) else group_names or self.group_names
        workers.set_worker_status(
            self.db, groups, action, exclude=exclude or (), limit=limit, worker_name=worker_name
        )  # fmt: skip

    def disable(self, group_names: Any = None, limit: int | None = None, worker_name: str | None = None) -> None:
        """Have workers take no tasks until `resume`: those of the groups, at most `limit`, or the one of this name."""
        self.set_worker_status(group_names, DISABLED, _GOING, limit, worker_name)

    def resume(self, group_names: Any = None, limit: int | None = None, worker_name: str | None = None) -> None:
        """Have workers that are disabled take tasks again."""
        self.set_worker_status(group_names, ACTIVE, _GOING, limit, worker_name)

    def terminate(self, group_names: Any = None, limit: int | None = None, worker_name: str | None = None) -> None:
        """Have workers end when their task has ended."""
        self.set_worker_status(group_names, TERMINATE, (KILL,), limit, worker_name)

    def kill(self, group_names: Any = None, limit: int | None = None, worker_name: str | None = None) -> None:
        """Have workers stop their task and end."""
        self.set_worker_status(group_names, KILL, (), limit, worker_name)

    def get_workers(self, only_ticker: bool = False) -> dict[str, Storage]:
        """Return the columns of each worker's row, by its name."""
        return workers.get_workers(self.db, only_ticker=only_ticker)
