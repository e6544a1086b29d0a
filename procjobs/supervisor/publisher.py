"""What the supervisor writes into the shared table about itself and its workers, and only when it has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from procjobs.clock import wall
from procjobs.dispatch.model import Slot, SlotState
from procjobs.shared.table.layout import Counters, Scaling, SlotRecord
from procjobs.shared.table.state_writer import TableWriter

if TYPE_CHECKING:
    from procjobs.dispatch.dispatcher import Dispatcher


class Publisher:
    """Writes counters, slots and the pool's problem."""

    def __init__(self, table: TableWriter, dispatcher: Dispatcher) -> None:
        self._table = table
        self._dispatcher = dispatcher
        self._counters: Counters | None = None
        self._slots: dict[int, tuple[int, int, int, bytes]] = {}
        self._problem = ""
        self.uncommitted = 0  # submissions that wait for the store
        self._scaled_at = -1.0

    def publish_counters(self, *, accepting: bool) -> None:
        """Write the counters.

        A client adds to them what it has sent and was not told to be accepted, so they are written before it is told:
        then every submission is counted somewhere. In `accepting`, bit 0 says so, and bit 1 that the pool is paused.
        """
        dispatcher = self._dispatcher
        states = [slot.state for slot in dispatcher.slots]
        counters = Counters(  # by position, in its order: this runs in every turn
            dispatcher.staff.live,
            states.count(SlotState.BUSY) + states.count(SlotState.STOPPING),
            states.count(SlotState.IDLE),
            dispatcher.queued + self.uncommitted,
            dispatcher.scheduled,
            dispatcher.finished,
            dispatcher.failed,
            dispatcher.crashed,
            dispatcher.staff.restarts,
            self._table.rows_used,
            accepting | dispatcher.paused << 1,
            dispatcher.estimated_wait(),
        )
        if counters != self._counters:
            self._counters = counters
            self._table.write_counters(counters)

    def publish_slots(self, now: float) -> None:
        """Write the slots, and how many there are to be."""
        self._publish_scaling(now)
        for slot in self._dispatcher.slots:
            self.publish_slot(slot, now)

    def _publish_scaling(self, now: float) -> None:
        staff = self._dispatcher.staff
        if staff.changed_at == self._scaled_at:
            return
        self._scaled_at = staff.changed_at
        changed_at = staff.changed_at - now + wall() if staff.last_change else 0.0
        self._table.write_scaling(Scaling(staff.least, staff.most, staff.size, changed_at, staff.last_change))

    def publish_slot(self, slot: Slot, now: float) -> None:
        """Write one slot."""
        shown = slot.pid, slot.state, slot.jobs_done, slot.jobs[0].id if slot.jobs else b""
        if shown == self._slots.get(slot.number):
            return
        self._slots[slot.number] = shown
        generation = slot.generation.number if slot.generation else 0
        started_at = slot.started_at - now + wall()
        record = SlotRecord(slot.pid, generation, slot.state, shown[3], slot.jobs_done, started_at)
        self._table.write_slot(slot.number, record)

    def publish_problem(self) -> bool:
        """Write why the pool cannot run jobs; return whether that has changed."""
        current = [g for g in reversed(self._dispatcher.generations) if g.successor is None]
        problem = next((g.problem for g in current if g.problem), "")
        if problem == self._problem:
            return False
        self._problem = problem
        self._table.write_problem(problem)
        return True
