"""What the scheduling core keeps: kinds of jobs, jobs, slots for workers, generations of code."""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from procjobs.clock import NEVER
from procjobs.dispatch.queue import JobQueue
from procjobs.shared.config import JobOptions
from procjobs.shared.restarts import RestartBudget
from procjobs.shared.states import Event, JobState, advance_state

if TYPE_CHECKING:
    from procjobs.dispatch.limiters import Place
    from procjobs.dispatch.watchdog import Limits
    from procjobs.supervisor.durable.stored_jobs import Durable
    from procjobs.supervisor.workers.output import Transcript



class Kind:
    """Function, name and options that many jobs share. Clients that describe the same kind share one of these.

    `function` is its pickle, empty where each payload carries its own function. `mean_seconds` follows the run times of
    this kind, weighing the last one with an eighth. `talks` says that jobs of it have printed something, `is_recorded` that
    a store wants to know what they use, `refusal` why none of them is taken.
    """

    __slots__ = (
        "__weakref__",
        "description",
        "function",
        "is_limited",
        "is_recorded",
        "mean_seconds",
        "name",
        "number",
        "options",
        "refusal",
        "talks",
    )

    def __init__(self, number: int, name: bytes, options: JobOptions, function: bytes, description: bytes) -> None:
        self.number = number
        self.name = name
        self.options = options
        self.function = function
        self.description = description
        self.mean_seconds = NEVER
        limits = options.timeout, options.soft_timeout, options.stall_timeout, options.max_rss, options.slow_after
        self.is_limited = any(limit is not None for limit in limits)
        self.talks = False
        self.is_recorded = False
        self.refusal = ""

    def observe(self, seconds: float) -> None:
        """Take a run time into the mean."""
        mean = self.mean_seconds
        self.mean_seconds = seconds if mean == NEVER else mean + (seconds - mean) * 0.125


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
        "successor",
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
        self.successor: Generation | None = None  # newer code, which has taken over all but what runs
        self.budget = RestartBudget()
        self.problem = ""


class Job:
    """One submission. `client` is whoever wants the answer, opaque to the scheduling core.

    `queued_at` is when it could have been started first, or again. `rank` is its priority, and a half more for one that is
    older than all that clients submit. `unsent` counts the clients that the answer is still to
    be sent to. `history` has an account of each attempt that failed, `stack` where the job was when it was last examined;
    `place` is set where it shares a limit with others, `durable` where the pool has a store.
    """

    __slots__ = (
        "answer",
        "attempt",
        "client",
        "crashes",
        "durable",
        "expires_at",
        "fd",
        "generation",
        "history",
        "id",
        "inline",
        "key",
        "kind",
        "place",
        "queued_at",
        "rank",
        "row",
        "slot",
        "stack",
        "state",
        "transcript",
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
        self.queued_at = 0.0
        self.rank: float = kind.options.priority
        self.watchers: list[Any] | None = None
        self.answer: Any = None
        self.unsent = 0
        self.key = b""
        self.place: Place | None = None
        self.crashes = 0
        self.history: list[dict[str, Any]] | None = None
        self.stack = ""
        self.transcript: Transcript | None = None
        self.durable: Durable | None = None

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
    STALL = 5
    MEMORY = 6
    START = 7
    STUCK = 8


class Slot:
    """A numbered place for one worker. `jobs` are those given to it and not answered: it is in the first, or about to.

    `limits` are those of the first job; `term_at` is when a worker that is being examined gets SIGTERM, `kill_at` when
    one that was asked to end is killed, `take_back_at` when jobs sent ahead are taken back because the first one takes
    longer than expected; after that it `is_slow`. `baseline_bytes` is the memory that it had before its first job, most
    of it shared with the template.
    """

    __slots__ = (
        "baseline_bytes",
        "generation",
        "has_grown",
        "idle_since",
        "is_slow",
        "jobs",
        "jobs_done",
        "kill_at",
        "limits",
        "number",
        "pid",
        "started_at",
        "state",
        "stop",
        "take_back_at",
        "term_at",
        "used_bytes",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.jobs: deque[Job] = deque()
        self.state = SlotState.EMPTY
        self.clear()

    @property
    def current(self) -> Job | None:
        """The job that the worker is in, once what it had not read was taken back: others have answers under way."""
        if not self.jobs:
            return None
        return self.jobs[-1 if self.stop in {Stop.NONE, Stop.RETIRE} else 0]

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
        self.baseline_bytes = self.used_bytes = 0
        self.has_grown = False
        self.limits: Limits | None = None
        self.term_at = self.kill_at = self.take_back_at = NEVER
