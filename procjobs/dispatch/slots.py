"""The workers of a pool: how many there are, for which code, and which of them end. Pure.

There are `size` workers, at least `min` and at most `max`; the Scaler moves the size between them. Slots are shared
between generations of code: a generation that has jobs and no worker comes first. Workers whose job waits for another job
of the pool do not count: spare ones are started in their place when jobs wait, and stay until nobody needs them.
"""

from __future__ import annotations

from typing import Any, Final

from procjobs.clock import NEVER
from procjobs.dispatch.failures import How, describe_end
from procjobs.dispatch.limits import MIN_SECONDS_LEFT, Stop
from procjobs.dispatch.model import Generation, Rung, Slot, SlotState
from procjobs.dispatch.ports import Outcomes, Workers
from procjobs.dispatch.waits import Waits
from procjobs.shared.config import MAX_SLOTS, PoolSettings

# Looking up a member of an enum costs 40 ns; these are looked up for every job, or for every slot in every turn.
_STARTING, _IDLE = SlotState.STARTING, SlotState.IDLE
MAX_SPARE: Final = 100
"""The most workers that are started in the place of others, whose jobs wait: a bound for jobs that submit jobs that ..."""
_SPAWN_INTERVAL: Final = 0.1
"""Until a worker that could not even be asked for is tried again: its template or descriptors are missing just now."""


class WorkerSlots:
    """Slots and generations: starts the workers that are missing, and retires those that are too many.

    `live` counts the slots that are not empty, `restarts` the workers that were replaced because they ended by themselves.
    """

    def __init__(self, workers: Workers[Any], outcomes: Outcomes[Any], settings: PoolSettings, waits: Waits) -> None:
        self._workers = workers
        self._waits = waits
        self._outcomes = outcomes
        self._settings = settings
        self.min, self.max = settings.workers
        self.size = self.min
        self.last_change, self.changed_at = "", 0.0
        self.slots: list[Slot] = []
        self._spare: set[Slot] = set()  # started in slots beyond `max`, in the place of workers whose job waits
        self.generations: list[Generation] = []
        self.restarts = 0
        self.live = 0
        self._ending: set[int] = set()

    # How many ---------------------------------------------------------------------------------------------------

    def resize(self, min_workers: int, max_workers: int, now: float) -> None:
        """Change the bounds; the size stays where it is as far as they allow it."""
        if (min_workers, max_workers) == (self.min, self.max):
            return
        self.min, self.max = min_workers, max_workers
        size = min(max(self.size, min_workers), max_workers)
        bounds = f"{min_workers}" if min_workers == max_workers else f"{min_workers} to {max_workers}"
        self.set_size(size, f"resized to {bounds}", now)
        self._retire_surplus(now)

    def set_size(self, size: int, why: str, now: float) -> None:
        """Change the size; the log and the shared table tell why."""
        before, self.size = self.size, size
        self.note_size(f"{before} -> {size} workers: {why}", now)

    def note_size(self, text: str, now: float) -> None:
        """Tell about the size in the log and the shared table."""
        self.last_change, self.changed_at = text, now
        self._outcomes.log(text)

    @property
    def counted(self) -> int:
        """How many workers there are, without those whose job waits for another one."""
        return self.live - len(self._waits)

    @property
    def capacity(self) -> int:
        """How many workers there can be, with all spare ones."""
        return min(self.size + MAX_SPARE, MAX_SLOTS)

    def _wanted(self) -> int:
        """Return how many workers there may be now, with spare ones."""
        return min(self.size + len(self._waits), self.capacity)

    def places(self) -> int:
        """Return how many more jobs may run: those that wait do not count."""
        return self.size - sum(bool(slot.jobs) for slot in self.slots) + len(self._waits)

    def staying(self) -> int:
        """Return how many workers there are, without those that are about to end."""
        return sum(slot.state is not SlotState.EMPTY and slot.stop is Stop.NONE for slot in self.slots)

    def spare_since(self) -> float:
        """Return since when the worker that is idle for longest is, infinity where the pool needs all of its workers."""
        if self.live <= self.min or self.staying() <= self.min:
            return NEVER
        return min((g.idle[0].idle_since for g in self.generations if g.idle and not g.queue), default=NEVER)

    def spare(self) -> list[Slot]:
        """Return the idle workers of generations without waiting jobs, those that are idle for longest first."""
        idle = [slot for g in self.generations if not g.queue for slot in g.idle]
        return sorted(idle, key=lambda slot: slot.idle_since)

    # Starting ---------------------------------------------------------------------------------------------------

    def spawn_missing(self, now: float, *, paused: bool) -> None:
        """Keep the pool at its size: workers for the generations whose jobs wait, the rest for the newest one."""
        if self.live >= self.size and len(self.generations) == 1 and not self._waits:
            return  # as in almost every turn
        ready = [g for g in self.generations if g.ready and g.successor is None and g.budget.not_before <= now]
        for generation in sorted((g for g in ready if g.queue), key=lambda g: (g.slots, g.started_at)):
            starting = sum(s.generation is generation and s.state is _STARTING for s in self.slots)
            wanted = len(generation.queue) - starting - len(generation.idle)
            if wanted > 0 and not generation.slots and self.size <= self.counted < self.max and not paused:
                self.set_size(self.counted + 1, "a job waits, and no worker has its code", now)
            if not self._spawn_some(generation, wanted, now):
                return
            if wanted > 0 and not starting and not paused and self.live >= self._wanted():
                self._make_room(generation, now)
        if ready:
            self._spawn_some(ready[-1], self.size - self.live, now)

    def _spawn_some(self, generation: Generation, count: int, now: float) -> bool:
        """Start `count` workers, or as many as there are free slots for; return False if one could not be started."""
        return all(self._spawn(generation, now) for _ in range(min(count, self._wanted() - self.live)))

    def _spawn(self, generation: Generation, now: float) -> bool:
        slot = self._empty_slot()
        slot.state = _STARTING
        slot.generation = generation
        slot.started_at = now
        generation.slots += 1
        if self._try_spawn(slot, generation, now):
            generation.started_at = now
            self.live += 1
            if slot.number >= self.max:
                self._spare.add(slot)
            return True
        generation.slots -= 1
        slot.clear()
        generation.budget.not_before = max(generation.budget.not_before, now + _SPAWN_INTERVAL)
        return False

    def _try_spawn(self, slot: Slot, generation: Generation, now: float) -> bool:
        try:
            is_asked = self._workers.spawn(slot)
        except OSError as error:
            self.add_start_failure(generation, f"a worker could not be started: {error}", now)
            return False
        if not is_asked:
            generation.budget.add_failure(now)
        return is_asked

    def _empty_slot(self) -> Slot:
        """Return the first empty slot, a new one where all are taken: there are fewer than `capacity` then."""
        found = next((slot for slot in self.slots if slot.state is SlotState.EMPTY), None)
        if found is None:
            found = Slot(len(self.slots))
            self.slots.append(found)
        return found

    def on_ready(self, slot: Slot, baseline_bytes: int, now: float) -> None:
        """Take note of a worker that has started and can be given jobs."""
        if slot.state is not _STARTING or slot.generation is None:
            return
        slot.generation.problem = ""
        slot.baseline_bytes = baseline_bytes
        self.set_idle(slot, now)
        if self.is_unwanted(slot):
            self.retire(slot, now)

    def set_idle(self, slot: Slot, now: float) -> None:
        """Have a worker wait for a job."""
        slot.state = _IDLE
        slot.idle_since = now
        slot.limits = None
        slot.reclaim_at = NEVER
        assert slot.generation is not None
        slot.generation.idle.append(slot)

    # Time -------------------------------------------------------------------------------------------------------

    def next_time(self, now: float) -> float:
        """Return when a worker has taken too long to start, or may be started again after failures."""
        deadline = NEVER
        for slot in self.slots:
            if slot.state is _STARTING:
                deadline = min(deadline, slot.started_at + self._settings.start_timeout)
        for generation in self.generations:
            if generation.ready and generation.budget.not_before > now:
                deadline = min(deadline, generation.budget.not_before)
        return deadline

    def is_overdue(self, slot: Slot, now: float) -> bool:
        """Return whether a worker has taken too long to start."""
        return slot.state is _STARTING and slot.started_at + self._settings.start_timeout <= now

    def extend_deadline(self, slot: Slot, seconds: float, now: float) -> None:
        """Give a worker that starts more time: the supervisor was away for these seconds."""
        if slot.state is _STARTING:
            earliest = now + MIN_SECONDS_LEFT - self._settings.start_timeout
            slot.started_at = max(slot.started_at + seconds, earliest)

    def is_unwanted(self, slot: Slot) -> bool:
        """Return whether a worker is to end as soon as it has no job: its slot is beyond `max`, or its code superseded."""
        if slot.generation is not None and slot.generation.successor is not None:
            return True
        return slot.number >= self.max and not self._may_be_needed(slot)

    def _may_be_needed(self, slot: Slot) -> bool:
        """Return whether a spare worker stays: a job waits, or may soon, and no other job waits for this place."""
        return slot in self._spare and (bool(self._waits) or not (slot.generation and slot.generation.queue))

    def is_used_up(self, slot: Slot) -> bool:
        """Return whether a worker has done as many jobs as `max_jobs_per_worker` allows."""
        limit = self._settings.max_jobs_per_worker
        return limit is not None and slot.jobs_done >= limit

    # Ending -----------------------------------------------------------------------------------------------------

    def _make_room(self, needy: Generation, now: float) -> None:
        """Retire a worker of other code where all slots are taken.

        That is an idle one, or a busy one where the needy generation has no worker at all.
        """
        if needy.slots and not any(g.idle for g in self.generations if g is not needy):
            return
        if any(slot.state is SlotState.STOPPING for slot in self.slots):
            return
        for slot in self.slots:
            if slot.generation is not needy and slot.state is _IDLE:
                self.retire(slot, now)
                return
        if any(slot.state is _STARTING or slot.stop is Stop.RETIRE for slot in self.slots):
            return  # a starting worker is idle in a moment; a busy one that retires may work for hours
        for slot in self.slots:
            if slot.generation is not needy and slot.state is SlotState.BUSY and slot.stop is Stop.NONE:
                self.retire_after_jobs(slot)  # its jobs stay: reclaimed each time, none of them might ever be run
                return

    def retire_after_jobs(self, slot: Slot) -> None:
        """Let a busy worker end by itself after the jobs that it has; it gets no more."""
        slot.stop = Stop.RETIRE
        self.note_ending(slot)
        self._workers.retire(slot)

    def note_ending(self, slot: Slot) -> None:
        """Note that a worker ends by itself after its job, also if it is being stopped in that one."""
        self._ending.add(slot.number)

    def is_ending(self, slot: Slot) -> bool:
        """Return whether a worker ends by itself after its job."""
        return slot.number in self._ending

    def retire(self, slot: Slot, now: float) -> None:
        """Let a worker without a job end by itself."""
        assert slot.generation is not None
        if slot.state is _IDLE:
            slot.generation.idle.remove(slot)
        slot.stop = Stop.RETIRE
        self.await_end(slot, now)
        self._workers.retire(slot)

    def await_end(self, slot: Slot, now: float) -> None:
        """Expect the end of a worker that was retired and has no job."""
        slot.state = SlotState.STOPPING
        slot.limits = None
        slot.reclaim_at = NEVER
        slot.rung, slot.climb_at = Rung.GRACE, now + self._settings.job_defaults.grace_period

    def retire_generation(self, generation: Generation, now: float) -> None:
        """Retire the idle workers of a generation."""
        for slot in list(generation.idle):
            self.retire(slot, now)

    def _retire_surplus(self, now: float) -> None:
        """Retire the idle workers in slots beyond `max`."""
        for slot in self.slots[self.max :]:
            if slot.state is _IDLE:
                self.retire(slot, now)

    def on_exit(self, slot: Slot, how: How, now: float, *, was_in_job: bool) -> None:
        """Free the slot of a worker that has ended."""
        generation, stop, state, untried = slot.generation, slot.stop, slot.state, not slot.jobs_done
        assert generation is not None
        if state is _IDLE:
            generation.idle.remove(slot)
        self._free(slot, generation)
        if stop is Stop.START:
            text = (
                f"a worker was not ready {self._settings.start_timeout:g} s after it had been started: the initializer "
                "hangs, or the host is overloaded; see start_timeout, and the pool's log for where it was"
            )
            self.add_start_failure(generation, text, now)
        if stop not in {Stop.NONE, Stop.STUCK}:
            return
        self.restarts += 1
        if state is _STARTING:
            self.add_start_failure(generation, f"a worker ended before it was ready ({describe_end(*how)})", now)
        elif not was_in_job and stop is Stop.NONE:
            self._outcomes.log(f"worker {slot.number} ended while idle ({describe_end(*how)}); it is replaced")
            if untried:  # a worker that never gets as far as a job must not be replaced as fast as the host can fork
                generation.budget.add_failure(now)

    def on_spawn_failed(self, slot: Slot, problem: str, now: float) -> None:
        """Free the slot of a worker that could not be forked."""
        generation = slot.generation
        assert generation is not None
        self._free(slot, generation)
        self.add_start_failure(generation, problem, now)

    def _free(self, slot: Slot, generation: Generation) -> None:
        generation.slots -= 1
        self.live -= 1
        self._spare.discard(slot)
        self._ending.discard(slot.number)
        slot.clear()

    def add_start_failure(self, generation: Generation, problem: str, now: float) -> None:
        """Count a worker or template that did not start; beyond the budget, the reason becomes the generation's problem."""
        generation.budget.add_failure(now)
        if generation.budget.spent or not generation.slots:
            generation.problem = generation.problem or problem
        self._outcomes.log(f"generation {generation.number}: {problem}")
