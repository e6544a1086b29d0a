"""The number of workers that `workers="auto"` means on a host, and why. Pure: facts come in, a number goes out.

1. One worker for each CPU that can be kept busy, minus the reserve for the web server, at most as many as fit in memory.
2. At least one worker.

The reserve. Niceness alone protects requests from jobs well (docs/benchmarks, web): the slowest in a hundred requests take
2.1 ms beside a busy pool and 1.8 without. It does not help in three cases, and the reserve is for these:

- A quota. When jobs have used it up, the kernel stops the whole group until the next period (100 ms), and the web workers
  with it (sched-bwc). With two busy workers in a quota of one CPU, a loop that sleeps 10 ms came half as often as it should.
- Workers that are not nice.
- The threads of one core: they share its units at any niceness.

    CASE                              KEPT
    fewer than 4 CPUs                 none: one would be too much of them
    a quota with a part of a CPU      that CPU at least (of 1.5 CPUs jobs have one)
    a quota, or workers not nice      a quarter
    else                              an eighth, in whole cores
    always                            at most 8
    a pool private to a process       none: its program waits for it
"""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

from procjobs.host.hostinfo import CpuFacts, MemoryFacts, usable_cpus, usable_memory_bytes
from procjobs.shared.config import MAX_SLOTS

Reserve = int | Literal["auto"]

_FEW: Final = 4
_MAX_KEPT: Final = 8
_NICE_ENOUGH: Final = 5
"""From this niceness on a job has a third of the weight of a request, or less (sched(7): a step is a factor of 1.25)."""
_SPARE: Final = 0.1
"""The part of all memory that is left for growth: of web workers, of the file cache."""
UNKNOWN_WORKER_BYTES: Final = 64 * 2**20
"""The guess for a worker as long as the pool has never been seen at work."""


class Footprint(NamedTuple):
    """The memory that a pool's workers took in some `runs`: the most of one of them, beyond the `shared_bytes` of all."""

    worker_bytes: int = UNKNOWN_WORKER_BYTES
    shared_bytes: int = 0
    runs: int = 0


class Bound(NamedTuple):
    """The bound on the CPUs: `"host"`, `"affinity"` or `"quota"`, and how many of them it leaves."""

    kind: str
    cpus: float


class Size(NamedTuple):
    """A number of workers, and its reasons.

    `memory_workers` is how many fit in memory, None if that is not known; `reserve_rule` says why `reserve` CPUs are kept.
    """

    workers: int
    cpus: int
    bound: Bound
    reserve: int
    memory_workers: int | None
    reserve_rule: str = ""

    def explain(self) -> str:
        """Return the size and its reasons as a sentence.

        >>> Size(6, 8, Bound("quota", 8.0), 2, 11).explain()
        "6 workers: 8 CPUs usable by the container's quota, 2 kept for the web server; memory would allow 11"
        >>> Size(3, 8, Bound("host", 8), 1, 3).explain()
        '3 workers: 8 CPUs, 1 kept for the web server; memory allows no more'
        """
        whose = {
            "host": "",
            "affinity": " usable by the affinity of this process",
            "quota": " usable by the container's quota",
        }[self.bound.kind]
        if self.bound.cpus != self.cpus:
            whose += f" of {self.bound.cpus:g}"
        kept = f", {self.reserve} kept for the web server" if self.reserve else ""
        return f"{_count(self.workers, 'worker')}: {_count(self.cpus, 'CPU')}{whose}{kept}{self._explain_bounds()}"

    def _explain_bounds(self) -> str:
        memory = self.memory_workers
        if memory is not None and memory < 1:
            return "; memory would allow none, but one there must be"
        if memory is not None and memory == self.workers < self.cpus - self.reserve:
            return "; memory allows no more"
        allowed = "" if memory is None else f"; memory would allow {memory}"
        if self.cpus - self.reserve < 1:
            return f", but one worker there must be{allowed}"
        if self.workers == MAX_SLOTS < self.cpus - self.reserve:
            return f"; a pool has no more{allowed}"
        return allowed


def choose_size(
    cpus: CpuFacts,
    memory: MemoryFacts | None = None,
    footprint: Footprint | None = None,
    *,
    reserve: Reserve = "auto",
    nice: int,
    is_private: bool = False,
    held_bytes: int = 0,
) -> Size:
    """Return the size of a pool; without `memory` only the CPUs count.

    `held_bytes` is memory that the pool has already, and could use again. A `reserve` that is a number holds as it is.

    >>> choose_size(CpuFacts(8, 8, ()), nice=10).workers
    7
    """
    usable = usable_cpus(cpus)
    kept, rule = _decide_reserve(cpus, nice, is_private=is_private) if reserve == "auto" else (reserve, "as it was set")
    fitting = None if memory is None else fitting_workers(memory, footprint or Footprint(), held_bytes=held_bytes)
    bounds = [usable - kept, MAX_SLOTS] if fitting is None else [usable - kept, MAX_SLOTS, fitting]
    return Size(max(1, min(bounds)), usable, find_bound(cpus), kept, fitting, rule)


def find_bound(facts: CpuFacts) -> Bound:
    """Return the bound on the CPUs; of two that leave the same, the one that is easier to change."""
    affinity = facts.logical if facts.affinity is None else facts.affinity
    if facts.cgroup_quotas and math.ceil(min(facts.cgroup_quotas)) <= min(affinity, facts.logical):
        return Bound("quota", min(facts.cgroup_quotas))
    return Bound("affinity", affinity) if affinity < facts.logical else Bound("host", facts.logical)


def choose_reserve(facts: CpuFacts, *, nice: int, is_private: bool = False) -> int:
    """Return how many CPUs workers leave alone; see the table above.

    >>> [choose_reserve(CpuFacts(n, n, ()), nice=10) for n in (1, 2, 4, 8, 16, 64, 128)]
    [0, 0, 0, 1, 2, 8, 8]
    >>> [choose_reserve(CpuFacts(n, n, (quota,)), nice=10) for n, quota in ((8, 1.5), (8, 2.0), (8, 4.0), (64, 16.0))]
    [1, 0, 1, 4]
    """
    return _decide_reserve(facts, nice, is_private=is_private)[0]


def _decide_reserve(facts: CpuFacts, nice: int, *, is_private: bool) -> tuple[int, str]:
    """Return how many CPUs are kept, and by which rule."""
    if is_private:
        return 0, "a pool of one process's own keeps none"
    usable, bound = usable_cpus(facts), find_bound(facts)
    has_part = bound.kind == "quota" and bound.cpus < usable > 1
    if has_part and usable // 4 < 1:
        return 1, "the one of which the quota has only a part"
    if usable < _FEW:
        return 0, f"of fewer than {_FEW} none"
    if bound.kind == "quota" or nice < _NICE_ENOUGH:
        why = "against a quota niceness does not help"
        if bound.kind != "quota":
            why = f"workers of niceness {nice} do not yield"
        return min(usable // 4, _MAX_KEPT), f"a quarter, at most {_MAX_KEPT}: {why}"
    threads = threads_per_core(facts)
    whole = "" if threads == 1 else f" in whole cores of {threads} threads"
    kept = min(math.ceil(usable // 8 / threads) * threads, _MAX_KEPT)
    return kept, f"an eighth{whole}, at most {_MAX_KEPT}: niceness does the rest"


def threads_per_core(facts: CpuFacts) -> int:
    """Return how many threads each core has among the CPUs of this process, at least 1."""
    cpus = facts.logical if facts.affinity is None else facts.affinity
    return max(1, cpus // facts.cores) if facts.cores else 1


def fitting_workers(memory: MemoryFacts, footprint: Footprint, *, held_bytes: int = 0) -> int:
    """Return how many workers fit in the usable memory, minus a tenth of all memory for growth.

    >>> fitting_workers(MemoryFacts(2**33, 2**32, None, None), Footprint(2**29))
    6
    """
    limit = memory.cgroup_limit_bytes
    whole = memory.total_bytes if limit is None else min(limit, memory.total_bytes)
    free = min(usable_memory_bytes(memory) + held_bytes, whole) - _SPARE * whole
    return max(0, int((free - footprint.shared_bytes) // max(footprint.worker_bytes, 1)))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
