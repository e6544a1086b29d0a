"""How a running job is held to its limits (timeouts, stalls, memory), and how a worker is stopped: the ladder. Pure.

A job that is cancelled, that runs too long or stalls, or whose pool ends, is interrupted: an exception is raised in it, and
it has the grace period to clean up. If it answers in that time, its worker goes on. The rungs:

    stack       a job that ran too long or stalled is asked for its stack first, which tells where it was stuck
    interrupt   JobCancelled, JobTimeout or JobStalled is raised in the job
    children    a job that does not take it within CHILDREN_TIMEOUT waits in C code, perhaps for a program that it has
                started (os.system): its programs get SIGTERM, and the job is interrupted when they have ended
    kill        after the grace period SIGKILL, to all of its processes, again every second

A worker without a job gets SIGTERM in the place of the interruption. A job over its memory limit gets SIGKILL at once: in
its grace period it could take the rest of the host's memory.
"""

from __future__ import annotations

from typing import Any, Final

from procjobs.clock import NEVER
from procjobs.dispatch.limits import Stop
from procjobs.dispatch.model import Job, Rung, Slot, SlotState
from procjobs.dispatch.ports import Workers

STACK_TIMEOUT: Final = 0.5
"""How long a worker has to tell its stack before it is asked to end. It takes a millisecond, unless the worker is stopped
or CPUs are short."""
CHILDREN_TIMEOUT: Final = 0.1
"""How long a job has to take its interruption before the programs that it has started get SIGTERM. Python code takes it at
once, and then ends its programs itself, as subprocess.run does."""
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
            slot.rung, slot.climb_at = Rung.DUMP, now + STACK_TIMEOUT
            self._workers.dump_stack(slot)
        elif why is Stop.MEMORY:
            self.kill(slot, now)
        else:
            self._ask_to_end(slot, now)

    def try_cancel(self, slot: Slot, job: Job, now: float) -> bool:
        """Stop a job that was sent to a worker; return False if its answer is under way."""
        if slot.stop in {Stop.NONE, Stop.RETIRE}:
            if slot.jobs[-1] is not job:
                return False  # the worker reads a job when it has answered the one before
            self.stop(slot, Stop.CANCEL, now)
        elif slot.jobs[0] is job:
            slot.stop = Stop.CANCEL  # it is being stopped for another reason, which might have let the job run again
        else:
            return False
        return True

    def climb(self, slot: Slot, now: float) -> None:
        """Do what is due."""
        if slot.rung is Rung.DUMP:
            self._ask_to_end(slot, now)
        elif slot.rung is Rung.INTERRUPT:
            slot.rung = Rung.GRACE
            slot.climb_at += _grace_period(slot) - _patience(slot)
            self._workers.terminate_children(slot)
        else:
            self.kill(slot, now)

    def on_stack_dumped(self, slot: Slot, now: float) -> None:
        """Go on with the ladder if it waits for the stack of the worker, which has come."""
        if slot.rung is Rung.DUMP:
            self._ask_to_end(slot, now)

    def _ask_to_end(self, slot: Slot, now: float) -> None:
        if slot.jobs:
            slot.rung, slot.climb_at = Rung.INTERRUPT, now + _patience(slot)
            self._workers.interrupt(slot)
        else:
            slot.rung, slot.climb_at = Rung.GRACE, now + self._grace_period
            self._workers.terminate(slot)

    def kill(self, slot: Slot, now: float) -> None:
        """Kill a worker that is being stopped, and again every second until it has ended."""
        slot.rung, slot.climb_at = Rung.KILL, now + _KILL_INTERVAL
        self._workers.kill(slot)

    def release(self, slot: Slot, *, is_ending: bool) -> None:
        """Take a worker off the ladder: its job has ended by itself. It is told already whether it ends after it."""
        slot.stop = Stop.RETIRE if is_ending else Stop.NONE
        slot.rung, slot.climb_at = Rung.NONE, NEVER

    def extend_deadlines(self, slot: Slot, seconds: float, now: float) -> None:
        """Push back the deadlines of a slot: the supervisor was away for these seconds."""
        if slot.limits is not None:
            slot.limits.extend(seconds, now)
        if slot.climb_at < NEVER:
            slot.climb_at += seconds


def may_answer(slot: Slot) -> bool:
    """Return whether a worker that is being stopped goes on if it answers: it was not killed, and is in one job."""
    return slot.rung is not Rung.KILL and len(slot.jobs) == 1


def _grace_period(slot: Slot) -> float:
    return slot.jobs[0].kind.options.grace_period


def _patience(slot: Slot) -> float:
    return min(CHILDREN_TIMEOUT, _grace_period(slot))


def keeps_too_much(slot: Slot, rss_bytes: int, max_rss: int | None) -> bool:
    """Return whether a worker has grown so much that it should not get another job."""
    return max_rss is not None and rss_bytes - slot.baseline_bytes > RETIRE_SHARE * max_rss
