"""The worker: what `Scheduler(...).loop()` does, in the main thread of its process.

    every 0.35 s  look at the own row (KILL, TERMINATE, DISABLED, STOP_TASK) and at the task that runs;
                  the ticker hands out tasks; an idle worker takes one
    every beat    write the own row; the dead are buried, and a ticker is chosen

A task runs in a process of the worker's pool meanwhile, so that a worker with a long task sees all this too. A task is
taken, and its end is written, in one transaction each, which hold only if the task is still this worker's.
"""

from __future__ import annotations

import functools
import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procjobs.compat.web2py.context import Storage
from procjobs.compat.web2py.database import DatabaseAway, Steps, logger
from procjobs.compat.web2py.dealing import complete_rows, deal, due_tasks, expire_tasks
from procjobs.compat.web2py.in_worker import Report
from procjobs.compat.web2py.names import (
    ACTIVE,
    DISABLED,
    FAILED,
    KILL,
    PICK,
    RUNNING,
    STOP_TASK,
    STOPPED,
    TERMINATE,
)
from procjobs.compat.web2py.register import DEAD_AFTER, Register
from procjobs.compat.web2py.runner import Run, Runner
from procjobs.compat.web2py.taking import Taker, Task

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator

_POLL: Final = 0.35
_LONGEST_BEAT: Final = 3.0


class _Terminated(Exception):
    """A signal has ended the worker."""


class Wishes(NamedTuple):
    """What a Scheduler was made with, as far as it concerns its loop."""

    worker_name: str
    group_names: list[str]
    heartbeat: float
    max_empty_runs: int
    discard_results: bool
    stop_after_failure: bool
    tasks: Mapping[str, Callable[..., Any]] | None
    now: Callable[[], dt.datetime]


class Running(NamedTuple):
    """A task and its run."""

    task: Task
    run: Run


class Loop:
    """One worker, from its start to its end."""

    def __init__(self, db: Any, wishes: Wishes) -> None:
        self._db = db
        self._wishes = wishes
        self._steps = Steps(db, pause=self._pause)
        self._register = Register(db, wishes.worker_name, wishes.now)
        self._taker = Taker(
            db, wishes.worker_name, keeps_runs=not wishes.discard_results, stop_after_failure=wishes.stop_after_failure
        )
        self._runner: Runner | None = None
        self._running: Running | None = None
        self._status = ACTIVE
        self._signalled = False
        self._beat_at = self._sync_at = self._count_at = 0.0
        self._shown = ""
        self._stats = Storage(
            status=ACTIVE, sleep=wishes.heartbeat, total=0, errors=0, empty_runs=0, queue=0, distribution=None, workers=0
        )

    def run(self) -> None:
        """Work until a signal, the row's status, or `max_empty_runs` ends it.

        Raise SystemExit(1) when the worker gives up for good, which is logged.
        """
        with self._signals():
            try:
                self._enter()
                try:
                    self._runner = Runner(self._wishes.tasks)
                    while self._turn():
                        pass
                finally:
                    self._leave()
            except _Terminated:
                logger.info("worker %s: ended by a signal, or with its parent", self._wishes.worker_name)
            except DatabaseAway as error:
                logger.critical("worker %s gives up: %s", self._wishes.worker_name, error)
                raise SystemExit(1) from error
            except Exception as error:
                logger.exception("worker %s gives up", self._wishes.worker_name)
                raise SystemExit(1) from error

    # One turn ---------------------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Look, do what is due, and wait for the next thing to do; return whether to go on."""
        self._check_signal()
        self._steps.run(self._look)
        if self._status == KILL:
            self._stop_run(self._taker.finish)
            return False
        if self._status == STOP_TASK and self._running is not None:
            self._stop_run(self._taker.stop)
        if self._status in {PICK, STOP_TASK}:
            self._steps.run(lambda: self._register.write(self._stats, status=ACTIVE))
        self._beat_if_due()
        if self._running is None:
            if self._status == TERMINATE or self._is_unemployed():
                return False
            self._take()
        if self._running is None:
            self._pause(min(_POLL, self._wishes.heartbeat))
        elif self._running.run.wait(min(_POLL, self._wishes.heartbeat)):
            self._finish(self._running)
        else:
            self._look_after(self._running)
        return True

    def _look(self) -> None:
        """Read the own row; where somebody has taken it out, put it in again."""
        row = self._register.own_row()
        if row is None:
            logger.warning("worker %s: somebody has taken this worker's row out", self._wishes.worker_name)
            self._register.enter(self._wishes.group_names, self._stats)
        self._status = ACTIVE if row is None else row.status

    def _beat_if_due(self) -> None:
        if time.monotonic() < self._beat_at:
            return
        outages = self._steps.outages
        self._steps.run(lambda: self._register.beat(self._stats))
        if self._steps.outages != outages:
            self._register.forget_observations()
        self._beat_at = time.monotonic() + min(self._wishes.heartbeat, _LONGEST_BEAT)

    def _take(self) -> None:
        """Take a task and start it, unless this worker is disabled. The ticker hands tasks out first."""
        self._hand_out()
        if self._status == DISABLED:
            return
        task = self._steps.run(self._take_and_note)
        if task is not None and self._runner is not None:
            logger.info("worker %s: task %s %s", self._wishes.worker_name, task.id, task.function_name)
            self._running = Running(task, self._runner.start(task))
            self._shown = ""
            self._sync_at = time.monotonic() + task.sync_output

    def _take_and_note(self) -> Task | None:
        task = self._taker.take(self._wishes.now())
        if task is not None:
            self._stats.update(status=RUNNING, total=self._stats.total + 1, empty_runs=0)
            self._register.write(self._stats)
        return task

    def _hand_out(self) -> None:
        living = self._steps.run(self._register.living)
        self._stats.update(workers=len(living))
        if not self._register.is_ticker:
            return

        def step() -> int:
            now = self._wishes.now()
            complete_rows(self._db)
            expire_tasks(self._db, now)
            return deal(self._db, now, living)

        dealt = self._steps.run(step)
        self._stats.update(queue=dealt, **({"empty_runs": 0} if dealt else {}))

    def _is_unemployed(self) -> bool:
        """Count a heartbeat without work; return whether these are `max_empty_runs`."""
        if self._status == DISABLED or time.monotonic() < self._count_at:
            return False
        first = self._count_at == 0.0
        self._count_at = time.monotonic() + self._wishes.heartbeat
        if first or not self._wishes.max_empty_runs:
            return False
        due = due_tasks(self._db, self._wishes.now(), self._wishes.group_names)
        idle = self._steps.run(lambda: self._db(due).isempty())
        self._stats.update(empty_runs=self._stats.empty_runs + 1 if idle else 0)
        return bool(self._stats.empty_runs >= self._wishes.max_empty_runs)

    # A task -----------------------------------------------------------------------------------------------------

    def _look_after(self, running: Running) -> None:
        """See whether the task may go on, show its output, and hand out tasks to others meanwhile."""
        if not self._steps.run(lambda: self._taker.is_still_ours(running.task)):
            self._stop_run(self._taker.stop)
            return
        self._hand_out()
        task = running.task
        if task.sync_output and task.run_id and time.monotonic() >= self._sync_at:
            self._sync_at = time.monotonic() + task.sync_output
            output = running.run.output()
            if output != self._shown:
                self._shown = output
                self._steps.run(lambda: self._taker.write_output(task, output))

    def _finish(self, running: Running) -> None:
        report = running.run.report()
        try:
            self._write(self._taker.finish, running.task, report)
        except Exception as error:
            if not self._steps.is_database_error(error, "DataError"):
                raise
            text = f"The database does not take the result or the output of the task: {error}"
            self._write(self._taker.finish, running.task, Report(FAILED, None, "", text))

    def _stop_run(self, write: Callable[[Task, Report, dt.datetime], None]) -> None:
        """Stop the task that runs, if there is one, and write that it was stopped."""
        running = self._running
        if running is None:
            return
        running.run.cancel()
        report = running.run.report()
        if running.run.wait(0) and report.status != STOPPED:  # it had ended by itself
            write = self._taker.finish if write == self._taker.stop else write
        self._write(write, running.task, report)

    def _write(
        self, write: Callable[[Task, Report, dt.datetime], None], task: Task, report: Report
    ) -> None:
        def step() -> None:
            write(task, report, self._wishes.now())
            self._register.write(stats)

        stats = Storage(self._stats, status=ACTIVE, errors=self._stats.errors + (report.status == FAILED))
        self._steps.run(step)
        self._stats = stats
        self._running = None
        self._count_at = time.monotonic() + self._wishes.heartbeat

    # Begin and end ----------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        """Insert this worker's row. One of an earlier worker of this name is buried when it is seen to be dead."""
        found = self._steps.run(self._enter_or_find)
        deadline = time.monotonic() + DEAD_AFTER
        while found is not None:
            if time.monotonic() > deadline:
                self._steps.run(functools.partial(self._register.bury, found))
            self._pause(_POLL)
            before, found = found, self._steps.run(self._enter_or_find)
            if found is not None and found.id == before.id and found.last_heartbeat != before.last_heartbeat:
                raise RuntimeError(
                    f"another worker named {self._wishes.worker_name!r} is alive; give each worker a worker_name of its own"
                )

    def _enter_or_find(self) -> Any:
        row = self._register.own_row()
        if row is None:
            self._register.enter(self._wishes.group_names, self._stats)
        return row

    def _leave(self) -> None:
        """End the pool with all that it runs, give the task back that was running, and take the own row out."""
        running, self._running = self._running, None
        if self._runner is not None:
            if running is not None:
                running.run.cancel()
            self._runner.stop()

        def step() -> None:
            if running is not None:
                text = f"The worker {self._wishes.worker_name} ended; the task is queued again."
                self._taker.give_back(running.task, Report(STOPPED, None, "", text), self._wishes.now())
            self._register.leave()

        Steps(self._db, patience=5.0).run(step)

    def _pause(self, seconds: float) -> None:
        self._check_signal()
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))  # a signal does not cut a sleep short
            self._check_signal()

    def _check_signal(self) -> None:
        parent = multiprocessing.parent_process()
        # web2py.py with several applications has a process for each; the original's went on when that was killed.
        if self._signalled or (parent is not None and not parent.is_alive()):
            raise _Terminated

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Have SIGTERM and SIGINT end the loop; a handler only notes that they came."""

        def note(*_: object) -> None:
            self._signalled = True

        previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
