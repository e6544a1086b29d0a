"""The records of the scheduling core: kinds of jobs, jobs, slots for workers, generations of code. Pure.

They have only the fields that scheduling needs. The supervisor extends Kind and Job with its own: the client, the payload,
the row in the shared table.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Any

from procjobs.clock import NEVER
from procjobs.dispatch.limits import Limits, Stop
from procjobs.dispatch.queue import JobQueue
from procjobs.shared.config import JobOptions
from procjobs.shared.restarts import RestartBudget
from procjobs.shared.states import NEXT_STATES, Event, JobState, refuse_event


class Kind:
    """Name and options that many jobs share. Clients that describe the same kind share one of these.

    `is_limited` tells whether a running job has to be watched. `mean_seconds` follows the run times of this kind, weighing
    the last one with an eighth. `prints` tells that jobs of it have printed something.
    """

    __slots__ = ("__weakref__", "is_limited", "mean_seconds", "name", "number", "options", "prints")

    def __init__(self, number: int, name: bytes, options: JobOptions) -> None:
        self.number = number
        self.name = name
        self.options = options
        self.mean_seconds = NEVER
        limits = options.timeout, options.soft_timeout, options.stall_timeout, options.max_rss, options.slow_after
        self.is_limited = any(limit is not None for limit in limits)
        self.prints = False

    def observe(self, seconds: float, waited: float) -> None:
        """Take a run time into the mean; the owner of a kind may count it, and how long that job had waited, as well."""
        mean = self.mean_seconds
        self.mean_seconds = seconds if mean == NEVER else mean + (seconds - mean) * 0.125

    def note_broken_run(self, seconds: float, waited: float) -> None:
        """Take note of a run without an answer, which tells nothing about the next one: the owner of a kind may count it."""


class Generation:
    """One version of the users' code: the clients that run it, their waiting jobs, the workers forked for it.

    `slots` counts its workers, `unfinished` its jobs without an answer; `idle` are its idle workers, the one that was busy
    last at the end. `problem` says why it cannot run jobs, `notice` what its clients should know all the same. `started_at`
    is when its last worker was started. A `successor` is newer code that has taken over all its jobs except those that run.
    """

    __slots__ = (
        "budget",
        "clients",
        "idle",
        "key",
        "notice",
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
        self.queue: JobQueue[Job] = JobQueue()
        self.idle: list[Slot] = []
        self.slots = 0
        self.started_at = 0.0
        self.unfinished = 0
        self.ready = False
        self.successor: Generation | None = None
        self.budget = RestartBudget()
        self.problem = self.notice = ""

    def newest(self) -> Generation:
        """Return the code that the clients of this generation run now: the last of its successors, or itself."""
        generation = self
        while generation.successor is not None:
            generation = generation.successor
        return generation


class Job:
    """One submission, with the fields that scheduling needs.

    `queued_at` is when it could have been started first, or again. `effective_priority` is the priority of its kind; the
    owner of a job raises it where the job is older than all that clients submit now. `shares_limits` tells that Limiters
    have it. `crashes` counts the workers that died in it, `interrupted` the attempts that ended with the supervisor or the
    host and do not count as its own. `history` has a record of each attempt that failed, `stack` tells where the job was
    when it was last asked.
    """

    __slots__ = (
        "attempt",
        "crashes",
        "effective_priority",
        "expires_at",
        "generation",
        "history",
        "id",
        "interrupted",
        "key",
        "kind",
        "queued_at",
        "shares_limits",
        "slot",
        "stack",
        "state",
    )

    def __init__(self, job_id: bytes, kind: Kind, generation: Generation) -> None:
        self.id = job_id
        self.kind = kind
        self.generation = generation
        self.state = JobState.QUEUED
        self.attempt = 0
        self.slot: Slot | None = None
        self.expires_at = 0.0
        self.queued_at = 0.0
        self.effective_priority: float = kind.options.priority
        self.key = b""
        self.shares_limits = False
        self.crashes = 0
        self.interrupted = 0
        self.history: list[dict[str, Any]] | None = None
        self.stack = ""

    def advance(self, event: Event) -> None:
        """Go to the state that follows; no other code writes the state of a job. Raise ValueError if none follows."""
        self.state = NEXT_STATES[self.state][event] or refuse_event(self.state, event)


class SlotState(IntEnum):
    """The states of a slot; the numbers are those of the shared table."""

    EMPTY = 0
    STARTING = 1
    IDLE = 2
    BUSY = 3
    STOPPING = 4
    WAITING = 5  # as BUSY, and its job waits for other jobs


class Rung(IntEnum):
    """Where the worker of a slot stands on the ladder (procjobs.dispatch.watchdog): what was done last to stop it."""

    NONE = 0
    DUMP = 1  # it was asked for its stack; it is asked to end next
    INTERRUPT = 2  # its job was interrupted; programs that the job waits for get SIGTERM next
    GRACE = 3  # nothing more is done in the grace period; it is killed next
    KILL = 4  # it was killed, and is again


class Slot:
    """A numbered place for one worker. `jobs` are those sent to it and not answered: it is in the first, or about to be.

    `limits` are those of the job that is watched. `reclaim_at` is when jobs that the worker has not read are reclaimed,
    because the first one takes longer than expected; after that it `is_slow`. `rung` is what was done last to stop its
    worker, `climb_at` when the next thing is. `baseline_bytes` is the memory that it had before its first job, most of it
    shared with the template; `used_bytes` is the memory that its job had beyond that.
    """

    __slots__ = (
        "baseline_bytes",
        "climb_at",
        "generation",
        "idle_since",
        "is_slow",
        "jobs",
        "jobs_done",
        "limits",
        "number",
        "pid",
        "reclaim_at",
        "rung",
        "started_at",
        "state",
        "stop",
        "used_bytes",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.jobs: deque[Job] = deque()
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
        self.baseline_bytes = self.used_bytes = 0
        self.limits: Limits | None = None
        self.rung = Rung.NONE
        self.climb_at = self.reclaim_at = NEVER

    @property
    def current(self) -> Job | None:
        """The job that the worker is in, once its unread jobs were reclaimed: answers to the others are under way."""
        if not self.jobs:
            return None
        return self.jobs[-1 if self.stop in {Stop.NONE, Stop.RETIRE} else 0]

    def take(self, job_id: bytes) -> Job | None:
        """Take out a job that is not the first: the one that is being stopped was put there. None if it is not here."""
        for job in self.jobs:
            if job.id == job_id:
                self.jobs.remove(job)
                return job
        return None

    def watch(self, job: Job, now: float) -> None:
        """Begin to hold a job of this slot to its limits."""
        self.limits = Limits(job.kind.options, now) if job.kind.is_limited else None
