"""Which waiting job goes to which worker, and back from one that turns out to be busy. Pure.

1. Higher priority starts first, then first come, first served, within one generation of code.
2. Tiny jobs are sent ahead to busy workers, so that none waits for the supervisor between two of them. What a worker
   has not read is taken back when its first job takes longer than expected.
3. A worker that is being stopped gets no job.
4. Of the jobs that share a limit, no more run or start than it lets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER
from procjobs.dispatch.model import Slot, SlotState, Stop
from procjobs.dispatch.watchdog import Guard
from procjobs.shared.states import Event, JobState

if TYPE_CHECKING:
    from procjobs.dispatch.completion import Endings
    from procjobs.dispatch.limiters import Place
    from procjobs.dispatch.model import Generation, Job
    from procjobs.dispatch.pending import Waiting
    from procjobs.dispatch.ports import Engine
    from procjobs.dispatch.slots import Staff
    from procjobs.shared.config import PoolSettings


AHEAD: Final = 64
"""The most tiny jobs that lie before one worker. Of 16 it ran out while the supervisor was busy: 7 % fewer jobs a second."""
TINY_SECONDS: Final = 0.000_3
"""A kind whose runs take less on average is worth sending ahead: a trip over two pipes takes 0.03 to 0.2 ms."""
TAKE_BACK_SECONDS: Final = 0.002
"""How long the first of several jobs may take before those behind it are taken back."""
BEGIN_SECONDS: Final = 5.0
"""How long a worker may take to read the job that it was given: one that was stopped between two jobs never does."""
# Looking up a member of an enum costs 40 ns; these are looked up for every job.
_NOT_STOPPED, _RUNNING, _BUSY = Stop.NONE, JobState.RUNNING, SlotState.BUSY


class Assigner:
    """Gives jobs to workers, and takes them back. `guard` holds those that run to their limits."""

    def __init__(self, engine: Engine, settings: PoolSettings, staff: Staff, waiting: Waiting, endings: Endings) -> None:
        self._engine = engine
        self._sends_ahead = settings.max_jobs_per_worker is None
        self._staff = staff
        self._waiting = waiting
        self._lines = waiting.lines
        self._endings = endings
        self.guard = Guard(engine, settings.job_defaults.grace_period, self.take_back)

    # Giving -----------------------------------------------------------------------------------------------------

    def assign(self, generation: Generation, now: float) -> None:
        """Give the waiting jobs of a generation to idle workers, tiny ones ahead to busy workers."""
        queue, idle = generation.queue, generation.idle
        while queue and idle:
            job = queue.first()
            if job is None:
                return
            if job.place is not None and self._park_if_closed(job, job.place, now):
                continue
            if self._give(idle[-1], job, now):
                idle.pop()
            else:
                return
        if queue and self._sends_ahead:
            self._send_ahead(generation, now)

    def park_blocked(self, generation: Generation, now: float) -> None:
        """Let those at the front of the queue wait in their lines that would have to: no worker more would help them."""
        queue = generation.queue
        while (job := queue.first()) is not None and job.place is not None and self._park_if_closed(job, job.place, now):
            pass

    def _park_if_closed(self, job: Job, place: Place, now: float) -> bool:
        """Move the first job of the queue into the first of its lines that has no room for it, if there is one."""
        line = self._lines.closed(place, now)
        if line is None:
            return False
        job.generation.queue.drop_first()
        self._lines.park(job, line)
        self._waiting.call_held(now)
        return True

    def _give(self, slot: Slot, job: Job, now: float) -> bool:
        """Send a job to a worker and take it out of the queue; False if the worker cannot take it."""
        job.attempt += 1
        if not self._engine.send(slot, job):
            job.attempt -= 1
            return False
        job.generation.queue.drop_first()
        job.state = _RUNNING  # advance(START), without the look-up: this runs for every job
        job.slot = slot
        if job.place is not None:
            self._lines.take(job.place, job, now)
        slot.jobs.append(job)
        if len(slot.jobs) == 1:
            slot.state = _BUSY
            self.set_deadlines(slot, now)
        elif slot.take_back_at > now + TAKE_BACK_SECONDS:
            slot.take_back_at = now + TAKE_BACK_SECONDS
        return True

    def _send_ahead(self, generation: Generation, now: float) -> None:
        """Let tiny jobs lie before busy workers.

        Not those that print: whose output it is can only be told while a worker has one job.
        """
        quick = [slot for slot in self._staff.slots if slot.generation is generation and self._may_have_more(slot)]
        quick.sort(key=lambda slot: len(slot.jobs))
        for place, slot in enumerate(quick):
            share = -(-len(generation.queue) // (len(quick) - place))  # one that got all would leave the others idle
            most = min(len(slot.jobs) + share, AHEAD)
            while len(slot.jobs) < most:
                job = generation.queue.first()
                if job is None or not _is_tiny(job) or not self._give(slot, job, now):
                    break

    def _may_have_more(self, slot: Slot) -> bool:
        if slot.state is not _BUSY or slot.stop is not _NOT_STOPPED or slot.is_slow:
            return False
        return _is_tiny(slot.jobs[0]) and not self._staff.is_unwanted(slot)

    def set_deadlines(self, slot: Slot, now: float) -> None:
        """Begin to watch the first job of a worker."""
        self.guard.watch(slot, now)
        slot.take_back_at = now + (TAKE_BACK_SECONDS if len(slot.jobs) > 1 else BEGIN_SECONDS)

    # Taking back ------------------------------------------------------------------------------------------------

    def advance(self, slot: Slot, now: float) -> bool:
        """Do what is due about a worker that takes its time; return whether there was anything."""
        if slot.take_back_at > now:
            return False
        if len(slot.jobs) > 1:
            self.take_back(slot, now)
        else:
            self._replace_if_stuck(slot, now)
        return True

    def _replace_if_stuck(self, slot: Slot, now: float) -> None:
        """Take the job from a worker that has not read it, and stop that worker: it would never read one."""
        slot.take_back_at = NEVER
        if slot.jobs and slot.stop in {Stop.NONE, Stop.RETIRE} and not self._engine.has_begun(slot.jobs[0]):
            self.give_back(slot, self._engine.take_back(slot))
            if not slot.jobs:
                self._engine.log(f"worker {slot.number} has not taken its job for {BEGIN_SECONDS:g} s; it is replaced")
                self.guard.stop(slot, Stop.STUCK, now)

    def take_back(self, slot: Slot, now: float, *, even_one: bool = False) -> bool:
        """Take back the jobs sent ahead of a busy worker; return whether it is still in a job.

        Where it had not read even the first one, it is idle after that. Either way it gets nothing ahead until it has
        answered: one that hangs is left with one job, which runs into its timeout.
        """
        slot.take_back_at = NEVER
        slot.is_slow = True
        if slot.stop not in {Stop.NONE, Stop.RETIRE}:
            self.give_back(slot, self._engine.take_back(slot) if even_one else ())
        elif len(slot.jobs) > 1 or even_one:
            first = slot.jobs[0]
            self.give_back(slot, self._engine.take_back(slot))
            if slot.jobs and slot.jobs[-1] is not first:  # it has answered the first one, or never read it
                self.guard.watch(slot, now, last=True)
            elif not slot.jobs and slot.stop is Stop.NONE:
                self._staff.set_idle(slot, now)
            elif not slot.jobs:
                self._staff.await_end(slot, now)
        return bool(slot.jobs)

    def take_back_all(self, slots: Iterable[Slot], now: float) -> None:
        """Take back from busy workers whatever they have not begun."""
        for slot in slots:
            if slot.state is SlotState.BUSY:
                self.take_back(slot, now, even_one=True)

    def give_back(self, slot: Slot, job_ids: Iterable[bytes]) -> None:
        """Return jobs of a slot to the front of their queue, unstarted and in the order in which they were there."""
        unread = set(job_ids)
        for job in reversed(slot.jobs.copy() if unread else ()):
            if job.id in unread:
                slot.jobs.remove(job)
                job.advance(Event.TAKE_BACK)
                job.attempt -= 1
                job.slot = None
                self._lines.release(job, was_started=False)
                if self._endings.stopping:
                    self._endings.give_up(job)
                else:
                    self._waiting.add_again(job)


def _is_tiny(job: Job) -> bool:
    kind = job.kind
    return kind.mean_seconds <= TINY_SECONDS and not kind.talks and job.place is None
