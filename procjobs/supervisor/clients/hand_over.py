"""How jobs that have not begun go from one supervisor to its successor.

1. A supervisor that hands over takes jobs and starts none. When those that run have ended, it leaves the others: with a
   store, there; without one, in a file beside its directory, with the schedules. After that it takes nothing more, and its
   clients are told that everything they wait for is the successor's.
2. A job is in one place: nothing of how it ends here is shown or told.
3. The successor takes the jobs from the file before it hears any client, whoever has started it.
4. The process that asks for the pool is told how many jobs it waits for. If it goes away, the pool stays.
"""

from __future__ import annotations

import json
import os
import socket
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from procjobs.clock import wall
from procjobs.host import payload
from procjobs.shared import hello, wire
from procjobs.shared.config import JobOptions
from procjobs.shared.table.annex import extras_of
from procjobs.shared.table.state_writer import TableFull
from procjobs.shared.wire import Frame, WireError
from procjobs.supervisor import waiting_file
from procjobs.supervisor.job import NO_CLIENT, SupervisedJob, SupervisedKind, supervised
from procjobs.supervisor.schedules.kept_calls import ScheduleCall
from procjobs.supervisor.waiting_file import Record, WaitingGeneration, WaitingJob, WaitingKind, WaitingSchedule

if TYPE_CHECKING:
    from procjobs.dispatch.dispatcher import Dispatcher
    from procjobs.dispatch.model import Generation
    from procjobs.host.loop import Loop
    from procjobs.host.rundir import RunDir
    from procjobs.supervisor.clients.client_link import ClientLink
    from procjobs.supervisor.clients.unique_keys import UniqueKeys
    from procjobs.supervisor.durable.durability import Durability
    from procjobs.supervisor.generations import Generations
    from procjobs.supervisor.lifecycle import Lifecycle
    from procjobs.supervisor.log import Log
    from procjobs.supervisor.registry import Registry
    from procjobs.supervisor.schedules.service import Schedules
    from procjobs.supervisor.workers.templates import Templates

_SEND_TIMEOUT: Final = 5.0


class HandOver:
    """Leaves jobs to a successor, and takes those that a predecessor has left."""

    def __init__(
        self, loop: Loop, directory: RunDir, registry: Registry, dispatcher: Dispatcher, generations: Generations,
        templates: Templates, unique_keys: UniqueKeys, durability: Durability, lifecycle: Lifecycle,
        schedules: Schedules, log: Log,
    ) -> None:  # fmt: skip
        self._loop = loop
        self._directory = directory
        self._registry = registry
        self._dispatcher = dispatcher
        self._generations = generations
        self._templates = templates
        self._unique_keys = unique_keys
        self._durability = durability
        self._lifecycle = lifecycle
        self._schedules = schedules
        self._log = log
        self._successor: ClientLink | None = None
        self._told = -1
        self._left: set[bytes] = set()

    # The process that asks --------------------------------------------------------------------------------------

    def begin(self, client: ClientLink, pid: int) -> str:
        """Let the process behind this connection be the successor; return why it cannot be, empty if it can."""
        if self._successor is not None:
            return f"process {self._successor.pid} is taking the pool over already"
        client.pid = pid
        if self._lifecycle.hand_over(self._loop.now):
            self._log.write(f"process {pid} takes this pool over when its running jobs have ended")
            self._successor = client
        self._told = self._dispatcher.running
        client.queue_frame(_state(hello.BUSY, self._told))
        return ""

    def advance(self) -> None:
        """Tell the successor for how many jobs it waits, when that has changed."""
        if self._successor is not None and self._told != self._dispatcher.running:
            self._told = self._dispatcher.running
            self._successor.queue_frame(_state(hello.BUSY, self._told))

    def forget_client(self, client: ClientLink) -> None:
        """Let the pool go on if a connection that is lost was that of the successor."""
        if client is self._successor:
            self._successor = None
            self._lifecycle.keep()

    def take_successor(self) -> socket.socket | None:
        """Return a socket to the successor that outlives its connection, None if nobody takes the pool over."""
        if self._successor is None or not self._lifecycle.has_left:
            return None
        sock = self._successor.socket.dup()
        sock.setblocking(True)
        return sock

    # To the successor -------------------------------------------------------------------------------------------

    def leave(self) -> bool:
        """Leave the jobs that wait; return False, with a line in the log, if they cannot be left."""
        waiting = [(supervised(job), when) for job, when in self._dispatcher.waiting()]
        in_memory = [(job, when) for job, when in waiting if job.durable is None]
        schedules = self._schedules.leave()
        if in_memory or schedules:
            try:
                waiting_file.write(self._directory.waiting, self._describe(in_memory, schedules))
            except OSError as error:
                self._log.write(f"the jobs that wait run here, since they cannot be handed over: {error}")
                return False
        for job, _ in waiting:
            self._registry.conceal_end(job)
            self._left.add(job.id)
        self._log.write(f"{len(waiting)} waiting jobs are left to the successor")
        return True

    def has_left(self, job_id: bytes) -> bool:
        """Return whether a job is the successor's now."""
        return job_id in self._left

    def _describe(
        self, jobs: list[tuple[SupervisedJob, float]], schedules: list[tuple[dict[str, Any], ScheduleCall]]
    ) -> Iterator[Record]:
        """Yield the jobs, each after its generation and its kind, and the schedules."""
        generations: dict[Generation, int] = {}
        kinds: dict[SupervisedKind, int] = {}
        clock_offset = wall() - self._loop.now
        for job, when in jobs:
            generation, kind = job.generation.newest(), job.kind
            if generation not in generations:
                generations[generation] = len(generations)
                yield WaitingGeneration(generation.key, *self._templates.describe(generation))
            if kind not in kinds:
                kinds[kind] = len(kinds)
                yield WaitingKind(kind.description, kind.function, _without_key(kind.caller))
            yield WaitingJob(
                job.id, generations[generation], kinds[kind], job.attempt, job.interrupted, job.crashes,
                submitted_at=job.queued_at + clock_offset if job.queued_at else wall(),
                not_before=when + clock_offset if when else 0.0,
                expires_at=job.expires_at + clock_offset if job.expires_at and not job.attempt else 0.0,
                unique_until=self._unique_keys.until(job), history=job.history, key=job.key, inline=job.inline,
                large=job.fd, meta=job.extras.meta.decode(), retry_of=job.extras.retry_of.hex(),
                checkpoint=b64encode(self._registry.load_checkpoint(job) or b"").decode(),
                schedule=job.extras.schedule.decode(), scheduled_for=str(job.extras.scheduled_for or ""),
            )  # fmt: skip
        newest = self._dispatcher.newest_generation()
        if schedules and newest is not None and newest not in generations:
            yield WaitingGeneration(newest.key, *self._templates.describe(newest))
        for values, call in schedules:
            if call.kind not in kinds:
                kinds[call.kind] = len(kinds)
                yield WaitingKind(call.kind.description, call.kind.function, _without_key(call.kind.caller))
            yield WaitingSchedule(kinds[call.kind], values, call.key, call.inline, call.fd)

    # From the predecessor ---------------------------------------------------------------------------------------

    def inherit(self) -> None:
        """Take the jobs that a predecessor has left. Those that cannot be read are lost, with a line in the log."""
        path = self._directory.waiting
        generations: list[Generation] = []
        kinds: list[SupervisedKind] = []
        count = 0
        try:
            for record in waiting_file.read(path):
                if isinstance(record, WaitingGeneration):
                    generations.append(self._join(record))
                elif isinstance(record, WaitingKind):
                    kinds.append(self._intern(record))
                elif isinstance(record, WaitingSchedule):
                    call = ScheduleCall(kinds[record.kind], record.inline, self._file_of(record), record.key, b"")
                    self._schedules.inherit(record.values, call)
                else:
                    self._take(record, generations[record.generation], kinds[record.kind])
                    count += 1
        except (OSError, ValueError, LookupError, TypeError) as error:
            self._log.write_warning(f"jobs that a predecessor has left are lost, for {path} cannot be read: {error}")
        if count:
            self._log.write(f"{count} waiting jobs were taken over")
        waiting_file.remove(path)

    def _join(self, code: WaitingGeneration) -> Generation:
        spec = payload.open_memory_file(self._directory.base)
        os.write(spec.fileno(), code.spec)
        generation = self._generations.join(code.key, code.executable, os.dup(spec.fileno())).generation
        spec.close()
        generation.clients -= 1
        return generation

    def _intern(self, kind: WaitingKind) -> SupervisedKind:
        try:
            return self._registry.kinds.intern(kind.description, kind.function, kind.caller)
        except WireError as error:  # another release, which has other options
            unknown = SupervisedKind(0, b"unknown", JobOptions(), function=b"", description=b"{}")
            unknown.rejection = f"the pool was handed a job over that this release of procjobs cannot run: {error}"
            return unknown

    def _take(self, left: WaitingJob, generation: Generation, kind: SupervisedKind) -> None:
        moment = wall()
        job = SupervisedJob(left.job_id, kind, generation, NO_CLIENT, left.inline, self._file_of(left))
        job.attempt, job.interrupted, job.crashes, job.key = left.attempt, left.interrupted, left.crashes, left.key
        job.history = left.history
        origin = left.schedule.encode(), int(left.scheduled_for or 0)
        job.extras = extras_of(left.meta.encode(), bytes.fromhex(left.retry_of), *origin)
        if left.checkpoint and self._registry.save_checkpoint(job.id, b64decode(left.checkpoint)):
            self._registry.note_checkpoint(job)
        delay = max(left.not_before - moment, 0.0)
        expires = (left.expires_at - moment or -1.0) if left.expires_at else 0.0
        problem = ("ConfigurationError", kind.rejection)
        self._registry.jobs[job.id] = job
        try:
            self._registry.publish(job, left.submitted_at, delay)
        except TableFull as error:
            problem = ("QueueFull", f"the pool cannot record another job: {error}")
        if problem[1]:
            self._dispatcher.reject(job, *problem, {})
            return
        if left.unique_until is not None:
            self._unique_keys.restore(job, left.unique_until)
        if self._durability.submitted(job, NO_CLIENT, delay, max(expires, 0.0), left.unique_until):
            self._dispatcher.submit(job, self._loop.now, delay=delay, expires=expires)

    def _file_of(self, left: WaitingJob | WaitingSchedule) -> int | None:
        if left.large is None:
            return None
        assert isinstance(left.large, bytes), "it was read"
        memory = payload.open_memory_file(self._directory.path)
        with open(memory.fileno(), "wb", closefd=False) as file:
            file.write(left.large)
        fd = os.dup(memory.fileno())
        memory.close()
        return fd


def _without_key(caller: bytes) -> bytes:
    """Return what a kind says of its client, but for the key of its multiprocessing, which goes into no file."""
    values = wire.parse_json(caller or b"{}")
    values.pop("authkey", None)
    return json.dumps(values).encode() if values else b""


def _state(state: str, running: int) -> bytes:
    return wire.json_frame(Frame.CONTROL, {"state": state, "pid": os.getpid(), "running": running})


def pass_on_lock(successor: socket.socket, lock: int) -> bool:
    """Send the pool's lock to the process that takes it over; return False if that has gone."""
    frame = wire.json_frame(Frame.CONTROL, {"state": hello.OVER}, descriptors=1)
    with successor:
        successor.settimeout(_SEND_TIMEOUT)
        try:
            return socket.send_fds(successor, [frame], [lock]) == len(frame)
        except OSError:
            return False
