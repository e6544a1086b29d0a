"""Which jobs come into the core: submissions of clients, and jobs that the store gives out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from procjobs.clock import wall
from procjobs.dispatch.failures import job_name
from procjobs.shared.config import JobOptions
from procjobs.shared.ids import to_text
from procjobs.shared.states import FINAL, Event, JobState, Reason
from procjobs.shared.table.annex import extras_of
from procjobs.shared.table.state_writer import TableFull
from procjobs.shared.wire import WireError, failure_frame
from procjobs.supervisor.job import NO_CLIENT, DurableState, SupervisedJob, SupervisedKind, Watcher

if TYPE_CHECKING:
    from procjobs.dispatch.dispatcher import Dispatcher
    from procjobs.dispatch.model import Job
    from procjobs.host.loop import Loop
    from procjobs.shared.config import PoolSettings
    from procjobs.supervisor.clients.client_link import ClientLink
    from procjobs.supervisor.clients.unique_keys import UniqueKeys
    from procjobs.supervisor.durable.durability import Durability, LoadedJob, Rejection
    from procjobs.supervisor.lifecycle import Lifecycle
    from procjobs.supervisor.registry import Registry


_SPARE_FDS: Final = 64
"""Descriptors that large payloads leave to clients and workers; a quarter of them where there are few."""
_MAX_DRIFT: Final = 1.0
"""A clock that has moved on by this many seconds more, or less, than the time that has passed was set."""


class Submission(NamedTuple):
    """A job that a client submits, when it may start at the earliest and at the latest, in seconds; 0: at any time."""

    job: SupervisedJob
    delay: float
    expires: float


class Admission:
    """Takes jobs, or answers why not; and cancels them."""

    def __init__(
        self, loop: Loop, pool: str, settings: PoolSettings, registry: Registry, dispatcher: Dispatcher,
        durability: Durability, unique_keys: UniqueKeys, lifecycle: Lifecycle, *, max_fds: int,
    ) -> None:  # fmt: skip
        """`max_fds` is how many descriptors this process may have open."""
        self._loop = loop
        self._pool = pool
        self._max_queued = settings.max_queued
        self._max_fds = max_fds
        self._registry = registry
        self._dispatcher = dispatcher
        self._durability = durability
        self._unique_keys = unique_keys
        self._lifecycle = lifecycle
        self._began_at = wall()
        self._clock_offset = self._began_at - loop.now
        self._capacity = 0  # how many more jobs may wait; counted down within a turn, since to look costs 1 us

    # Submissions ------------------------------------------------------------------------------------------------

    def begin_turn(self) -> None:
        """Look how many more jobs may wait: a client is about to be read."""
        self._capacity = self._find_capacity()

    def _find_capacity(self) -> int:
        if not self._lifecycle.accepts_jobs:
            return 0
        waiting = self._dispatcher.queued + self._dispatcher.scheduled + self._durability.uncommitted
        return self._max_queued - waiting

    @property
    def is_open(self) -> bool:
        """Whether jobs are taken at all."""
        return self._lifecycle.accepts_jobs

    @property
    def is_open_to_schedules(self) -> bool:
        """Whether jobs of schedules are taken: not in a pool that is about to end because nobody uses it."""
        return self._lifecycle.accepts_jobs and not self._lifecycle.has_lingered

    def close(self) -> None:
        """Take no more jobs in this turn: the pool was just drained or stopped."""
        self._capacity = 0

    def admit(
        self, client: Watcher, job: SupervisedJob, delay: float, expires: float, unique: float | None = None
    ) -> None:
        """Take a job that a client has submitted, or answer why not.

        With `unique`, it is to be the only one of its key, for so many seconds at least.
        """
        registry = self._registry
        self._capacity -= 1
        moment = wall()
        rejection: Rejection | None = None
        if self._capacity < 0 or job.fd is not None or job.kind.rejection or not self._durability.takes_jobs:
            rejection = self._rejection(job)
        if rejection is None:
            if unique is not None and (holder := self._unique_keys.holder(job.key)) is not None:
                self._refer_to(holder, client, job)
                return
            try:
                registry.publish(job, moment, delay)
            except TableFull as error:
                rejection = _row_missing(error)
        if rejection is not None and self._lifecycle.has_left:
            registry.release_payload(job)  # not taken and not acknowledged: its client sends it to the successor
            client.tied.discard(job)
            return
        registry.jobs[job.id] = job
        if rejection is not None:
            self._durability.acknowledge(client)
            self._dispatcher.reject(job, *rejection)
            return
        unique_until = None
        if unique is not None:
            unique_until = self._unique_keys.give(job, unique, moment)
            job.extras = job.extras._replace(is_unique=True)
        if self._durability.submitted(job, client, delay, expires, unique_until):
            self._dispatcher.submit(job, self._loop.now, delay=delay, expires=expires)

    def admit_many(self, client: ClientLink, submissions: list[Submission]) -> None:
        """Take jobs that a client has submitted together, or none of them; then all are answered with the one reason."""
        self._capacity -= len(submissions)
        jobs, moment = [one.job for one in submissions], wall()
        rejection = self._rejection_of_all(jobs) or self._try_publish(submissions, moment)
        if rejection is not None and self._lifecycle.has_left:
            for job in jobs:
                self._registry.release_payload(job)
                client.tied.discard(job)
            return
        self._registry.jobs.update((job.id, job) for job in jobs)
        if rejection is not None:
            for job in jobs:
                self._durability.acknowledge(client)
                self._dispatcher.reject(job, *rejection)
            return
        for number, (job, delay, expires) in enumerate(submissions, 1):
            is_followed = number < len(jobs)
            may_start = self._durability.submitted(job, client, delay, expires, None, is_followed=is_followed)
            if may_start:
                self._dispatcher.submit(job, self._loop.now, delay=delay, expires=expires)

    def _rejection_of_all(self, jobs: list[SupervisedJob]) -> Rejection | None:
        """Return why one of these jobs, or all together, cannot be taken now."""
        if self._find_capacity() < len(jobs) and self._lifecycle.accepts_jobs:
            waiting = self._dispatcher.queued + self._dispatcher.scheduled
            text = f"pool {self._pool!r} has {waiting} jobs waiting, and max_queued has no room for {len(jobs)} more"
            details = {"queued": waiting, "max_queued": self._max_queued}
            return "QueueFull", text, {**details, "estimated_wait": self._dispatcher.estimated_wait()}
        suspects = [job for job in jobs if job.fd is not None or job.kind.rejection] or jobs[:1]
        return next(filter(None, map(self._rejection, suspects)), None)

    def _try_publish(self, submissions: list[Submission], moment: float) -> Rejection | None:
        """Give each job a row; return why one has none. The others have none either then."""
        for number, (job, delay, _) in enumerate(submissions):
            try:
                self._registry.publish(job, moment, delay)
            except TableFull as error:
                for former in submissions[:number]:
                    self._registry.conceal(former.job)
                return _row_missing(error)
        return None

    def _refer_to(self, holder: bytes, client: Watcher, job: SupervisedJob) -> None:
        """Answer a submission whose key another job has; it is not one."""
        self._registry.release_payload(job)
        client.tied.discard(job)
        self._durability.acknowledge(client)
        held_by = self._registry.jobs.get(holder)
        if held_by is not None and held_by.durable is not None and not held_by.durable.is_committed:
            self._unique_keys.wait_for_decision(holder, client, job.id)
        else:
            client.queue_duplicate(job.id, holder)

    def withdraw_duplicate(self, job: SupervisedJob, holder: bytes) -> None:
        """Withdraw a submission that the store did not take, because another job has its key."""
        self._registry.release_payload(job)
        submitter = job.client
        text = f"{job_name(job)} was not taken: job {to_text(holder)} has its key"
        for client in self._registry.disown(job):
            if client is submitter:
                client.queue_duplicate(job.id, holder)
            else:
                client.queue_frame(failure_frame(job.id, "UnknownJob", text))
        self._tell_decision(job, holder)

    def _tell_decision(self, job: SupervisedJob, holder: bytes) -> None:
        for client, job_id in self._unique_keys.decide(job, holder):
            if not client.closed:
                client.queue_duplicate(job_id, holder)

    def _rejection(self, job: SupervisedJob) -> Rejection | None:
        """Return why a job cannot be taken now, None if it can."""
        fd = job.fd
        if job.kind.rejection:
            return "ConfigurationError", job.kind.rejection, {}
        if not self._lifecycle.accepts_jobs:
            return "PoolClosed", f"pool {self._pool!r} is stopping and takes no more jobs", {}
        if self._find_capacity() <= 0:
            waiting = self._dispatcher.queued + self._dispatcher.scheduled
            text = f"pool {self._pool!r} has {waiting} jobs waiting, as many as max_queued allows"
            details = {"queued": waiting, "max_queued": self._max_queued}
            return "QueueFull", text, {**details, "estimated_wait": self._dispatcher.estimated_wait()}
        rejection = self._durability.rejection(fd)
        if rejection is None and fd is not None and fd > self._max_fds - min(_SPARE_FDS, self._max_fds // 4):
            text = f"pool {self._pool!r} holds {fd} large payloads, as many as open files are allowed"
            rejection = "QueueFull", text, {}
        return rejection

    # From the store ---------------------------------------------------------------------------------------------

    def start(self, job: SupervisedJob) -> None:
        """Let a job begin its life whose submission is in the store now."""
        durable, now = job.durable, self._loop.now
        assert durable is not None
        if job.key:
            self._tell_decision(job, job.id)
        if job.state in FINAL:  # the store had its end already
            self._registry.release_payload(job)
            return
        if self._dispatcher.stopping:
            if self._lifecycle.has_left:
                self._registry.conceal_end(job)
            job.advance(Event.REJECT)
            text = f"{job_name(job)} was not run: the pool was stopped; the store keeps it until it is started again"
            frame = failure_frame(job.id, "PoolClosed", text)
            self._durability.finished(job, Reason.STOPPED, frame, None, text)
            return
        waited = now - durable.submitted_at
        expires = (durable.expires - waited or -1.0) if durable.expires else 0.0
        newest = job.generation.newest()  # its own may have been replaced or ended while it waited
        job.generation = newest if newest in self._dispatcher.generations else self._dispatcher.generations[-1]
        self._dispatcher.submit(job, now, delay=max(durable.delay - waited, 0.0), expires=expires)
        if durable.is_cancelled:
            self._dispatcher.cancel(job, now)

    def take_loaded(self, loaded: LoadedJob) -> None:
        """Take a job that the store has given out. It runs on the newest code that there is."""
        moment = wall()
        problem = ""
        try:
            kind = self._registry.kinds.intern(loaded.description, loaded.function)
        except WireError as error:  # an older version of procjobs, which does not know all of its options
            problem = f"the store has a job that this version of procjobs cannot run: {error}"
            kind = SupervisedKind(0, b"unknown", JobOptions(), function=b"", description=b"{}")
        generation = self._dispatcher.newest_generation()
        assert generation is not None, "jobs are not asked for before there is a generation"
        job = SupervisedJob(loaded.job_id, kind, generation, NO_CLIENT, loaded.inline, loaded.fd)
        self._registry.jobs[job.id] = job
        job.durable = DurableState()
        job.durable.is_committed, job.durable.not_before = True, loaded.not_before
        job.attempt, job.interrupted, job.crashes, job.key = loaded.attempt, loaded.interrupted, loaded.crashes, loaded.key
        job.extras = extras_of(loaded.meta, loaded.retry_of, loaded.schedule, loaded.scheduled_for)
        if loaded.has_checkpoint:
            self._registry.note_checkpoint(job)
        delay = max(loaded.not_before - moment, 0.0) if loaded.not_before else 0.0
        try:
            self._registry.publish(job, loaded.submitted_at, delay)
        except TableFull as error:
            problem = _row_missing(error)[1]
        if problem:
            self._durability.admitted(job, is_due=False)
            self._dispatcher.reject(job, "PayloadError", problem, {})
            return
        self._durability.admitted(job, is_due=not delay)
        if loaded.submitted_at < self._began_at:
            job.effective_priority += 0.5
        expires = (loaded.expires_at - moment or -1.0) if loaded.expires_at and not loaded.attempt else 0.0
        self._dispatcher.submit(job, self._loop.now, delay=delay, expires=expires)
        if loaded.is_cancelled:
            self._dispatcher.cancel(job, self._loop.now)

    def follow_clock(self) -> None:
        """Let the delayed jobs of the store wait for their wall times as they are now, if somebody has set the clock."""
        offset = wall() - self._loop.now
        if abs(offset - self._clock_offset) > _MAX_DRIFT:
            self._dispatcher.reschedule(lambda job: _due_at(job, offset))
            self._clock_offset = offset

    def drop_fenced(self, job: SupervisedJob) -> None:
        """Kill the run of a job that the store has as another supervisor's, or let it wait no longer."""
        if job.state not in FINAL:
            self._dispatcher.cancel(job, self._loop.now, at_once=True)

    # Cancelling -------------------------------------------------------------------------------------------------

    def cancel(self, job: SupervisedJob) -> bool:
        """Cancel a job; one that waits for its commit is cancelled after it, so that the store has it as cancelled."""
        durable = job.durable
        if durable is not None and not durable.is_committed and job.state not in FINAL:
            durable.is_cancelled = True
            return True
        return self._dispatcher.cancel(job, self._loop.now)

    def cancel_waiting(self, client: ClientLink) -> int:
        """Cancel the jobs of a client that do not run yet; return how many there were."""
        jobs = [job for job in self._registry.jobs.values() if job.client is client and job.state not in FINAL]
        return sum(self.cancel(job) for job in jobs if job.state is not JobState.RUNNING)


def _due_at(job: Job, clock_offset: float) -> float | None:
    """Return the monotonic time at which a job from the store may start, None for one that has no such wall time."""
    if not isinstance(job, SupervisedJob) or job.durable is None or job.state is not JobState.SCHEDULED:
        return None
    return job.durable.not_before - clock_offset if job.durable.not_before else None


def _row_missing(error: TableFull) -> Rejection:
    return "QueueFull", f"the pool cannot record another job: {error}", {}
