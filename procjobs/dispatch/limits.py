"""The limits of one running job: how long it may run, be silent, and how much memory it may use. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from procjobs.clock import NEVER
from procjobs.shared.config import JobOptions

MIN_SECONDS_LEFT: Final = 1.0
"""The least time that is left before a deadline after the supervisor itself was away at it (stopped, or suspended)."""
_MIN_SAMPLE_INTERVAL: Final = 0.02
"""Between two samples of a job's usage. To read the processes of a host takes some milliseconds."""


class Stop(IntEnum):
    """Why a worker is being stopped; with RETIRE it ends by itself after the jobs that it has."""

    NONE = 0
    TIMEOUT = 1
    CANCEL = 2
    RETIRE = 3
    SHUTDOWN = 4
    STALL = 5
    MEMORY = 6
    START = 7
    STUCK = 8


class Sample(NamedTuple):
    """The usage of a job's processes, and `progress`, a number that changes when the job reports."""

    progress: int
    cpu_seconds: float
    processes: int
    rss_bytes: int


class Limits:
    """The limits of the one job that a worker is in: monotonic times, infinity where there is no such limit."""

    __slots__ = (
        "_active_at",
        "_last",
        "_max_rss",
        "_sampled_at",
        "_stall_timeout",
        "_used_bytes",
        "began_at",
        "deadline",
        "sample_at",
        "slow_at",
        "soft_at",
    )

    def __init__(self, options: JobOptions, now: float) -> None:
        self.deadline = _after(options.timeout, now)
        self.soft_at = _after(options.soft_timeout, now)
        self.slow_at = _after(options.slow_after, now)
        self._stall_timeout = options.stall_timeout
        self._max_rss = options.max_rss
        self.began_at = self._active_at = self._sampled_at = now
        self._last: Sample | None = None
        self._used_bytes = 0
        self.sample_at = NEVER
        if self._stall_timeout is not None or self._max_rss is not None:
            self.sample_at = now + _MIN_SAMPLE_INTERVAL

    def next_time(self) -> float:
        """Return the earliest of these times."""
        return min(self.deadline, self.soft_at, self.slow_at, self.sample_at)

    def observe(self, sample: Sample, used_bytes: int, now: float) -> Stop:
        """Take a sample; return why the job is to be stopped, Stop.NONE if it is not.

        Any CPU time that the kernel counted (it counts in ticks, of 10 ms as a rule), any report, and any process that
        came or went since the last sample is a sign of life.
        """
        last, self._last = self._last, sample
        if last is None or last[:3] != sample[:3]:
            self._active_at = now
        if self._max_rss is not None and used_bytes > self._max_rss:
            return Stop.MEMORY
        if self._stall_timeout is not None and now >= self._active_at + self._stall_timeout:
            return Stop.STALL
        since = now - self._sampled_at
        self.sample_at = now + min(self._stall_interval(), self._memory_interval(used_bytes, since))
        self._sampled_at, self._used_bytes = now, used_bytes
        return Stop.NONE

    def note_life(self, now: float) -> None:
        """Take note that the job is not stuck, although it does nothing: it waits for another job."""
        self._active_at = now

    def _stall_interval(self) -> float:
        return min(max(self._stall_timeout / 10, 0.05), 5.0) if self._stall_timeout is not None else NEVER

    def _memory_interval(self, used_bytes: int, since: float) -> float:
        """Return half of the seconds in which the job reaches its limit, at its speed since the last sample."""
        if self._max_rss is None:
            return NEVER
        speed = (used_bytes - self._used_bytes) / max(since, 0.001)
        left = (self._max_rss - used_bytes) / speed if speed > 0 else NEVER
        nearness = 0.5 * (1 - used_bytes / self._max_rss)
        return max(min(left / 2, nearness), _MIN_SAMPLE_INTERVAL)

    def extend(self, seconds: float, now: float) -> None:
        """Push all times back: the supervisor was away for these seconds."""
        self._active_at += seconds
        self.slow_at += seconds
        self.deadline = max(self.deadline + seconds, now + MIN_SECONDS_LEFT)
        self.soft_at = max(self.soft_at + seconds, now + MIN_SECONDS_LEFT)


def _after(seconds: float | None, now: float) -> float:
    return NEVER if seconds is None else now + seconds
