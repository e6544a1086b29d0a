"""`tune`: measures the sizes one after the other, from the smallest to the largest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from procjobs.host import hostinfo
from procjobs.shared.config import check_count
from procjobs.shared.durations import Seconds, check_required
from procjobs.tuning.measure import Moment, Plan, check_settings, measure
from procjobs.tuning.plan import Call, check_calls, check_sizes, default_sizes, min_jobs
from procjobs.tuning.report import Measurement, Report, Skipped

SECONDS: Final = 10.0


def tune(function: Callable[..., Any], calls: Iterable[Call | Sequence[Any]] = ((),), **options: Any) -> Report:
    """Measure calls of a function in pools of several sizes; return a report. `report.knee.workers` is the size to take.

    Measuring takes at least `seconds` for each size, and keeps the host busy. `calls` are made in turn; each is a `Call` or
    a sequence of positional arguments. The options are those of `Tuning`. Raise TuningFailed if most jobs fail.
    """
    tuning = Tuning(function, calls, **options)
    for _ in tuning.run():
        pass
    return tuning.report()


class Tuning:
    """Measures a function in pools of several sizes; `report` returns the result so far.

    sizes: numbers of workers; by default those of `default_sizes`, up to `most`.
    seconds, jobs: the minimum time for each size, and the minimum number of jobs that end in it; by default three for each
    worker, and each call once.
    memory_bytes: the memory limit of a pool; by default the memory that is available now, less a tenth of the whole.
    around_start: a context in which each pool is started; the pool and its jobs keep the standard output of this context.
    tell: a function that is called with a Moment, several times a second.
    settings: settings of the Pool, such as preload, nice, threads, affinity, timeout.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        calls: Iterable[Call | Sequence[Any]] = ((),),
        *,
        sizes: Iterable[int] | None = None,
        most: int | None = None,
        seconds: Seconds = SECONDS,
        jobs: int | None = None,
        memory_bytes: int | None = None,
        around_start: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
        tell: Callable[[Moment], None] = lambda _moment: None,
        **settings: Any,
    ) -> None:
        if not callable(function):
            raise TypeError(f"{function!r} cannot be called; tune() takes a function and its calls")
        self._cpus = hostinfo.usable_cpus(hostinfo.read_cpu_facts())
        most = None if most is None else check_sizes([most])[0]
        self.sizes = default_sizes(self._cpus, most) if sizes is None else check_sizes(sizes)
        if most is not None:
            self.sizes = check_sizes(size for size in self.sizes if size <= most)
        self._calls = check_calls(calls)
        self._jobs = None if jobs is None else check_count("jobs", jobs, minimum=1)
        if memory_bytes is not None:
            check_count("memory_bytes", memory_bytes, minimum=1, maximum=2**60)
        self._limit = memory_to_use() if memory_bytes is None else memory_bytes
        checked = check_required("seconds", seconds)
        self._plan = Plan(function, self._calls, checked, self._limit, check_settings(settings), around_start)
        self._tell = tell
        self._measured: list[Measurement] = []
        self._skipped: list[Skipped] = []

    def run(self, tell: Callable[[Moment], None] | None = None) -> Iterator[Measurement | Skipped]:
        """Measure the sizes, and yield each when it is measured, or skipped for lack of memory.

        `tell` is used for this run instead of the constructor's.
        """
        tell = self._tell if tell is None else tell
        for workers in self.sizes:
            expected = self._expected_bytes(workers)
            if expected > self._limit:
                result: Measurement | Skipped = Skipped(workers, expected)
            else:
                result = measure(self._plan, workers, min_jobs(workers, len(self._calls), self._jobs), tell)
            if isinstance(result, Skipped):
                self._skipped.append(result)
            else:
                self._measured.append(result)
            yield result

    def report(self) -> Report:
        """Return a report on the sizes that were measured so far."""
        name = f"{self._plan.function.__module__}:{self._plan.function.__qualname__}"
        return Report(name, self._cpus, self._limit, tuple(self._measured), tuple(self._skipped))

    def _expected_bytes(self, workers: int) -> int:
        """Return the memory that a larger pool will need: the memory of the last size, plus its average for each new worker.

        A size that was given up counts with the memory that it had at that time.
        """
        known = [(one.workers, one.memory_bytes, one.workers_memory_bytes) for one in self._measured]
        known += [(one.workers, one.expected_bytes, one.expected_bytes) for one in self._skipped]
        if not known:
            return 0
        last, whole, of_workers = max(known)
        return whole + (workers - last) * of_workers // last


def memory_to_use() -> int:
    """Return how many bytes a pool may use on this host or in this container: the available memory less a tenth of all.

    The tenth is left for growth during the measuring: the file cache of the jobs, the web server beside them.
    """
    facts = hostinfo.read_memory_facts()
    whole = facts.total_bytes if facts.cgroup_limit_bytes is None else min(facts.total_bytes, facts.cgroup_limit_bytes)
    return max(hostinfo.usable_memory_bytes(facts) - whole // 10, 1)
