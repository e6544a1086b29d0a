"""What the Scaler asks for, read from this host: how busy its CPUs have been, and its memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from procjobs.dispatch.model import SlotState
from procjobs.dispatch.scaling import CpuFacts, MemoryFacts
from procjobs.host import hostinfo, observe, pressure

if TYPE_CHECKING:
    from procjobs.dispatch.model import Slot


class Surroundings:
    """The host around a pool, from one look to the next; private pools have no name, and nothing is remembered of them."""

    def __init__(self, pool: str | None = None) -> None:
        self.pool = pool
        self._before: pressure.Counters | None = None
        self._expected_bytes: int | None = None

    def begin_look(self) -> None:
        """Begin the stretch of time that the next look tells about."""
        self._before = pressure.read_counters()

    def look_at_cpus(self) -> CpuFacts:
        """Return how busy the CPUs have been since the last look."""
        before, after = self._before, pressure.read_counters()
        self._before = after
        load = pressure.load_between(before or after, after)
        cpus = hostinfo.usable_cpus(hostinfo.read_cpu_facts())
        return CpuFacts(cpus, load.cpu_used, load.cpu_pressure, load.memory_pressure)

    def look_at_memory(self, slots: Iterable[Slot]) -> MemoryFacts:
        """Return the memory there is, and what each worker has taken with all that it has started.

        Less what it had at its start, most of which it shares with the template.
        """
        facts = hostinfo.read_memory_facts()
        total = min(facts.total_bytes, facts.cgroup_limit_bytes or facts.total_bytes)
        live = [slot for slot in slots if slot.state is not SlotState.EMPTY]
        taken = tuple(_taken(slot) for slot in live)
        return MemoryFacts(total, hostinfo.usable_memory_bytes(facts), taken, self._recall())

    def _recall(self) -> int:
        """Return what a worker took in earlier runs; read once, since only the end of this one adds to it."""
        if self._expected_bytes is None:
            from procjobs.host import footprints  # here, because a pool should be ready soon

            footprint = footprints.recall(self.pool)
            self._expected_bytes = footprint.worker_bytes if footprint.runs else 0
        return self._expected_bytes


def _taken(slot: Slot) -> int:
    return max(observe.rss_of(observe.family(slot.pid)) - slot.baseline_bytes, 0) if slot.pid else 0
