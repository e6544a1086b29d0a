"""Which of the measured sizes is enough. Pure.

The rule: the smallest size that fits into memory and whose throughput falls short of the best one's (among those that
fit) by no more than the larger of

- the tolerance, 5 %: what another worker brings has to be worth its memory, and
- one standard error of the difference between the two: less than that, the measurement cannot tell them apart.

The second half is the one-standard-error rule: of models that cannot be told apart take the simplest (Breiman, Friedman,
Olshen, Stone, Classification and Regression Trees, 1984; Hastie, Tibshirani, Friedman, The Elements of Statistical
Learning, 7.10). It is bounded by `MAX_NOISE`, or a bad measurement would recommend one worker with confidence.

Why not Kneedle (Satopaa, Albrecht, Irwin, Raghavan, Finding a "Kneedle" in a Haystack, 2011): it scales both axes to what
was measured, so measuring one more size moves the knee, and its four to eight points are fewer than it is made for. Why not
a fit of the Universal Scalability Law (Gunther, Guerrilla Capacity Planning, 2007), C(N) = N / (1 + a(N-1) + bN(N-1)):
CPU-bound jobs grow linearly up to the number of CPUs and stop there, a corner that this smooth curve rounds off, and where
the peak is then depends on how many sizes beyond the corner were measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

TOLERANCE: Final = 0.05
MAX_NOISE: Final = 0.15
"""What noise may excuse at the most: a share of the best throughput."""


class Point(NamedTuple):
    """What was measured at one size: jobs per second with their standard error, and the memory of the whole pool."""

    workers: int
    throughput: float
    standard_error: float
    memory_bytes: int


class Knee(NamedTuple):
    """The size that is enough, and the one with the best throughput of those that fit.

    `is_growing`: the largest size measured is the one, and better than all smaller ones: more may bring more.
    `is_noisy`: a smaller size was taken since the measurement cannot tell it from the best, not because it is within the
    tolerance. `too_big` are the measured sizes that do not fit into memory.
    """

    workers: int
    best: int
    is_growing: bool
    is_noisy: bool
    too_big: tuple[int, ...]


def find_knee(points: Sequence[Point], memory_bytes: float = math.inf, tolerance: float = TOLERANCE) -> Knee | None:
    """Return the size to recommend, None if none fits into `memory_bytes` or none has done anything.

    >>> curve = [Point(1, 3.1, 0.0, 100), Point(2, 6.1, 0.0, 200), Point(3, 6.2, 0.0, 300), Point(4, 6.0, 0.0, 400)]
    >>> find_knee(curve).workers, find_knee(curve, memory_bytes=150).workers
    (2, 1)
    """
    ordered = sorted(points)
    fitting = [point for point in ordered if point.memory_bytes <= memory_bytes and point.throughput > 0]
    if not fitting:
        return None
    best = max(fitting, key=lambda point: point.throughput)  # of equals the smallest, which comes first
    chosen = next(point for point in fitting if _is_equal(point, best, tolerance))
    too_big = tuple(point.workers for point in ordered if point.memory_bytes > memory_bytes)
    is_noisy = chosen.throughput < (1 - tolerance) * best.throughput
    is_growing = len(ordered) > 1 and chosen == ordered[-1]  # no smaller one was as good
    return Knee(chosen.workers, best.workers, is_growing, is_noisy, too_big)


def _is_equal(point: Point, best: Point, tolerance: float) -> bool:
    """Return whether a size is as good as the best one, as far as that matters and can be told."""
    noise = min(math.hypot(point.standard_error, best.standard_error), MAX_NOISE * best.throughput)
    return best.throughput - point.throughput <= max(tolerance * best.throughput, noise)
