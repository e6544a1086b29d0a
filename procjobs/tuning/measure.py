"""One size: a private pool is started, warmed up, measured, and ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procjobs.client.pool import Pool
from procjobs.clock import perf_counter
from procjobs.errors import TuningFailed
from procjobs.tuning.load import Load
from procjobs.tuning.plan import Call
from procjobs.tuning.report import Measurement, Skipped, describe_counts
from procjobs.tuning.usage import CpuTime, MemoryWatch, Peak, cpu_time
from procjobs.tuning.window import percentile, standard_error, throughput

if TYPE_CHECKING:
    from procjobs.tuning.window import Run

_TURN: Final = 0.1
_ENOUGH_TO_TELL: Final = 5
"""After so many jobs it is said that most of them fail; the first one alone may have met a cold cache or a missing file."""


class Moment(NamedTuple):
    """How far the measuring of a size has come; `stage` is starting, warming up, measuring or finishing.

    `elapsed` seconds of `seconds`, and `jobs` of `least_jobs`, both of the measuring itself.
    """

    workers: int
    stage: str
    elapsed: float
    seconds: float
    jobs: int
    least_jobs: int
    failed: int


class Plan(NamedTuple):
    """What is run at a size, for how long, with which settings of a pool, and who is told how far it is."""

    function: Callable[..., Any]
    calls: Sequence[Call]
    seconds: float
    memory_limit_bytes: int
    settings: dict[str, Any]
    around_start: Callable[[], AbstractContextManager[None]]
    tell: Callable[[Moment], None]


def measure(plan: Plan, workers: int, least_jobs: int) -> Measurement | Skipped:
    """Return what a pool of this size does; Skipped if it has outgrown the memory. Takes a private pool's whole life.

    Raise TuningFailed if most jobs fail, or the pool cannot run any. Ctrl-C ends the pool at once, with its jobs.
    """
    plan.tell(Moment(workers, "starting", 0.0, plan.seconds, 0, least_jobs, 0))
    with plan.around_start():
        pool = Pool(workers=workers, **plan.settings)
    with pool:
        watch = MemoryWatch(pool)
        try:
            try:
                return _Measuring(plan, pool, workers, least_jobs, watch).run()
            finally:
                watch.stop()  # before the pool ends, at which it looks
        except Exception:
            pool.stop()  # or it would only be left when all that is queued is done
            raise


class _Measuring:
    """The stages of measuring a size."""

    def __init__(self, plan: Plan, pool: Pool, workers: int, least_jobs: int, watch: MemoryWatch) -> None:
        self._plan = plan
        self._pool = pool
        self._workers = workers
        self._least_jobs = least_jobs
        self._watch = watch
        self._load = Load(pool, plan.function, plan.calls, workers)
        self._begin = 0.0
        self._warm = 0

    def run(self) -> Measurement | Skipped:
        """Go through the stages."""
        self._warm_up()
        before, self._begin, self._warm = cpu_time(self._pool), perf_counter(), len(self._load.runs)
        while not self._is_enough():
            self._load.turn(_TURN)
            self._check("measuring")
            if self._watch.peak.pool > self._plan.memory_limit_bytes:
                return self._give_up()
        end, after, peak = perf_counter(), cpu_time(self._pool), self._watch.stop()
        self._tell("finishing")
        self._load.finish()  # the jobs that run now count for the part of them that was within
        self._check_failures(self._load.runs, 1)
        return self._describe(end, before, after, peak)

    def _warm_up(self) -> None:
        """Return when all workers have been there at once, and as many jobs have ended since: one for each of them.

        The first job of a worker imports and opens what later ones find. Where workers die all the time they are never all
        there, and some more jobs have to do.
        """
        ready_at: int | None = None
        while ready_at is None or len(self._load.runs) < ready_at + self._workers:
            self._load.turn(_TURN)
            self._check("warming up")
            stats = self._pool.stats()
            if ready_at is None and (
                stats.busy + stats.idle >= self._workers or len(self._load.runs) >= 4 * self._workers
            ):
                ready_at = len(self._load.runs)

    def _is_enough(self) -> bool:
        ended = len(self._load.runs) - self._warm
        return perf_counter() - self._begin >= self._plan.seconds and ended >= self._least_jobs

    def _check(self, stage: str) -> None:
        self._tell(stage)
        self._check_failures(self._load.runs, _ENOUGH_TO_TELL)
        problem = self._pool.stats().problem
        if problem:
            raise TuningFailed(f"the pool cannot run jobs: {problem}")

    def _check_failures(self, runs: Sequence[Run], enough: int) -> None:
        failures = _count_failures(runs)
        failed = failures.total()
        if len(runs) >= enough and 2 * failed > len(runs):
            workers = f"{self._workers} {'worker' if self._workers == 1 else 'workers'}"
            raise TuningFailed(f"{failed} of {len(runs)} jobs failed with {workers}: {describe_counts(failures)}")

    def _tell(self, stage: str) -> None:
        is_measuring = stage != "warming up"
        elapsed = perf_counter() - self._begin if is_measuring else 0.0
        ended = len(self._load.runs) - self._warm if is_measuring else 0
        failed = _count_failures(self._load.runs).total()
        self._plan.tell(Moment(self._workers, stage, elapsed, self._plan.seconds, ended, self._least_jobs, failed))

    def _give_up(self) -> Skipped:
        """End a pool that uses more memory than it may, before the host has none left."""
        peak = self._watch.stop()
        self._pool.stop()
        return Skipped(self._workers, peak.pool)

    def _describe(self, end: float, before: CpuTime, after: CpuTime, peak: Peak) -> Measurement:
        begin, runs = self._begin, self._load.runs
        within = [run for run in runs if begin < run.ended_at <= end]
        succeeded = [run.seconds for run in within if run.failure is None]
        rate, span = throughput(runs, begin, end), end - begin
        spent = after.pool - before.pool
        return Measurement(
            workers=self._workers,
            seconds=span,
            jobs=len(within),
            throughput=rate,
            standard_error=standard_error(runs, begin, end),
            p50=percentile(succeeded, 0.5),
            p95=percentile(succeeded, 0.95),
            memory_bytes=peak.pool,
            workers_memory_bytes=peak.workers,
            worker_rss_bytes=peak.worker_rss,
            cpu_seconds_per_job=spent / (rate * span) if rate else 0.0,
            pool_cpus=spent / span,
            other_cpus=max(after.host - before.host - spent, 0.0) / span,
            failures=dict(_count_failures(runs)),
        )


def _count_failures(runs: Sequence[Run]) -> Counter[str]:
    return Counter(run.failure for run in runs if run.failure is not None)
