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
    from procjobs.supervisor.pending_hooks import PendingHooks
    from procjobs.supervisor.workers.processes import WorkerProcesses

_MIN_FIRST_LINGER: Final = 5.0
"""How long a new pool waits for its first client at least."""


_HOOKS_TIMEOUT: Final = 5.0
"""How long a stopping supervisor waits for the hooks that are still to be called."""


class Phase(Enum):
    """The life of a pool.

    SERVING   Entered at the start, and by `keep`. Jobs are taken and run. A named pool that nobody uses stops when it has
              lingered. Left by `hand_over`, `drain` and `stop`.
    HANDING_OVER  Entered by `hand_over`. Jobs are taken, and none is started. Left for STOPPING when those that run have
              ended and the others were left to the successor, by `keep` if that has gone, by `drain` and `stop`.
    DRAINING  Entered by `drain`. No more jobs are taken; those that wait and run go on. After SIGTERM there is a deadline.
              Left by `stop`: when no work is left, at the deadline, or on request.
    STOPPING  Entered by `stop`. The waiting jobs were given up, the workers were told to end, clients that come now start a
              successor. Left when the last worker has gone.
    FAREWELL  Entered when the last worker has gone. Clients take their last answers, the store commits the last events.
              Left, and the supervisor ends, when both have happened or the deadline has come.
    """

    SERVING = "serving"
    HANDING_OVER = "handing over"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAREWELL = "farewell"


class Lifecycle:
    """The one place that changes the phase of a pool."""

    def __init__(
        self, settings: PoolSettings, directory: rundir.RunDir, table: TableWriter, log: Log, dispatcher: Dispatcher,
        workers: WorkerProcesses, durability: Durability, hooks: PendingHooks, *, is_private: bool, now: float,
    ) -> None:  # fmt: skip
        """`is_private`: the pool ends with its owner, and not when nobody uses it.

        Once it `has_left`, everything that was taken and not answered is the successor's. Once it `has_lingered`, its
        schedules rest: it ends with the runs that there are, unless somebody comes.
        """
        self.phase = Phase.SERVING
        self.has_left = self.has_lingered = False
        self._settings = settings
        self._directory = directory
        self._table = table
        self._log = log
        self._dispatcher = dispatcher
        self._workers = workers
        self._durability = durability
        self._hooks = hooks
        self._is_private = is_private
        self._deadline = NEVER  # of the phase
        self._lingers_until = now + max(settings.linger, _MIN_FIRST_LINGER)

    @property
    def accepts_jobs(self) -> bool:
        """Whether the pool takes jobs."""
        return self.phase is Phase.SERVING or self.phase is Phase.HANDING_OVER

    @property
    def is_handing_over(self) -> bool:
        """Whether the pool ends when its running jobs have, and leaves the others to a successor."""
        return self.phase is Phase.HANDING_OVER

    def next_deadline(self) -> float:
        """Return when something is to be done."""
        return min(self._deadline, NEVER if self.has_lingered else self._lingers_until)

    def advance(self, now: float, *, has_clients: bool, scheduled_runs: int, leave: Callable[[], bool]) -> None:
        """Stop the pool when its time has come: the deadline of a drain, its last job, nobody who uses it.

        `scheduled_runs` of the jobs that have not ended were made by schedules. `leave` leaves the jobs that wait to the
        successor; it returns False if they cannot be left.
        """
        if self.phase is Phase.HANDING_OVER and not self._dispatcher.running:
            self.has_left = leave()
            self._dispatcher.unhold()
            if self.has_left:
                self.stop("its successor takes over", now, at_once=False)
            else:
                self.drain()
        if self.phase is Phase.DRAINING:
            if now >= self._deadline:
                self.stop("the pool was stopped", now, at_once=False)
            elif not self._has_work:
                self.stop("the pool was drained", now, at_once=False)
        self._advance_linger(now, has_clients=has_clients, scheduled_runs=scheduled_runs)

    @property
    def _has_work(self) -> bool:
        return bool(self._dispatcher.unfinished) or not self._durability.is_settled or not self._hooks.are_called

    def _advance_linger(self, now: float, *, has_clients: bool, scheduled_runs: int) -> None:
        """Stop a pool that nobody has used for a while. Jobs that its schedules make meanwhile are no use of it."""
        has_own_work = self._dispatcher.unfinished > scheduled_runs or not self._hooks.are_called
        if self._is_private or self._dispatcher.stopping or has_clients or has_own_work:
            self._lingers_until = NEVER
        elif self._lingers_until == NEVER:
            self._lingers_until = now + self._settings.linger
        self.has_lingered = now >= self._lingers_until
        if self.has_lingered and not self._has_work:
            self.stop("nobody uses it", now, at_once=False)

    def drain_in_grace_period(self, now: float) -> None:
        """Take no more jobs; those that have not ended in the grace period are stopped."""
        self.drain(now + self._settings.job_defaults.grace_period)

    def drain(self, deadline: float = NEVER) -> None:
        """Take no more jobs; the pool stops when those it has are done, at the latest at the deadline."""
        if self.phase in {Phase.SERVING, Phase.HANDING_OVER, Phase.DRAINING}:
            self._dispatcher.unhold()
            self.phase = Phase.DRAINING
            self._deadline = min(self._deadline, deadline)

    def hand_over(self, now: float) -> bool:
        """Start no more jobs; the pool ends when those that run have, and leaves the others to its successor.

        Return False if it is about to end in another way.
        """
        if self.phase is Phase.SERVING:
            self.phase = Phase.HANDING_OVER
            self._dispatcher.hold(now)
            self._log.write("no more jobs are started here: those that run may end, all others are for the successor")
        return self.phase is Phase.HANDING_OVER

    def keep(self) -> None:
        """Go on as before: the process that was to take the pool over has gone."""
        if self.phase is Phase.HANDING_OVER:
            self.phase = Phase.SERVING
            self._dispatcher.unhold()
            self._log.write("the process that was to take this pool over has gone: the pool stays")

    def stop(self, reason: str, now: float, *, at_once: bool) -> None:
        """Give up the jobs that wait, stop those that run, and end. With `at_once` there is no grace period."""
        if self.phase in {Phase.SERVING, Phase.HANDING_OVER, Phase.DRAINING}:
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
            timeout = self._durability.farewell_timeout
            self._deadline = now + (timeout if self._hooks.is_empty else max(timeout, _HOOKS_TIMEOUT))
        if self.phase is not Phase.FAREWELL:
            return False
        if now >= self._deadline and not self._durability.is_quiet:
            self._durability.abandon()  # clients get these answers, and have another while to take them
            self._deadline = now + FAREWELL_TIMEOUT
            return False
        return now >= self._deadline or (self._durability.is_quiet and self._hooks.is_empty and have_all_read())
