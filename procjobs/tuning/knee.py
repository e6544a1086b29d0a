"""Chooses the size that is enough among the measured sizes. Pure.

The rule: take the smallest size that fits into memory and whose throughput is close enough to the best of the sizes that
fit. The difference to the best may be as large as the larger of these two:

- the tolerance, 5 %: the gain of another worker has to be worth its memory;
- one standard error of the difference: the measurement cannot tell smaller differences from noise.

The second half is the one-standard-error rule: among models that cannot be told apart, take the simplest (Breiman,
Friedman, Olshen, Stone, Classification and Regression Trees, 1984; Hastie, Tibshirani, Friedman, The Elements of
Statistical Learning, 7.10). It is limited by `MAX_NOISE`, because otherwise a bad measurement would recommend one worker.

Why not Kneedle (Satopaa, Albrecht, Irwin, Raghavan, Finding a "Kneedle" in a Haystack, 2011)? It scales both axes to the
measured range, so one more size moves the knee. It is also made for more than the four to eight points that there are here.

Why not a fit of the Universal Scalability Law (Gunther, Guerrilla Capacity Planning, 2007), C(N) = N / (1 + a(N-1) +
bN(N-1))? The throughput of CPU-bound jobs grows linearly up to the number of CPUs and stops there. The smooth curve rounds
off this corner, and its peak depends on how many sizes beyond the corner were measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

TOLERANCE: Final = 0.05
MAX_NOISE: Final = 0.15
"""The largest difference that noise may explain, as a share of the best throughput."""


class Point(NamedTuple):
    """The measured values of one size: jobs per second with their standard error, and the memory of the whole pool."""

    workers: int
    throughput: float
    standard_error: float
    memory_bytes: int


class Knee(NamedTuple):
    """The size that is enough (`workers`), and the size with the best throughput among the sizes that fit (`best`).

    `is_growing`: the largest measured size was chosen, so a still larger size may be better.
    `is_noisy`: the chosen size is below the tolerance, but the measurement cannot tell it from the best.
    `too_big`: the measured sizes that do not fit into memory.
    """

    workers: int
    best: int
    is_growing: bool
    is_noisy: bool
    too_big: tuple[int, ...]


def find_knee(points: Sequence[Point], memory_bytes: float = math.inf, tolerance: float = TOLERANCE) -> Knee | None:
    """Return the size to recommend; None if no size fits into `memory_bytes`, or if no job succeeded at any size.

    >>> curve = [Point(1, 3.1, 0.0, 100), Point(2, 6.1, 0.0, 200), Point(3, 6.2, 0.0, 300), Point(4, 6.0, 0.0, 400)]
    >>> find_knee(curve).workers, find_knee(curve, memory_bytes=150).workers
    (2, 1)
    """
    ordered = sorted(points)
    fitting = [point for point in ordered if point.memory_bytes <= memory_bytes and point.throughput > 0]
    if not fitting:
        return None
    best = max(fitting, key=lambda point: point.throughput)  # the smallest of equals, because it comes first
    chosen = next(point for point in fitting if _is_equal(point, best, tolerance))
    too_big = tuple(point.workers for point in ordered if point.memory_bytes > memory_bytes)
    is_noisy = chosen.throughput < (1 - tolerance) * best.throughput
    is_growing = len(ordered) > 1 and chosen == ordered[-1]  # no smaller size was as good
    return Knee(chosen.workers, best.workers, is_growing, is_noisy, too_big)


def _is_equal(point: Point, best: Point, tolerance: float) -> bool:
    """Return whether a size is as good as the best size, within the tolerance or the noise."""
    noise = min(math.hypot(point.standard_error, best.standard_error), MAX_NOISE * best.throughput)
    return best.throughput - point.throughput <= max(tolerance * best.throughput, noise)
