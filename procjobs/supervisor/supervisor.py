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
from typing import Any, Final

from procjobs.clock import monotonic, wall
from procjobs.config import MAX_SLOTS, PoolSettings
from procjobs.host import process, rundir
from procjobs.host.loop import READ, WRITE, Loop
from procjobs.shared import wire
from procjobs.shared.states import Reason
from procjobs.shared.table import TableFull, TableWriter
from procjobs.shared.wire import Frame, Outcome, RawFrame, WireError
from procjobs.supervisor.clients import ClientDesk
from procjobs.supervisor.dispatcher import Dispatcher
from procjobs.supervisor.jobs import Generation, Job, Slot, SlotState, Stop
from procjobs.supervisor.links import ClientLink, WorkerLink
from procjobs.supervisor.log import Log
from procjobs.supervisor.publisher import Publisher
from procjobs.supervisor.results import MOST_KEPT, ResultStore
from procjobs.supervisor.templates import Templates

_NEVER: Final = float("inf")
_ABSENCE_SECONDS: Final = 0.25
"""Waking later than this after a deadline means that the supervisor was not there, not that the host was busy."""
_FAREWELL_SECONDS: Final = 1.0
"""How long a stopping supervisor waits for clients to take their last answers."""


class WorkerLinkSource:
    """What the loop hands out when a worker has answered."""

    __slots__ = ("link", "slot")

    def __init__(self, slot: Slot, link: WorkerLink) -> None:
        self.slot = slot
        self.link = link


class Supervisor:
    """Owns the sockets, the table and the processes of one pool; the Dispatcher's engine."""

    def __init__(
        self, directory: rundir.RunDir, settings: PoolSettings, *, owner_pid: int | None, log: Log, listener: socket.socket
    ) -> None:
        self.name = directory.name
        self._directory = directory
        self.settings = settings
        self.now = self._started_at = monotonic()
        self._log = log
        self._loop = Loop(signals=(signal.SIGCHLD, signal.SIGTERM, signal.SIGINT))
        rows = settings.max_queued + MAX_SLOTS * 16 + MOST_KEPT
        self.table = TableWriter(directory.table, rows=rows, started_at=wall())
        self._most_fds = process.raise_descriptor_limit()
        self._results = ResultStore(
            directory.path,
            ttl=settings.result_ttl,
            memory_bytes=settings.result_memory_bytes,
            most_fds=max(self._most_fds // 8, 16),
        )
        self.dispatcher = Dispatcher(self, settings)
        self._desk = ClientDesk(self)
        self._mark = os.urandom(16).hex()
        self._templates = Templates(
            self._loop,
            self._read_templates,
            directory,
            self.table.fd,
            settings.nice,
            self._mark,
            log.write,
        )
        self._listener = listener
        self._clients: set[ClientLink] = set()
        self._workers: dict[int, WorkerLink] = {}
        self._slots_by_pid: dict[int, Slot] = {}
        self._publisher = Publisher(self.table, self.dispatcher)
        self._owner = None if owner_pid is None else process.try_open_pidfd(owner_pid)
        self._is_private = owner_pid is not None
        self._accepting = True
        self._stop_at = self._end_at = _NEVER
        self._lingers_until = self.now + max(settings.linger, 5.0)
        self._seek_orphans = False
        self._readers: dict[type, Callable[[Any, int], None]] = {
            ClientLink: self._read_client,
            WorkerLinkSource: self._read_worker,
        }

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
            went_to_wait = monotonic()
            ready = self._loop.wait(None if until == _NEVER else until)
            self.now = monotonic()
            self._forgive_absence(max(until, went_to_wait))
            self._handle_signals(ready.signals)
            self._read(ready.sources)
            self._reap_children()
            self._advance()
            self.dispatcher.assign(self.now)
            self._tell_problem()
            self._publisher.publish_counters(accepting=self._accepting)  # before the acknowledgements go out
            self._flush_clients()
            self._publisher.publish_slots(self.now)
            self._retire_generations()
            self._end_orphans()

    def _finished(self) -> bool:
        if not self.dispatcher.stopping or any(slot.state is not SlotState.EMPTY for slot in self.dispatcher.slots):
            return False
        if self._end_at == _NEVER:
            self._end_at = self.now + _FAREWELL_SECONDS
        return self.now >= self._end_at or not any(client.waits_to_write for client in self._clients)

    def _next_deadline(self) -> float:
        return min(
            self.dispatcher.next_deadline(self.now),
            self._results.next_deadline(),
            self._templates.next_deadline(self.now, self.dispatcher.generations),
            self._stop_at,
            self._end_at,
            self._lingers_until,
        )

    def _forgive_absence(self, expected: float) -> None:
        late = self.now - expected
        if late > _ABSENCE_SECONDS and expected < _NEVER:
            self._log.write(f"the supervisor was not running for {late:.1f} s; deadlines are pushed back")
            self.dispatcher.forgive(late, self.now)

    def _handle_signals(self, signals: set[int]) -> None:
        if signals & {signal.SIGTERM, signal.SIGINT}:
            if self._accepting:
                self._log.write("SIGTERM: no more jobs are taken; those that run have the grace period to end")
                self.drain()
                self._stop_at = self.now + self.settings.job_defaults.grace_period
            else:
                self.stop("the pool was stopped by a second SIGTERM", at_once=True)

    def _read(self, sources: list[tuple[Any, int]]) -> None:
        for source, events in sources:
            reader = self._readers.get(type(source))
            if reader is not None:
                reader(source, events)
            else:
                source()

    def _advance(self) -> None:
        now = self.now
        self.dispatcher.advance(now)
        self._templates.start_missing(self.dispatcher.generations, now)
        while (job := self._results.pop_expired(now)) is not None:
            self._forget(job)
        self._results.spill_some()
        if now >= self._stop_at:
            self.stop("the pool was stopped", at_once=False)
        if not self._accepting and not self.dispatcher.stopping and not self.dispatcher.unfinished:
            self.stop("the pool was drained", at_once=False)
        self._advance_linger()

    def _advance_linger(self) -> None:
        if self._is_private or self.dispatcher.stopping or self._clients or self.dispatcher.unfinished:
            self._lingers_until = _NEVER
        elif self._lingers_until == _NEVER:
            self._lingers_until = self.now + self.settings.linger
        elif self.now >= self._lingers_until:
            self.stop("nobody uses it", at_once=False)

    # Clients ----------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:  # EMFILE, or the client has given up already
            self._log.write(f"a connection could not be accepted: {error}")
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
        if not client.closed:
            self._loop.remove(client.socket.fileno())
            self._desk.forget_client(client)
            self._clients.discard(client)
            client.close()

    def _flush_clients(self) -> None:
        for client in list(self._clients):
            if client.accepted != client.accepted_told:
                client.accepted_told = client.accepted
                client.outgoing.append(wire.frame(Frame.ACCEPTED, wire.U64.pack(client.accepted)))
            if client.outgoing or client.waits_to_write:
                self._try_flush(client)

    def _try_flush(self, client: ClientLink) -> None:
        try:
            done = client.flush()
        except OSError:
            self._drop_client(client)
            return
        if client.waits_to_write is done:
            client.waits_to_write = not done
            self._loop.change(client.socket.fileno(), client, READ if done else READ | WRITE)

    def refusal(self, fd: int | None) -> tuple[str, str] | None:
        """Return why no job can be taken now, as (name of the error, message); None if one can."""
        if not self._accepting:
            return "PoolClosed", f"pool {self.name!r} is stopping and takes no more jobs"
        waiting = self.dispatcher.queued + self.dispatcher.scheduled
        if waiting >= self.settings.max_queued:
            return "QueueFull", f"pool {self.name!r} has {waiting} jobs waiting, as many as max_queued allows"
        if fd is not None and fd > self._most_fds - 64:
            return "QueueFull", f"pool {self.name!r} holds {fd} large payloads, as many as open files are allowed"
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

    def _forget(self, job: Job) -> None:
        del self._desk.jobs[job.id]
        if job.row:
            self.table.release(job.row)

    # Generations and templates ------------------------------------------------------------------------------

    def join_generation(self, key: str, executable: str, spec_fd: int) -> Generation:
        """Return the generation of a client, begun if it is new; the descriptor is taken over."""
        generations = self.dispatcher.generations
        generation = next((g for g in generations if g.key == key), None)
        if generation is None:
            number = 1 + max((g.number for g in generations), default=0)
            generation = Generation(number, key)
            generations.append(generation)
            self._templates.add(generation, executable, spec_fd)
            self._templates.start_missing(generations, self.now)
        else:
            os.close(spec_fd)
        generation.clients += 1
        return generation

    def _retire_generations(self) -> None:
        if len(self.dispatcher.generations) > 1:
            self._templates.retire_unused(self.dispatcher, self.now)

    def _tell_problem(self) -> None:
        """Tell clients when the pool becomes unable to run jobs, and when it is able again."""
        if self._publisher.publish_problem():
            for client in self._clients:
                if client.generation is not None:
                    notice = {"problem": client.generation.problem}
                    client.outgoing.append(wire.json_frame(Frame.NOTICE, notice))

    def on_template_message(self, generation: Generation, message: dict[str, Any]) -> None:
        """Act on what a template says."""
        if "ready" in message:
            generation.ready = True
            generation.problem = ""
        elif "spawned" in message:
            self._on_spawned(self.dispatcher.slots[message["spawned"]], message["pid"])
        elif "refused" in message:
            slot = self.dispatcher.slots[message["refused"]]
            if not slot.pid:  # else the process between was killed after it had told us
                self._close_worker(slot)
                self.dispatcher.on_spawn_failed(slot, message["why"], self.now)
        else:
            generation.problem = message.get("failed", "")

    def _on_spawned(self, slot: Slot, pid: int) -> None:
        slot.pid = pid
        self._slots_by_pid[pid] = slot
        if slot.stop is not Stop.NONE:
            self.terminate(slot)

    # Workers: the dispatcher's engine --------------------------------------------------------------------------

    def spawn(self, slot: Slot) -> bool:
        """Begin to start a worker."""
        assert slot.generation is not None
        try:
            link = WorkerLink()
        except OSError as error:
            self._log.write(f"no sockets for a worker: {error}")
            return False
        if not self._templates.spawn(slot.generation, slot.number, link.fds_for_worker()):
            link.close()
            return False
        link.close_worker_side()
        self._workers[slot.number] = link
        self._loop.add(link.answers.fileno(), WorkerLinkSource(slot, link))
        return True

    def send(self, slot: Slot, job: Job) -> bool:
        """Give a worker a job."""
        return self._workers[slot.number].send(job)

    def take_back(self, slot: Slot) -> list[bytes]:
        """Take from a worker what it has not read."""
        return self._workers[slot.number].take_back()

    def has_begun(self, job: Job) -> bool:
        """Return whether a worker has begun this attempt."""
        return self.table.has_begun(job.row, job.id, job.attempt)

    def terminate(self, slot: Slot) -> None:
        """Send SIGTERM to a worker's process group; the job can see in its slot that this is not an accident."""
        self._publisher.publish_slot(slot, self.now)
        if slot.pid:
            process.kill_group(slot.pid, signal.SIGTERM)

    def kill(self, slot: Slot) -> None:
        """Kill a worker and its process group; one that has not been forked yet, with the template that was to do it."""
        if slot.pid:
            process.kill_group(slot.pid, signal.SIGKILL)
        elif slot.generation is not None:
            self._templates.kill(slot.generation)

    def retire(self, slot: Slot) -> None:
        """Let a worker end when it has no more to read."""
        self._workers[slot.number].end_jobs()

    def last_progress(self, job: Job) -> str | None:
        """Return what a job last reported."""
        return self.table.last_progress(job.row, job.id) if job.row else None

    def log(self, line: str) -> None:
        """Write to the pool's log."""
        self._log.write(line)

    def answer(self, job: Job, reason: Reason, frame: bytes, fd: int | None, error: str) -> None:
        """Keep a job's answer, record its state, and pass it to whoever waits for it."""
        if job.fd is not None:
            os.close(job.fd)
            job.fd = None
        job.inline = b""
        if job.row:
            self.table.write_state(job.row, job.state, reason, job.attempt, wall(), error)
        self._results.keep(job, frame, fd, self.now)
        if not job.client.closed:
            job.client.queue_answer(job)
        job.client = None
        if job.watchers:
            for client in job.watchers:
                if not client.closed:
                    client.queue_answer(job)
            job.watchers = None

    def _read_worker(self, source: WorkerLinkSource, _events: int) -> None:
        slot, link = source.slot, source.link
        try:
            for frame, fd in link.stream.read():
                if frame.kind == Frame.FINISHED:
                    answer = self._parse_answer(frame, fd)
                    link.confirm(answer.job_id)
                    unwanted = self.dispatcher.on_finished(slot, answer, frame.raw, fd, self.now)
                    if unwanted is not None:
                        os.close(unwanted)
                elif fd is not None:
                    os.close(fd)
                    raise WireError(f"a frame of kind {frame.kind} with a descriptor")
                elif frame.kind == Frame.READY:
                    self.dispatcher.on_ready(slot, self.now)
                elif frame.kind == Frame.UNFIT and slot.state is SlotState.STARTING and slot.generation is not None:
                    # Bounded, since every client is told, and a frame that is too large would end its connection.
                    slot.generation.problem = wire.limit_text(frame.body.decode(errors="replace"), 32_000)
        except WireError as error:
            self._log.write(f"worker {slot.number} (pid {slot.pid}) is killed: it sent nonsense: {error}")
            self.kill(slot)
            link.stream.ended = True
        if link.stream.ended:
            self._loop.remove(link.answers.fileno())

    @staticmethod
    def _parse_answer(frame: RawFrame, fd: int | None) -> wire.Finished:
        try:
            answer = wire.parse_finished(frame.body)
            if answer.outcome == Outcome.VERDICT:
                raise WireError("a verdict, which is the supervisor's alone")
        except WireError:
            if fd is not None:
                os.close(fd)
            raise
        return answer

    # Ends of processes ------------------------------------------------------------------------------------------

    def _reap_children(self) -> None:
        for how in process.reap_children(self._before_reaping):
            slot = self._slots_by_pid.pop(how.pid, None)
            if slot is not None:
                self._on_worker_exit(slot, how)
            else:
                generation = self._templates.on_exit(how.pid)
                if generation is not None:
                    self._on_template_exit(generation, how)

    def _before_reaping(self, pid: int) -> None:
        self._read_templates()
        if pid in self._slots_by_pid:
            process.kill_group(pid, signal.SIGKILL)

    def _read_templates(self) -> None:
        for generation, message in self._templates.read_all():
            self.on_template_message(generation, message)

    def _on_worker_exit(self, slot: Slot, how: process.Exit) -> None:
        """Settle a dead worker: first what it had answered, then what it had not read, then what it was in."""
        link = self._workers[slot.number]
        source = WorkerLinkSource(slot, link)
        while not link.stream.ended:
            self._read_worker(source, READ)
            if not _has_more(link.answers):
                break
        assert slot.generation is not None
        self._templates.forget_worker(slot.generation, how.pid)
        self.dispatcher.on_exit(slot, (how.signal, how.code), link.take_back(), self.now)
        self._close_worker(slot)
        self._seek_orphans = True

    def _close_worker(self, slot: Slot) -> None:
        link = self._workers.pop(slot.number)
        self._loop.remove(link.answers.fileno())
        link.close()

    def _on_template_exit(self, generation: Generation, how: process.Exit) -> None:
        generation.ready = False
        for slot in self.dispatcher.slots:
            if slot.generation is generation and slot.state is not SlotState.EMPTY and not slot.pid:
                self._close_worker(slot)
                self.dispatcher.on_spawn_failed(slot, "the template ended before it had forked a worker", self.now)
        if self._templates.starts_anew(generation):
            return
        why = generation.problem or f"its template was lost: signal {how.signal}, exit code {how.code}"
        self.dispatcher.add_start_failure(generation, why, self.now)
        self._seek_orphans = True

    def _end_orphans(self) -> None:
        """Kill what dead workers have left running. A worker that was just forked is known before it is our child."""
        if not self._seek_orphans:
            return
        self._seek_orphans = False
        children = process.own_children(self._mark)
        self._read_templates()
        for pid in children - self._slots_by_pid.keys() - self._templates.pids():
            self._log.write(f"process {pid}, left by a worker that has ended, is killed")
            process.kill_process(pid, signal.SIGKILL)
            self._seek_orphans = True  # what it has started comes to us next

    # Stopping ---------------------------------------------------------------------------------------------------

    def resize(self, least: int, most: int) -> None:
        """Change the number of workers."""
        if not 1 <= least <= most <= MAX_SLOTS:
            raise ValueError(f"workers={least, most}")
        self.dispatcher.resize(least, most, self.now)

    def drain(self) -> None:
        """Take no more jobs; the pool ends when those it has are done."""
        self._accepting = False

    def stop(self, reason: str, *, at_once: bool) -> None:
        """Give up what waits, stop what runs, and end."""
        self._accepting = False
        self._stop_at = _NEVER
        if not self.dispatcher.stopping:
            self._log.write(f"stopping: {reason}")
            if not self.table.was_replaced(self._directory.table):
                rundir.close_to_new_clients(self._directory)
            self.dispatcher.close_queue(reason)
            self.dispatcher.stop_running(self.now)
        if at_once:
            for slot in self.dispatcher.slots:
                self.kill(slot)

    def _on_owner_gone(self) -> None:
        if self._owner is not None:
            self._loop.remove(self._owner)
            os.close(self._owner)
            self._owner = None
        self.stop("the process that owned the pool has ended", at_once=True)

    def close(self) -> None:
        """Release everything; the processes have ended."""
        for client in list(self._clients):
            self._drop_client(client)
        self._templates.close()
        while remains := process.own_children(self._mark):
            for pid in remains:
                process.kill_process(pid, signal.SIGKILL)
            process.wait_for_child(min(remains), _FAREWELL_SECONDS)
        self._results.close()
        self._listener.close()
        self.table.close()
        self._loop.close()


def _has_more(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False
