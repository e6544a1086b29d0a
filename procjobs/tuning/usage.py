"""The use of a pool while it is measured: its peak of memory, and its CPU time between two moments."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, NamedTuple

from procjobs.clock import perf_counter
from procjobs.host import observe

if TYPE_CHECKING:
    from procjobs.client.pool import Pool

_INTERVAL: Final = 0.2
_SHARE: Final = 50
"""Reading the page tables of large workers takes CPU time from the measured jobs: at most one part in 50 is spent on it."""


class Peak(NamedTuple):
    """The highest memory use in bytes: of the whole pool and of all workers (PSS), and of one worker (RSS)."""

    pool: int = 0
    workers: int = 0
    worker_rss: int = 0


class CpuTime(NamedTuple):
    """CPU seconds spent so far by a pool, with its ended processes, and by the whole host; and the time of the reading."""

    pool: float
    host: float
    at: float


def cpu_time(pool: Pool) -> CpuTime:
    """Return the CPU time that a pool and the host have spent so far."""
    members = observe.ProcessTree().members(pool.stats().supervisor_pid, 0.0)
    return CpuTime(observe.usage_of(members).cpu_seconds, observe.busy_cpu_seconds(), perf_counter())


class MemoryWatch:
    """Measures a pool's memory again and again in a thread of its own, from the construction to `stop`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._ended = threading.Event()
        self.peak = Peak()
        self._thread = threading.Thread(target=self._run, name="procjobs-tuning-memory", daemon=True)
        self._thread.start()

    def stop(self) -> Peak:
        """Measure a last time, and return the peak."""
        self._ended.set()
        self._thread.join()
        return self.peak

    def _run(self) -> None:
        pause = 0.0
        while True:
            is_last = self._ended.wait(pause)
            begun = perf_counter()
            self._measure()
            if is_last:
                return
            pause = max(_INTERVAL, _SHARE * (perf_counter() - begun))

    def _measure(self) -> None:
        tree = observe.ProcessTree()
        supervisor, workers = self._pool.stats().supervisor_pid, self._pool.workers()
        each = [observe.memory_of(tree.members(worker.pid, 0.0)) for worker in workers if worker.pid]
        of_workers = sum(used.pss_bytes for used in each)
        members = set(tree.members(supervisor, 0.0))
        for worker in workers:
            members -= set(tree.members(worker.pid, 0.0))
        whole = observe.memory_of(members).pss_bytes + of_workers
        largest = max((used.rss_bytes for used in each), default=0)
        before = self.peak
        self.peak = Peak(max(before.pool, whole), max(before.workers, of_workers), max(before.worker_rss, largest))
