"""Statistics of single runs: the throughput within a span of time, its error, percentiles. Pure."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

PARTS: Final = 5
"""The number of parts of a span that are compared with each other."""


class Run(NamedTuple):
    """An ended job: the time of its end by the monotonic clock, its run time in seconds, and the reason of a failure."""

    ended_at: float
    seconds: float
    failure: str | None = None


def throughput(runs: Iterable[Run], begin: float, end: float) -> float:
    """Return the jobs per second that were done between two moments.

    A job that lies only partly between them counts as that part. Counting only the ends of jobs could be wrong by one job
    for each worker, because jobs of equal length end together: with 4 workers and 3 rounds, by a third.

    >>> throughput([Run(1.0, 1.0), Run(2.0, 1.0), Run(4.0, 2.0)], 0.5, 3.0)
    0.8
    """
    done = 0.0
    for run in runs:
        begun_at = run.ended_at - run.seconds
        if run.failure is None and run.ended_at > begin and begun_at < end:
            within = min(run.ended_at, end) - max(begun_at, begin)
            done += within / run.seconds if run.seconds > 0 else 1.0
    return done / (end - begin)


def standard_error(runs: Sequence[Run], begin: float, end: float) -> float:
    """Return the standard error of the throughput, computed from the differences between parts of the span.

    This is the method of batch means (Law, Simulation Modeling and Analysis, 9.5.3): neighbouring jobs depend on each
    other, so single jobs would give a wrong error. The means of longer parts are almost independent.
    """
    edges = [begin + (end - begin) * part / PARTS for part in range(PARTS + 1)]
    rates = [throughput(runs, *between) for between in itertools.pairwise(edges)]
    return statistics.stdev(rates) / math.sqrt(PARTS)


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that is at least as large as this share of all values; 0.0 without values.

    >>> percentile([5.0, 1.0, 3.0], 0.5), percentile(range(1, 101), 0.95), percentile([], 0.5)
    (3.0, 95, 0.0)
    """
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else 0.0
