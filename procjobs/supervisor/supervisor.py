"""The supervisor process of a pool.

1. It has one thread and one loop, and only `Loop.wait` blocks.
2. It never runs users' code and never unpickles; payloads pass through as bytes and descriptors.
3. It trusts no byte it reads: a link that sends nonsense is closed, and nobody else notices.
4. It alone writes the states of jobs and workers into the shared table.
5. It is the parent of every worker and the subreaper of everything they start: what a dead worker leaves running is ended.
6. Deadlines are monotonic. If it was itself away at a deadline (stopped, suspended), it pushes them back.
7. When it has stopped, nothing of the pool is left: no process, no file.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from procjobs.clock import NEVER, wall
from procjobs.dispatch.dispatcher import Dispatcher
from procjobs.dispatch.model import Job, SlotState
from procjobs.host import process, rundir
from procjobs.host.loop import READ, WRITE, Loop
from procjobs.shared import wire
from procjobs.shared.config import MAX_SLOTS, PoolSettings
from procjobs.shared.states import JobState, Reason
from procjobs.shared.store_address import store_name
from procjobs.shared.table.state_writer import TableFull, TableWriter
from procjobs.shared.wire import Frame, WireError
from procjobs.supervisor.clients.client_link import ClientLink
from procjobs.supervisor.clients.requests import ClientDesk, newest_generation
from procjobs.supervisor.clients.unique_keys import UniqueKeys
from procjobs.supervisor.durable import started_attempts as begun
from procjobs.supervisor.log import Log
from procjobs.supervisor.publisher import Publisher
from procjobs.supervisor.results import MAX_KEPT, ResultStore
from procjobs.supervisor.workers.output import Console, OutputSource
from procjobs.supervisor.workers.processes import AnswerSource, Crew
from procjobs.supervisor.workers.stacks import StackSource
from procjobs.supervisor.workers.templates import Templates

if TYPE_CHECKING:
    from procjobs.supervisor.durable.durable_jobs import Recording

_ABSENCE_SECONDS: Final = 0.25
"""Waking later than this after a deadline means that the supervisor was not there, not that the host was busy."""
_ACCEPT_PAUSE: Final = 0.25
_ACKNOWLEDGE_SECONDS: Final = 0.005
"""How long an acknowledgement waits for an answer that it can go with."""
_MAX_WAITING: Final = 50_000
"""The answers that may wait for a client before it is not read any further."""
_STORE_FAREWELL_SECONDS: Final = 5.0
"""How long it waits for the database to take what has happened last."""
_FAREWELL_SECONDS: Final = 1.0
"""How long a stopping supervisor waits for clients to take their last answers."""


class Supervisor:
    """Owns the loop, the clients and the table of one pool; its workers are the Crew's, its rules the Dispatcher's."""

    def __init__(
        self,
        directory: rundir.RunDir,
        settings: PoolSettings,
        *,
        owner_pid: int | None,
        log: Log,
        listener: socket.socket,
        in_foreground: bool = False,
        begun: dict[str, int] | None = None,
    ) -> None:
        """`begun`: the attempts that workers of a killed supervisor had begun, for the store to count."""
        self.name = directory.name
        self._directory = directory
        self.settings = settings
        self._log = log
        self._loop = Loop(signals=(signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        self._is_private = owner_pid is not None
        self._console = self._open_console(in_foreground=in_foreground)
        rows = settings.max_queued + MAX_SLOTS * 16 + MAX_KEPT
        self.table = TableWriter(directory.table, rows=rows, started_at=wall())
        self._max_fds = process.raise_descriptor_limit()
        self._results = ResultStore(directory.path, settings, max_fds=max(self._max_fds // 8, 16))
        self.crew = Crew(self._loop, self.table, log, None if in_foreground else self._console, self.deliver)
        self.crew.surroundings.pool = None if self._is_private else self.name
        self.dispatcher = Dispatcher(self.crew, settings)
        self.templates = Templates(self._loop, directory, self.table, settings, self.crew.mark, log)
        self._publisher = Publisher(self.table, self.dispatcher)
        self.crew.dispatcher = self.templates.dispatcher = self.dispatcher
        self.crew.templates, self.crew.publisher, self.templates.crew = self.templates, self._publisher, self.crew
        self._desk = ClientDesk(self)
        self.unique_keys = UniqueKeys(self, self._desk)
        self._listener = listener
        self._clients: set[ClientLink] = set()
        self._spent_fds: list[int] = []
        self._owner = None if owner_pid is None else process.try_open_pidfd(owner_pid)
        self._accepting = True
        self._has_answers = False
        self._accepts_again_at = self._tells_at = self._stop_at = self._end_at = self._looks_again_at = NEVER
        self._lingers_until = self._loop.now + max(settings.linger, 5.0)
        self._readers: dict[type, Callable[[Any, int], None]] = {
            ClientLink: self._read_client,
            AnswerSource: self.crew.read_answers,
            StackSource: self.crew.stacks.read,
        }
        self.recording = self._make_recording(begun or {}) if settings.store is not None else None
        self.crew.recording = self.recording

    def _open_console(self, *, in_foreground: bool) -> Console | None:
        if not self._is_private and not in_foreground:
            return None
        console = Console(self._loop)
        if in_foreground:
            self._log.echo = partial(console.write, 2)
        return console

    def _make_recording(self, begun: dict[str, int]) -> Recording:
        from procjobs.supervisor.durable.durable_jobs import RecorderSource, Recording  # most pools have no store

        recording = Recording(self, self._loop, self._desk, begun)
        self._readers[RecorderSource] = recording.read
        return recording

    @property
    def store_name(self) -> str:
        """What the store calls the pool."""
        return store_name(str(self.settings.store), None if self._is_private else self.name)

    @property
    def now(self) -> float:
        """The monotonic time at which the loop last woke."""
        return self._loop.now

    # The loop ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the pool is stopped."""
        assert process.thread_count() == 1, "the supervisor has one thread"
        self._loop.add(self._listener.fileno(), self._accept)
        if self._owner is not None:
            self._loop.add(self._owner, self._on_owner_gone)
        elif self._is_private:
            self._on_owner_gone()
        while not self._finished():
            until = self._next_deadline()
            woke_before = self.now
            ready = self._loop.wait(None if until == NEVER else until)
            self._forgive_absence(max(until, woke_before))
            self._handle_signals(ready.signals)
            self._read(ready.sources)
            self.crew.reap(self._on_other_exit)
            if self._has_answers and self._accepting:  # who waits is told first: the rest of the turn takes longer
                self._tell_clients()
            self._advance()
            if self.recording is None or not self.recording.is_too_far_behind:
                self.dispatcher.assign(self.now)
            self.templates.retire_unused(self.now)
            self._tell_problem()
            if self.recording is not None:
                self.recording.advance(self.now)
            self._tell_clients()
            self._close_spent_fds()
            self._publisher.publish_slots(self.now)
            self.crew.end_orphans()

    def _finished(self) -> bool:
        if not self.dispatcher.stopping or any(slot.state is not SlotState.EMPTY for slot in self.dispatcher.slots):
            return False
        if self._end_at == NEVER:
            self._end_at = self.now + (_FAREWELL_SECONDS if self.recording is None else _STORE_FAREWELL_SECONDS)
        if self.now >= self._end_at and self.recording is not None and not self.recording.is_quiet:
            self.recording.abandon()
            self._end_at, self._looks_again_at = self.now + _FAREWELL_SECONDS, self.now
            return False
        is_told = (self._console is None or self._console.is_empty) and (self.recording is None or self.recording.is_quiet)
        return self.now >= self._end_at or (is_told and not any(client.waits_to_write for client in self._clients))

    def _next_deadline(self) -> float:
        return min(
            self.dispatcher.next_deadline(self.now),
            self._results.next_deadline(),
            self.templates.next_deadline(self.now),
            self.crew.next_deadline(),
            NEVER if self.recording is None else self.recording.next_deadline(),
            self._accepts_again_at,
            self._tells_at,
            self._stop_at,
            self._end_at,
            self._looks_again_at,
            self._lingers_until,
        )

    def _forgive_absence(self, expected: float) -> None:
        late = self.now - expected
        if late > _ABSENCE_SECONDS and expected < NEVER:
            self._log.write(f"the supervisor was not running for {late:.1f} s; deadlines are pushed back")
            self.dispatcher.forgive(late, self.now)
            self.templates.forgive(late, self.now)

    def _handle_signals(self, signals: set[int]) -> None:
        if signals & {signal.SIGTERM, signal.SIGINT}:
            if self._accepting:
                self._log.write("SIGTERM: no more jobs are taken; those that run have the grace period to end")
                self.drain()
                self._stop_at = self.now + self.settings.job_defaults.grace_period
            else:
                self.stop("the pool was stopped by a second SIGTERM", at_once=True)
        if signal.SIGHUP in signals:
            self._log.write("SIGHUP: the code is loaded anew")
            self.templates.reload(_ignore)

    def _read(self, sources: list[tuple[Any, int]]) -> None:
        """Read whatever is ready; what jobs have printed before their answers, so that it is known whose it is."""
        for source, _ in sources:
            if type(source) is OutputSource:
                self.crew.outputs.read(source)
        for source, events in sources:
            reader = self._readers.get(type(source))
            if reader is not None:
                reader(source, events)
            elif type(source) is not OutputSource:
                source()

    def _advance(self) -> None:
        now = self.now
        self._looks_again_at = NEVER
        self.crew.advance(now)
        self.dispatcher.advance(now)
        self.templates.start_missing(now)
        if self._accepts_again_at <= now:
            self._accepts_again_at = NEVER
            self._loop.add(self._listener.fileno(), self._accept)
        while (job := self._results.pop_expired(now)) is not None:
            self._forget(job)
        self._results.spill_some()
        if now >= self._stop_at:
            self.stop("the pool was stopped", at_once=False)
        if not self._accepting and not self.dispatcher.stopping and not self._has_work:
            self.stop("the pool was drained", at_once=False)
        self._advance_linger()

    @property
    def _has_work(self) -> bool:
        return bool(self.dispatcher.unfinished) or not (self.recording is None or self.recording.is_settled)

    def _on_other_exit(self, how: process.Exit) -> None:
        if self.recording is None or not self.recording.on_exit(how):
            self.templates.on_exit(how)

    def _advance_linger(self) -> None:
        if self._is_private or self.dispatcher.stopping or self._clients or self._has_work:
            self._lingers_until = NEVER
        elif self._lingers_until == NEVER:
            self._lingers_until = self.now + self.settings.linger
        elif self.now >= self._lingers_until:
            self.stop("nobody uses it", at_once=False)

    # Clients ----------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (ConnectionAbortedError, BlockingIOError):  # the client has given up already
            return
        except OSError as error:  # out of descriptors or memory: the others go on, this one waits until there are some
            self._log.write(f"a connection could not be accepted, this is tried again in {_ACCEPT_PAUSE} s: {error}")
            self._loop.remove(self._listener.fileno())
            self._accepts_again_at = self.now + _ACCEPT_PAUSE
            return
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.getuid():
            self._log.write(f"a process of user {uid} was refused")
            sock.close()
            return
        client = ClientLink(sock)
        self._clients.add(client)
        self._loop.add(sock.fileno(), client)

    def _read_client(self, client: ClientLink, events: int) -> None:
        if client.closed or not events & READ:
            return
        try:
            self._desk.read(client)
        except WireError as error:
            self._log.write(f"the connection of process {client.pid or 'unknown'} is closed: {error}")
            self._drop_client(client)
            return
        except Exception:  # noqa: BLE001 - the edge around one client's turn: a bug met there must not end the others' pool
            self._log.write(f"a bug in procjobs closed the connection of {client.pid}:\n{traceback.format_exc()}")
            self._drop_client(client)
            return
        if client.stream.ended:
            self._try_flush(client)
            self._drop_client(client)

    def _drop_client(self, client: ClientLink) -> None:
        if client in self._clients:
            self._loop.remove(client.socket.fileno())
            self._clients.discard(client)
            client.close()
            self._desk.forget_client(client)

    def _tell_clients(self) -> None:
        """Send answers. The last one of a drained pool goes out when it is closed: new clients start its successor."""
        self._has_answers = False
        if self.recording is not None:
            self._publisher.uncommitted = self.recording.uncommitted
        self._publisher.publish_counters(accepting=self._accepting)  # before the acknowledgements go out
        self._flush_clients()

    def _flush_clients(self) -> None:
        """Send what is to be sent. An acknowledgement alone can wait a moment for an answer that goes with it.

        To wake a client costs 30 us here and as much there. Who waits for the acknowledgement asks for it.
        """
        now, self._tells_at = self.now, NEVER
        for client in list(self._clients):
            has_more = client.has_more
            if client.accepted != client.accepted_told:
                if client.told_by == NEVER:
                    client.told_by = now + _ACKNOWLEDGE_SECONDS
                if has_more or client.told_by <= now:
                    client.queue_acknowledgement()
                    has_more = True
                elif client.told_by < self._tells_at:
                    self._tells_at = client.told_by
            if has_more:
                self._try_flush(client)

    def _close_spent_fds(self) -> None:
        """Let go of arguments, after the answers went out: whoever is last frees the memory, 6 ms for 100 MB."""
        while self._spent_fds:
            os.close(self._spent_fds.pop())

    def _try_flush(self, client: ClientLink) -> None:
        try:
            done = client.flush()
        except OSError:
            self._drop_client(client)
            self._looks_again_at = self.now  # what nobody uses any more has been looked for already in this turn
            return
        client.waits_to_write = not done
        # One that asks and asks and does not read the answers is not heard until it does.
        events = READ if done else WRITE if len(client.outgoing) > _MAX_WAITING else READ | WRITE
        if events != client.events:
            client.events = events
            self._loop.change(client.socket.fileno(), client, events)

    def room(self) -> int:
        """Return how many more jobs may wait."""
        if not self._accepting:
            return 0
        uncommitted = 0 if self.recording is None else self.recording.uncommitted
        return self.settings.max_queued - self.dispatcher.queued - self.dispatcher.scheduled - uncommitted

    def refusal(self, fd: int | None) -> tuple[str, str, dict[str, Any]] | None:
        """Return why no job can be taken now, as (name of the error, message, its attributes); None if one can."""
        if not self._accepting:
            return "PoolClosed", f"pool {self.name!r} is stopping and takes no more jobs", {}
        if self.room() <= 0:
            waiting = self.dispatcher.queued + self.dispatcher.scheduled
            text = f"pool {self.name!r} has {waiting} jobs waiting, as many as max_queued allows"
            details = {"queued": waiting, "max_queued": self.settings.max_queued}
            return "QueueFull", text, {**details, "estimated_wait": self.dispatcher.estimated_wait()}
        if self.recording is not None and (refusal := self.recording.refusal(fd)) is not None:
            return refusal
        if fd is not None and fd > self._max_fds - 64:
            return "QueueFull", f"pool {self.name!r} holds {fd} large payloads, as many as open files are allowed", {}
        return None

    def allocate_row(self, job_id: bytes) -> int:
        """Return a row of the table for a new job, making room if need be; raises TableFull."""
        try:
            return self.table.allocate(job_id)
        except TableFull:
            oldest = self._results.pop_oldest()
            if oldest is None:
                raise
            self._forget(oldest)
            return self.table.allocate(job_id)

    def publish_loaded(self, job: Job, submitted_at: float, *, is_scheduled: bool) -> str:
        """Show a job that was loaded from the store in the table; return why that cannot be, empty text if it can."""
        try:
            job.row = self.allocate_row(job.id)
        except TableFull as error:
            return f"the pool cannot record another job: {error}"
        state = JobState.SCHEDULED if is_scheduled else JobState.QUEUED
        self.table.publish(job.row, job.id, state, job.attempt, submitted_at, job.kind.name)
        return ""

    def forget_begun(self) -> None:
        """Take note that the store has counted what the workers of a killed supervisor had begun."""
        begun.forget(self._directory)

    def write_log(self, line: str) -> None:
        """Write a line to the pool's log."""
        self._log.write(line)

    def _forget(self, job: Job) -> None:
        del self._desk.jobs[job.id]
        if job.row:
            self.table.release(job.row)

    def _tell_problem(self) -> None:
        """Tell clients when the pool becomes unable to run jobs, and when it is able again."""
        if self._publisher.publish_problem():
            for client in self._clients:
                if client.generation is not None:
                    notice = {"problem": newest_generation(client).problem}
                    client.outgoing.append(wire.json_frame(Frame.NOTICE, notice))

    def deliver(self, job: Job, reason: Reason, frame: bytes, fd: int | None, error: str) -> None:
        """Take the one answer of a job; that of a durable one goes on when the store has it."""
        if job.fd is not None:
            self._spent_fds.append(job.fd)
            job.fd = None
        job.inline = b""
        if job.durable is None or self.recording is None:
            self.answer(job, reason, frame, fd, error)
        else:
            self.recording.ended(job, reason, frame, fd, error)

    def answer(self, job: Job, reason: Reason, frame: bytes, fd: int | None, error: str) -> None:
        """Keep a job's answer, record its state, and pass it to whoever waits for it."""
        if job.row:
            self.table.write_state(job.row, job.state, reason, job.attempt, wall(), error)
        self._results.keep(job, frame, fd, self._loop.now)
        self._has_answers = True
        client, watchers = job.client, job.watchers
        job.client = None
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

    # Stopping ---------------------------------------------------------------------------------------------------

    def resize(self, least: int, most: int) -> None:
        """Change the number of workers, or its bounds."""
        if not 1 <= least <= most <= MAX_SLOTS:
            raise ValueError(f"workers={least, most}")
        self.dispatcher.resize(least, most, self.now)
        self.crew.pin_all()

    def drain(self) -> None:
        """Take no more jobs; the pool ends when those it has are done."""
        self._accepting = False

    def stop(self, reason: str, *, at_once: bool) -> None:
        """Give up what waits, stop what runs, and end."""
        self._accepting = False
        self._stop_at = NEVER
        if not self.dispatcher.stopping:
            self._log.write(f"stopping: {reason}")
            if self.recording is not None:
                reason += "; the store keeps it, and it runs when the pool is started again"
            if not self.table.was_replaced(self._directory.table):
                rundir.close_to_new_clients(self._directory)
            self.dispatcher.close_queue(reason)
            self.dispatcher.stop_running(self.now)
        if at_once:
            for slot in self.dispatcher.slots:
                self.crew.kill(slot)

    def _on_owner_gone(self) -> None:
        if self._owner is not None:
            self._loop.remove(self._owner)
            os.close(self._owner)
            self._owner = None
        self.stop("the process that owned the pool has ended", at_once=True)

    def close(self) -> None:
        """Release everything; the processes have ended."""
        self._close_spent_fds()
        for client in list(self._clients):
            self._drop_client(client)
        self.templates.close()
        self.crew.close(_FAREWELL_SECONDS)
        if self.recording is not None:
            self.recording.close()
        self._results.close()
        self._listener.close()
        self.table.close()
        self._loop.close()


def _ignore(_problem: str) -> None:
    """Nobody waits for the end of this reload; it is in the log."""
