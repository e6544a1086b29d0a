"""How fast a push queue starts its tasks: a bucket of tokens, and the slower rate after an overload. Pure: no clock.

In any window of t seconds at most `size + rate * t` requests reach the application, whatever happens between the claim of a
task and the moment when its request has left. So a token is reserved at the claim, and spent when the request has left:
where a connection takes long, the bucket does not fill up for the next burst meanwhile.

All moments are integers, microseconds of a clock that does not step back; rates are per second.
"""

from __future__ import annotations

import math
from typing import Final

_SECOND: Final = 1_000_000

SLOWEST: Final = 1 / 64
"""The least part of its rate to which a queue is slowed."""
RECOVERY: Final = 0.1
"""The part of its rate that a slowed queue regains in each second."""
_PATIENCE: Final = _SECOND
"""A burst of refusals that come within this time counts once."""


class Bucket:
    """The tokens of one queue: at most `size`, filled with `rate` a second. `reserved` ones belong to claimed tasks."""

    __slots__ = ("at", "level", "rate", "reserved", "size")

    def __init__(self, level: float, rate: float, size: int, now: int) -> None:
        self.level = min(level, size)
        self.rate = rate
        self.size = size
        self.at = now
        self.reserved = 0

    def set_limits(self, rate: float, size: int, now: int) -> None:
        """Have another rate and size from now on."""
        self._fill(now)
        self.rate, self.size = rate, size
        self.level = min(self.level, size)

    def _fill(self, now: int) -> None:
        if now > self.at:
            self.level = min(self.level + self.rate * (now - self.at) / _SECOND, self.size)
            self.at = now

    def available(self, now: int) -> int:
        """Return how many tasks may be claimed now; none where the rate is 0."""
        if self.rate <= 0:
            return 0
        self._fill(now)
        return max(math.floor(self.level) - self.reserved, 0)

    def next_at(self, now: int) -> int | None:
        """Return when a token is there for a claim, None if time alone brings none."""
        if self.available(now):
            return now
        lacking = self.reserved + 1 - self.level
        if self.rate <= 0 or self.reserved + 1 > self.size:
            return None
        return now + max(math.ceil(lacking / self.rate * _SECOND), 1)

    def reserve(self, count: int) -> None:
        """Note that so many tasks were claimed, at most as many as are available."""
        self.reserved += count

    def spend(self, now: int) -> None:
        """Note that the request of one claimed task has left."""
        self._fill(now)
        self.reserved -= 1
        self.level -= 1

    def remaining(self, now: int) -> float:
        """Return how many tokens there are that no task has reserved, fractions included."""
        self._fill(now)
        return self.level - self.reserved


class Throttle:
    """The part of its rate that a queue has left: all of it, until the application says that it is overloaded."""

    __slots__ = ("_recovered_at", "_slowed_at", "share")

    def __init__(self, share: float, now: int) -> None:
        self.share = min(max(share, SLOWEST), 1.0)
        self._recovered_at = now
        self._slowed_at = now - _PATIENCE

    def slow_down(self, now: int) -> None:
        """Halve the rate: the application has refused a task."""
        self.recover(now)
        if now - self._slowed_at >= _PATIENCE:
            self.share = max(self.share / 2, SLOWEST)
            self._slowed_at = now

    def recover(self, now: int) -> None:
        """Regain what belongs to the time since the last call."""
        elapsed = max(now - self._recovered_at, 0)
        self._recovered_at = max(now, self._recovered_at)
        self.share = min(self.share + RECOVERY * elapsed / _SECOND, 1.0)
