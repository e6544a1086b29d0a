"""What the scheduling core keeps: kinds of jobs, jobs, slots for workers, generations of code."""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Any

from procjobs.config import JobOptions
from procjobs.shared.restarts import RestartBudget
from procjobs.shared.states import Event, JobState, advance_state
from procjobs.supervisor.queue import JobQueue

_NEVER = float("inf")


class Kind:
    """Function, name and options that many jobs share. Clients that describe the same kind share one of these.

    `function` is its pickle, empty where each payload carries its own function. `mean_seconds` follows the run times of
    this kind, weighing the last one with an eighth.
    """

    __slots__ = ("__weakref__", "description", "function", "mean_seconds", "name", "number", "options")

    def __init__(self, number: int, name: bytes, options: JobOptions, function: bytes, description: bytes) -> None:
        self.number = number
        self.name = name
        self.options = options
        self.function = function
        self.description = description
        self.mean_seconds = _NEVER

    def observe(self, seconds: float) -> None:
        """Take a run time into the mean."""
        mean = self.mean_seconds
        self.mean_seconds = seconds if mean == _NEVER else mean + (seconds - mean) * 0.125


class Generation:
    """One version of the users' code: the clients that run it, their waiting jobs, the workers forked for it."""

    __slots__ = (
        "budget",
        "clients",
        "idle",
        "key",
        "number",
        "problem",
        "queue",
        "ready",
        "slots",
        "started_at",
        "unfinished",
    )

    def __init__(self, number: int, key: str) -> None:
        self.number = number
        self.key = key
        self.clients = 0
        self.queue = JobQueue()
        self.idle: list[Slot] = []
        self.slots = 0
        self.started_at = 0.0  # when its last worker was started
        self.unfinished = 0
        self.ready = False
        self.budget = RestartBudget()
        self.problem = ""


class Job:
    """One submission. `client` is whoever wants the answer, opaque to the scheduling core.

    `unsent` counts the clients that the answer is still to be sent to.
    """

    __slots__ = (
        "answer",
        "attempt",
        "client",
        "expires_at",
        "fd",
        "generation",
        "id",
        "inline",
        "kind",
        "row",
        "slot",
        "state",
        "unsent",
        "watchers",
    )

    def __init__(
        self, job_id: bytes, kind: Kind, generation: Generation, client: Any, inline: bytes, fd: int | None
    ) -> None:
        self.id = job_id
        self.kind = kind
        self.generation = generation
        self.client = client
        self.inline = inline
        self.fd = fd
        self.state = JobState.QUEUED
        self.attempt = 0
        self.row = 0
        self.slot: Slot | None = None
        self.expires_at = 0.0
        self.watchers: list[Any] | None = None
        self.answer: Any = None
        self.unsent = 0

    def advance(self, event: Event) -> None:
        """Go to the state that follows; the only place where a job's state changes."""
        self.state = advance_state(self.state, event)


class SlotState(IntEnum):
    """What a slot is about; the numbers are those of the shared table."""

    EMPTY = 0
    STARTING = 1
    IDLE = 2
    BUSY = 3
    STOPPING = 4


class Stop(IntEnum):
    """Why a slot is being stopped, and so what becomes of its job."""

    NONE = 0
    TIMEOUT = 1
    CANCEL = 2
    RETIRE = 3
    SHUTDOWN = 4


class Slot:
    """A numbered place for one worker. `jobs` are those given to it and not answered: it is in the first, or about to.

    `deadline` is when the first job has run for its timeout, `kill_at` when a worker that was asked to end is killed,
    `take_back_at` when jobs sent ahead are taken back because the first one takes longer than expected; after that it
    `is_slow`.
    """

    __slots__ = (
        "deadline",
        "generation",
        "idle_since",
        "is_slow",
        "jobs",
        "jobs_done",
        "kill_at",
        "number",
        "pid",
        "started_at",
        "state",
        "stop",
        "take_back_at",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.jobs: deque[Job] = deque()
        self.state = SlotState.EMPTY
        self.clear()

    def clear(self) -> None:
        """Forget the worker that has gone."""
        self.state = SlotState.EMPTY
        self.generation: Generation | None = None
        self.pid = 0
        self.jobs_done = 0
        self.is_slow = False
        self.stop = Stop.NONE
        self.started_at = 0.0
        self.idle_since = 0.0
        self.deadline = self.kill_at = self.take_back_at = _NEVER
