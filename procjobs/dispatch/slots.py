"""The workers of a pool: how many there are, for which code, and which of them end. Pure.

There are `size` workers, at least `least` and at most `most`; the Scaler moves the size between them. Places are shared
between generations of code: whoever has jobs and no worker comes first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from procjobs.clock import NEVER
from procjobs.dispatch.failures import describe_end
from procjobs.dispatch.model import Generation, Slot, SlotState, Stop
from procjobs.dispatch.watchdog import FORGIVEN_SECONDS, Guard

if TYPE_CHECKING:
    from procjobs.dispatch.ports import Engine
    from procjobs.shared.config import PoolSettings



class Staff:
    """Slots and generations: starts the workers that are missing, and lets go of those that are too many."""

    def __init__(self, engine: Engine, settings: PoolSettings) -> None:
        self._engine = engine
        self._settings = settings
        self.least, self.most = settings.workers
        self.size = self.least
        self.last_change, self.changed_at = "", 0.0
        self.slots: list[Slot] = []
        self.generations: list[Generation] = []
        self.restarts = 0
        self.live = 0  # slots that are not empty

    # How many ---------------------------------------------------------------------------------------------------

    def resize(self, least: int, most: int, now: float) -> None:
        """Change the bounds; the size stays where it is as far as they let it."""
        if (least, most) == (self.least, self.most):
            return
        self.least, self.most = least, most
        size = min(max(self.size, least), most)
        self.set_size(size, f"resized to {least}" if least == most else f"resized to {least} to {most}", now)
        self.retire_surplus(now)

    def set_size(self, size: int, why: str, now: float) -> None:
        """Change the size, and say why."""
        before, self.size = self.size, size
        self.note_size(f"{before} -> {size} workers: {why}", now)

    def note_size(self, text: str, now: float) -> None:
        """Say what became of the size."""
        self.last_change, self.changed_at = text, now
        self._engine.log(text)

    def staying(self) -> int:
        """Return how many workers there are that are not about to end."""
        return sum(slot.state is not SlotState.EMPTY and slot.stop is Stop.NONE for slot in self.slots)

    def spare_since(self) -> float:
        """Return since when the worker that was idle for longest is, infinity where the pool can do without none."""
        if self.live <= self.least or self.staying() <= self.least:
            return NEVER
        return min((g.idle[0].idle_since for g in self.generations if g.idle and not g.queue), default=NEVER)

    def spare(self) -> list[Slot]:
        """Return the idle workers, those that were idle for longest first."""
        idle = [slot for g in self.generations if not g.queue for slot in g.idle]
        return sorted(idle, key=lambda slot: slot.idle_since)

    # Coming -----------------------------------------------------------------------------------------------------

    def spawn_missing(self, now: float, *, paused: bool) -> None:
        """Keep the pool at its size: workers for those generations whose jobs wait, the rest for the current one."""
        if self.live >= self.size and len(self.generations) == 1:
            return  # as in almost every turn
        ready = [g for g in self.generations if g.ready and g.successor is None and g.budget.not_before <= now]
        for generation in sorted((g for g in ready if g.queue), key=lambda g: (g.slots, g.started_at)):
            starting = sum(s.generation is generation and s.state is SlotState.STARTING for s in self.slots)
            wanted = len(generation.queue) - starting - len(generation.idle)
            if wanted > 0 and not generation.slots and self.size <= self.live < self.most and not paused:
                self.set_size(self.live + 1, "a job waits, and no worker has its code", now)
            if not self._spawn_some(generation, wanted, now):
                return
            if wanted > 0 and not starting and not paused and self.live >= self.size:
                self._make_room(generation, now)
        if ready:
            self._spawn_some(ready[-1], self.size - self.live, now)

    def _spawn_some(self, generation: Generation, count: int, now: float) -> bool:
        """Start so many workers as far as there are places; return False if one could not be started."""
        return all(self._spawn(generation, now) for _ in range(min(count, self.size - self.live)))

    def _spawn(self, generation: Generation, now: float) -> bool:
        slot = self._empty_slot()
        slot.state = SlotState.STARTING
        slot.generation = generation
        slot.started_at = now
        generation.slots += 1
        if self._engine.spawn(slot):
            generation.started_at = now
            self.live += 1
            return True
        generation.slots -= 1
        slot.clear()
        generation.budget.add_failure(now)
        generation.budget.not_before = max(generation.budget.not_before, now + 0.1)
        return False

    def _empty_slot(self) -> Slot:
        """Return the first place that is free, a new one where all are taken: there are fewer than the most then."""
        found = next((slot for slot in self.slots if slot.state is SlotState.EMPTY), None)
        if found is None:
            found = Slot(len(self.slots))
            self.slots.append(found)
        return found

    def on_ready(self, slot: Slot, baseline_bytes: int, now: float) -> None:
        """Take note of a worker that has started and can be given jobs."""
        if slot.state is not SlotState.STARTING or slot.generation is None:
            return
        slot.generation.problem = ""
        slot.baseline_bytes = baseline_bytes
        self.set_idle(slot, now)
        if self.is_unwanted(slot):
            self.retire(slot, now)

    def set_idle(self, slot: Slot, now: float) -> None:
        """Have a worker wait for a job."""
        slot.state = SlotState.IDLE
        slot.idle_since = now
        slot.limits = None
        slot.take_back_at = NEVER
        assert slot.generation is not None
        slot.generation.idle.append(slot)

    # Staying ----------------------------------------------------------------------------------------------------

    def next_time(self, now: float) -> float:
        """Return when something is to be done about workers that start, or a budget."""
        deadline = NEVER
        for slot in self.slots:
            if slot.state is SlotState.STARTING:
                deadline = min(deadline, slot.started_at + self._settings.start_timeout)
        for generation in self.generations:
            if generation.ready and generation.budget.not_before > now:
                deadline = min(deadline, generation.budget.not_before)
        return deadline

    def advance(self, slot: Slot, guard: Guard, now: float) -> None:
        """Stop a worker that does not get ready."""
        if slot.state is SlotState.STARTING and slot.started_at + self._settings.start_timeout <= now:
            guard.stop(slot, Stop.START, now)

    def forgive(self, slot: Slot, seconds: float, now: float) -> None:
        """Give a worker that starts more time: whether it is ready has not been looked at for so long."""
        soonest = now + FORGIVEN_SECONDS - self._settings.start_timeout
        slot.started_at = max(slot.started_at + seconds, soonest)

    def is_unwanted(self, slot: Slot) -> bool:
        """Return whether a worker is to end as soon as it has no job: its place is gone, or its code is superseded."""
        return slot.number >= self.most or (slot.generation is not None and slot.generation.successor is not None)

    def is_used_up(self, slot: Slot) -> bool:
        """Return whether a worker has done as much as one may."""
        limit = self._settings.max_jobs_per_worker
        return slot.has_grown or (limit is not None and slot.jobs_done >= limit)

    # Going ------------------------------------------------------------------------------------------------------

    def _make_room(self, needy: Generation, now: float) -> None:
        """Let a worker of other code end when all places are taken: an idle one, or one of those that have several."""
        if needy.slots and not any(g.idle for g in self.generations if g is not needy):
            return
        if any(slot.state is SlotState.STOPPING for slot in self.slots):
            return
        for slot in self.slots:
            if slot.generation is not needy and slot.state is SlotState.IDLE:
                self.retire(slot, now)
                return
        if any(slot.state is SlotState.STARTING or slot.stop is Stop.RETIRE for slot in self.slots):
            return  # one that starts is idle in a moment; a busy one that is to end may be so for hours
        for slot in self.slots:
            if slot.generation is not needy and slot.state is SlotState.BUSY and slot.stop is Stop.NONE:
                slot.stop = Stop.RETIRE  # it ends after the jobs that it has: taken back at once, none might ever be run
                self._engine.retire(slot)
                return

    def retire(self, slot: Slot, now: float) -> None:
        """Let a worker without a job end by itself."""
        assert slot.generation is not None
        if slot.state is SlotState.IDLE:
            slot.generation.idle.remove(slot)
        slot.stop = Stop.RETIRE
        self.await_end(slot, now)
        self._engine.retire(slot)

    def await_end(self, slot: Slot, now: float) -> None:
        """Expect a worker to end that has been told to."""
        slot.state = SlotState.STOPPING
        slot.limits = None
        slot.take_back_at = NEVER
        slot.kill_at = now + self._settings.job_defaults.grace_period

    def retire_generation(self, generation: Generation, now: float) -> None:
        """Let the idle workers of a generation end."""
        for slot in list(generation.idle):
            self.retire(slot, now)

    def retire_surplus(self, now: float) -> None:
        """Let idle workers end whose places have gone."""
        for slot in self.slots[self.most :]:
            if slot.state is SlotState.IDLE:
                self.retire(slot, now)

    def on_exit(self, slot: Slot, how: tuple[int | None, int | None], now: float, *, was_in_job: bool) -> None:
        """Free the slot of a worker that has gone: (signal, exit code)."""
        generation, stop, state, untried = slot.generation, slot.stop, slot.state, not slot.jobs_done
        assert generation is not None
        if state is SlotState.IDLE:
            generation.idle.remove(slot)
        generation.slots -= 1
        self.live -= 1
        slot.clear()
        if stop is Stop.START:
            text = (
                f"a worker was not ready {self._settings.start_timeout:g} s after it had been started: the initializer "
                "hangs, or the host is overloaded; see start_timeout, and the pool's log for where it was"
            )
            self.add_start_failure(generation, text, now)
        if stop not in {Stop.NONE, Stop.STUCK}:
            return
        self.restarts += 1
        if state is SlotState.STARTING:
            self.add_start_failure(generation, f"a worker ended before it was ready ({describe_end(*how)})", now)
        elif not was_in_job and stop is Stop.NONE:
            self._engine.log(f"worker {slot.number} ended while idle ({describe_end(*how)}); it is replaced")
            if untried:  # one that never gets as far as a job must not be replaced as fast as the host can fork
                generation.budget.add_failure(now)

    def on_spawn_failed(self, slot: Slot, problem: str, now: float) -> None:
        """Settle a slot whose worker could not be forked."""
        assert slot.generation is not None
        generation = slot.generation
        generation.slots -= 1
        self.live -= 1
        slot.clear()
        self.add_start_failure(generation, problem, now)

    def add_start_failure(self, generation: Generation, problem: str, now: float) -> None:
        """Count a worker or template that did not start; past the budget, the reason becomes the pool's problem."""
        generation.budget.add_failure(now)
        if generation.budget.spent or not generation.slots:
            generation.problem = generation.problem or problem
        self._engine.log(f"generation {generation.number}: {problem}")
