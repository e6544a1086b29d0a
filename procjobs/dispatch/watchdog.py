"""What a running job may not do, and how it is stopped: timeouts, stalls, memory, and the ladder of signals. Pure.

The ladder: a job that ran too long or stalled is examined first, so that its stack tells where it was stuck; then all of
its processes get SIGTERM, and after the grace period SIGKILL, again every second. A job over its memory limit gets
SIGKILL at once: in its grace period it could take the rest of the host's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from procjobs.clock import NEVER
from procjobs.dispatch.model import Slot, SlotState, Stop

if TYPE_CHECKING:
    from procjobs.dispatch.ports import Engine
    from procjobs.shared.config import JobOptions

EXAMINE_SECONDS: Final = 0.5
"""How long a worker has to tell its stack before it gets SIGTERM. It takes a millisecond, unless it is stopped or CPUs are
short."""
FORGIVEN_SECONDS: Final = 1.0
"""The least that a running job has left when the supervisor finds that it was itself away at a deadline."""
RETIRE_SHARE: Final = 0.5
"""A worker that keeps more than this part of `max_rss` after a job is replaced before the next one."""
_SHORTEST_PAUSE: Final = 0.02
"""Between two samples of what a job uses. Reading a host's processes takes some milliseconds."""
_EXAMINED: Final = frozenset({Stop.TIMEOUT, Stop.STALL, Stop.START, Stop.STUCK})


class Sample(NamedTuple):
    """What a job's processes use, and `progress`, a number that changes when the job reports."""

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
            self.sample_at = now + _SHORTEST_PAUSE

    def next_time(self) -> float:
        """Return the earliest of them."""
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
        self.sample_at = now + min(self._stall_pause(), self._memory_pause(used_bytes, since))
        self._sampled_at, self._used_bytes = now, used_bytes
        return Stop.NONE

    def _stall_pause(self) -> float:
        return min(max(self._stall_timeout / 10, 0.05), 5.0) if self._stall_timeout is not None else NEVER

    def _memory_pause(self, used_bytes: int, since: float) -> float:
        """Return the seconds to the next sample: half of those in which, at its speed since the last, it is at its limit."""
        if self._max_rss is None:
            return NEVER
        speed = (used_bytes - self._used_bytes) / max(since, 0.001)
        left = (self._max_rss - used_bytes) / speed if speed > 0 else NEVER
        nearness = 0.5 * (1 - used_bytes / self._max_rss)
        return max(min(left / 2, nearness), _SHORTEST_PAUSE)

    def forgive(self, seconds: float, now: float) -> None:
        """Push everything back: the supervisor was away for so long."""
        self._active_at += seconds
        self.slow_at += seconds
        self.deadline = max(self.deadline + seconds, now + FORGIVEN_SECONDS)
        self.soft_at = max(self.soft_at + seconds, now + FORGIVEN_SECONDS)


def _after(seconds: float | None, now: float) -> float:
    return NEVER if seconds is None else now + seconds


class Guard:
    """Holds running jobs to their limits."""

    def __init__(self, engine: Engine, grace_period: float, take_back: Callable[[Slot, float], bool]) -> None:
        """`take_back` leaves a worker only the job that it is in, and returns whether there is one."""
        self._engine = engine
        self._grace_period = grace_period
        self._take_back = take_back

    def watch(self, slot: Slot, now: float, *, last: bool = False) -> None:
        """Begin to hold the first (or the last) job of a slot to its limits."""
        kind = slot.jobs[-1 if last else 0].kind
        slot.limits = Limits(kind.options, now) if kind.is_limited else None

    def advance(self, slot: Slot, now: float) -> bool:
        """Do what is due; return whether there was anything."""
        if slot.kill_at <= now:
            slot.kill_at = now + 1.0
            self._engine.kill(slot)
        elif slot.term_at <= now:
            self._terminate(slot, now)
        elif slot.limits is not None and slot.limits.next_time() <= now:
            self._enforce(slot, now)
        else:
            return False
        return True

    def _enforce(self, slot: Slot, now: float) -> None:
        if not self._take_back(slot, now) or slot.limits is None:
            return
        limits = slot.limits
        if limits.slow_at <= now:
            limits.slow_at = NEVER
            self._engine.examine(slot)
        if limits.soft_at <= now:
            limits.soft_at = NEVER
            self._engine.interrupt(slot)
        if limits.deadline <= now:
            self.stop(slot, Stop.TIMEOUT, now)
        elif limits.sample_at <= now:
            sample = self._engine.measure(slot)
            slot.used_bytes = max(sample.rss_bytes - slot.baseline_bytes, 0)
            why = limits.observe(sample, slot.used_bytes, now)
            if why is not Stop.NONE:
                self.stop(slot, why, now)

    def stop(self, slot: Slot, why: Stop, now: float) -> None:
        """Begin the ladder. Of several jobs the worker is in the last one: it becomes the first."""
        slot.jobs.rotate(1)
        slot.stop = why
        slot.state = SlotState.STOPPING
        slot.limits = None
        slot.take_back_at = NEVER
        if why in _EXAMINED:
            slot.term_at = now + EXAMINE_SECONDS
            self._engine.examine(slot)
        elif why is Stop.MEMORY:
            slot.kill_at = now + 1.0
            self._engine.kill(slot)
        else:
            self._terminate(slot, now)

    def _terminate(self, slot: Slot, now: float) -> None:
        grace = slot.jobs[0].kind.options.grace_period if slot.jobs else self._grace_period
        slot.term_at = NEVER
        slot.kill_at = now + grace
        self._engine.terminate(slot)

    def on_examined(self, slot: Slot, now: float) -> None:
        """Go on with the ladder: the worker has told its stack."""
        if slot.term_at < NEVER:
            self._terminate(slot, now)

    def forgive(self, slot: Slot, seconds: float, now: float) -> None:
        """Push back the deadlines of a slot."""
        if slot.limits is not None:
            slot.limits.forgive(seconds, now)
        if slot.kill_at < NEVER:
            slot.kill_at += seconds


def keeps_too_much(slot: Slot, rss_bytes: int, max_rss: int | None) -> bool:
    """Return whether a worker has grown so much that it should not run another job."""
    return max_rss is not None and rss_bytes - slot.baseline_bytes > RETIRE_SHARE * max_rss
