"""One size: a private pool is started, warmed up, measured, and ended."""

from __future__ import annotations

import difflib
import inspect
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procjobs.client.pool import Pool
from procjobs.clock import perf_counter
from procjobs.errors import ConfigurationError, TuningFailed
from procjobs.tuning.load import Load
from procjobs.tuning.plan import Call
from procjobs.tuning.report import Measurement, Skipped, describe_counts
from procjobs.tuning.usage import CpuTime, MemoryWatch, Peak, cpu_time
from procjobs.tuning.window import percentile, standard_error, throughput

if TYPE_CHECKING:
    from procjobs.shared.records import PoolStats

_TURN: Final = 0.1
_CHECK: Final = 0.2
_RESULT_TTL: Final = 5.0
"""Nobody reads the results: they are not to pile up."""
_ENOUGH_TO_TELL: Final = 5
"""After so many jobs it is said that most of them fail; the first one alone may have met a cold cache or a missing file."""


class Moment(NamedTuple):
    """How far the measuring of a size has come; `stage` is starting, warming up, measuring or finishing.

    `elapsed` seconds of `seconds`, and `jobs` of `min_jobs`, both of the measuring itself; `memory_bytes` is the peak so
    far of the whole pool.
    """

    workers: int
    stage: str
    elapsed: float
    seconds: float
    jobs: int
    min_jobs: int
    failed: int
    memory_bytes: int


class Plan(NamedTuple):
    """What is run at a size, for how long, with which settings of a pool, and who is told how far it is."""

    function: Callable[..., Any]
    calls: Sequence[Call]
    seconds: float
    memory_limit_bytes: int
    settings: dict[str, Any]
    around_start: Callable[[], AbstractContextManager[None]]
    tell: Callable[[Moment], None]


def check_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the pools; raise ConfigurationError for one that no Pool has, or that is not to be chosen."""
    known = inspect.signature(Pool).parameters.keys() - {"name", "workers", "max_workers"}
    for name in settings:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            guess = f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(sorted(known))}"
            raise ConfigurationError(f"a pool that is tuned has no setting {name!r}{guess}")
    return {"result_ttl": _RESULT_TTL, **settings}


def measure(plan: Plan, workers: int, min_jobs: int) -> Measurement | Skipped:
    """Return what a pool of this size does; Skipped if it has outgrown the memory. Takes a private pool's whole life.

    Raise TuningFailed if most jobs fail, or the pool cannot run any. Ctrl-C ends the pool at once, with its jobs.
    """
    plan.tell(Moment(workers, "starting", 0.0, plan.seconds, 0, min_jobs, 0, 0))
    with plan.around_start():
        pool = Pool(workers=workers, **plan.settings)
    with pool:
        watch = MemoryWatch(pool)
        try:
            try:
                return _Measuring(plan, pool, workers, min_jobs, watch).run()
            finally:
                watch.stop()  # before the pool ends, at which it looks
        except Exception:
            pool.stop()  # or it would only be left when all that is queued is done
            raise


class _OutgrownError(Exception):
    """The pool uses more memory than it may: it is to be ended before the host has none left."""


class _Measuring:
    """The stages of measuring a size."""

    def __init__(self, plan: Plan, pool: Pool, workers: int, min_jobs: int, watch: MemoryWatch) -> None:
        self._plan = plan
        self._pool = pool
        self._workers = workers
        self._least_jobs = min_jobs
        self._watch = watch
        self._load = Load(pool, plan.function, plan.calls, workers)
        self._begin = 0.0
        self._checks_at = 0.0

    def run(self) -> Measurement | Skipped:
        """Go through the stages, for as long as there is memory."""
        try:
            return self._run()
        except _OutgrownError:
            peak = self._watch.stop()
            self._pool.stop()
            return Skipped(self._workers, peak.pool)

    def _run(self) -> Measurement:
        self._warm_up()
        before, self._begin = cpu_time(self._pool), perf_counter()
        self._checks_at = self._begin
        while not self._is_enough():
            self._load.turn(_TURN)
            self._check("measuring")
        end, after, peak = perf_counter(), cpu_time(self._pool), self._watch.stop()
        self._tell("finishing")
        self._load.finish()  # the jobs that run now count for the part of them that was within
        self._check_failures(1)
        return self._describe(end, before, after, peak)

    def _warm_up(self) -> None:
        """Return when all workers have been there at once, and as many jobs have ended since: one for each of them.

        The first job of a worker imports and opens what later ones find. Where workers die all the time they are never all
        there, and some more jobs have to do.
        """
        ready_at: int | None = None
        while ready_at is None or len(self._load.runs) < ready_at + self._workers:
            self._load.turn(_TURN)
            stats = self._check("warming up")
            if ready_at is not None or stats is None:
                continue
            if stats.busy + stats.idle >= self._workers or len(self._load.runs) >= 4 * self._workers:
                ready_at = len(self._load.runs)

    def _is_enough(self) -> bool:
        return perf_counter() - self._begin >= self._plan.seconds and self._ended() >= self._least_jobs

    def _ended(self) -> int:
        """Return how many jobs have ended since the measuring began; what has ended just before may be noted later."""
        return len(self._load.runs) - bisect_right(self._load.runs, self._begin, key=attrgetter("ended_at"))

    def _check(self, stage: str) -> PoolStats | None:
        """Tell how far it is, and raise where it cannot go on; return how the pool is. None if all that was just done.

        To look at a pool takes milliseconds, on the CPUs that are measured, and small jobs end thousands of times a second.
        """
        if perf_counter() < self._checks_at:
            return None
        self._tell(stage)
        if self._watch.peak.pool > self._plan.memory_limit_bytes:
            raise _OutgrownError
        self._check_failures(_ENOUGH_TO_TELL)
        stats = self._pool.stats()
        if stats.problem:
            raise TuningFailed(f"the pool cannot run jobs: {stats.problem}")
        self._checks_at = perf_counter() + _CHECK
        return stats

    def _check_failures(self, enough: int) -> None:
        ended, failures = len(self._load.runs), self._load.failures
        if ended >= enough and 2 * failures.total() > ended:
            workers = f"{self._workers} {'worker' if self._workers == 1 else 'workers'}"
            raise TuningFailed(f"{failures.total()} of {ended} jobs failed with {workers}: {describe_counts(failures)}")

    def _tell(self, stage: str) -> None:
        is_measuring = stage != "warming up"
        elapsed = perf_counter() - self._begin if is_measuring else 0.0
        ended = self._ended() if is_measuring else 0
        failed = self._load.failures.total()
        plan, memory = self._plan, self._watch.peak.pool
        plan.tell(Moment(self._workers, stage, elapsed, plan.seconds, ended, self._least_jobs, failed, memory))

    def _describe(self, end: float, before: CpuTime, after: CpuTime, peak: Peak) -> Measurement:
        begin, runs = self._begin, self._load.runs
        within = [run for run in runs if begin < run.ended_at <= end]
        succeeded = [run.seconds for run in within if run.failure is None]
        rate = throughput(runs, begin, end)
        span = after.at - before.at
        spent = max(after.pool - before.pool, 0.0)  # less than nothing where the supervisor was replaced meanwhile
        return Measurement(
            workers=self._workers,
            seconds=end - begin,
            jobs=len(within),
            throughput=rate,
            standard_error=standard_error(runs, begin, end),
            p50=percentile(succeeded, 0.5),
            p95=percentile(succeeded, 0.95),
            memory_bytes=peak.pool,
            workers_memory_bytes=peak.workers,
            worker_rss_bytes=peak.worker_rss,
            cpu_seconds_per_job=spent / span / rate if rate else 0.0,
            pool_cpus=spent / span,
            other_cpus=max(after.host - before.host - spent, 0.0) / span,
            failures=dict(self._load.failures),
        )
