"""The jobs that the supervisor knows, by id: their kinds, rows in the shared table, watchers and answers.

1. A job is here from its submission (or from when the store gave it out) until its answer is evicted.
2. It alone writes the states of jobs into the shared table; `publish_...` is the name of what does.
3. Clients are known as `Watcher` alone, and a job's answer goes to each of its watchers once.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from procjobs.clock import wall
from procjobs.dispatch.ports import Account
from procjobs.errors import ConfigurationError
from procjobs.shared import checkpoints, wire
from procjobs.shared.config import JOB_OPTION_NAMES, JobOptions, PoolSettings
from procjobs.shared.queues import refuse_queue
from procjobs.shared.states import FINAL, JobState, Reason
from procjobs.shared.table.state_writer import NO_REPORT, TableFull, TableWriter
from procjobs.shared.wire import U32, WireError
from procjobs.supervisor.attempts import attempt_that_failed
from procjobs.supervisor.job import NO_CLIENT, SupervisedJob, SupervisedKind
from procjobs.supervisor.results import KeptTranscripts, ResultStore
from procjobs.supervisor.stack_text import without_own_frames

if TYPE_CHECKING:
    from procjobs.supervisor.failure_log import FailureLog
    from procjobs.supervisor.job import Watcher
    from procjobs.supervisor.kept_calls import KeptCalls
    from procjobs.supervisor.kind_counters import KindCounters
    from procjobs.supervisor.pending_hooks import PendingHooks

_MAX_NAME_BYTES: Final = 63
# To look up a member of an enum costs 40 ns.
_QUEUED, _SCHEDULED, _SUCCEEDED = JobState.QUEUED, JobState.SCHEDULED, JobState.SUCCEEDED


class Kinds:
    """The kinds of jobs of all clients. Clients that describe the same kind share one."""

    def __init__(self, pool: str, settings: PoolSettings, counters: KindCounters, *, are_recorded: bool) -> None:
        """`counters` count their jobs. `are_recorded`: a store wants to know what these use."""
        self.counters = counters
        self._pool = pool
        self._queues = settings.queues
        self._are_recorded = are_recorded
        self._known: WeakValueDictionary[bytes, SupervisedKind] = WeakValueDictionary()
        self._count = 0

    def intern(self, text: bytes, function: bytes, caller: bytes = b"") -> SupervisedKind:
        """Return the kind that a client describes; raise WireError for a description that makes no sense.

        `caller` is what its workers are to know of the client. The kind has it, and no store gets it.
        """
        key = U32.pack(len(text)) + text + U32.pack(len(function)) + function + caller
        kind = self._known.get(key)
        if kind is None:
            kind = self._known[key] = self._make(text, function, caller)
        return kind

    def _make(self, text: bytes, function: bytes, caller: bytes) -> SupervisedKind:
        description = wire.parse_json(text)
        name, options = description.get("name"), description.get("options")
        if not isinstance(name, str) or not isinstance(options, dict) or not options.keys() <= JOB_OPTION_NAMES:
            raise WireError("a KIND without name or with unknown options")
        try:
            checked = JobOptions(**options).validated()
        except ConfigurationError as error:
            raise WireError(f"a KIND with bad options: {error}") from None
        self._count += 1
        label = _short_name(name)
        kind = SupervisedKind(
            self._count, label, checked, function=function, description=text, tally=self.counters.of(label)
        )
        kind.caller = caller
        kind.is_recorded = self._are_recorded
        if checked.queue is not None:
            kind.rejection = refuse_queue(checked.queue, self._queues, self._pool)
        return kind


class Registry:
    """Every job that has a row or an answer. `has_answers` says that clients have answers to be sent."""

    def __init__(
        self, table: TableWriter, results: ResultStore, kinds: Kinds, failures: FailureLog, calls: KeptCalls,
        hooks: PendingHooks,
    ) -> None:
        self.table = table
        self.kinds = kinds
        self._failures = failures
        self.hooks = hooks
        self.jobs: dict[bytes, SupervisedJob] = {}
        self.has_answers = False
        self._results = results
        self._transcripts = KeptTranscripts()
        self.calls = calls
        self._spent_fds: list[int] = []
        self._ended_runs: list[tuple[SupervisedJob, str]] = []

    # Rows of the table ------------------------------------------------------------------------------------------

    def publish(self, job: SupervisedJob, submitted_at: float, delay: float) -> None:
        """Show a new job in the table, making room if need be; raise TableFull. `submitted_at` is Unix time."""
        table = self.table
        try:
            job.row = table.allocate(job.id)
        except TableFull:
            oldest = self._results.pop_oldest()
            if oldest is None:
                raise
            self._forget(oldest)
            job.row = table.allocate(job.id)
        state = _SCHEDULED if delay > 0 else _QUEUED
        queue = job.kind.options.queue
        if job.key or queue:
            job.extras = job.extras._replace(queue=(queue or "").encode(), key=job.key)
        is_in_line = not (delay > 0 or job.key or queue)
        try:
            table.publish(
                job.row, job.id, state, job.attempt, submitted_at, job.kind.name, job.extras, is_in_line=is_in_line
            )
        except TableFull:
            job.row = 0
            raise

    def conceal(self, job: SupervisedJob) -> None:
        """Take a new job out of the table: it is not taken after all."""
        self.table.release(job.row)
        job.row = 0

    def publish_queued(self, job: SupervisedJob) -> None:
        """Show that the time of a delayed job has come."""
        if job.row:
            self.table.write_state(job.row, job.state, Reason.NONE, job.attempt, 0.0, "")

    def publish_retrying(self, job: SupervisedJob, reason: Reason, error: str, details: bytes) -> None:
        """Show that an attempt failed and another one follows. The job's standard error begins anew with that."""
        if job.row:
            self._note_failure(job, reason, error, details)
            self.table.write_state(job.row, job.state, reason, job.attempt, 0.0, error)
        job.kind.tally.count_retry()
        if job.transcript is not None:
            job.transcript.begin_attempt()

    def has_begun(self, job: SupervisedJob) -> bool:
        """Return whether a worker has marked in the table that it began this attempt of the job."""
        return self.table.has_begun(job.row, job.id, job.attempt)

    def account(self, job: SupervisedJob) -> Account:
        """Return the facts that are known of the attempt that has just ended."""
        report = self.table.last_report(job.row, job.id) if job.row else NO_REPORT
        stderr = without_own_frames(job.transcript.stderr.text()) if job.transcript is not None else ""
        return Account(report.started_at, wall(), report.progress, stderr, report.worker, report.worker_pid)

    def _note_failure(self, job: SupervisedJob, reason: Reason, error: str, details: bytes) -> None:
        """Keep an attempt that has failed for readers by id. It is noted once: a job may be cancelled after it."""
        attempt = attempt_that_failed(job, reason, error, details, self.account)
        if attempt is not None:
            job.extras = self.table.add_failure(job.row, job.id, job.extras, attempt)

    # Answers ----------------------------------------------------------------------------------------------------

    def release_payload(self, job: SupervisedJob) -> None:
        """Let go of the arguments of a job that runs no more, or keep them so that it can be repeated, and its output.

        Not part of `finish`: the events of a durable job may still refer to its descriptor.
        """
        if job.state is _SUCCEEDED or not self.calls.keep(job):
            if job.fd is not None:
                self._spent_fds.append(job.fd)
                job.fd = None
            job.inline = b""
            self._drop_checkpoint(job)
        if job.transcript is not None:
            self._transcripts.keep(job)

    def note_checkpoint(self, job: SupervisedJob) -> None:
        """Note that a job has a checkpoint, or is about to."""
        if not job.extras.has_checkpoint:
            job.extras = job.extras._replace(has_checkpoint=True)

    def save_checkpoint(self, job_id: bytes, data: bytes) -> bool:
        """Keep a checkpoint that comes from elsewhere; return False where there is no room, and the job begins anew."""
        try:
            checkpoints.save(self.table.directory, job_id, data)
        except OSError:
            return False
        return True

    def copy_checkpoint(self, job: SupervisedJob, source: SupervisedJob) -> None:
        """Let a job begin with the checkpoint of another one."""
        has_one = source.extras.has_checkpoint and checkpoints.try_copy(self.table.directory, job.id, source.id)
        job.extras = job.extras._replace(has_checkpoint=has_one)

    def load_checkpoint(self, job: SupervisedJob) -> bytes | None:
        """Return a job's checkpoint, None if it has none."""
        return checkpoints.load(self.table.directory, job.id) if job.extras.has_checkpoint else None

    def _drop_checkpoint(self, job: SupervisedJob) -> None:
        if job.extras.has_checkpoint:
            job.extras = job.extras._replace(has_checkpoint=False)
            checkpoints.drop(self.table.directory, job.id)

    def finish(self, job: SupervisedJob, reason: Reason, frame: bytes, fd: int | None, error: str, now: float) -> None:
        """Keep the answer of a job, show its end in the table, and pass the answer to every client that waits for it."""
        if job.row:
            if reason and job.attempt:
                self._note_failure(job, reason, error, wire.parse_finished(frame).details)
            self.table.write_state(job.row, job.state, reason, job.attempt, wall(), error)
        if not reason:
            job.kind.tally.count_success()
        else:
            self._tell_of_failure(job, reason, frame, error, now)
        self._results.keep(job, frame, fd, now)
        self.has_answers = True
        if job.extras.schedule:
            self._ended_runs.append((job, error))
        client, watchers = job.client, job.watchers
        job.client = NO_CLIENT
        if not client.closed:
            client.queue_answer(job)
            if client.tied:
                client.tied.discard(job)
        if watchers is not None:
            job.watchers = None
            for watcher in watchers:
                if not watcher.closed:
                    watcher.queue_answer(job)
                    watcher.tied.discard(job)

    def _tell_of_failure(self, job: SupervisedJob, reason: Reason, frame: bytes, error: str, now: float) -> None:
        if job.state in FINAL and not _goes_on(job):
            job.kind.tally.count_end(job.state)
            self._failures.write(job, reason, frame, error, now)
            self.hooks.add(job, reason, frame, error, self.table)

    def take_ended_runs(self) -> list[tuple[SupervisedJob, str]]:
        """Return the jobs of schedules that have ended since this was called last, each with its error."""
        ended = self._ended_runs
        if ended:
            self._ended_runs = []
        return ended

    def disown(self, job: SupervisedJob) -> list[Watcher]:
        """Forget a job that has no answer here; return the clients that wait for one."""
        clients = [client for client in [job.client, *(job.watchers or ())] if not client.closed]
        for client in clients:
            client.tied.discard(job)
        job.client, job.watchers = NO_CLIENT, None
        self._forget(job)
        return clients

    def conceal_end(self, job: SupervisedJob) -> None:
        """Let nobody learn how a job ends here, since it goes on elsewhere: its row stays as it is, its clients wait on."""
        for client in [job.client, *(job.watchers or ())]:
            client.tied.discard(job)
        job.client, job.watchers, job.row = NO_CLIENT, None, 0

    def watch(self, watcher: Watcher, job: SupervisedJob) -> None:
        """Let a client have the answer of a job, now or when there is one."""
        if job.state in FINAL and job.answer is not None:
            watcher.queue_answer(job)
            return
        if job.kind.options.cancel_on_disconnect:
            watcher.tied.add(job)
        if job.watchers is None:
            job.watchers = [watcher]
        else:
            job.watchers.append(watcher)

    # Time -------------------------------------------------------------------------------------------------------

    def next_deadline(self, now: float) -> float:
        """Return when an answer is to be moved, evicted or sent."""
        if self.has_answers:
            return now
        return min(
            self._results.next_deadline(), self._failures.next_deadline(), self.kinds.counters.next_deadline()
        )

    def advance(self, now: float) -> None:
        """Forget the jobs whose answers have been kept long enough; move some of those that fill the memory."""
        while (job := self._results.pop_expired(now)) is not None:
            self._forget(job)
        self._results.spill_some()
        self._failures.advance(now)
        self.kinds.counters.advance(now)

    def close_spent_fds(self) -> None:
        """Close the arguments of ended jobs, after their answers went out: to free 100 MB of memory takes 6 ms."""
        while self._spent_fds:
            os.close(self._spent_fds.pop())

    def _forget(self, job: SupervisedJob) -> None:
        del self.jobs[job.id]
        self.calls.drop(job)
        self._drop_checkpoint(job)
        if job.transcript is not None:
            self._transcripts.drop(job)
        if job.row:
            self.table.release(job.row)

    def close(self) -> None:
        """Drop every answer, and the table."""
        self._failures.close()
        self.kinds.counters.close()
        self.close_spent_fds()
        self._results.close()
        self.calls.close()
        self.table.close()


def _goes_on(job: SupervisedJob) -> bool:
    """Return whether a job that has ended here is kept by the store, for the next start of the pool."""
    return job.durable is not None and job.durable.is_freed


def _short_name(name: str) -> bytes:
    """Return the end of a name, in UTF-8, as far as it fits into a row of the table."""
    text = name.encode(errors="replace")
    return text if len(text) <= _MAX_NAME_BYTES else "…".encode() + text[-57:].decode(errors="ignore").encode()
