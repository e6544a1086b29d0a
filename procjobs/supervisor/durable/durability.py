"""The store as the supervisor sees it: a protocol; and `NoStore`, which answers for the pools that have none.

A durability is the core's `Outcomes` port: it hears how jobs fare, and passes on their answers when they are safe. Without a
store that is at once; with one, after the commit (procjobs.supervisor.durable.durable_jobs).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from procjobs.clock import NEVER
from procjobs.dispatch.ports import Account
from procjobs.host import process
from procjobs.host.loop import Loop
from procjobs.shared.states import Reason

if TYPE_CHECKING:
    from procjobs.dispatch.model import Slot
    from procjobs.supervisor.job import SupervisedJob, SupervisedKind, Watcher
    from procjobs.supervisor.log import Log
    from procjobs.supervisor.registry import Registry

FAREWELL_TIMEOUT: Final = 1.0
"""How long a stopping supervisor waits for clients to take their last answers."""

Rejection: TypeAlias = tuple[str, str, dict[str, Any]]
"""Why no job can be taken: the name of the error, its message, its attributes."""
Told: TypeAlias = dict[str, Any]
"""The store's answer to a question."""


class LoadedJob(NamedTuple):
    """A job that the store has given out. Times are Unix times, 0.0 for none."""

    job_id: bytes
    attempt: int
    interrupted: int
    crashes: int
    submitted_at: float
    not_before: float
    expires_at: float
    key: bytes
    description: bytes
    function: bytes
    inline: bytes
    fd: int | None
    is_cancelled: bool
    """Whether it was asked to be cancelled after the store was asked for jobs, and not told yet."""
    meta: bytes
    retry_of: bytes
    has_checkpoint: bool
    schedule: bytes
    scheduled_for: int
    """As in Extras."""


class Committed(NamedTuple):
    """A submission is in the database now: its job may begin its life."""

    job: SupervisedJob


class Duplicate(NamedTuple):
    """A submission was not stored, since another job, `holder`, has its key for itself."""

    job: SupervisedJob
    holder: bytes


class Fenced(NamedTuple):
    """The store has a job as another supervisor's: it is not to run here any more."""

    job: SupervisedJob


StoreEvent: TypeAlias = Committed | LoadedJob | Duplicate | Fenced


class Backlog(NamedTuple):
    """The jobs that wait in the core, as far as the store must know to give out more: see `Dispatcher`."""

    scheduled: int
    saturated: dict[str, int]


class ScheduleStore(Protocol):
    """The schedules of a pool in its store. Each method returns False where there is no store: then nothing is kept.

    Moments (`cursor`, `period`, `scheduled_for`) are Unix times in whole microseconds. `then` gets the answer after its
    commit, which can take as long as the database is away; {"problem"} alone, a text, where the store refuses it.
    """

    def load(self, then: Callable[[list[Told]], None]) -> bool:
        """Find all schedules of the pool: `then` gets the fields of each, as procjobs.store.schedule_rows.find_all has them.

        It gets [{"problem"}] where the store cannot tell.
        """

    def put(
        self, name: str, spec: str, *, is_declared: bool, kind: SupervisedKind, inline: bytes, fd: int | None, key: bytes,
        meta: bytes, cursor: int, then: Callable[[Told], None],
    ) -> bool:  # fmt: skip
        """Keep a schedule, in the place of one of its name; `then` gets {"is_new"} and its state, as `load` has it.

        The same rule as before keeps its cursor. `fd`, the large part of its arguments, is taken over.
        """

    def drop(self, name: str, then: Callable[[Told], None]) -> bool:
        """Drop a schedule; `then` gets {"known"}."""

    def note(self, name: str, *, cursor: int, skipped: int, missed: int, is_paused: bool | None = None) -> bool:
        """Note how far a schedule is, and all that it has left out; None leaves it paused, or not, as it was."""

    def fire(
        self, name: str, *, period: int, scheduled_for: int, job_id: bytes, cursor: int, then: Callable[[Told], None]
    ) -> bool:
        """Have the job of a period made, which is loaded then; `then` gets {"made", "known"}.

        It is not made where another job has the period, nor where there is no such schedule.
        """


class NoStoredSchedules:
    """The schedules of a pool without a store: nothing of them is kept."""

    def load(self, _then: Callable[[list[Told]], None]) -> bool:
        """Return False: there is no store to be asked."""
        return False

    def put(
        self, _name: str, _spec: str, *, is_declared: bool, kind: SupervisedKind, inline: bytes, fd: int | None, key: bytes,
        meta: bytes, cursor: int, then: Callable[[Told], None],
    ) -> bool:  # fmt: skip
        """Return False; the descriptor stays the caller's."""
        return False

    def drop(self, _name: str, _then: Callable[[Told], None]) -> bool:
        """Return False: there is no store to be asked."""
        return False

    def note(self, _name: str, *, cursor: int, skipped: int, missed: int, is_paused: bool | None = None) -> bool:
        """Return False: there is no store that would keep it."""
        return False

    def fire(
        self, _name: str, *, period: int, scheduled_for: int, job_id: bytes, cursor: int, then: Callable[[Told], None]
    ) -> bool:
        """Return False: the job is to be made in memory."""
        return False


class Durability(Protocol):
    """A pool's store, or its absence."""

    @property
    def schedules(self) -> ScheduleStore:
        """The schedules of the pool in its store."""

    @property
    def are_recorded(self) -> bool:
        """Whether the store wants to know what jobs use."""

    @property
    def farewell_timeout(self) -> float:
        """How long a stopping supervisor waits for the last answers to become safe and to be taken. Seconds."""

    # The life of jobs: the core's `Outcomes` port.

    def started(self, job: SupervisedJob, slot: Slot) -> None:
        """Note that a job was sent to a worker."""

    def queued(self, job: SupervisedJob) -> None:
        """Note that the time of a delayed job has come."""

    def checkpointed(self, job: SupervisedJob) -> None:
        """Note that a job has handed a checkpoint over, which is in the file beside the table."""

    def retrying(self, job: SupervisedJob, reason: Reason, error: str, details: bytes, due_at: float) -> None:
        """Note that an attempt failed and another one follows at the monotonic time `due_at`."""

    def finished(self, job: SupervisedJob, reason: Reason, frame: bytes, fd: int | None, error: str) -> None:
        """Take the one answer of a job; clients get it when it is safe."""

    def account(self, job: SupervisedJob) -> Account:
        """Return the facts that are known of the attempt that has just ended."""

    def log(self, line: str) -> None:
        """Write a line to the pool's log."""

    # Submissions.

    @property
    def takes_jobs(self) -> bool:
        """Whether the store takes any job without a descriptor now."""

    def rejection(self, fd: int | None) -> Rejection | None:
        """Return why the store takes no job now, None if it does. `fd` has the large part of its arguments."""

    def submitted(
        self, job: SupervisedJob, client: Watcher, delay: float, expires: float, unique_until: float | None,
        *, is_followed: bool = False,
    ) -> bool:  # fmt: skip
        """Take a submission; return whether it may start at once. If not, `Committed` follows.

        If it `is_followed`, it is in one commit with the next one.
        """

    def acknowledge(self, client: Watcher) -> None:
        """Acknowledge a submission of which nothing is to be stored, after those of this client that came before it."""

    def admitted(self, job: SupervisedJob, *, is_due: bool) -> None:
        """Note that a job that was loaded is in the core now; it waits for a worker if it `is_due`."""

    def sweep(self) -> None:
        """Look into the outbox: a transaction of a user has just left something there."""

    # Jobs that are not in memory. Each returns False where there is no store to be asked.

    def find(self, job_id: bytes, client: Watcher) -> bool:
        """Look a job up; the client gets its answer, now or when there is one."""

    def cancel(self, job_id: bytes, then: Callable[[Told], None]) -> bool:
        """Have a job cancelled that may wait in the store, or note there that one that runs was.

        `then` gets {"known", "cancelled"}. Whatever becomes of this supervisor after that, the job does not run any more.
        """

    def repeat(self, job_id: bytes, new_id: bytes, then: Callable[[Told], None]) -> bool:
        """Have a new job made of one that ended otherwise than well. `then` gets {"known", "refusal", "name"}."""

    # Its state, and the turns of the loop.

    @property
    def uncommitted(self) -> int:
        """How many submissions wait for their commit."""

    @property
    def is_settled(self) -> bool:
        """Whether everything is committed, and no job is known to wait in the store alone."""

    @property
    def is_quiet(self) -> bool:
        """Whether everything is committed, or nobody waits for it any more."""

    @property
    def is_too_far_behind(self) -> bool:
        """Whether no more jobs should start, since their answers could not be kept."""

    @property
    def loss(self) -> str:
        """Why all jobs are, or may be, another supervisor's: then this one kills them and ends. Empty while they are not."""

    def extend_deadlines(self, now: float) -> None:
        """Judge nobody by the time in which the supervisor was not running. The lease of a claim goes on."""

    def next_deadline(self) -> float:
        """Return when something is to be done."""

    def advance(self, now: float, backlog: Callable[[int], Backlog], *, may_load: bool) -> None:
        """Do what is due. `backlog(count)` describes the waiting jobs, with the queues that have `count` of them."""

    def read(self, events: int, act_on: Callable[[StoreEvent], None]) -> None:
        """Read the messages of the recorder. `act_on` gets each event before the next message is read.

        Messages can be about the same job: the answer to a question comes after the LOADED that it depends on.
        """

    def on_exit(self, exited: process.Exit) -> bool:
        """Note the end of a process; return whether it was the recorder."""

    def describe_stop(self, reason: str) -> str:
        """Return why the pool stops, with what that means for the jobs that wait."""

    def abandon(self) -> None:
        """Answer everything that waits for a commit: it does not come before the pool ends."""

    def close(self) -> None:
        """Let the recorder end."""


class NoStore:
    """The durability of a pool without a store: everything is safe at once."""

    are_recorded = False
    takes_jobs = True
    farewell_timeout = FAREWELL_TIMEOUT
    uncommitted = 0
    is_settled = True
    is_quiet = True
    is_too_far_behind = False
    loss = ""

    def __init__(self, registry: Registry, loop: Loop, log: Log) -> None:
        self.schedules = NoStoredSchedules()
        self.account = registry.account
        self.log = log.write
        self._registry = registry
        self._loop = loop

    def started(self, job: SupervisedJob, slot: Slot) -> None:
        """Do nothing: the worker marks in the table what it begins."""

    def checkpointed(self, _job: SupervisedJob) -> None:
        """Do nothing: the file is there for the next attempt."""

    def queued(self, job: SupervisedJob) -> None:
        """Show in the table that the job waits for a worker."""
        self._registry.publish_queued(job)

    def retrying(self, job: SupervisedJob, reason: Reason, error: str, details: bytes, due_at: float) -> None:
        """Show in the table that the job waits for another attempt."""
        self._registry.publish_retrying(job, reason, error, details)

    def finished(self, job: SupervisedJob, reason: Reason, frame: bytes, fd: int | None, error: str) -> None:
        """Pass on an answer."""
        self._registry.release_payload(job)
        self._registry.finish(job, reason, frame, fd, error, self._loop.now)

    def rejection(self, _fd: int | None) -> Rejection | None:
        """Return None: without a store, nothing limits what can be taken."""
        return None

    def submitted(
        self, _job: SupervisedJob, client: Watcher, _delay: float, _expires: float, _unique_until: float | None,
        *, is_followed: bool = False,
    ) -> bool:  # fmt: skip
        """Acknowledge a submission; it may start at once."""
        client.accepted += 1
        return True

    def acknowledge(self, client: Watcher) -> None:
        """Acknowledge a submission."""
        client.accepted += 1

    def admitted(self, _job: SupervisedJob, *, is_due: bool) -> None:
        """Do nothing: no job is loaded."""

    def sweep(self) -> None:
        """Do nothing: there is no outbox."""

    def find(self, _job_id: bytes, _client: Watcher) -> bool:
        """Return False: there is no store to be asked."""
        return False

    def cancel(self, _job_id: bytes, _then: Callable[[Told], None]) -> bool:
        """Return False: there is no store to be asked."""
        return False

    def repeat(self, _job_id: bytes, _new_id: bytes, _then: Callable[[Told], None]) -> bool:
        """Return False: there is no store to be asked."""
        return False

    def extend_deadlines(self, _now: float) -> None:
        """Do nothing: nobody is waited for."""

    def next_deadline(self) -> float:
        """Return NEVER."""
        return NEVER

    def advance(self, _now: float, _backlog: Callable[[int], Backlog], *, may_load: bool) -> None:
        """Do nothing."""

    def read(self, _events: int, _act_on: Callable[[StoreEvent], None]) -> None:
        """Do nothing: there is no recorder."""

    def on_exit(self, _exited: process.Exit) -> bool:
        """Return False: there is no recorder."""
        return False

    def describe_stop(self, reason: str) -> str:
        """Return the reason."""
        return reason

    def abandon(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
