"""How often a process may be started again: OTP's restart intensity and period, with a pause that grows."""

from __future__ import annotations

from collections import deque


class RestartBudget:
    """Counts failed starts. Up to `intensity` failures in `period` seconds the next start is free; after that it waits.

    The pause begins at `first_pause` seconds, doubles with each further failure up to `longest_pause`, and is forgotten
    when a start succeeds.
    """

    def __init__(
        self, *, intensity: int = 3, period: float = 5.0, first_pause: float = 0.1, longest_pause: float = 5.0
    ) -> None:
        self._intensity = intensity
        self._period = period
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._failures: deque[float] = deque()
        self._excess = 0
        self.not_before = 0.0

    def add_failure(self, now: float) -> None:
        """Count a failure, and set `not_before` for the next start."""
        self._failures.append(now)
        while self._failures[0] < now - self._period:
            self._failures.popleft()
        if self._excess or len(self._failures) > self._intensity:
            self.not_before = now + min(self._first_pause * 2**self._excess, self._longest_pause)
            self._excess = min(self._excess + 1, 20)

    def add_success(self) -> None:
        """Forget the failures."""
        self._failures.clear()
        self._excess = 0
        self.not_before = 0.0

    @property
    def spent(self) -> bool:
        """Whether there were more failures than the intensity allows: then users want to know the cause."""
        return self._excess > 0
