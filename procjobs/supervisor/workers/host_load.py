"""The facts about this host that the core asks for: how busy its CPUs have been, and its memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from procjobs.dispatch.model import SlotState
from procjobs.dispatch.ports import CpuFacts, MemoryFacts
from procjobs.host import hostinfo, observe, pressure

if TYPE_CHECKING:
    from procjobs.dispatch.model import Slot


class HostLoad:
    """The core's `Host` port. Private pools have no name: nothing is remembered of their earlier runs."""

    def __init__(self, pool: str | None = None) -> None:
        self._pool = pool
        self._before: pressure.Counters | None = None
        self._expected_bytes: int | None = None

    def begin_look(self) -> None:
        """Begin the stretch of time that the next look tells about."""
        self._before = pressure.read_counters()

    def cpus(self) -> CpuFacts:
        """Return how busy the CPUs have been since the last look."""
        before, after = self._before, pressure.read_counters()
        self._before = after
        load = pressure.load_between(before or after, after)
        usable = hostinfo.usable_cpus(hostinfo.read_cpu_facts())
        return CpuFacts(usable, load.cpu_used, load.cpu_pressure, load.memory_pressure)

    def memory(self, slots: Iterable[Slot]) -> MemoryFacts:
        """Return the memory there is, and how much each worker takes with all the processes that it has started.

        The memory that a worker had at its start does not count: it shares most of that with the template.
        """
        facts = hostinfo.read_memory_facts()
        total = min(facts.total_bytes, facts.cgroup_limit_bytes or facts.total_bytes)
        live = [slot for slot in slots if slot.state is not SlotState.EMPTY]
        taken = tuple(_taken(slot) for slot in live)
        return MemoryFacts(total, hostinfo.usable_memory_bytes(facts), taken, self._recall())

    def _recall(self) -> int:
        """Return how much a worker took in earlier runs; read once, since only the end of this one adds to it."""
        if self._expected_bytes is None:
            from procjobs.host import footprints  # here, because a pool should be ready soon

            footprint = footprints.recall(self._pool)
            self._expected_bytes = footprint.worker_bytes if footprint.runs else 0
        return self._expected_bytes


def _taken(slot: Slot) -> int:
    return max(observe.rss_of(observe.family(slot.pid)) - slot.baseline_bytes, 0) if slot.pid else 0
