"""The measured values of all sizes, the recommendation, and both in words. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from procjobs.tuning.knee import Knee, Point, find_knee

_MAX_OTHER_CPU_SHARE: Final = 0.1
"""A remark is written if other programs use more than this share of the host's CPUs."""
_MAX_SLOWDOWN: Final = 1.5
"""A remark is written if a job takes more than this many times as long as alone."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The measured values of one size. Times are in seconds, memory is in bytes, CPU use is a number of CPUs.

    `throughput` is the number of successful jobs per second, with its `standard_error`; `p50` and `p95` are run times.
    `memory_bytes` is the highest memory use of the whole pool, with supervisor and template; pages that processes share
    count once (PSS). `workers_memory_bytes` is the same for the workers and their children, `worker_rss_bytes` the highest
    use of one worker. `cpu_seconds_per_job` includes the pool's own work. `pool_cpus` is the average CPU use of the pool,
    `other_cpus` that of all other programs on the host. `failures` counts failed jobs by reason, warm-up included.
    """

    workers: int
    seconds: float
    jobs: int
    throughput: float
    standard_error: float
    p50: float
    p95: float
    memory_bytes: int
    workers_memory_bytes: int
    worker_rss_bytes: int
    cpu_seconds_per_job: float
    pool_cpus: float
    other_cpus: float
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """The number of failed jobs."""
        return sum(self.failures.values())

    @property
    def point(self) -> Point:
        """The values that the choice of a size depends on."""
        return Point(self.workers, self.throughput, self.standard_error, self.memory_bytes)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A size that was not measured, or not to its end, because it needs more memory than the limit."""

    workers: int
    expected_bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """All measured sizes, with the CPUs of the host and the memory limit of the pool."""

    function: str
    cpus: int
    memory_limit_bytes: int
    measurements: tuple[Measurement, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def knee(self) -> Knee | None:
        """The size to recommend, None if no size can be recommended."""
        return find_knee([measured.point for measured in self.measurements], self.memory_limit_bytes)

    def at(self, workers: int) -> Measurement:
        """Return the measurement of a size."""
        return next(measured for measured in self.measurements if measured.workers == workers)

    def efficiency(self, measured: Measurement) -> float | None:
        """Return the throughput of one worker compared with a pool of one worker, 0.0 to about 1.0; None if unknown."""
        first = self.measurements[0]
        if first.workers != 1 or not first.throughput:
            return None
        return measured.throughput / measured.workers / first.throughput

    def in_words(self) -> str:
        """Return the recommendation as a sentence."""
        knee = self.knee
        if knee is None:
            return self._no_size()
        chosen, best = self.at(knee.workers), self.at(knee.best)
        sentence = f"{_workers(chosen.workers)}: {digits(chosen.throughput)} jobs/s"
        if chosen.workers == best.workers:
            return sentence + (", the most of all" if len(self.measurements) > 1 else "")
        share = chosen.throughput / best.throughput
        sentence += f", {share:.0%} of the most ({_workers(best.workers)}: {digits(best.throughput)})"
        saved = 1 - chosen.memory_bytes / best.memory_bytes if best.memory_bytes else 0.0
        return sentence + (f" with {saved:.0%} less memory" if saved >= 0.01 else "")

    def _no_size(self) -> str:
        if not self.measurements and not self.skipped:
            return "nothing was measured"
        needs = [measured.memory_bytes for measured in self.measurements] + [one.expected_bytes for one in self.skipped]
        limit = _mebibytes(self.memory_limit_bytes)
        return f"no size fits into memory: the smallest needs {_mebibytes(min(needs))}, and {limit} may be used"

    def remarks(self) -> list[str]:
        """Return remarks on the recommendation and on doubts about the numbers, one sentence each."""
        return [*self._remarks_on_sizes(), *self._remarks_on_measuring()]

    def _remarks_on_sizes(self) -> list[str]:
        knee, remarks = self.knee, []
        too_big = sorted({one.workers for one in self.skipped} | set(knee.too_big if knee else ()))
        if too_big and knee is not None:
            limit = _mebibytes(self.memory_limit_bytes)
            remarks.append(f"{_workers(*too_big)} would need more memory than the {limit} that may be used")
        if knee is None:
            return remarks
        chosen, first = self.at(knee.workers), self.measurements[0]
        if knee.is_growing and not too_big:
            remarks.append(f"more may be better still: {knee.workers} is the largest size measured; see --most")
        if first.p50 and chosen.p50 > _MAX_SLOWDOWN * first.p50:
            ratio = chosen.p50 / first.p50
            remarks.append(
                f"a job takes {ratio:.1f} times as long as with {_workers(first.workers)}: the jobs slow each other down"
            )
        return remarks

    def _remarks_on_measuring(self) -> list[str]:
        knee, remarks = self.knee, []
        others = max((measured.other_cpus for measured in self.measurements), default=0.0)
        if others > _MAX_OTHER_CPU_SHARE * self.cpus:
            remarks.append(f"other programs used up to {others:.1f} of the host's CPUs: measure again when they are idle")
        if knee is not None and knee.is_noisy:
            remarks.append("the throughput varied too much to tell these sizes apart: measure for longer; see --seconds")
        failed = sum(measured.failed for measured in self.measurements)
        if failed:
            remarks.append(f"{failed} {'job' if failed == 1 else 'jobs'} failed: {describe_failures(self.measurements)}")
        return remarks

    def document(self) -> dict[str, Any]:
        """Return the whole report as a JSON document."""
        knee = self.knee
        measurements = [
            {**asdict(measured), "failed": measured.failed, "efficiency": self.efficiency(measured)}
            for measured in self.measurements
        ]
        return {
            "function": self.function,
            "cpus": self.cpus,
            "memory_limit_bytes": self.memory_limit_bytes,
            "measurements": measurements,
            "skipped": [asdict(one) for one in self.skipped],
            "recommended": None if knee is None else knee._asdict(),
            "text": self.in_words(),
            "remarks": self.remarks(),
        }


def describe_failures(measurements: Sequence[Measurement]) -> str:
    """Return the reasons of all failures, the most frequent first."""
    counts: dict[str, int] = {}
    for measured in measurements:
        for reason, count in measured.failures.items():
            counts[reason] = counts.get(reason, 0) + count
    return describe_counts(counts)


def describe_counts(counts: dict[str, int]) -> str:
    """Return the three most frequent reasons with their numbers.

    >>> describe_counts({"ValueError: no": 1, "crashed": 3})
    'crashed (3), ValueError: no (1)'
    """
    frequent = sorted(counts.items(), key=lambda item: -item[1])[:3]
    left = len(counts) - len(frequent)
    shown = ", ".join(f"{reason} ({count})" for reason, count in frequent)
    return shown + (f" and {left} other reasons" if left > 0 else "")


def _workers(*numbers: int) -> str:
    return f"{', '.join(map(str, numbers))} {'worker' if numbers == (1,) else 'workers'}"


def digits(value: float) -> str:
    """Return a number with three significant digits.

    >>> digits(0.01234), digits(11.84), digits(54_600.2)
    ('0.0123', '11.8', '54,600')
    """
    if value <= 0:
        return "0"
    decimals = max(2 - math.floor(math.log10(value)), 0)
    return f"{value:,.{decimals}f}"


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:,.0f} MB"
