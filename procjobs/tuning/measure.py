"""Measures one size: starts a private pool, warms it up, measures it, and ends it."""

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

_TURN_TIMEOUT: Final = 0.1
_CHECK_INTERVAL: Final = 0.2
_RESULT_TTL: Final = 5.0
"""Short, because nobody reads the results, and they should not fill the memory."""
_MIN_JOBS_TO_GIVE_UP: Final = 5
"""Measuring is given up only after this many jobs, if most of them failed. The first job alone may have met a cold cache."""


class Moment(NamedTuple):
    """The progress of measuring a size; `stage` is starting, warming up, measuring or finishing.

    `elapsed` of `seconds` have passed, and `jobs` of `min_jobs` have ended, both without the warm-up. `memory_bytes` is the
    peak of the whole pool so far.
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
    """The job to measure, the time and the memory for each size, and the settings of the pools."""

    function: Callable[..., Any]
    calls: Sequence[Call]
    seconds: float
    memory_limit_bytes: int
    settings: dict[str, Any]
    around_start: Callable[[], AbstractContextManager[None]]


def check_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the pools; raise ConfigurationError for a setting that a tuned pool does not have."""
    known = inspect.signature(Pool).parameters.keys() - {"name", "workers", "max_workers"}
    for name in settings:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            guess = f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(sorted(known))}"
            raise ConfigurationError(f"a pool that is tuned has no setting {name!r}{guess}")
    return {"result_ttl": _RESULT_TTL, **settings}


def measure(plan: Plan, workers: int, min_jobs: int, tell: Callable[[Moment], None]) -> Measurement | Skipped:
    """Start a pool of this size, measure it and end it; return Skipped if it outgrows the memory.

    `tell` is called with a Moment several times a second. Raise TuningFailed if most jobs fail, or if the pool cannot run
    jobs. Ctrl-C ends the pool and its jobs at once.
    """
    tell(Moment(workers, "starting", 0.0, plan.seconds, 0, min_jobs, 0, 0))
    with plan.around_start():
        pool = Pool(workers=workers, **plan.settings)
    with pool:
        watch = MemoryWatch(pool)
        try:
            try:
                return _Measuring(plan, pool, workers, min_jobs, watch, tell).run()
            finally:
                watch.stop()  # before the pool ends, because it reads the pool's processes
        except Exception:
            pool.stop()  # otherwise the end of the block would wait for all queued jobs
            raise


class _OutgrownError(Exception):
    """The pool uses more memory than allowed, and must end before the host runs out of memory."""


class _Measuring:
    """The stages of measuring a size."""

    def __init__(
        self,
        plan: Plan,
        pool: Pool,
        workers: int,
        min_jobs: int,
        watch: MemoryWatch,
        tell: Callable[[Moment], None],
    ) -> None:
        self._plan = plan
        self._pool = pool
        self._workers = workers
        self._min_jobs = min_jobs
        self._watch = watch
        self._tell = tell
        self._load = Load(pool, plan.function, plan.calls, workers)
        self._begin = 0.0
        self._checks_at = 0.0

    def run(self) -> Measurement | Skipped:
        """Go through the stages; return Skipped if the pool outgrows the memory meanwhile."""
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
            self._load.turn(_TURN_TIMEOUT)
            self._check("measuring")
        end, after, peak = perf_counter(), cpu_time(self._pool), self._watch.stop()
        self._tell_moment("finishing")
        self._load.finish()  # a job that is running now counts for the part of it that was within the measured time
        self._check_failures(1)
        return self._describe(end, before, after, peak)

    def _warm_up(self) -> None:
        """Return when all workers have been there at once, and one job for each of them has ended since.

        The first job of a worker imports modules and opens files for the later ones. If workers die all the time, they are
        never all there at once; then some more jobs are enough.
        """
        ready_at: int | None = None
        while ready_at is None or len(self._load.runs) < ready_at + self._workers:
            self._load.turn(_TURN_TIMEOUT)
            stats = self._check("warming up")
            if ready_at is not None or stats is None:
                continue
            if stats.busy + stats.idle >= self._workers or len(self._load.runs) >= 4 * self._workers:
                ready_at = len(self._load.runs)

    def _is_enough(self) -> bool:
        return perf_counter() - self._begin >= self._plan.seconds and self._ended() >= self._min_jobs

    def _ended(self) -> int:
        """Return how many jobs have ended since the measuring began; a job that ended just before may be noted later."""
        return len(self._load.runs) - bisect_right(self._load.runs, self._begin, key=attrgetter("ended_at"))

    def _check(self, stage: str) -> PoolStats | None:
        """Pass on the progress, and raise if measuring cannot go on; return the pool's stats, or None if it is too early.

        Reading the stats of a pool takes milliseconds on the CPUs that are measured, and thousands of small jobs may end in
        a second. So this does something only five times a second.
        """
        if perf_counter() < self._checks_at:
            return None
        self._tell_moment(stage)
        if self._watch.peak.pool > self._plan.memory_limit_bytes:
            raise _OutgrownError
        self._check_failures(_MIN_JOBS_TO_GIVE_UP)
        stats = self._pool.stats()
        if stats.problem:
            raise TuningFailed(f"the pool cannot run jobs: {stats.problem}")
        self._checks_at = perf_counter() + _CHECK_INTERVAL
        return stats

    def _check_failures(self, enough: int) -> None:
        ended, failures = len(self._load.runs), self._load.failures
        if ended >= enough and 2 * failures.total() > ended:
            workers = f"{self._workers} {'worker' if self._workers == 1 else 'workers'}"
            raise TuningFailed(f"{failures.total()} of {ended} jobs failed with {workers}: {describe_counts(failures)}")

    def _tell_moment(self, stage: str) -> None:
        is_measuring = stage != "warming up"
        elapsed = perf_counter() - self._begin if is_measuring else 0.0
        ended = self._ended() if is_measuring else 0
        failed = self._load.failures.total()
        seconds, memory = self._plan.seconds, self._watch.peak.pool
        self._tell(Moment(self._workers, stage, elapsed, seconds, ended, self._min_jobs, failed, memory))

    def _describe(self, end: float, before: CpuTime, after: CpuTime, peak: Peak) -> Measurement:
        begin, runs = self._begin, self._load.runs
        within = [run for run in runs if begin < run.ended_at <= end]
        succeeded = [run.seconds for run in within if run.failure is None]
        rate = throughput(runs, begin, end)
        span = after.at - before.at
        spent = max(after.pool - before.pool, 0.0)  # the difference is negative if the supervisor was replaced meanwhile
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
