"""What a dashboard remembers of a pool while somebody looks: use of the host, rates, and lists that are costly to read.

Nothing happens in here between two requests. A dashboard that nobody looks at costs nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procjobs.errors import ProcjobsError

if TYPE_CHECKING:
    from procjobs import PoolStats, PoolUsage

MIN_SPAN: Final = 1.5
"""Seconds between two samples: over a shorter time, rates vary too much."""
MAX_GAP: Final = 30.0
"""Seconds after which the line of a chart is broken: nobody looked in between."""
_SAMPLES: Final = 240
_RATE_SPAN: Final = 10.0
_MAX_JOBS: Final = 64
_MAX_KEPT: Final = 64
_MAX_POOLS: Final = 64


class UsageSample(NamedTuple):
    """The use of a pool's processes at a Unix time: per cent of one CPU since the sample before, None after a pause."""

    at: float
    cpu_percent: float | None
    rss: int


class Rates(NamedTuple):
    """Ends of jobs in a second, and failures among them."""

    finished: float
    failed: float


class PoolMemory:
    """What is remembered of one pool. Its methods may be called by several threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._usage: PoolUsage | None = None
        self._usage_at = float("-inf")
        self._samples: deque[UsageSample] = deque(maxlen=_SAMPLES)
        self._ends: deque[tuple[float, int, int]] = deque()
        self._job_cpu: OrderedDict[str, tuple[float, float, float | None]] = OrderedDict()
        self._kept: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()

    def sample_usage(self, pool: Any) -> tuple[PoolUsage | None, list[UsageSample]]:
        """Return what the pool uses now, and the samples so far. Measured at most every 1.5 seconds."""
        with self._lock:
            now = self._clock()
            if now - self._usage_at >= MIN_SPAN:
                usage = None
                with suppress(ProcjobsError):
                    usage = pool.usage(pss=False)
                before, self._usage, self._usage_at = self._usage, usage, now
                if usage is not None:
                    self._samples.append(UsageSample(now, _percent(before, usage), usage.rss))
            return self._usage, list(self._samples)

    def rates(self, stats: PoolStats) -> Rates | None:
        """Return how many jobs end in a second, over about the last ten seconds; None as long as that is not known."""
        with self._lock:
            now, ends = self._clock(), self._ends
            if ends and (stats.finished < ends[-1][1] or not 0 <= now - ends[-1][0] < MAX_GAP):
                ends.clear()  # another supervisor counts anew, or nobody has looked for a while
            if not ends or now - ends[-1][0] >= MIN_SPAN / 3:
                ends.append((now, stats.finished, stats.failed))
            while len(ends) > 2 and now - ends[1][0] >= _RATE_SPAN:
                ends.popleft()
            since, finished, failed = ends[0]
            span = now - since
            if span < MIN_SPAN / 2:
                return None
            return Rates((stats.finished - finished) / span, (stats.failed - failed) / span)

    def cpu_percent_of(self, job_id: str, cpu_seconds: float) -> float | None:
        """Return the CPU use of a job since it was looked at last, in per cent of one CPU; None at the first time."""
        with self._lock:
            now = self._clock()
            at, before, percent = self._job_cpu.get(job_id, (now, cpu_seconds, None))
            if now - at >= MIN_SPAN / 2:
                percent = max(100.0 * (cpu_seconds - before) / (now - at), 0.0)
                at, before = now, cpu_seconds
            self._job_cpu[job_id] = at, before, percent
            self._job_cpu.move_to_end(job_id)
            while len(self._job_cpu) > _MAX_JOBS:
                self._job_cpu.popitem(last=False)
            return percent

    def keep(self, key: Hashable, seconds: float, read: Callable[[], Any]) -> Any:
        """Return what `read` has returned at most so many seconds ago: many visitors cost no more than one."""
        now = self._clock()
        with self._lock:
            until, value = self._kept.get(key, (float("-inf"), None))
        if now < until <= now + seconds:
            return value
        value = read()
        with self._lock:
            self._kept[key] = now + seconds, value
            self._kept.move_to_end(key)
            while len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        return value


class Memory:
    """The memories of the pools of one dashboard, by name."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pools: OrderedDict[str, PoolMemory] = OrderedDict()

    def of(self, name: str) -> PoolMemory:
        """Return that of the pool of this name."""
        with self._lock:
            found = self._pools.setdefault(name, PoolMemory(self._clock))
            self._pools.move_to_end(name)
            while len(self._pools) > _MAX_POOLS:  # private pools come and go, each with a name of its own
                self._pools.popitem(last=False)
            return found


def _percent(before: PoolUsage | None, now: PoolUsage) -> float | None:
    if before is None:
        return None
    span = now.at - before.at
    return max(100.0 * (now.cpu_seconds - before.cpu_seconds) / span, 0.0) if 0 < span < MAX_GAP else None
