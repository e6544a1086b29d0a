"""What the scheduling core needs done, as an interface: processes do it here, a list does it in tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from procjobs.dispatch.model import Job, Slot
    from procjobs.dispatch.scaling import CpuFacts, MemoryFacts
    from procjobs.dispatch.watchdog import Sample
    from procjobs.shared.states import Reason


class Account(NamedTuple):
    """What is known of an attempt that has ended: Unix times (None: it is not known), what it said last."""

    started_at: float | None
    ended_at: float
    progress: str | None
    stderr: str


class Engine(Protocol):
    """What the scheduling core needs done. None of it may call back into the core."""

    def spawn(self, slot: Slot) -> bool:
        """Begin to start a worker for the slot's generation; return whether that could be tried."""

    def send(self, slot: Slot, job: Job) -> bool:
        """Give the worker a job; return False if it cannot take one now."""

    def take_back(self, slot: Slot) -> list[bytes]:
        """Take from the worker what it has not read; return the ids of those jobs."""

    def has_begun(self, job: Job) -> bool:
        """Return whether a worker has marked that it began this attempt of the job."""

    def examine(self, slot: Slot) -> None:
        """Ask the worker for its stack; `Dispatcher.on_examined` is called when it has come, or will not come."""

    def interrupt(self, slot: Slot) -> None:
        """Have JobTimeout raised in the worker's job."""

    def measure(self, slot: Slot) -> Sample:
        """Return what the worker and everything that it started use."""

    def terminate(self, slot: Slot) -> None:
        """Ask the worker and all of its process group to end (SIGTERM)."""

    def kill(self, slot: Slot) -> None:
        """Kill the worker and all of its process group (SIGKILL)."""

    def retire(self, slot: Slot) -> None:
        """Let an idle worker end by itself."""

    def answer(self, job: Job, reason: Reason, frame: bytes, fd: int | None, error: str) -> None:
        """Pass on the one answer of a job that has reached a final state; `error` is its one line of text."""

    def begin_look(self) -> None:
        """Begin the stretch of time that the next `look_at_cpus` tells about."""

    def look_at_cpus(self) -> CpuFacts:
        """Return how busy the CPUs have been since `begin_look`."""

    def look_at_memory(self) -> MemoryFacts:
        """Return the memory of the host, and what workers have taken of it."""

    def account(self, job: Job) -> Account:
        """Return what is known of the attempt that has just ended."""

    def note_state(self, job: Job, reason: Reason, error: str) -> None:
        """Record the state of a job that waits again, and why."""

    def log(self, line: str) -> None:
        """Write a line to the pool's log."""
