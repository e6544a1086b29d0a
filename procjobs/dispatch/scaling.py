"""How many workers a pool has between its least and its most, and why. Pure: facts and times in, a size out.

1. It grows fast: when a job has waited for PATIENCE_SECONDS and CPUs are idle, by as many workers as jobs wait, as CPUs
   are idle, and as there is memory for. Where CPUs are less than half used (jobs that wait for something else), it
   doubles.
2. It does not grow where that would not help: while the CPUs are full, or half of the time somebody waits for one. Only
   jobs that have waited for STARVED_SECONDS get another worker then, one at a time, up to the number of CPUs: other pools
   and programs of the host must not starve this one.
3. It never grows into swap: each worker, those that run included, is expected to become as large as the largest one has
   been, lately or in earlier runs, and RESERVE_SHARE of the memory stays free. While tasks wait for memory, it does not grow
   at all.
4. It shrinks slowly: a worker that was not needed for `keep_seconds` ends, a quarter of those at a time. Since the worker
   that was idle last is used first, that is a size that was enough for the peak of so long.
5. It does not flap: a size that is needed again soon after it was given up is kept twice as long from then on, up to
   LONGEST_KEEP times.
6. It looks at the host only while a job has waited so long and the pool may grow: twice for the first step, then every
   LOOK_SECONDS while it grows, every HOLD_SECONDS while it cannot. When no job waits it looks at nothing and sleeps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from procjobs.clock import NEVER
from procjobs.dispatch.model import SlotState

if TYPE_CHECKING:
    from procjobs.dispatch.ports import Engine
    from procjobs.dispatch.slots import Staff

_MEBIBYTE: Final = 2**20

PATIENCE_SECONDS: Final = 0.1
"""How long a job waits before there may be another worker: what is sooner done than noticed is worth no fork."""
MEASURE_SECONDS: Final = 0.1
"""How long the CPUs are watched before the first step: of two readings, since the kernel only counts."""
STALE_SECONDS: Final = 3.0
"""A reading that is older tells of another time."""
LOOK_SECONDS: Final = 0.5
"""Between two steps: the workers of the one have jobs, and use CPUs and memory, before the next is decided."""
HOLD_SECONDS: Final = 1.0
"""Until a host that was full is looked at again."""
NOTE_SECONDS: Final = 60.0
"""Between two lines in the log that say why the pool does not grow."""
STARVED_SECONDS: Final = 10.0
FULL_SHARE: Final = 0.9
"""CPUs that are used more than this have no room: what is left are gaps between jobs."""
HIGH_CPU_PRESSURE: Final = 0.5
HIGH_MEMORY_PRESSURE: Final = 0.1
"""Waiting for memory in a tenth of the time means that the kernel is reclaiming what is in use: swap is next."""
RESERVE_SHARE: Final = 0.05
MIN_WORKER_BYTES: Final = 16 * _MEBIBYTE
"""What a worker takes at the least, beside what it shares with the template."""
SHRINK_SECONDS: Final = 1.0
"""Between two steps down."""
SOON: Final = 4
"""A size that is needed again within so many times what it was kept for was given up too soon."""
LONGEST_KEEP: Final = 32
_FORGETTING: Final = 0.98
"""What is left at each look of the size of the largest worker so far: after a hundred looks, a seventh."""


class CpuFacts(NamedTuple):
    """The CPUs of late: how many may be used, which part of them was, in which part of the time somebody waited.

    Parts are 0.0 to 1.0, None where the host does not tell.
    """

    cpus: int
    used: float | None = None
    pressure: float | None = None
    memory_pressure: float | None = None


class MemoryFacts(NamedTuple):
    """The memory in bytes: of host or group, what is free of it, and what each worker has taken for itself.

    `expected_bytes` is what one took at the most in earlier runs of this pool, 0 where that is not known.
    """

    total_bytes: int
    free_bytes: int
    worker_bytes: tuple[int, ...]
    expected_bytes: int = 0


class Line(NamedTuple):
    """Who waits: how many jobs that could run now, for how long the oldest of them; how many workers there are to be.

    Of these, so many are still `starting`, and will take a job each.
    """

    jobs: int
    seconds: float
    workers: int
    starting: int = 0

    @property
    def unserved(self) -> int:
        """How many jobs will wait on when those workers have started."""
        return max(self.jobs - self.starting, 0)

    def __str__(self) -> str:
        who = "1 job waits" if self.jobs == 1 else f"{self.jobs} jobs wait"
        return f"{who} {self.seconds:.1f} s"


class Growth(NamedTuple):
    """How many more workers, and what of the host has decided that, in words."""

    workers: int
    why: str


def growth_by_cpus(line: Line, facts: CpuFacts) -> Growth:
    """Return by how many workers the pool is to grow, as far as CPUs are concerned.

    >>> growth_by_cpus(Line(jobs=14, seconds=2.3, workers=6), CpuFacts(cpus=8, used=0.7))
    Growth(workers=2, why='CPUs 70 % used')
    """
    if facts.memory_pressure is not None and facts.memory_pressure >= HIGH_MEMORY_PRESSURE:
        return Growth(0, f"memory was waited for in {facts.memory_pressure:.0%} of the time".replace("%", " %"))
    used, pressure = facts.used, facts.pressure
    why = "CPU use unknown" if used is None else f"CPUs {100 * used:.0f} % used"
    if pressure is not None and pressure >= HIGH_CPU_PRESSURE:
        why += f", waited for in {100 * pressure:.0f} % of the time"
    elif used is None:  # then the number of CPUs is all there is to go by
        return Growth(min(line.unserved, max(facts.cpus - line.workers, 0)), why)
    elif used < FULL_SHARE:
        idle = math.ceil(facts.cpus * (FULL_SHARE - used))
        return Growth(min(line.unserved, max(idle, line.workers if used < FULL_SHARE / 2 else 0)), why)
    is_starving = line.seconds >= STARVED_SECONDS and line.workers < facts.cpus
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
    """Sets the size of the staff. `keep_seconds` is how long a worker that is not needed stays."""

    def __init__(self, engine: Engine, staff: Staff, keep_seconds: float) -> None:
        self._engine = engine
        self._staff = staff
        self._least_keep = self._keep_seconds = keep_seconds
        self._look_at = NEVER
        self._looked_at = self._next_growth_at = self._next_shrinking_at = self._next_note_at = -NEVER
        self._shrank_at = -NEVER
        self._largest_bytes = 0.0

    def next_time(self) -> float:
        """Return when the size may change by itself, infinity when it will not."""
        return min(self._look_at, max(self._staff.spare_since() + self._keep_seconds, self._next_shrinking_at))

    def observe(self, now: float, *, may_grow: bool) -> None:
        """Take note of whether jobs wait; this runs in every turn.

        While workers that there are to be cannot be started, to want more of them is of no use.
        """
        staff = self._staff
        can_grow = may_grow and staff.size < staff.most and staff.live >= staff.size
        if not can_grow or not any(generation.queue for generation in staff.generations):
            self._look_at = NEVER
        elif self._look_at == NEVER:
            self._look_at = max(now + PATIENCE_SECONDS, self._next_growth_at)

    def is_due(self, now: float) -> bool:
        """Return whether `advance` is about to look whether jobs wait."""
        return self._look_at <= now

    def advance(self, now: float) -> None:
        """Change the size if it is time for that."""
        if self._look_at <= now:
            self._look(now)
        if self._next_shrinking_at <= now and self._staff.spare_since() + self._keep_seconds <= now:
            self._shrink(now)

    # Growing ----------------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        queues = [generation.queue for generation in self._staff.generations]
        since = min(queue.oldest() for queue in queues)
        if since + PATIENCE_SECONDS > now:  # the one that waited is gone, and so may this one be by then
            self._look_at = since + PATIENCE_SECONDS
            return
        starting = sum(slot.state is SlotState.STARTING for slot in self._staff.slots)
        line = Line(sum(len(queue) for queue in queues), now - since, self._staff.size, starting)
        if not line.unserved:
            self._look_at = now + LOOK_SECONDS
        elif now - self._looked_at > STALE_SECONDS:
            self._engine.begin_look()
            self._looked_at, self._look_at = now, now + MEASURE_SECONDS
        else:
            self._decide(line, now)

    def _decide(self, line: Line, now: float) -> None:
        growth = self._find_growth(line)
        count = min(growth.workers, self._staff.most - self._staff.size)
        self._looked_at = now
        self._look_at = self._next_growth_at = now + (LOOK_SECONDS if count else HOLD_SECONDS)
        if count:
            if self._shrank_at > -NEVER:
                self._learn(now - self._shrank_at)
                self._shrank_at = -NEVER
            self._staff.set_size(self._staff.size + count, f"{line}, {growth.why}", now)
        elif self._next_note_at <= now:
            self._next_note_at = now + NOTE_SECONDS
            self._staff.note_size(f"stays at {_workers(self._staff.size)}: {line}, {growth.why}", now)

    def _find_growth(self, line: Line) -> Growth:
        """Ask for the facts; for those about memory, which cost more, only if they matter."""
        wanted = growth_by_cpus(line, self._engine.look_at_cpus())
        if not wanted.workers:
            return wanted
        facts = self._engine.look_at_memory()
        self._largest_bytes = max([self._largest_bytes * _FORGETTING, *facts.worker_bytes])
        allowed = growth_by_memory(facts, max(int(self._largest_bytes), facts.expected_bytes))
        return allowed if allowed.workers < wanted.workers else wanted

    def _learn(self, seconds: float) -> None:
        """Keep workers for longer, or not as long: the size that was given up so many seconds ago is needed again."""
        if seconds < SOON * self._keep_seconds:
            self._keep_seconds = min(2 * self._keep_seconds, LONGEST_KEEP * self._least_keep)
        elif seconds > 4 * SOON * self._keep_seconds:
            self._keep_seconds = max(self._keep_seconds / 2, self._least_keep)

    # Shrinking --------------------------------------------------------------------------------------------------

    def _shrink(self, now: float) -> None:
        staff = self._staff
        spare = [slot for slot in staff.spare() if slot.idle_since + self._keep_seconds <= now]
        surplus = staff.staying() - staff.least
        ending = spare[: min(surplus, max(1, surplus // 4))]
        self._next_shrinking_at, self._shrank_at = now + SHRINK_SECONDS, now
        size = min(staff.staying() - len(ending), staff.size)  # after a resize more may stay than there are to be
        staff.set_size(size, f"{len(spare)} not needed for {self._keep_seconds:g} s", now)
        for slot in ending:
            staff.retire(slot, now)


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
