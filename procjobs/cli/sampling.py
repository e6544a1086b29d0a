"""Takes the samples that `top` shows: counters, workers with the CPU time of all their processes, jobs, rates."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple

from procjobs.clock import monotonic, wall
from procjobs.errors import UnknownJob
from procjobs.host import observe
from procjobs.shared.records import JobStatus, PoolStats, WorkerInfo

if TYPE_CHECKING:
    from procjobs.client.running_pool import RunningPool

_MIN_SPAN: Final = 0.4
"""Rates over a shorter time vary too much."""
_SCAN_SHARE: Final = 20
"""Reading all jobs of a large pool may take a second. At most one part in 20 of the time is spent on it."""
_WAITING: Final = frozenset({"queued", "scheduled", "retrying"})


class Line(NamedTuple):
    """A worker, its job, and the use of its processes: per cent of one CPU since the last sample, and bytes of memory."""

    worker: WorkerInfo
    job: JobStatus | None
    cpu_percent: float
    rss: int


class Sample(NamedTuple):
    """A pool at one moment."""

    pool: str
    state: str
    at: float
    stats: PoolStats
    lines: list[Line]
    waiting: list[JobStatus]
    ended: list[JobStatus]
    jobs_per_second: float
    failures_per_second: float

    @property
    def cpu_percent(self) -> float:
        """The CPU use of all workers together."""
        return sum(line.cpu_percent for line in self.lines)

    def selectable(self) -> list[str]:
        """Return the ids of the jobs that can be cancelled, in the order in which they are shown."""
        running = [line.job.id for line in self.lines if line.job is not None]
        return running + [job.id for job in self.waiting if job.id not in running]


class Sampler:
    """Takes samples of a pool; rates are measured since the sample before."""

    def __init__(self, pool: RunningPool) -> None:
        self._pool = pool
        self._tree = observe.ProcessTree()
        self._cpu_seconds: dict[int, float] = {}
        self._cpu_percent: dict[int, float] = {}
        self._done = (0, 0)
        self._rates = (0.0, 0.0)
        self._since = float("-inf")
        self._scan_at = float("-inf")
        self._waiting: list[JobStatus] = []
        self._ended: list[JobStatus] = []

    def take(self) -> Sample:
        """Return a sample of the pool as it is now."""
        pool, stats, now = self._pool, self._pool.stats(), monotonic()
        workers = pool.workers()
        usage = {w.pid: observe.usage_of(self._tree.members(w.pid, 0.0)) for w in workers if w.pid}
        if now - self._since >= _MIN_SPAN:
            self._measure(now, {pid: used.cpu_seconds for pid, used in usage.items()}, (stats.finished, stats.failed))
        self._scan(now)
        lines = []
        for worker in workers:
            rss = usage[worker.pid].rss_bytes if worker.pid else 0
            lines.append(Line(worker, self._job_of(worker), self._cpu_percent.get(worker.pid, 0.0), rss))
        shown = {line.job.id for line in lines if line.job is not None}
        waiting = [job for job in self._waiting if job.id not in shown]
        return Sample(pool.name, self._state(stats), wall(), stats, lines, waiting, self._ended, *self._rates)

    def _measure(self, now: float, cpu_seconds: dict[int, float], done: tuple[int, int]) -> None:
        span = now - self._since
        before = self._cpu_seconds
        self._cpu_percent = {
            pid: max(100.0 * (used - before[pid]) / span, 0.0) for pid, used in cpu_seconds.items() if pid in before
        }
        if span < float("inf"):
            self._rates = (done[0] - self._done[0]) / span, (done[1] - self._done[1]) / span
        self._cpu_seconds, self._done, self._since = cpu_seconds, done, now

    def _scan(self, now: float) -> None:
        if now < self._scan_at:
            return
        jobs = self._pool.jobs(limit=2**62)
        self._waiting = [job for job in reversed(jobs) if job.state in _WAITING]  # the oldest one is about to run
        ended = sorted((job for job in jobs if job.done), key=lambda job: job.finished_at or 0.0, reverse=True)
        self._ended = ended[:100]
        self._scan_at = now + _SCAN_SHARE * (monotonic() - now)

    def _job_of(self, worker: WorkerInfo) -> JobStatus | None:
        if worker.job_id is not None:
            with contextlib.suppress(UnknownJob):
                status = self._pool.status(worker.job_id)
                return None if status.done else status
        return None

    def _state(self, stats: PoolStats) -> str:
        supervisor = self._pool.supervisor_state()
        if supervisor in {"gone", "stopped"}:
            return {"gone": "gone", "stopped": "not answering"}[supervisor]
        return "draining" if stats.draining else "degraded" if stats.problem else "paused" if stats.paused else "running"
