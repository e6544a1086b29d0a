"""The supervisor's counters and workers in the shared table, written only when they have changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER, wall
from procjobs.dispatch.limits import Stop
from procjobs.dispatch.model import Slot, SlotState
from procjobs.shared.table.layout import Counters, Order, Scaling, SlotRecord
from procjobs.supervisor.job import supervised

if TYPE_CHECKING:
    from procjobs.dispatch.dispatcher import Dispatcher
    from procjobs.dispatch.model import Job
    from procjobs.shared.table.state_writer import TableWriter
    from procjobs.supervisor.kind_counters import KindCounters
    from procjobs.supervisor.trend import Trend


_ORDERS: Final = {
    Stop.CANCEL: Order.CANCEL,
    Stop.TIMEOUT: Order.TIMEOUT,
    Stop.STALL: Order.STALL,
    Stop.SHUTDOWN: Order.STOP,
}
"""Of the other reasons a job is not told anything: it is killed at once, or there is none."""


class SlotPublisher:
    """Writes the slots of workers."""

    def __init__(self, table: TableWriter) -> None:
        self._table = table
        self._shown: dict[int, tuple[int, int, int, bytes, int]] = {}
        self._in_job_since: dict[int, float] = {}

    def in_job_since(self, slot: Slot) -> float:
        """Return when the worker of a slot began its job (monotonic), as far as its slot was written then."""
        return self._in_job_since.get(slot.number, slot.started_at)

    def publish(self, slot: Slot, now: float) -> None:
        """Write one slot, if it has changed."""
        shown = slot.pid, slot.state, slot.jobs_done, slot.jobs[0].id if slot.jobs else b"", slot.stop
        if shown == self._shown.get(slot.number):
            return
        before = self._shown.get(slot.number, shown)
        if (before[2], before[3]) != (shown[2], shown[3]):
            self._in_job_since[slot.number] = now
        self._shown[slot.number] = shown
        generation = slot.generation.number if slot.generation else 0
        started_at = slot.started_at - now + wall()
        order, attempt = _ORDERS.get(slot.stop, Order.NONE), slot.jobs[0].attempt if slot.jobs else 0
        record = SlotRecord(slot.pid, generation, slot.state, order, attempt, shown[3], slot.jobs_done, started_at)
        self._table.write_slot(slot.number, record)


class Publisher:
    """Writes counters, slots, sizes and the pool's problem."""

    def __init__(
        self, table: TableWriter, dispatcher: Dispatcher, slots: SlotPublisher, kind_counters: KindCounters, trend: Trend
    ) -> None:
        self._table = table
        self._dispatcher = dispatcher
        self._slots = slots
        self._kind_counters = kind_counters
        self._trend = trend
        self._oldest = 0.0
        self._front: Job | None = None
        self._ticket = 0.0
        self._oldest_by_queue: dict[str, float] = {}
        self._counters: Counters | None = None
        self._problem = ""
        self._notices: list[str] = []
        self._scaled_at = -1.0

    def publish_trend(self, now: float) -> None:
        """Note now and then what the counters were after the turn before this one."""
        self._trend.advance(now, self._counters, self._oldest)

    def publish_counters(self, *, accepting: bool, uncommitted: int, has_schedules: bool) -> None:
        """Write the counters; `uncommitted` submissions wait for the store.

        A client adds to them the submissions that it has sent and that were not acknowledged. So they are written before
        the acknowledgement goes out: then every submission is counted somewhere. In the field `accepting`, bit 0 says that
        the pool takes jobs, bit 1 that it is paused, and bit 2 that it has schedules.
        """
        dispatcher, workers = self._dispatcher, self._dispatcher.worker_slots
        states = [slot.state for slot in dispatcher.slots]
        counters = Counters(  # by position, in its order: this runs in every turn
            workers.live,
            states.count(SlotState.BUSY) + states.count(SlotState.STOPPING) + states.count(SlotState.WAITING),
            states.count(SlotState.IDLE),
            dispatcher.queued + uncommitted,
            dispatcher.scheduled,
            dispatcher.finished,
            dispatcher.failed,
            dispatcher.crashed,
            workers.restarts,
            self._table.rows_used,
            accepting | dispatcher.paused << 1 | has_schedules << 2,
            dispatcher.estimated_wait(),
        )
        if counters != self._counters:
            self._counters = counters
            self._table.write_counters(counters)
        self._publish_oldest()

    def _publish_oldest(self) -> None:
        """Write since when the first job waits, in the pool and in each queue: readers know for how long by their clock."""
        oldest, front = self._dispatcher.oldest_waiting()
        if oldest != NEVER:
            self._publish_front(oldest, front)
        else:
            self._ticket = self._table.tickets  # all have been called: the first that waits next is one of these, or follows
            if oldest != self._oldest:
                self._oldest, self._front = oldest, None
                self._table.write_oldest(0.0, 0.0)
        by_queue = self._dispatcher.oldest_by_queue()
        if by_queue != self._oldest_by_queue:
            for name, since in by_queue.items() - self._oldest_by_queue.items():
                self._kind_counters.write_queue(name, 0.0 if since == NEVER else since)
            self._oldest_by_queue = by_queue

    def _publish_front(self, oldest: float, front: Job | None) -> None:
        """Write the ticket of the job to start next; if that waits once more, the last ticket that was called before it."""
        if front is self._front and oldest == self._oldest:
            return
        self._front, self._oldest = front, oldest
        if front is None:
            self._ticket = 0.0
        elif not front.attempt:
            self._ticket = self._table.ticket(supervised(front).row) or self._ticket
        self._table.write_oldest(oldest, self._ticket)

    def publish_slots(self, now: float) -> None:
        """Write the slots, and how many there are to be."""
        self._publish_scaling(now)
        for slot in self._dispatcher.slots:
            self._slots.publish(slot, now)

    def _publish_scaling(self, now: float) -> None:
        workers = self._dispatcher.worker_slots
        if workers.changed_at == self._scaled_at:
            return
        self._scaled_at = workers.changed_at
        changed_at = workers.changed_at - now + wall() if workers.last_change else 0.0
        self._table.write_scaling(Scaling(workers.min, workers.max, workers.size, changed_at, workers.last_change))

    def close(self) -> None:
        """Close the file of the trend."""
        self._trend.close()

    def publish_problem(self) -> bool:
        """Write why the pool cannot run jobs; return whether clients have something new to be told of their code."""
        problem, notices = "", []
        for generation in self._dispatcher.current_generations():
            problem = problem or generation.problem
            if generation.notice:
                notices.append(generation.notice)
        if problem == self._problem and notices == self._notices:
            return False
        if problem != self._problem:
            self._table.write_problem(problem)
        self._problem, self._notices = problem, notices
        return True
