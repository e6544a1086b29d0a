"""How many workers a pool has between its bounds, and why. Pure: facts and times in, a size out.

1. It grows fast: when a job has waited for WAIT_TIMEOUT and CPUs are idle, by as many workers as jobs wait, as CPUs are
   idle, and as there is memory for. Where CPUs are less than half used (jobs that wait for something else), it doubles.
2. It does not grow where that would not help: while the CPUs are full, or while tasks wait for a CPU in half of the time.
   Then only jobs that have waited for STARVATION_TIMEOUT get another worker, one at a time, up to the number of CPUs: other
   pools and programs of the host must not starve this pool.
3. It never grows into swap: each worker, also a running one, is expected to become as large as the largest one has been,
   lately or in earlier runs, and RESERVE_SHARE of the memory stays free. While tasks wait for memory, it does not grow.
4. It shrinks slowly: workers that were not needed for `keep_seconds` end, a quarter of the surplus at a time. Since the
   worker that was idle last is used first, the size that stays was enough for the peak of that time.
5. It does not flap: where a size is needed again soon after it was given up, workers are kept twice as long from then on,
   up to MAX_KEEP_FACTOR times as long.
6. It looks at the host only while a job has waited that long and the pool may grow: twice for the first step, then every
   GROWTH_INTERVAL while it grows, every HOLD_INTERVAL while it cannot. When no job waits, it does not look at all.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from procjobs.clock import NEVER
from procjobs.dispatch.model import SlotState
from procjobs.dispatch.ports import CpuFacts, Host, MemoryFacts
from procjobs.dispatch.slots import WorkerSlots

_MEBIBYTE: Final = 2**20

WAIT_TIMEOUT: Final = 0.1
"""How long a job waits before there may be another worker: a job that is done sooner is worth no fork."""
MEASURE_INTERVAL: Final = 0.1
"""How long the CPUs are watched before the first step: it takes two readings, since the kernel only counts."""
STALE_TIMEOUT: Final = 3.0
"""An older reading tells about another time."""
GROWTH_INTERVAL: Final = 0.5
"""Between two steps: the workers of the first have jobs, and use CPUs and memory, before the second is decided."""
HOLD_INTERVAL: Final = 1.0
"""Until a host that was full is looked at again."""
LOG_INTERVAL: Final = 60.0
"""Between two lines in the log that tell why the pool does not grow."""
STARVATION_TIMEOUT: Final = 10.0
FULL_SHARE: Final = 0.9
"""CPUs that are used more than this have no room: the rest are gaps between jobs."""
HIGH_CPU_PRESSURE: Final = 0.5
HIGH_MEMORY_PRESSURE: Final = 0.1
"""When tasks wait for memory in a tenth of the time, the kernel is reclaiming memory in use: swap is next."""
RESERVE_SHARE: Final = 0.05
MIN_WORKER_BYTES: Final = 16 * _MEBIBYTE
"""The least that a worker takes, beside the memory that it shares with the template."""
SHRINK_INTERVAL: Final = 1.0
"""Between two steps down."""
SOON_FACTOR: Final = 4
"""A size that is needed again within this many times `keep_seconds` was given up too soon."""
MAX_KEEP_FACTOR: Final = 32
_FORGETTING: Final = 0.98
"""The part of the largest worker's size that is remembered after each look: a seventh after a hundred looks."""


class Demand(NamedTuple):
    """How many jobs could run now and wait for a worker, how long the oldest has waited, how many workers there are to be.

    `starting` counts the workers that are about to be ready, and will take a job each.
    """

    jobs: int
    seconds: float
    workers: int
    starting: int = 0

    @property
    def unserved(self) -> int:
        """How many jobs will still wait when those workers have started."""
        return max(self.jobs - self.starting, 0)

    def __str__(self) -> str:
        who = "1 job waits" if self.jobs == 1 else f"{self.jobs} jobs wait"
        return f"{who} {self.seconds:.1f} s"


class Growth(NamedTuple):
    """How many more workers, and which fact of the host has decided that, in words."""

    workers: int
    why: str


def growth_by_cpus(demand: Demand, facts: CpuFacts) -> Growth:
    """Return by how many workers the pool is to grow, as far as CPUs are concerned.

    >>> growth_by_cpus(Demand(jobs=14, seconds=2.3, workers=6), CpuFacts(cpus=8, used=0.7))
    Growth(workers=2, why='CPUs 70 % used')
    """
    if facts.memory_pressure is not None and facts.memory_pressure >= HIGH_MEMORY_PRESSURE:
        return Growth(0, f"memory was waited for in {facts.memory_pressure:.0%} of the time".replace("%", " %"))
    used, pressure = facts.used, facts.pressure
    why = "CPU use unknown" if used is None else f"CPUs {100 * used:.0f} % used"
    if pressure is not None and pressure >= HIGH_CPU_PRESSURE:
        why += f", waited for in {100 * pressure:.0f} % of the time"
    elif used is None:  # then only the number of CPUs is known
        return Growth(min(demand.unserved, max(facts.cpus - demand.workers, 0)), why)
    elif used < FULL_SHARE:
        idle = math.ceil(facts.cpus * (FULL_SHARE - used))
        return Growth(min(demand.unserved, max(idle, demand.workers if used < FULL_SHARE / 2 else 0)), why)
    is_starving = demand.seconds >= STARVATION_TIMEOUT and demand.workers < facts.cpus
    return Growth(int(is_starving), why)


def growth_by_memory(facts: MemoryFacts, largest_bytes: int) -> Growth:
    """Return by how many workers the pool may grow before memory gets short.

    >>> growth_by_memory(MemoryFacts(2**33, 2**31, (2**28, 2**27)), 2**28)
    Growth(workers=5, why='2048 MiB of memory free, 256 MiB for each worker')
    """
    each = max(largest_bytes, MIN_WORKER_BYTES)
    to_come = sum(max(each - taken, 0) for taken in facts.worker_bytes)
    room = facts.free_bytes - to_come - facts.total_bytes * RESERVE_SHARE
    why = f"{facts.free_bytes // _MEBIBYTE} MiB of memory free, {each // _MEBIBYTE} MiB for each worker"
    return Growth(max(int(room // each), 0), why)


class Scaler:
    """Sets the size of the pool. `keep_seconds` is how long a worker that is not needed stays."""

    def __init__(self, host: Host, worker_slots: WorkerSlots, keep_seconds: float) -> None:
        self._host = host
        self._worker_slots = worker_slots
        self._min_keep_seconds = self._keep_seconds = keep_seconds
        self._look_at = NEVER
        self._looked_at = self._next_growth_at = self._next_shrinking_at = self._next_log_at = -NEVER
        self._shrank_at = -NEVER
        self._largest_bytes = 0.0

    def next_time(self) -> float:
        """Return when the size may change by itself, infinity when it will not."""
        return min(self._look_at, max(self._worker_slots.spare_since() + self._keep_seconds, self._next_shrinking_at))

    def observe(self, now: float, *, may_grow: bool) -> None:
        """Take note of whether jobs wait; this runs in every turn.

        While some workers of the present size cannot be started, a larger size would not help.
        """
        slots = self._worker_slots
        can_grow = may_grow and slots.size < slots.max and slots.counted >= slots.size
        if not can_grow or not any(generation.queue for generation in slots.generations):
            self._look_at = NEVER
        elif self._look_at == NEVER:
            self._look_at = max(now + WAIT_TIMEOUT, self._next_growth_at)

    def is_due(self, now: float) -> bool:
        """Return whether `advance` is about to look whether jobs wait."""
        return self._look_at <= now

    def advance(self, now: float) -> None:
        """Change the size if it is time for that."""
        if self._look_at <= now:
            self._look(now)
        if self._next_shrinking_at <= now and self._worker_slots.spare_since() + self._keep_seconds <= now:
            self._shrink(now)

    # Growing ----------------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        queues = [generation.queue for generation in self._worker_slots.generations]
        since = min(queue.oldest() for queue in queues)
        if since + WAIT_TIMEOUT > now:  # the job that waited is gone, and so may this one be by then
            self._look_at = since + WAIT_TIMEOUT
            return
        starting = sum(slot.state is SlotState.STARTING for slot in self._worker_slots.slots)
        demand = Demand(sum(len(queue) for queue in queues), now - since, self._worker_slots.size, starting)
        if not demand.unserved:
            self._look_at = now + GROWTH_INTERVAL
        elif now - self._looked_at > STALE_TIMEOUT:
            self._host.begin_look()
            self._looked_at, self._look_at = now, now + MEASURE_INTERVAL
        else:
            self._decide(demand, now)

    def _decide(self, demand: Demand, now: float) -> None:
        growth = self._find_growth(demand)
        count = min(growth.workers, self._worker_slots.max - self._worker_slots.size)
        self._looked_at = now
        self._look_at = self._next_growth_at = now + (GROWTH_INTERVAL if count else HOLD_INTERVAL)
        if count:
            if self._shrank_at > -NEVER:
                self._learn(now - self._shrank_at)
                self._shrank_at = -NEVER
            self._worker_slots.set_size(self._worker_slots.size + count, f"{demand}, {growth.why}", now)
        elif self._next_log_at <= now:
            self._next_log_at = now + LOG_INTERVAL
            self._worker_slots.note_size(f"stays at {_workers(self._worker_slots.size)}: {demand}, {growth.why}", now)

    def _find_growth(self, demand: Demand) -> Growth:
        """Ask for the facts; for those about memory, which cost more, only if they matter."""
        wanted = growth_by_cpus(demand, self._host.cpus())
        if not wanted.workers:
            return wanted
        facts = self._host.memory(self._worker_slots.slots)
        self._largest_bytes = max([self._largest_bytes * _FORGETTING, *facts.worker_bytes])
        allowed = growth_by_memory(facts, max(int(self._largest_bytes), facts.expected_bytes))
        return allowed if allowed.workers < wanted.workers else wanted

    def _learn(self, seconds: float) -> None:
        """Keep workers for longer, or not as long: the size that was given up these seconds ago is needed again."""
        if seconds < SOON_FACTOR * self._keep_seconds:
            self._keep_seconds = min(2 * self._keep_seconds, MAX_KEEP_FACTOR * self._min_keep_seconds)
        elif seconds > 4 * SOON_FACTOR * self._keep_seconds:
            self._keep_seconds = max(self._keep_seconds / 2, self._min_keep_seconds)

    # Shrinking --------------------------------------------------------------------------------------------------

    def _shrink(self, now: float) -> None:
        slots = self._worker_slots
        spare = [slot for slot in slots.spare() if slot.idle_since + self._keep_seconds <= now]
        surplus = slots.staying() - slots.min
        ending = spare[: min(surplus, max(1, surplus // 4))]
        self._next_shrinking_at, self._shrank_at = now + SHRINK_INTERVAL, now
        size = min(slots.staying() - len(ending), slots.size)  # after a resize more workers may stay than `size`
        if size != slots.size:
            slots.set_size(size, f"{len(spare)} not needed for {self._keep_seconds:g} s", now)
        for slot in ending:
            slots.retire(slot, now)


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
