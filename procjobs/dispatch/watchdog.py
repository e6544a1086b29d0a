"""How a running job is held to its limits (timeouts, stalls, memory), and how a worker is stopped: the ladder. Pure.

The ladder of signals: a worker whose job ran too long or stalled is asked for its stack first, which tells where the job
was stuck; then all of its processes get SIGTERM, and after the grace period SIGKILL, again every second. A job over its
memory limit gets SIGKILL at once: in its grace period it could take the rest of the host's memory.
"""

from __future__ import annotations

from typing import Any, Final

from procjobs.clock import NEVER
from procjobs.dispatch.limits import Stop
from procjobs.dispatch.model import Slot, SlotState
from procjobs.dispatch.ports import Workers

STACK_TIMEOUT: Final = 0.5
"""How long a worker has to tell its stack before it gets SIGTERM. It takes a millisecond, unless the worker is stopped or
CPUs are short."""
RETIRE_SHARE: Final = 0.5
"""A worker that keeps more than this part of `max_rss` after a job is replaced before it gets another one."""
_KILL_INTERVAL: Final = 1.0
_DUMPED_FIRST: Final = frozenset({Stop.TIMEOUT, Stop.STALL, Stop.START, Stop.STUCK})


class Watchdog:
    """Stops workers, and jobs that exceed their limits. `grace_period` is that of a worker without a job."""

    def __init__(self, workers: Workers[Any], grace_period: float) -> None:
        self._workers = workers
        self._grace_period = grace_period

    # Limits -----------------------------------------------------------------------------------------------------

    def enforce(self, slot: Slot, now: float) -> None:
        """Act on the limits of the job that a worker is in, where one of them is due.

        The jobs that the worker had not read must have been reclaimed: until then it is not known which job it is in, and a
        worker that had read none is idle afterwards, without limits.
        """
        limits = slot.limits
        if limits is None or not slot.jobs:
            return
        if limits.slow_at <= now:
            limits.slow_at = NEVER
            self._workers.dump_stack(slot)
        if limits.soft_at <= now:
            limits.soft_at = NEVER
            self._workers.interrupt(slot)
        if limits.deadline <= now:
            self.stop(slot, Stop.TIMEOUT, now)
        elif limits.sample_at <= now:
            sample = self._workers.measure(slot)
            slot.used_bytes = max(sample.rss_bytes - slot.baseline_bytes, 0)
            if slot.state is SlotState.WAITING:
                limits.note_life(now)
            why = limits.observe(sample, slot.used_bytes, now)
            if why is not Stop.NONE:
                self.stop(slot, why, now)

    # The ladder -------------------------------------------------------------------------------------------------

    def stop(self, slot: Slot, why: Stop, now: float) -> None:
        """Begin the ladder. Of several jobs the worker is in the last one: it becomes the first."""
        slot.jobs.rotate(1)
        slot.stop = why
        slot.state = SlotState.STOPPING
        slot.limits = None
        slot.reclaim_at = NEVER
        if why in _DUMPED_FIRST:
            slot.term_at = now + STACK_TIMEOUT
            self._workers.dump_stack(slot)
        elif why is Stop.MEMORY:
            self._kill(slot, now)
        else:
            self._terminate(slot, now)

    def climb(self, slot: Slot, now: float) -> None:
        """Send the signal that is due."""
        if slot.kill_at <= now:
            self._kill(slot, now)
        elif slot.term_at <= now:
            self._terminate(slot, now)

    def on_stack_dumped(self, slot: Slot, now: float) -> None:
        """Go on with the ladder if it waits for the stack of the worker, which has come."""
        if slot.term_at < NEVER:
            self._terminate(slot, now)

    def _terminate(self, slot: Slot, now: float) -> None:
        grace_period = slot.jobs[0].kind.options.grace_period if slot.jobs else self._grace_period
        slot.term_at = NEVER
        slot.kill_at = now + grace_period
        self._workers.terminate(slot)

    def _kill(self, slot: Slot, now: float) -> None:
        slot.kill_at = now + _KILL_INTERVAL
        self._workers.kill(slot)

    def extend_deadlines(self, slot: Slot, seconds: float, now: float) -> None:
        """Push back the deadlines of a slot: the supervisor was away for these seconds."""
        if slot.limits is not None:
            slot.limits.extend(seconds, now)
        if slot.kill_at < NEVER:
            slot.kill_at += seconds


def keeps_too_much(slot: Slot, rss_bytes: int, max_rss: int | None) -> bool:
    """Return whether a worker has grown so much that it should not get another job."""
    return max_rss is not None and rss_bytes - slot.baseline_bytes > RETIRE_SHARE * max_rss
