"""The durability of a pool with a store: which events its recorder was sent, and which clients wait for their commit.

1. The supervisor never waits for the database: events are kept here until they are said to be committed, and sent again to
   another recorder if this one dies.
2. A job is acknowledged, and may start, only after the commit of its submission. So a job that the store does not know has
   never run: a client can send again whatever was not acknowledged, and nothing runs twice. To start at once would hide
   the wait for one commit, and leave, after a kill, runs that nobody has counted.
3. An answer goes out, and shows in the table, only after the commit of the end: an end that a client has seen does not
   happen again.
4. Starts are recorded after 5 ms, and not waited for. Those that die on their way are found in the table that the killed
   supervisor has left, where workers mark the attempts that they begin; only the host's own end can lose the few that were
   under way.
5. The waiting events are bounded: submissions are refused, and no more jobs are started, when the store is too far behind.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from procjobs.clock import NEVER, wall
from procjobs.dispatch.failures import job_name
from procjobs.shared import wire
from procjobs.shared.ids import ID_BYTES, to_text
from procjobs.shared.recorder_wire import (
    MAX_STORED_BYTES,
    End,
    Event,
    Free,
    Open,
    RecorderFrame,
    Release,
    Retry,
    Submit,
    Sweep,
)
from procjobs.shared.states import JobState, Reason
from procjobs.shared.wire import BODY, F64, U64, WireError, failure_frame
from procjobs.supervisor.durable.accounts import account_of
from procjobs.supervisor.durable.capacity import StoreCapacity
from procjobs.supervisor.durable.checkpoint_events import CheckpointEvents
from procjobs.supervisor.durable.durability import (
    Backlog,
    Committed,
    Duplicate,
    Fenced,
    Rejection,
    StoreEvent,
    Told,
)
from procjobs.supervisor.durable.held_claim import Claimant, HeldClaim
from procjobs.supervisor.durable.hook_marks import HookMarks
from procjobs.supervisor.durable.recorder_process import RecorderProcess, RecorderState
from procjobs.supervisor.durable.start_events import StartEvents
from procjobs.supervisor.durable.store_health import StoreHealth
from procjobs.supervisor.durable.stored_jobs import StoredJobs
from procjobs.supervisor.durable.stored_schedules import StoredSchedules
from procjobs.supervisor.durable.uncommitted import Ended, Entry, UncommittedEvents, Wait
from procjobs.supervisor.job import DurableState

if TYPE_CHECKING:
    from procjobs.dispatch.model import Slot
    from procjobs.host import process
    from procjobs.host.loop import Loop
    from procjobs.shared.config import PoolSettings
    from procjobs.store.started_attempts import StartedAttempts
    from procjobs.supervisor.job import SupervisedJob, Watcher
    from procjobs.supervisor.log import Log
    from procjobs.supervisor.registry import Registry

_COMMIT_TIMEOUT: Final = 5.0
"""How long a stopping supervisor waits for the database to take the last events."""


class DurableJobs:
    """Wraps the registry as the core's `Outcomes` port: the store hears of everything first."""

    are_recorded = True
    farewell_timeout = _COMMIT_TIMEOUT

    def __init__(
        self, registry: Registry, loop: Loop, log: Log, settings: PoolSettings, *,
        pool: str, claimant: Claimant, started_attempts: StartedAttempts,
    ) -> None:  # fmt: skip
        self.account = registry.account
        self.log = log.write
        self._registry = registry
        self._loop = loop
        self._settings = settings
        self._started_attempts = started_attempts
        self._health = StoreHealth(registry.table, log)
        self._recorder = RecorderProcess(loop, self._health, log, HeldClaim(claimant))
        self._events = UncommittedEvents()
        self._capacity = StoreCapacity(pool, self._events, self._health)
        self._stored = StoredJobs(registry, loop, self._ask)
        self.schedules = StoredSchedules(self._events, self._stored, self._capacity)
        self._hooks = HookMarks(registry.hooks, self._stored, self._ask)
        self._checkpoints = CheckpointEvents(registry.table.directory, self._events)
        self._acknowledgements: deque[tuple[int, Watcher]] = deque()  # (number of the event, whose submission)
        self._starts = StartEvents()

    def _ask(self, event: Event) -> None:
        self._events.append(Entry(event))

    # The life of jobs -------------------------------------------------------------------------------------------

    def started(self, job: SupervisedJob, slot: Slot) -> None:
        """Note that a job was sent to a worker. It is recorded in a moment, if it has not ended, or been reclaimed."""
        self._stored.count_out(job)
        self._starts.note(job, slot, self._loop.now)

    def queued(self, job: SupervisedJob) -> None:
        """Show in the table that the job waits for a worker."""
        self._registry.publish_queued(job)

    def checkpointed(self, job: SupervisedJob) -> None:
        """Record a checkpoint, at once or when the one before is committed."""
        if job.state is JobState.RUNNING:
            self._checkpoints.note(job, self._loop.now)

    def retrying(self, job: SupervisedJob, reason: Reason, error: str, details: bytes, due_at: float) -> None:
        """Record that an attempt failed and another one follows."""
        account = {**self._account(job), "crashes": job.crashes}
        if details:
            account["details"] = details
        self._ask(Retry(job.id, job.attempt, account, wall() + due_at - self._loop.now))
        self._registry.publish_retrying(job, reason, error, details)

    def finished(self, job: SupervisedJob, reason: Reason, frame: bytes, fd: int | None, error: str) -> None:
        """Take an answer; it goes out when it is committed. A job that is stopped goes back to the store first."""
        if job.extras.has_checkpoint:  # before its file goes
            self._checkpoints.finish(job, has_succeeded=job.state is JobState.SUCCEEDED)
        self._registry.release_payload(job)
        if job.durable is None:  # a submission that was not taken
            self._registry.finish(job, reason, frame, fd, error, self._loop.now)
            return
        self._stored.count_out(job)
        ended = Ended(job, reason, frame, fd, error)
        if job.durable.is_fenced:
            self._give_up(ended)
            return
        if reason is Reason.STOPPED:
            account = self._account(job) if _was_interrupted(job) else None
            free = Free(job.id, job.attempt, account)
            job.durable.is_freed = True
            self._events.append(Entry(free, wait=Wait.ANSWER, subject=ended, size=len(frame)))
            return
        size = os.fstat(fd).st_size if fd is not None else 0
        kept_frame, kept_fd = (frame, fd) if size <= MAX_STORED_BYTES else (_too_large(job.id, size), None)
        end = End(
            job.id, job.attempt, int(job.state), int(reason), kept_frame, kept_fd is not None, wall(), error,
            self._account(job), bool(reason) and self._registry.hooks.tell_of(reason),
        )  # fmt: skip
        self._events.append(Entry(end, kept_fd, wait=Wait.ANSWER, subject=ended, size=len(frame) + size))

    def _give_up(self, ended: Ended) -> None:
        """Drop the end of a job that is not this supervisor's any more; its clients wait for what the store has of it."""
        job = ended.job
        self.log(f"{job_name(job)} is fenced: another one has it in the store; what became of it here is dropped")
        if ended.fd is not None:
            os.close(ended.fd)
        for client in self._registry.disown(job):
            self._stored.find(job.id, client)
        self._stored.look_again()

    def _account(self, job: SupervisedJob) -> dict[str, Any]:
        """Return all that is known of the attempt that has ended, by the names of the store's columns."""
        return account_of(job, self._starts.take(job), self._registry.table)

    # Submissions ------------------------------------------------------------------------------------------------

    @property
    def takes_jobs(self) -> bool:
        """Whether the store is not too far behind."""
        return self._capacity.takes_jobs

    def rejection(self, fd: int | None) -> Rejection | None:
        """Return why no job can be taken now, None if one can."""
        return self._capacity.rejection(fd)

    def submitted(
        self, job: SupervisedJob, client: Watcher, delay: float, expires: float, unique_until: float | None,
        *, is_followed: bool = False,
    ) -> bool:  # fmt: skip
        """Record a submission; it is acknowledged and may start when it is committed."""
        moment, extras = wall(), job.extras
        job.durable = DurableState(delay=delay, expires=expires, submitted_at=self._loop.now)
        submit = Submit(
            job.id, job.kind.number, job.inline, job.fd is not None, moment, moment + delay if delay > 0 else 0.0,
            moment + expires if expires else 0.0, job.key, unique_until,
            (extras.meta, extras.retry_of if extras.is_retry else b"", extras.schedule, extras.scheduled_for),
        )  # fmt: skip
        size = len(job.inline) + (os.fstat(job.fd).st_size if job.fd is not None else 0)
        self._events.append(Entry(submit, job.fd, job.kind, Wait.SUBMISSION, job, size, is_followed))
        self._acknowledgements.append((self._events.last_number, client))
        return False

    def acknowledge(self, client: Watcher) -> None:
        """Acknowledge a submission of which nothing is stored, once those before it are acknowledged."""
        if not self._acknowledgements:
            client.accepted += 1
        else:
            self._acknowledgements.append((self._acknowledgements[-1][0], client))

    def admitted(self, job: SupervisedJob, *, is_due: bool) -> None:
        """Note that a job that was loaded is in the core now; it waits for a worker if it `is_due`."""
        self._stored.on_admitted(job)
        if is_due:
            self._stored.count_in(job)

    def sweep(self) -> None:
        """Look into the outbox."""
        self._ask(Sweep())

    # Jobs that are not in memory --------------------------------------------------------------------------------

    def find(self, job_id: bytes, client: Watcher) -> bool:
        """Look a job up; the client gets its answer, now or when there is one."""
        self._stored.find(job_id, client)
        return True

    def cancel(self, job_id: bytes, then: Callable[[Told], None]) -> bool:
        """Have a job cancelled that may wait in the store, or note that one that runs was."""
        start = self._starts.take(self._registry.jobs.get(job_id))
        if start is not None:  # before the note, which it would wipe out
            self._ask(start)
        self._stored.cancel(job_id, then)
        return True

    def repeat(self, job_id: bytes, new_id: bytes, then: Callable[[Told], None]) -> bool:
        """Have the store make a new job of one that ended otherwise than well."""
        self._stored.repeat(job_id, new_id, then)
        return True

    # State ------------------------------------------------------------------------------------------------------

    @property
    def uncommitted(self) -> int:
        """How many submissions wait for their commit."""
        return self._events.submissions

    @property
    def is_settled(self) -> bool:
        """Whether everything is committed, and no job that could run here is known to wait in the store alone."""
        return not self._events and not (self._stored.awaits_load and self._recorder.has_opened)

    @property
    def is_quiet(self) -> bool:
        """Whether everything is committed, or nobody waits for it any more."""
        return not self._events or self._events.are_abandoned

    @property
    def is_too_far_behind(self) -> bool:
        """Whether no more jobs should start, since their answers could not be kept."""
        return self._capacity.is_too_far_behind

    @property
    def loss(self) -> str:
        """Why all jobs are, or may be, another supervisor's; empty while they are not."""
        return self._recorder.claim.loss

    # Turns of the loop ------------------------------------------------------------------------------------------

    def extend_deadlines(self, now: float) -> None:
        """Give the recorder more time; it may not have been running either."""
        self._health.note_heard(now)

    def next_deadline(self) -> float:
        """Return when something is to be done."""
        now = self._loop.now
        ends_at = self._recorder.claim.ends_at(now)
        starts_at = self._recorder.next_deadline()
        if starts_at is not None:
            return min(starts_at, ends_at)
        ends_at = min(ends_at, self._checkpoints.next_deadline(), self._starts.next_deadline())
        loads_at = self._stored.loads_at if self._stored.loads_at > now else NEVER  # else there was no room
        return min(loads_at, self._health.silence_at() if self._awaits_recorder else NEVER, ends_at)

    @property
    def _awaits_recorder(self) -> bool:
        """Whether the recorder has something to say."""
        return bool(self._events) or self._recorder.state is RecorderState.OPENING

    def advance(self, now: float, backlog: Callable[[int], Backlog], *, may_load: bool) -> None:
        """Start a recorder that is missing, ask for jobs, send the events that wait."""
        if self._recorder.start_if_due(now, self._opening):
            self._events.begin_anew()
        if not self._awaits_recorder or self._recorder.state is RecorderState.ABSENT:
            self._health.note_heard(now)
        elif self._health.silence_at() <= now:
            self._recorder.kill(self._health.note_silence(now))
        for start in self._starts.take_due(now):
            self._ask(start)
        self._checkpoints.advance(now)
        self._stored.note_code(has_code=may_load)
        is_open = self._recorder.state is RecorderState.OPEN
        if is_open:
            self.schedules.on_open()
        may_load = may_load and is_open
        if may_load:
            self._stored.load_more(backlog, self._settings.max_queued)
        self._hooks.advance(may_load=may_load)
        self._recorder.send(self._events.next_batch)
        self._health.publish()

    def _opening(self) -> Open:
        settings, claim = self._settings, self._recorder.claim
        return Open(
            str(settings.store), claim.claimant.pool, claim.owner, settings.result_ttl, settings.history_ttl,
            settings.history_limit, claim.claimant.holder, claim.epoch,
            list(self._registry.jobs) if claim.epoch else [], self._started_attempts.attempts, settings.retry_ttl,
            bool(settings.on_failure),
        )  # fmt: skip

    def read(self, events: int, act_on: Callable[[StoreEvent], None]) -> None:
        """Act on the messages of the recorder; `act_on` gets the jobs that may begin their lives, one by one."""
        self._recorder.read(events, lambda kind, raw, fd: self._take(kind, raw, fd, act_on))

    def _take(self, kind: int, raw: bytes, fd: int | None, act_on: Callable[[StoreEvent], None]) -> None:
        self._health.note_heard(self._loop.now)
        if kind == RecorderFrame.CLAIMED:
            self._recorder.claim.take(U64.unpack_from(raw, BODY)[0], fd)
            return
        loaded = self._stored.take(kind, raw, fd)
        if loaded is not None:
            for event in loaded:
                act_on(event)
        elif kind == RecorderFrame.COMMITTED:
            self._on_committed(U64.unpack_from(raw, BODY)[0], act_on)
        elif kind == RecorderFrame.STATE:
            self._on_state(str(wire.parse_json(raw[BODY:])["problem"]))
        elif kind == RecorderFrame.FENCED:
            self._on_fenced(raw[BODY:], act_on)
        elif kind == RecorderFrame.DUPLICATE:
            self._on_duplicate(raw[BODY : BODY + ID_BYTES], raw[BODY + ID_BYTES :], act_on)
        elif kind == RecorderFrame.LEASE:
            self._recorder.claim.renew(F64.unpack_from(raw, BODY)[0])
        elif kind == RecorderFrame.LOST:
            self._recorder.claim.lose(raw[BODY:].decode(errors="replace"))
        else:
            raise WireError(f"an unknown frame of kind {kind}")

    def _on_fenced(self, job_id: bytes, act_on: Callable[[StoreEvent], None]) -> None:
        job = self._registry.jobs.get(job_id)
        if job is not None and job.durable is not None and job.answer is None and not job.durable.is_fenced:
            job.durable.is_fenced = True
            act_on(Fenced(job))

    def _on_duplicate(self, job_id: bytes, holder: bytes, act_on: Callable[[StoreEvent], None]) -> None:
        job = self._registry.jobs.get(job_id)
        if job is not None:
            self._events.take_back(job)
            act_on(Duplicate(job, holder))

    def _on_state(self, problem: str) -> None:
        if not problem and self._recorder.on_opened():
            self._started_attempts.forget()
        self._health.set_problem(problem)

    def _on_committed(self, number: int, act_on: Callable[[StoreEvent], None]) -> None:
        now = self._loop.now
        for wait, subject in self._events.take_committed(number):
            if wait is Wait.ANSWER:
                if subject.job.durable.is_fenced:  # type: ignore[union-attr]
                    self._give_up(subject)  # type: ignore[arg-type]
                else:
                    self._registry.finish(*subject, now)  # type: ignore[misc, call-arg]
            elif wait is Wait.SUBMISSION:
                subject.durable.is_committed = True  # type: ignore[union-attr]
                act_on(Committed(subject))  # type: ignore[arg-type]
        waiting = self._acknowledgements
        while waiting and waiting[0][0] <= number:
            waiting.popleft()[1].accepted += 1
        self._health.note_commit()

    # Ending -----------------------------------------------------------------------------------------------------

    def on_exit(self, exited: process.Exit) -> bool:
        """Note the end of a process; return whether it was the recorder, which is started again."""
        return self._recorder.on_exit(exited)

    def describe_stop(self, reason: str) -> str:
        """Return why the pool stops, with what that means for the jobs that wait."""
        return f"{reason}; the store keeps it, and it runs when the pool is started again"

    def abandon(self) -> None:
        """Answer everything that waits for a commit, which is still made if it can be."""
        for job in self._events.abandon():
            if job.answer is not None:
                continue
            text = (
                f"{job_name(job)} was not answered when the pool was stopped, for its store is "
                f"{self._health.describe() or 'slow'}; if the store has it, it runs when the pool is started again"
            )
            frame = failure_frame(job.id, "PoolClosed", text)
            self._registry.finish(job, Reason.STOPPED, frame, None, text, self._loop.now)

    def close(self) -> None:
        """Let the recorder write everything, give the claim up, and end."""
        if self._recorder.has_opened and not self.loss:
            self._ask(Release())
        self._recorder.send(self._events.next_batch)
        self._recorder.close()
        self._events.close()


def _was_interrupted(job: SupervisedJob) -> bool:
    """Return whether a job that goes back to the store was running, and did not wait for a start."""
    last = job.history[-1] if job.history else {"attempt": 0, "reason": ""}
    return bool(last["attempt"] == job.attempt and last["reason"] == Reason.STOPPED.text)


def _too_large(job_id: bytes, size: int) -> bytes:
    text = (
        f"the result of job {to_text(job_id)}, of {size} bytes, is larger than what the store keeps ({MAX_STORED_BYTES} "
        "bytes). Let the job write it to a file, and return the path"
    )
    return failure_frame(job_id, "UnknownJob", text)
