"""The ports of the scheduling core: everything that it needs done or wants to know, and cannot do without I/O.

The core calls a port and never the other way round: no method of a port may call the core. The supervisor implements them
with processes, the tests with lists. Events of the outside come to the core as calls of the Dispatcher's `on_` methods.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol, TypeVar

from procjobs.dispatch.limits import Sample
from procjobs.dispatch.model import Job, Slot
from procjobs.shared.states import Reason

J_contra = TypeVar("J_contra", bound=Job, contravariant=True)


class Account(NamedTuple):
    """The facts known about an attempt that has ended: Unix times (None: not known), its last progress report and output.

    `worker` is the slot of its worker, `worker_pid` the process; None where no worker had begun it.
    """

    started_at: float | None
    ended_at: float
    progress: str | None
    stderr: str
    worker: int | None = None
    worker_pid: int | None = None


class CpuFacts(NamedTuple):
    """The CPUs of late: how many may be used, which part of them was, in which part of the time a task waited for one.

    Parts are 0.0 to 1.0, None where the host does not tell.
    """

    cpus: int
    used: float | None = None
    pressure: float | None = None
    memory_pressure: float | None = None


class MemoryFacts(NamedTuple):
    """The memory in bytes: of host or group, how much of it is free, and how much each worker has taken for itself.

    `expected_bytes` is the most that a worker took in earlier runs of this pool, 0 where that is not known.
    """

    total_bytes: int
    free_bytes: int
    worker_bytes: tuple[int, ...]
    expected_bytes: int = 0


class Workers(Protocol[J_contra]):
    """The worker processes, by slot."""

    def spawn(self, slot: Slot) -> bool:
        """Begin to start a worker for the slot's generation; return False if it could not be asked for now.

        Raises OSError where the host has no descriptors for a worker. The worker is ready, or was not started, when
        `Dispatcher.on_ready`, `on_spawn_failed` or `on_exit` is called.
        """

    def send(self, slot: Slot, job: J_contra) -> bool:
        """Send the worker a job; return False if it cannot take one now."""

    def reclaim(self, slot: Slot) -> list[bytes]:
        """Take from the worker the jobs that it has not read; return their ids."""

    def has_begun(self, job: J_contra) -> bool:
        """Return whether a worker has marked that it began this attempt of the job."""

    def dump_stack(self, slot: Slot) -> None:
        """Ask the worker for its stack; `Dispatcher.on_stack_dumped` is called when it has come, or will not come."""

    def interrupt(self, slot: Slot) -> None:
        """Have an exception raised in the worker's job: JobTimeout at its soft timeout, else by the `stop` of the slot."""

    def terminate_children(self, slot: Slot) -> None:
        """Send SIGTERM to the programs that the worker's job has started, unless the job has taken its interruption."""

    def measure(self, slot: Slot) -> Sample:
        """Return the usage of the worker and of everything that it started."""

    def terminate(self, slot: Slot) -> None:
        """Ask the worker and all of its process group to end (SIGTERM)."""

    def kill(self, slot: Slot) -> None:
        """Kill the worker and all of its process group (SIGKILL)."""

    def retire(self, slot: Slot) -> None:
        """Let a worker end by itself after the jobs that it has."""


class Outcomes(Protocol[J_contra]):
    """The records of jobs: their starts, retries and answers, and the pool's log."""

    def started(self, job: J_contra, slot: Slot) -> None:
        """Take note that a job was sent to a worker. It may be reclaimed unstarted."""

    def queued(self, job: J_contra) -> None:
        """Take note that the time of a delayed job has come: it waits for a worker now."""

    def retrying(self, job: J_contra, reason: Reason, error: str, details: bytes, due_at: float) -> None:
        """Take note that an attempt failed and another one follows at the monotonic time `due_at`.

        `error` is one line of text, `details` the JSON in the worker's answer, empty where it gave none.
        """

    def finished(self, job: J_contra, reason: Reason, frame: bytes, fd: int | None, error: str) -> None:
        """Pass on the one answer of a job that has reached a final state; `error` is one line of text."""

    def account(self, job: J_contra) -> Account:
        """Return the facts about the attempt that has just ended."""

    def log(self, line: str) -> None:
        """Write a line to the pool's log."""


class Host(Protocol):
    """The host, as far as the size of the pool depends on it."""

    def begin_look(self) -> None:
        """Begin the stretch of time that the next call of `cpus` tells about."""

    def cpus(self) -> CpuFacts:
        """Return how busy the CPUs have been since `begin_look`, and begin the next stretch."""

    def memory(self, slots: Iterable[Slot]) -> MemoryFacts:
        """Return the memory of the host, and how much of it the workers in these slots have taken."""
