"""How a pool comes to its end: what it still takes, when it gives up its queue, when it is over."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER
from procjobs.dispatch.model import SlotState
from procjobs.host import rundir
from procjobs.supervisor.durable.durability import FAREWELL_TIMEOUT

if TYPE_CHECKING:
    from procjobs.dispatch.dispatcher import Dispatcher
    from procjobs.shared.config import PoolSettings
    from procjobs.shared.table.state_writer import TableWriter
    from procjobs.supervisor.durable.durability import Durability
    from procjobs.supervisor.log import Log
    from procjobs.supervisor.workers.processes import WorkerProcesses

_MIN_FIRST_LINGER: Final = 5.0
"""How long a new pool waits for its first client at least."""


class Phase(Enum):
    """The life of a pool.

    SERVING   Entered at the start. Jobs are taken and run. A named pool that nobody uses stops when it has lingered. Left by
              `drain` and `stop`.
    DRAINING  Entered by `drain`. No more jobs are taken; those that wait and run go on. After SIGTERM there is a deadline.
              Left by `stop`: when no work is left, at the deadline, or on request.
    STOPPING  Entered by `stop`. The waiting jobs were given up, the workers were told to end, clients that come now start a
              successor. Left when the last worker has gone.
    FAREWELL  Entered when the last worker has gone. Clients take their last answers, the store commits the last events.
              Left, and the supervisor ends, when both have happened or the deadline has come.
    """

    SERVING = "serving"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAREWELL = "farewell"


class Lifecycle:
    """The one place that changes the phase of a pool."""

    def __init__(
        self, settings: PoolSettings, directory: rundir.RunDir, table: TableWriter, log: Log, dispatcher: Dispatcher,
        workers: WorkerProcesses, durability: Durability, *, is_private: bool, now: float,
    ) -> None:  # fmt: skip
        """`is_private`: the pool ends with its owner, and not when nobody uses it."""
        self.phase = Phase.SERVING
        self._settings = settings
        self._directory = directory
        self._table = table
        self._log = log
        self._dispatcher = dispatcher
        self._workers = workers
        self._durability = durability
        self._is_private = is_private
        self._deadline = NEVER  # of the phase
        self._lingers_until = now + max(settings.linger, _MIN_FIRST_LINGER)

    @property
    def accepts_jobs(self) -> bool:
        """Whether the pool takes jobs."""
        return self.phase is Phase.SERVING

    def next_deadline(self) -> float:
        """Return when something is to be done."""
        return min(self._deadline, self._lingers_until)

    def advance(self, now: float, *, has_clients: bool) -> None:
        """Stop the pool when its time has come: the deadline of a drain, its last job, nobody who uses it."""
        if self.phase is Phase.DRAINING:
            if now >= self._deadline:
                self.stop("the pool was stopped", now, at_once=False)
            elif not self._has_work:
                self.stop("the pool was drained", now, at_once=False)
        self._advance_linger(now, has_clients=has_clients)

    @property
    def _has_work(self) -> bool:
        return bool(self._dispatcher.unfinished) or not self._durability.is_settled

    def _advance_linger(self, now: float, *, has_clients: bool) -> None:
        if self._is_private or self._dispatcher.stopping or has_clients or self._has_work:
            self._lingers_until = NEVER
        elif self._lingers_until == NEVER:
            self._lingers_until = now + self._settings.linger
        elif now >= self._lingers_until:
            self.stop("nobody uses it", now, at_once=False)

    def drain(self, deadline: float = NEVER) -> None:
        """Take no more jobs; the pool stops when those it has are done, at the latest at the deadline."""
        if self.phase in {Phase.SERVING, Phase.DRAINING}:
            self.phase = Phase.DRAINING
            self._deadline = min(self._deadline, deadline)

    def stop(self, reason: str, now: float, *, at_once: bool) -> None:
        """Give up the jobs that wait, stop those that run, and end. With `at_once` there is no grace period."""
        if self.phase in {Phase.SERVING, Phase.DRAINING}:
            self.phase = Phase.STOPPING
            self._deadline = NEVER
            self._log.write(f"stopping: {reason}")
            if not self._table.was_replaced(self._directory.table):
                rundir.close_to_new_clients(self._directory)
            self._dispatcher.close_queue(self._durability.describe_stop(reason))
            self._dispatcher.stop_running(now)
        if at_once:
            for slot in self._dispatcher.slots:
                self._workers.kill(slot)

    def is_over(self, now: float, have_all_read: Callable[[], bool]) -> bool:
        """Return whether the supervisor may end. `have_all_read` tells whether clients and console took everything."""
        if self.phase is Phase.STOPPING and all(slot.state is SlotState.EMPTY for slot in self._dispatcher.slots):
            self.phase = Phase.FAREWELL
            self._deadline = now + self._durability.farewell_timeout
        if self.phase is not Phase.FAREWELL:
            return False
        if now >= self._deadline and not self._durability.is_quiet:
            self._durability.abandon()  # clients get these answers, and have another while to take them
            self._deadline = now + FAREWELL_TIMEOUT
            return False
        return now >= self._deadline or (self._durability.is_quiet and have_all_read())
