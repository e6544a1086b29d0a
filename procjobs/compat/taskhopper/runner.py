"""The runner: takes tasks from the table, one at a time, and runs each in a worker of a private pool.

1. Nothing is started without the lock of the database (see `procjobs.compat.locks`).
2. A task that an earlier runner has left is queued again when all processes of that one are gone, not before.
3. Nothing of the application is imported here. What a task returns arrives as JSON, what it raises as text.
4. While the database is away the runner waits. A task that runs goes on; but where the lock goes with the connection, it is
   stopped after LOCK_TIMEOUT without it, since another host's runner may start it soon after.
5. A signal sets a flag, and every wait looks at it several times a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import procjobs
from procjobs.compat.taskhopper import processes
from procjobs.compat.taskhopper.errors import DatabaseAway, RunnerRefused
from procjobs.compat.taskhopper.execution import list_tasks, run_task
from procjobs.compat.taskhopper.functions import check_file
from procjobs.compat.taskhopper.outcomes import Again, Failed, Outcome, Succeeded, Unloadable, outcome_of
from procjobs.compat.taskhopper.queue import TaskQueue
from procjobs.errors import ConfigurationError, ProcjobsError, SupervisorError

if TYPE_CHECKING:
    from procjobs.compat.taskhopper.table import Task

POLL_INTERVAL: Final = 0.2
PRELOAD: Final = ("procjobs.compat.taskhopper.execution",)
GRACE_PERIOD: Final = 4.0
"""How long an interrupted task has to clean up. Seconds."""
LAST_CHANCE: Final = 5.0
"""How long a task that runs at SIGTERM may go on before it is interrupted. Seconds."""
LOCK_TIMEOUT: Final = 15.0
"""How long a task goes on without the lock that its runner has lost. Seconds."""
OTHER_HOST_TIMEOUT: Final = 30.0
"""How long a runner whose processes cannot be seen from here has to come back for its lock and its task. Seconds.

It is longer than that one needs to notice that its lock is gone, LOCK_TIMEOUT and GRACE_PERIOD together.
"""
_ASIDE: Final = 1.0
"""How long the lock is left to that runner each time: longer than the pauses between its tries. Seconds."""
_LOCK_PATIENCE: Final = 5.0
"""How long the lock of a runner that was killed this moment may take to be free: the server has to notice. Seconds."""
_CHECK_INTERVAL: Final = 2.0
_RETRY_INTERVAL: Final = 1.0
_RELOAD_INTERVAL: Final = 5.0
_LAST_WRITE_TIMEOUT: Final = 3.0
_MAX_LOSSES: Final = 3
"""A task with which the pool itself has ended this number of times is not started again: it is the reason."""


class Event(NamedTuple):
    """Something that the runner tells: `what` in a word, and in a sentence."""

    what: str
    text: str
    task: Task | None = None


class TaskRunner:
    """Runs the tasks of a database; `run` does it, `stop` ends it from a signal handler.

    url: the database. path: the file of the tasks. tell: called with each Event. start_pool: makes the private pool, with
    these settings. timeout: seconds that a task may take, None for any time. waits: wait while another runner has the lock,
    or the database is away at the start, instead of raising.
    """

    def __init__(
        self,
        url: str,
        path: str,
        *,
        tell: Callable[[Event], None],
        start_pool: Callable[..., procjobs.Pool] = procjobs.Pool,
        timeout: float | None = None,
        waits: bool = False,
    ) -> None:
        self._path = check_file(path)
        self._queue = TaskQueue(url)
        self._tell_event = tell
        self._start_pool = start_pool
        self._timeout = timeout
        self._waits = waits
        self._stops = 0
        self._told = ""
        self._losses: dict[int, int] = {}

    def stop(self) -> None:
        """Have `run` return soon; the second time at once. Safe in a signal handler."""
        self._stops += 1

    def run(self, *, until_empty: bool = False) -> None:
        """Work until `stop`, or with `until_empty` until no task is due.

        Raise RunnerRefused if another runner has the lock, DatabaseAway if the database does not answer at the start, and
        ConfigurationError if the tasks cannot be imported then.
        """
        try:
            self._open(waits=self._waits)
            self._tell_back()
            is_done = False
            while not is_done and not self._stops:
                is_done = self._work_in_pool(until_empty=until_empty)
        finally:
            self._queue.close()

    def _work_in_pool(self, *, until_empty: bool) -> bool:
        """Work in a new pool; return False if its supervisor was killed."""
        settings = {"workers": 1, "max_jobs_per_worker": 1, "preload": PRELOAD, "retries": 0}
        with self._start_pool(**settings, grace_period=GRACE_PERIOD) as pool:
            try:
                self._work(pool, until_empty=until_empty)
            except _PoolLost:
                self._tell("waiting", "the supervisor of the runner's pool has ended; a new pool is started")
                return False
            finally:
                pool.stop()
        return True

    def _work(self, pool: procjobs.Pool, *, until_empty: bool) -> None:
        self._queue.work_as(processes.describe(pool.stats().supervisor_pid))
        names = self._list_tasks(pool)
        tasks = ", ".join(names) or "it defines none"
        self._tell("ready", f"works the tasks of {self._queue.name} with {self._path}: {tasks}")
        is_settled = False
        while not self._stops:
            try:
                if not is_settled:
                    is_settled = self._settle()
                    continue
                task = self._queue.take_next()
            except DatabaseAway as error:
                self._await_database(error)
                is_settled = False  # a write may have been lost, or have arrived although it seemed to be lost
                continue
            if task is not None:
                is_settled = self._run(pool, task)
            elif until_empty:
                return
            else:
                self._pause(POLL_INTERVAL)

    def _list_tasks(self, pool: procjobs.Pool) -> list[str]:
        job = pool.submit(list_tasks, self._path)
        while not job.wait(POLL_INTERVAL):
            if self._stops:
                job.cancel()
                return []
        answer = json.loads(job.result())
        if "unloadable" in answer:
            raise ConfigurationError(f"{self._path} cannot be imported:\n{answer['unloadable'].rstrip()}")
        found: list[str] = answer["result"]
        return found

    # The lock and the database ----------------------------------------------------------------------------------

    def _open(self, *, waits: bool) -> None:
        """Connect and take the lock; return without them if the runner is to stop."""
        deadline = time.monotonic() + _LOCK_PATIENCE
        while not self._stops:
            try:
                self._queue.open()
            except (RunnerRefused, DatabaseAway) as error:
                is_late = isinstance(error, DatabaseAway) or time.monotonic() >= deadline
                if is_late and not waits:
                    raise
                if is_late:
                    self._tell_once("waiting", f"{error}; waits")
                self._pause(_RETRY_INTERVAL if is_late else POLL_INTERVAL)
            else:
                return

    def _await_database(self, error: DatabaseAway) -> None:
        """Wait for a database that is away; raise RunnerRefused if another runner has the lock then."""
        self._tell_once("waiting", f"{error}; waits")
        while not self._stops:
            self._pause(_RETRY_INTERVAL)
            try:
                self._recover()
            except DatabaseAway as again:
                self._tell_once("waiting", f"{again}; waits")
            except RunnerRefused:
                self._open(waits=self._waits)
            else:
                self._tell_back()
                return

    def _recover(self) -> None:
        """Find the connection as it was, or make a new one with the lock."""
        if self._queue.is_open:
            self._queue.check()
        else:
            self._queue.open()

    def _settle(self) -> bool:
        """Queue the tasks again that were cut off; return whether there are none left that may still run."""
        for task in self._queue.started_by_this():
            self._queue.put_back(task)
        first_seen: dict[tuple[int, str | None], float] = {}
        while not self._stops:
            left = [task for task in self._queue.started_by_others() if not self._is_over(task, first_seen)]
            if not left:
                self._tell_back()
                return True
            who = processes.name_of(left[0].runner)
            self._tell_once("waiting", f"it may still run: waits for the end of the processes of {who}", left[0])
            self._queue.step_aside()
            self._pause(_ASIDE)
            self._open(waits=self._waits)
        return False

    def _is_over(self, task: Task, first_seen: dict[tuple[int, str | None], float]) -> bool:
        """Queue a task again if the processes of its runner have ended; return whether that is so."""
        has_ended = processes.has_ended(task.runner, is_of_this_host=not self._queue.can_lose_lock)
        if has_ended is None:
            since = first_seen.setdefault((task.id, task.runner), time.monotonic())
            has_ended = task.runner is None or time.monotonic() - since > OTHER_HOST_TIMEOUT
        if has_ended and self._queue.put_back(task):
            who = processes.name_of(task.runner)
            self._tell("queued", f"{who} has ended while it ran; it is queued again", task)
        return has_ended

    # A task -----------------------------------------------------------------------------------------------------

    def _run(self, pool: procjobs.Pool, task: Task) -> bool:
        """Run a task and keep its outcome; return whether nothing is left to be settled."""
        self._tell("started", "started", task)
        limits = {} if self._timeout is None else {"timeout": self._timeout}
        try:
            options = pool.options(name=task.task_name[:200], retries=0, **limits)
            job = options.submit(run_task, self._path, task.task_name, task.task_args)
            outcome = self._await_end(pool, job)
        except SupervisorError as error:
            outcome = Again(str(error), is_loss=True)
        is_loss = isinstance(outcome, Again) and outcome.is_loss
        is_kept = self._keep(task, self._count_losses(task, outcome))
        if is_loss:
            raise _PoolLost
        return is_kept

    def _await_end(self, pool: procjobs.Pool, job: procjobs.Job[str]) -> Outcome:
        """Return the outcome of a job; interrupt it when the runner is to stop, or has lost its lock for too long."""
        watch = _LockWatch(self._queue, self._tell_once, self._tell_back)
        is_stopped_at: float | None = None
        while not job.wait(POLL_INTERVAL / 2):
            if self._stops and is_stopped_at is None:
                is_stopped_at = time.monotonic() + LAST_CHANCE
                self._tell("stopping", f"stops; the task has {LAST_CHANCE:g} s to end, else it is cut off and queued again")
            is_late = is_stopped_at is not None and (self._stops > 1 or time.monotonic() >= is_stopped_at)
            if is_late or watch.is_lost():
                _cut_off(pool, job)
                return Again("the runner stops" if is_late else "the runner has lost its lock")
        return outcome_of(pool, job)

    def _count_losses(self, task: Task, outcome: Outcome) -> Outcome:
        """Let a task fail with which the pool has ended again and again."""
        if not isinstance(outcome, Again) or not outcome.is_loss:
            self._losses.pop(task.id, None)
            return outcome
        losses = self._losses[task.id] = self._losses.get(task.id, 0) + 1
        if losses < _MAX_LOSSES:
            return outcome
        return Failed(f"the supervisor of the runner's pool has ended {losses} times while this task ran: {outcome.why}")

    def _keep(self, task: Task, outcome: Outcome) -> bool:
        """Write the outcome of a task; wait while the database is away. Return False if that could not be done."""
        write, event = self._writing(task, outcome)
        deadline: float | None = None
        while True:
            try:
                self._recover()
                is_kept = write()
                break
            except (DatabaseAway, RunnerRefused) as error:
                self._tell_once("waiting", f"{error}; the outcome of task {task.id} waits to be written", task)
                is_refused = isinstance(error, RunnerRefused)
            if is_refused or self._stops:
                patience = _LAST_WRITE_TIMEOUT if self._stops else LOCK_TIMEOUT
                deadline = min(deadline or time.monotonic() + patience, time.monotonic() + patience)
                if time.monotonic() >= deadline:
                    self._tell("lost", "its outcome could not be written; the next runner runs it again", task)
                    return False
            time.sleep(POLL_INTERVAL * 2)  # not _pause, which does not wait once the runner is to stop
        self._tell_back()
        self._tell(*event, task) if is_kept else self._tell("lost", "its row was changed meanwhile, and stays so", task)
        if isinstance(outcome, Unloadable):
            self._await_change_of_file()
        return True

    def _writing(self, task: Task, outcome: Outcome) -> tuple[Callable[[], bool], tuple[str, str]]:
        """Return what writes an outcome, and what is told of it."""
        if isinstance(outcome, Succeeded):
            result: Any = outcome.result
            return lambda: self._queue.succeed(task, result), ("succeeded", "succeeded")
        if isinstance(outcome, Failed):
            last = outcome.why.strip().rpartition("\n")[2]
            why = outcome.why
            return lambda: self._queue.fail(task, why), ("failed", f"failed: {last}")
        return lambda: self._queue.put_back(task), ("queued", f"queued again: {outcome.why}")

    def _await_change_of_file(self) -> None:
        """Wait a little, or until the file of the tasks was written, before a task is tried again."""
        before, deadline = _stamp(self._path), time.monotonic() + _RELOAD_INTERVAL
        while not self._stops and time.monotonic() < deadline and _stamp(self._path) == before:
            self._pause(POLL_INTERVAL)

    # Telling and waiting ----------------------------------------------------------------------------------------

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stops and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, POLL_INTERVAL))

    def _tell(self, what: str, text: str, task: Task | None = None) -> None:
        self._tell_event(Event(what, text, task))

    def _tell_once(self, what: str, text: str, task: Task | None = None) -> None:
        """Tell of something that lasts, and not again before it has ended."""
        if text != self._told:
            self._told = text
            self._tell(what, text, task)

    def _tell_back(self) -> None:
        if self._told:
            self._told = ""
            self._tell("ready", "goes on")


class _PoolLost(Exception):
    """The supervisor of the pool was killed; what its workers ran is gone with them."""


class _LockWatch:
    """Looks after the lock while a task runs; that of PostgreSQL goes with the connection."""

    def __init__(self, queue: TaskQueue, tell: Callable[[str, str], None], tell_back: Callable[[], None]) -> None:
        self._queue = queue
        self._tell = tell
        self._tell_back = tell_back
        self._next_look = time.monotonic() + _CHECK_INTERVAL
        self._gone_since: float | None = None

    def is_lost(self) -> bool:
        """Return whether the lock is another runner's, or may soon be."""
        if not self._queue.can_lose_lock or time.monotonic() < self._next_look:
            return False
        looked_at = time.monotonic()
        try:
            self._queue.check() if self._queue.is_open else self._queue.open()
        except (DatabaseAway, RunnerRefused) as error:
            self._tell("waiting", f"{error}; the task goes on for {LOCK_TIMEOUT:g} s")
            self._gone_since = self._gone_since or looked_at
            self._next_look = time.monotonic() + _RETRY_INTERVAL
            return time.monotonic() - self._gone_since > LOCK_TIMEOUT
        if self._gone_since is not None:
            self._gone_since = None
            self._tell_back()
        self._next_look = time.monotonic() + _CHECK_INTERVAL
        return False


def _cut_off(pool: procjobs.Pool, job: procjobs.Job[str]) -> None:
    """Interrupt a job, and return when its processes have ended."""
    job.cancel()
    deadline = time.monotonic() + 2 * GRACE_PERIOD
    with contextlib.suppress(ProcjobsError):
        while not pool.status(job.id).done and time.monotonic() < deadline:
            time.sleep(0.02)


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size
