"""The sizes one after the other, from the smallest: `tune`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from procjobs.host import hostinfo
from procjobs.shared.config import check_count, check_seconds
from procjobs.tuning.measure import Moment, Plan, check_settings, measure
from procjobs.tuning.plan import Call, check_calls, check_sizes, default_sizes, min_jobs
from procjobs.tuning.report import Measurement, Report, Skipped

SECONDS: Final = 10.0


def tune(function: Callable[..., Any], calls: Iterable[Call | Sequence[Any]] = ((),), **options: Any) -> Report:
    """Return what pools of several sizes do with calls of a function, and which size to take: `report.knee.workers`.

    Takes `seconds` and more for each size, and keeps the host busy meanwhile. `calls` are made in turn; each is a `Call` or
    a sequence of positional arguments. The options are those of `Tuning`. Raise TuningFailed if most jobs fail.
    """
    tuning = Tuning(function, calls, **options)
    for _ in tuning.run():
        pass
    return tuning.report()


class Tuning:
    """Measures a function at several sizes of a pool; `report` tells of what was measured so far.

    sizes: numbers of workers; by default those of `default_sizes`, up to `most`.
    seconds, jobs: how long each size is measured at least, and how many jobs have to end meanwhile; by default three for
    each worker, and each call once.
    memory_bytes: what the pool may use; by default what is available now but for a tenth of all.
    around_start: is entered while a pool is started, whose jobs print where it then prints.
    tell: is called with a Moment, several times a second.
    settings: those of the Pool, such as preload, nice, threads, affinity, timeout; what is not given is its default.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        calls: Iterable[Call | Sequence[Any]] = ((),),
        *,
        sizes: Iterable[int] | None = None,
        most: int | None = None,
        seconds: float = SECONDS,
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
        checked = check_seconds("seconds", seconds, optional=False) or SECONDS
        self._plan = Plan(
            function, self._calls, checked, self._limit, check_settings(settings), around_start, self._pass_on
        )
        self.tell = tell
        self._measured: list[Measurement] = []
        self._skipped: list[Skipped] = []

    def run(self) -> Iterator[Measurement | Skipped]:
        """Measure the sizes, and yield each one when it is measured, or skipped for want of memory."""
        for workers in self.sizes:
            expected = self._expected_bytes(workers)
            if expected > self._limit:
                result: Measurement | Skipped = Skipped(workers, expected)
            else:
                result = measure(self._plan, workers, min_jobs(workers, len(self._calls), self._jobs))
            if isinstance(result, Skipped):
                self._skipped.append(result)
            else:
                self._measured.append(result)
            yield result

    def _pass_on(self, moment: Moment) -> None:
        self.tell(moment)

    def report(self) -> Report:
        """Return what was measured so far."""
        name = f"{self._plan.function.__module__}:{self._plan.function.__qualname__}"
        return Report(name, self._cpus, self._limit, tuple(self._measured), tuple(self._skipped))

    def _expected_bytes(self, workers: int) -> int:
        """Return the memory that a larger pool will need: that of the last one, and as much for each further worker.

        A size that was given up is taken for one that needs as much as it had by then.
        """
        known = [(one.workers, one.memory_bytes, one.workers_memory_bytes) for one in self._measured]
        known += [(one.workers, one.expected_bytes, one.expected_bytes) for one in self._skipped]
        if not known:
            return 0
        last, whole, of_workers = max(known)
        return whole + (workers - last) * of_workers // last


def memory_to_use() -> int:
    """Return how many bytes a pool may use on this host or in this container: what is available, but for a tenth of all.

    The tenth is for what grows meanwhile: the file cache of the jobs, the web server beside them.
    """
    facts = hostinfo.read_memory_facts()
    whole = facts.total_bytes if facts.cgroup_limit_bytes is None else min(facts.total_bytes, facts.cgroup_limit_bytes)
    return max(hostinfo.usable_memory_bytes(facts) - whole // 10, 1)
