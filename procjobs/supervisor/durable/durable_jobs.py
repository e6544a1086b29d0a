"""Durable jobs, as the supervisor sees them: what its recorder has been told, and what waits for a commit.

1. The supervisor never waits for the database: what it has to say is kept here until it is said to be committed, and sent
   again to another recorder if this one dies.
2. A job is acknowledged, and may start, only after the commit of its submission. So what the store does not know has
   never run: a client can send again whatever was not acknowledged, and nothing runs twice. To start at once would hide
   the wait for one commit, and leave, after a kill, runs that nobody has counted.
3. An answer goes out, and shows in the table, only after the commit of the end: what a client has seen does not happen
   again.
4. Starts are told after 5 ms, and not waited for. Those that die on their way are found in the table that the killed
   supervisor has left, where workers mark what they begin; only the host's own end can lose the few that were under way.
5. What waits here is bounded: submissions are refused, and no more jobs are started, when the store is too far behind.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from procjobs.clock import NEVER, wall
from procjobs.dispatch.failures import job_name
from procjobs.host import process
from procjobs.host.loop import READ, WRITE, Loop
from procjobs.shared import wire
from procjobs.shared.ids import to_text
from procjobs.shared.recorder_wire import (
    MAX_STORED_BYTES,
    WINDOW,
    End,
    Event,
    Free,
    Load,
    Open,
    RecorderFrame,
    Retry,
    Start,
    Submit,
    Sweep,
    pack_batch,
)
from procjobs.shared.states import FINAL, JobState, Reason
from procjobs.shared.states import Event as Change
from procjobs.shared.wire import BODY, U64, Finished, WireError, limit_text
from procjobs.supervisor.durable.recorder_link import RecorderLink
from procjobs.supervisor.durable.stored_jobs import Durable, StoredJobs, verdict_frame
from procjobs.supervisor.durable.uncommitted import Backlog, Ended, Wait

if TYPE_CHECKING:
    from procjobs.dispatch.model import Job
    from procjobs.supervisor.clients.client_link import ClientLink
    from procjobs.supervisor.clients.requests import ClientDesk
    from procjobs.supervisor.supervisor import Supervisor

_MAX_BEHIND: Final = 1000
"""The submissions that may wait for a database that cannot be reached."""
_MAX_BYTES: Final = 256 * 2**20
"""What payloads and answers may take together while they wait for a commit."""
_MAX_ENDS: Final = 5000
"""The answers that may wait for a commit before no more jobs are started."""
_SILENCE_SECONDS: Final = 10.0
"""How long a recorder may say nothing about what it was sent, before that is told: its database may hang."""
_START_SECONDS: Final = 0.005
_UNTOLD: Final = 0.0, None
_SHORTEST_LIFE: Final = 1.0
_RESTART_PAUSE: Final = 1.0
_END_SECONDS: Final = 6.0
"""How long a recorder may take to end: longer than it tries to reach a database that is away."""
_MAX_LOADED: Final = 5000
"""About how many jobs that wait in the store are in memory, too."""
_LOOK_SECONDS: Final = 60.0
"""How long a time is waited for at most before it is looked up again: the clock by which it was told may be set."""


class RecorderSource:
    """What the loop hands out when a recorder has said something, or takes more."""

    __slots__ = ()


class Recording:
    """What is told to the recorder, and what happens when it is committed."""

    def __init__(self, supervisor: Supervisor, loop: Loop, desk: ClientDesk, begun: dict[str, int]) -> None:
        self._supervisor = supervisor
        self._loop = loop
        self._desk = desk
        self._begun = begun
        self._owner = os.urandom(16).hex()
        self._link: RecorderLink | None = None
        self._is_first = True
        self._backlog = Backlog()
        self._acknowledgements: deque[tuple[int, ClientLink]] = deque()
        self.stored = StoredJobs(supervisor, desk, self._ask)
        self._starts: dict[Job, tuple[float, Start]] = {}
        self.last_answer: Finished | None = None  # what a worker has said of its attempt, which may be retried
        self._started_at = self._starts_at = 0.0
        self._heard_at = 0.0
        self._is_open = False
        self._loads_at = 0.0  # when a job that waits in the store may run, as far as is known
        self._is_loading = self._is_abandoned = False
        self._said_problem = ""
        self._unavailable_since = wall()
        self.problem = "it has not been opened yet"
        self._shown = ""

    # What is told ---------------------------------------------------------------------------------------------

    def submitted(self, client: ClientLink, job: Job, delay: float, expires: float) -> None:
        """Take a submission; it is acknowledged and may start when it is committed."""
        now, moment = self._supervisor.now, wall()
        job.durable = Durable(delay=delay, expires=expires, submitted_at=now)
        not_before = moment + delay if delay > 0 else 0.0
        expires_at = moment + expires if expires else 0.0
        has_descriptor = job.fd is not None
        event = Submit(
            job.id, job.kind.number, job.inline, has_descriptor, moment, not_before, expires_at, job.key,
            self._supervisor.unique_keys.settle(job, moment),
        )  # fmt: skip
        size = len(job.inline) + (os.fstat(job.fd).st_size if job.fd is not None else 0)
        self._backlog.append((event, job.fd, job.kind, Wait.SUBMISSION, job, size))
        self._acknowledgements.append((self._backlog.last_number, client))

    def acknowledge_in_turn(self, client: ClientLink) -> None:
        """Acknowledge a submission that needs no commit, once those before it are acknowledged."""
        if not self._acknowledgements:
            client.accepted += 1
        else:
            self._acknowledgements.append((self._acknowledgements[-1][0], client))

    def started(self, job: Job, worker: int, pid: int) -> None:
        """Note that a job was given to a worker. It is told in a moment, if the job has not ended, or been taken back."""
        self.stored.count_out(job)
        self._starts.pop(job, None)
        self._starts[job] = self._supervisor.now, Start(job.id, job.attempt, worker, pid, wall())

    def _tell_starts(self, now: float) -> None:
        """Tell of the jobs that have been running for a moment: most have ended by then, and their end says it all."""
        while self._starts:
            job, (started_at, event) = next(iter(self._starts.items()))
            if started_at + _START_SECONDS > now:
                return
            del self._starts[job]
            if job.state is JobState.RUNNING and job.attempt == event.attempt:
                self._ask(event)

    def retried(self, job: Job, not_before: float) -> None:
        """Note that an attempt failed and another one follows."""
        account = {**self._account(job), "crashes": job.crashes}
        answer = self.last_answer
        if answer is not None and (answer.job_id, answer.attempt) == (job.id, job.attempt):
            account["details"] = answer.details
        self._backlog.append((Retry(job.id, job.attempt, account, not_before), None, None, Wait.NOTHING, None, 0))

    def ended(self, job: Job, reason: Reason, frame: bytes, fd: int | None, error: str) -> None:
        """Take an answer, which goes out when it is committed; that of a job which is only given back to the store, too."""
        self.stored.count_out(job)
        ended = Ended(job, reason, frame, fd, error)
        if reason is Reason.STOPPED:
            account = self._account(job) if _was_cut_off(job) else None
            self._backlog.append((Free(job.id, job.attempt, account), None, None, Wait.ANSWER, ended, len(frame)))
            return
        size = os.fstat(fd).st_size if fd is not None else 0
        kept_frame, kept_fd = (frame, fd) if size <= MAX_STORED_BYTES else (_too_large(job.id, size), None)
        account = self._account(job)
        event = End(
            job.id, job.attempt, int(job.state), int(reason), kept_frame, kept_fd is not None, wall(), error,
            account,
        )  # fmt: skip
        self._backlog.append((event, kept_fd, None, Wait.ANSWER, ended, len(frame) + size))

    def _account(self, job: Job) -> dict[str, Any]:
        """Return what is known of the attempt that has ended, by the names of the store's columns."""
        account: dict[str, Any] = {}
        _, start = self._starts.pop(job, _UNTOLD)
        if start is not None and start.attempt == job.attempt:
            account |= {"worker": start.worker, "worker_pid": start.pid, "started_at": start.time}
        if job.transcript is not None:
            account["log"] = limit_text(job.transcript.text_of_attempt(), 8192)
        if job.row:
            progress = self._supervisor.table.last_report(job.row, job.id)[1]
            if progress is not None:
                account["progress"] = progress
        if job.history and (last := job.history[-1])["attempt"] == job.attempt:
            account |= {name: last[name] for name in ("error", "ended_at", "signal", "exit_code")}
            account["started_at"] = last["started_at"] or account.get("started_at")
            account["outcome"] = last["reason"] or "failed"
        return account

    def sweep(self) -> None:
        """Look into the outbox: a transaction has just left something there."""
        self._ask(Sweep())

    def _ask(self, question: Event) -> None:
        self._backlog.append((question, None, None, Wait.NOTHING, None, 0))

    # What is asked --------------------------------------------------------------------------------------------

    def refusal(self, fd: int | None) -> tuple[str, str, dict[str, Any]] | None:
        """Return why no job can be taken now, None if one can."""
        if fd is not None and (size := os.fstat(fd).st_size) > MAX_STORED_BYTES:
            text = (
                f"the arguments of this job, of {size} bytes, are larger than what the store keeps ({MAX_STORED_BYTES} "
                "bytes). Write them to a file, and give the job its path"
            )
            return "PayloadError", text, {}
        is_far_behind = bool(self.problem) and self.uncommitted >= _MAX_BEHIND
        if not is_far_behind and self._backlog.bytes < _MAX_BYTES:
            return None
        why = self.describe() or "it is slow"
        text = (
            f"the store of pool {self._supervisor.name!r} is behind: {self.uncommitted} submissions wait for it already "
            f"({why}). Try again later"
        )
        return "StoreUnavailable", text, {}

    def describe(self) -> str:
        """Return the state of the store for people, empty when it can be written."""
        if not self.problem:
            return ""
        return f"unavailable since {_time_text(self._unavailable_since)}: {self.problem}"

    @property
    def uncommitted(self) -> int:
        """How many submissions wait for their commit."""
        return self._backlog.submissions

    @property
    def is_settled(self) -> bool:
        """Whether everything is committed, and no job is known to wait in the store alone."""
        return not self._backlog.entries and not (self._loads_at < NEVER and self._is_open)

    @property
    def is_quiet(self) -> bool:
        """Whether everything is committed, or nobody waits for it any more."""
        return not self._backlog.entries or self._is_abandoned

    @property
    def is_too_far_behind(self) -> bool:
        """Whether no more jobs should start, since their answers could not be kept."""
        return self._backlog.answers >= _MAX_ENDS or self._backlog.bytes >= _MAX_BYTES

    # The process ------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return when something is to be done."""
        if self._link is None:
            return self._starts_at
        if self._starts:
            return next(iter(self._starts.values()))[0] + _START_SECONDS
        loads_at = self._loads_at if self._loads_at > self._loop.now else NEVER  # else there was no room for them
        return min(loads_at, self._heard_at + _SILENCE_SECONDS if self._backlog.entries and not self.problem else NEVER)

    def advance(self, now: float) -> None:
        """Start a recorder that is missing, ask for jobs, send what there is to be said."""
        if self._link is None and self._starts_at <= now:
            self._start(now)
        if not self._backlog.entries:
            self._heard_at = now
        elif not self.problem and self._heard_at + _SILENCE_SECONDS <= now:
            self._set_problem(f"the recorder has said nothing for {_SILENCE_SECONDS:g} s: the database hangs")
        self._tell_starts(now)
        self._load_more()
        self._send_more()
        self._show()

    def _start(self, now: float) -> None:
        self._started_at = now
        self._starts_at = now + _RESTART_PAUSE
        try:
            self._link = link = RecorderLink(self._loop, RecorderSource())
        except (OSError, ValueError) as error:
            self._set_problem(f"its recorder could not be started: {error}")
            return
        settings = self._supervisor.settings
        known = [] if self._is_first else list(self._desk.jobs)
        store = str(settings.store or "")
        opening = Open(
            store, self._supervisor.store_name, self._owner, settings.result_ttl, settings.history_ttl,
            settings.history_limit, self._is_first, known, self._begun,
        )  # fmt: skip
        self._is_open = False
        self._backlog.begin_anew()
        self._heard_at = now
        link.send(pack_batch([opening], 0), None)

    def on_exit(self, how: process.Exit) -> bool:
        """Note the end of a process; return whether it was the recorder, which is started again."""
        if self._link is None or self._link.pid != how.pid:
            return False
        self._supervisor.write_log(f"the recorder (pid {how.pid}) has ended: signal {how.signal}, exit code {how.code}")
        self._drop_link()
        if self._loop.now - self._started_at < _SHORTEST_LIFE:
            self._starts_at = self._loop.now + _RESTART_PAUSE
            self._set_problem(f"its recorder ends as soon as it is started (exit code {how.code}); see the pool's log")
        else:
            self._starts_at = self._loop.now
        return True

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def pids(self) -> set[int]:
        """Return the pid of the recorder."""
        return set() if self._link is None else {self._link.pid}

    def abandon(self) -> None:
        """Answer what waits for a commit that does not come before the pool ends; it is still written if that can be."""
        self._is_abandoned = True
        for job in self._backlog.abandon():
            if job.answer is not None:
                continue
            text = (
                f"{job_name(job)} was not answered when the pool was stopped, for its store is {self.describe() or 'slow'}; "
                "if the store has it, it runs when the pool is started again"
            )
            self._supervisor.answer(job, Reason.STOPPED, verdict_frame(job.id, "PoolClosed", text), None, text)

    def close(self) -> None:
        """Let the recorder write what it has, and end."""
        link = self._link
        if link is not None:
            self._send_more()
            self._drop_link()
            if not process.wait_for_child(link.pid, _END_SECONDS):
                process.kill_process(link.pid, 9)
                process.wait_for_child(link.pid, _END_SECONDS)
        self._backlog.close()

    # Out ------------------------------------------------------------------------------------------------------

    def _load_more(self) -> None:
        """Ask for jobs that wait in the store, as many as there is room for in memory.

        What clients have submitted since takes no room from those, which are older. Nor do those that wait here for a time,
        or many for the limits of their queue, unless they are more than clients may submit. Of such a queue no more are
        asked for.
        """
        dispatcher, max_queued = self._supervisor.dispatcher, self._supervisor.settings.max_queued
        if self._is_loading or self._loads_at > self._loop.now or not self._is_open or not dispatcher.generations:
            return
        most, scheduled = min(max_queued, _MAX_LOADED), dispatcher.scheduled
        crowded = dispatcher.crowded_queues(max(most // 4, 1))
        aside = scheduled + sum(crowded.values())
        loaded = self.stored.waiting
        waiting = loaded.total() - sum(loaded[queue] for queue in crowded) + max(aside - max_queued, 0)
        if waiting <= most // 2 and not dispatcher.stopping:
            self._is_loading = True
            self._ask(Load(most - waiting, max(most - scheduled, 0), list(crowded)))

    def _send_more(self) -> None:
        link = self._link
        while link is not None and not link.stream.ended and not link.rest and (batch := self._backlog.next_batch()):
            link.send(*batch)

    # In -------------------------------------------------------------------------------------------------------

    def read(self, _source: RecorderSource, events: int) -> None:
        """Act on what the recorder has said; nonsense ends that process, and another one is started."""
        link = self._link
        if link is None:
            return
        if events & WRITE:
            link.flush()
        if not events & READ or link.stream.ended:
            return
        try:
            for kind, raw, fd in link.stream.read():
                self._act_on(kind, raw, fd)
        except (WireError, LookupError, TypeError, ValueError, struct.error) as error:
            self._supervisor.write_log(f"the recorder is killed: it sent nonsense: {error!r}")
            process.kill_process(link.pid, 9)
            link.stream.ended = True
        if link.stream.ended:
            self._loop.remove(link.socket.fileno())  # its end is noticed by SIGCHLD

    def _act_on(self, kind: int, raw: bytes, fd: int | None) -> None:
        self._heard_at = self._loop.now
        if self.stored.take(kind, raw, fd):
            return
        if kind == RecorderFrame.COMMITTED:
            self._on_committed(U64.unpack_from(raw, BODY)[0])
        elif kind == RecorderFrame.STATE:
            self._on_state(str(wire.parse_json(raw[BODY:])["problem"]))
        elif kind == RecorderFrame.WINDOW:
            (seconds,) = WINDOW.unpack_from(raw, BODY)
            self._loads_at = self._loop.now + (NEVER if seconds == NEVER else min(seconds, _LOOK_SECONDS))
            self._is_loading = False
        else:
            raise WireError(f"an unknown frame of kind {kind}")

    def _on_state(self, problem: str) -> None:
        if not problem and not self._is_open:
            self._is_open = True
            self._is_first = False
            self._begun = {}
            self._supervisor.forget_begun()
        self._set_problem(problem)

    def _set_problem(self, problem: str) -> None:
        if problem == self._said_problem and bool(problem) == bool(self.problem):
            return
        self._said_problem = problem
        if problem and not self.problem:
            self._unavailable_since = wall()
        self.problem = problem
        told = f"the store is {self.describe()}" if problem else "the store can be written"
        self._supervisor.write_log(told)

    def _show(self) -> None:
        shown = self.describe() or "available"
        if shown != self._shown:
            self._shown = shown
            self._supervisor.table.write_store(shown)

    def _on_committed(self, number: int) -> None:
        now = self._supervisor.now
        for wait, subject in self._backlog.take_committed(number):
            if wait is Wait.SUBMISSION:
                self._admit(subject, now)  # type: ignore[arg-type]
            elif wait is Wait.ANSWER:
                self._supervisor.answer(*subject)  # type: ignore[misc]
        waiting = self._acknowledgements
        while waiting and waiting[0][0] <= number:
            waiting.popleft()[1].accepted += 1
        if self.problem:
            self._set_problem("")

    def _admit(self, job: Job, now: float) -> None:
        """Let a job begin its life that is in the store now."""
        durable = job.durable
        assert durable is not None
        durable.is_committed = True
        if job.state in FINAL:
            return
        if self._supervisor.dispatcher.stopping:
            job.advance(Change.REJECT)
            text = f"job {to_text(job.id)} was not run: the pool was stopped; the store keeps it until it is started again"
            self.ended(job, Reason.STOPPED, verdict_frame(job.id, "PoolClosed", text), None, text)
            return
        waited = now - durable.submitted_at
        expires = (durable.expires - waited or -1.0) if durable.expires else 0.0
        job.generation = self._generation_for(job)
        self._supervisor.dispatcher.submit(job, now, delay=max(durable.delay - waited, 0.0), expires=expires)
        if durable.is_cancelled:
            self._supervisor.dispatcher.cancel(job, now)

    def _generation_for(self, job: Job) -> Any:
        """Return the generation of a job, or the newest one: while it waited, its own may have been replaced or ended."""
        generation = job.generation
        while generation.successor is not None:
            generation = generation.successor
        generations = self._supervisor.dispatcher.generations
        return generation if generation in generations else generations[-1]


def _was_cut_off(job: Job) -> bool:
    """Return whether a job that is given back was running, and did not wait: for its first start, or for another one."""
    last = job.history[-1] if job.history else {"attempt": 0, "reason": ""}
    return last["attempt"] == job.attempt and last["reason"] == Reason.STOPPED.text


def _too_large(job_id: bytes, size: int) -> bytes:
    text = (
        f"the result of job {to_text(job_id)}, of {size} bytes, is larger than what the store keeps ({MAX_STORED_BYTES} "
        "bytes). Let the job write it to a file, and return the path"
    )
    return verdict_frame(job_id, "UnknownJob", text)


def _time_text(moment: float) -> str:
    import datetime as dt

    return dt.datetime.fromtimestamp(moment).astimezone().isoformat(" ", "seconds")
