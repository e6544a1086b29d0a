"""What clients ask of the supervisor: each kind of frame, and each call, has one function here.

A frame that makes no sense raises WireError: the connection it came over is closed with a line in the log, and nobody
else notices.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from procjobs.clock import wall
from procjobs.dispatch.model import Generation, Job, Kind
from procjobs.errors import ConfigurationError
from procjobs.shared import wire
from procjobs.shared.config import JOB_OPTION_NAMES, JobOptions
from procjobs.shared.ids import ID_BYTES
from procjobs.shared.queues import refuse_queue
from procjobs.shared.states import FINAL, JobState
from procjobs.shared.table.state_writer import TableFull
from procjobs.shared.wire import BODY, Frame, WireError
from procjobs.version import __version__

if TYPE_CHECKING:
    from procjobs.supervisor.clients.client_link import ClientLink
    from procjobs.supervisor.supervisor import Supervisor

_MAX_KINDS: Final = 8192
_QUEUED: Final = JobState.QUEUED
_Reply = dict[str, Any] | None
"""What a call answers; None where the answer comes later."""


class _Nobody:
    """Stands for the client of a job that was loaded from the store."""

    closed = True


_NOBODY: Final = _Nobody()


class ClientDesk:
    """Reads what clients send and acts on it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._kinds: WeakValueDictionary[bytes, Kind] = WeakValueDictionary()
        self._kind_count = 0
        self._room = 0  # how many more jobs may wait; counted down within a turn, since looking costs 1 us
        self.jobs: dict[bytes, Job] = {}
        self._handlers: dict[int, Callable[[ClientLink, bytes, int | None], None]] = {
            Frame.SUBMIT: self._on_submit,
            Frame.KIND: self._on_kind,
            Frame.FORGET: self._on_forget,
            Frame.WATCH: self._on_watch,
            Frame.REQUEST: self._on_request,
            Frame.HELLO: self._on_hello,
        }
        self._calls: dict[str, Callable[[ClientLink, dict[str, Any]], _Reply]] = {
            "acknowledge": self._call_acknowledge,
            "cancel": self._call_cancel,
            "cancel_queued": self._call_cancel_queued,
            "resize": self._call_resize,
            "pause": self._call_pause,
            "resume": self._call_resume,
            "drain": self._call_drain,
            "stop": self._call_stop,
            "logs": self._call_logs,
            "stack": self._call_stack,
            "claim_key": self._call_claim_key,
            "release_key": self._call_release_key,
            "sweep": self._call_sweep,
            "queues": self._call_queues,
            "reload": self._call_reload,
        }

    def read(self, client: ClientLink) -> None:
        """Act on everything that has arrived from a client; raises WireError."""
        handlers = self._handlers
        self._room = self._supervisor.room()
        for kind, raw, fd in client.stream.read():
            handler = handlers.get(kind)
            if handler is None or (client.generation is None and kind != Frame.HELLO):
                _close(fd)
                raise WireError(f"a frame of kind {kind} was not expected here")
            try:
                handler(client, raw, fd)
            except struct.error:
                _close(fd)
                raise WireError(f"a frame of kind {kind} is too short") from None

    # Frames -----------------------------------------------------------------------------------------------

    def _on_hello(self, client: ClientLink, raw: bytes, fd: int | None) -> None:
        magic, version, text = raw[8:16], raw[16:18], raw[18:]
        if magic != wire.MAGIC or client.generation is not None or fd is None:
            _close(fd)
            raise WireError("this is not how procjobs says hello")
        theirs = int.from_bytes(version, "little")
        if theirs != wire.WIRE_VERSION:
            _close(fd)
            message = (
                f"this process speaks version {theirs} of the protocol and pool {self._supervisor.name!r} version "
                f"{wire.WIRE_VERSION}: they run different releases of procjobs. Stop the pool, or give it another name"
            )
            client.outgoing.append(wire.json_frame(Frame.REFUSED, {"message": message}))
            client.stream.ended = True
            return
        try:
            hello = wire.parse_json(text)
        except WireError:
            _close(fd)
            raise
        key, executable, pid = hello.get("generation"), hello.get("executable"), hello.get("pid")
        if not (isinstance(key, str) and isinstance(executable, str) and isinstance(pid, int)):
            _close(fd)
            raise WireError("HELLO lacks the generation, the executable or the pid")
        client.pid = pid
        client.generation = self._supervisor.templates.join(key, executable, fd)
        welcome = {
            "pid": os.getpid(),
            "settings": self._supervisor.settings.to_json(),
            "problem": client.generation.problem,
            "version": __version__,
            "store_name": self._supervisor.store_name,
        }
        client.outgoing.append(wire.json_frame(Frame.WELCOME, welcome))

    def _on_kind(self, client: ClientLink, raw: bytes, fd: int | None) -> None:
        number, length = wire.KIND.unpack_from(raw, BODY)
        start = BODY + wire.KIND.size
        text, function = raw[start : start + length], raw[start + length :]
        if fd is not None or len(function) > wire.MAX_FUNCTION_BYTES or len(client.kinds) >= _MAX_KINDS:
            _close(fd)
            raise WireError("a KIND that is too large, or one too many")
        client.kinds[number] = self._intern_kind(text, function)

    def _intern_kind(self, text: bytes, function: bytes) -> Kind:
        key = len(text).to_bytes(4, "little") + text + function
        kind = self._kinds.get(key)
        if kind is None:
            description = wire.parse_json(text)
            name, options = description.get("name"), description.get("options")
            if not isinstance(name, str) or not isinstance(options, dict) or not options.keys() <= JOB_OPTION_NAMES:
                raise WireError("a KIND without name or with unknown options")
            try:
                checked = JobOptions(**options).validated()
            except ConfigurationError as error:
                raise WireError(f"a KIND with bad options: {error}") from None
            self._kind_count += 1
            kind = self._kinds[key] = Kind(self._kind_count, _short_name(name), checked, function, text)
            kind.is_recorded = self._supervisor.recording is not None
            if checked.queue is not None:
                kind.refusal = refuse_queue(checked.queue, self._supervisor.settings.queues, self._supervisor.name)
        return kind

    def _on_forget(self, client: ClientLink, _raw: bytes, fd: int | None) -> None:
        _close(fd)
        client.kinds.clear()

    def _on_submit(self, client: ClientLink, raw: bytes, fd: int | None) -> None:
        _, _, _, _, job_id, number, delay, expires, key_length = wire.SUBMIT_FRAME.unpack_from(raw)
        kind = client.kinds.get(number)
        inline = raw[45 + key_length :]
        if kind is None or len(inline) > wire.MAX_INLINE_BYTES or not delay >= 0 or not expires >= 0:
            _close(fd)
            raise WireError("a SUBMIT of an unknown kind, too large, or with a bad time")
        recording = self._supervisor.recording
        if recording is None:
            client.accepted += 1
        if job_id in self.jobs:  # sent again by a client that had lost its connection
            _close(fd)
            if recording is not None:
                recording.acknowledge_in_turn(client)
            self.watch(client, self.jobs[job_id])
            return
        generation = client.generation
        if generation is None or generation.successor is not None:
            generation = newest_generation(client)
        job = Job(job_id, kind, generation, client, inline, fd)
        if key_length:
            job.key = raw[45 : 45 + key_length]
        if kind.options.cancel_on_disconnect:
            client.tied.add(job)
        self._admit(client, job, delay, expires)

    def _admit(self, client: ClientLink, job: Job, delay: float, expires: float) -> None:
        """Take a job that a client has submitted, or answer why not."""
        supervisor, recording, job_id, fd = self._supervisor, self._supervisor.recording, job.id, job.fd
        self._room -= 1
        refusal: tuple[str, str, dict[str, Any]] | None = None
        if job.kind.refusal:
            refusal = "ConfigurationError", job.kind.refusal, {}
        elif self._room < 0 or fd is not None:
            refusal = supervisor.refusal(fd)
        elif recording is not None:
            refusal = recording.refusal(None)
        if refusal is None:
            try:
                job.row = supervisor.allocate_row(job_id)
            except TableFull as error:
                refusal = "QueueFull", f"the pool cannot record another job: {error}", {}
        self.jobs[job_id] = job
        if refusal is not None:
            if recording is not None:
                recording.acknowledge_in_turn(client)
            supervisor.unique_keys.release(job_id)
            supervisor.dispatcher.reject(job, *refusal)
            return
        state = JobState.SCHEDULED if delay > 0 else _QUEUED
        supervisor.table.publish(job.row, job_id, state, 0, wall(), job.kind.name)
        if recording is None:
            if job.key:
                supervisor.unique_keys.settle(job, wall())
            supervisor.dispatcher.submit(job, supervisor.now, delay=delay, expires=expires)
        else:
            recording.submitted(client, job, delay, expires)

    def take_loaded(
        self, job_id: bytes, description: bytes, function: bytes, inline: bytes, fd: int | None
    ) -> tuple[Job, str]:
        """Return a job that was loaded from the store, and why it cannot be run, if it cannot.

        Nobody is connected who has submitted it, and it runs on the newest code that there is.
        """
        supervisor = self._supervisor
        problem = ""
        try:
            kind = self._intern_kind(description, function)
        except WireError as error:  # an older version of procjobs, which does not know all of its options
            problem = f"the store has a job that this version of procjobs cannot run: {error}"
            kind = Kind(0, b"unknown", JobOptions(), b"", b"{}")
        generation = next(g for g in reversed(supervisor.dispatcher.generations) if g.successor is None)
        job = self.jobs[job_id] = Job(job_id, kind, generation, _NOBODY, inline, fd)
        return job, problem

    def _on_watch(self, client: ClientLink, raw: bytes, fd: int | None) -> None:
        _close(fd)
        job_id = raw[BODY:]
        job = self.jobs.get(job_id)
        recording = self._supervisor.recording
        if job is None and self._supervisor.unique_keys.try_watch(client, job_id):
            return
        if job is None and recording is not None and len(job_id) == ID_BYTES:
            recording.stored.find(job_id, client)
        elif job is None:
            details = {"error": "UnknownJob", "message": f"job {job_id.hex()} is not known to this pool"}
            client.outgoing.append(wire.finished_frame(job_id[:16], wire.Outcome.VERDICT, 0, 0, 0.0, details))
        else:
            self.watch(client, job)

    def watch(self, client: ClientLink, job: Job) -> None:
        """Let a client have a job's answer, now or when there is one."""
        if job.state in FINAL and job.answer is not None:
            client.queue_answer(job)
            return
        if job.kind.options.cancel_on_disconnect:
            client.tied.add(job)
        if job.watchers is None:
            job.watchers = [client]
        else:
            job.watchers.append(client)

    # Calls ------------------------------------------------------------------------------------------------

    def _on_request(self, client: ClientLink, raw: bytes, fd: int | None) -> None:
        (number,) = wire.U32.unpack_from(raw, BODY)  # if it is too short, `read` closes the descriptor
        _close(fd)
        request = {**wire.parse_json(raw[BODY + 4 :]), "number": number}
        call = self._calls.get(str(request.get("call")))
        if call is None:
            raise WireError(f"an unknown call: {request.get('call')!r}")
        try:
            reply = call(client, request)
        except (KeyError, TypeError, ValueError, OverflowError) as error:  # OverflowError: 1e400 workers
            raise WireError(f"the call {request['call']} has bad arguments: {error!r}") from None
        if reply is not None:
            self.reply(client, number, reply)

    @staticmethod
    def reply(client: ClientLink, number: int, reply: dict[str, Any]) -> None:
        """Answer a call."""
        if not client.closed:
            client.outgoing.append(wire.json_frame(Frame.REPLY, reply, prefix=wire.U32.pack(number)))

    def _call_logs(self, _client: ClientLink, request: dict[str, Any]) -> _Reply:
        job = self.jobs.get(bytes.fromhex(request["id"]))
        if job is None:
            return {"known": False}
        return {"known": True, "text": job.transcript.everything.text() if job.transcript is not None else ""}

    def _call_stack(self, client: ClientLink, request: dict[str, Any]) -> _Reply:
        job = self.jobs.get(bytes.fromhex(request["id"]))
        if job is None:
            return {"known": False}
        now, slot = self._supervisor.now, job.slot
        if slot is None or not self._supervisor.dispatcher.isolate(job, slot, now):
            return {"known": True, "text": job.stack or None}
        number = int(request["number"])
        self._supervisor.crew.stacks.ask(slot, lambda text: self.reply(client, number, {"known": True, "text": text}))
        return None

    def _call_reload(self, client: ClientLink, request: dict[str, Any]) -> _Reply:
        number = int(request["number"])
        self._supervisor.templates.reload(lambda problem: self.reply(client, number, {"problem": problem}))
        return None

    def _call_acknowledge(self, client: ClientLink, _request: dict[str, Any]) -> _Reply:
        client.told_by = self._supervisor.now
        return None

    def _call_cancel(self, client: ClientLink, request: dict[str, Any]) -> _Reply:
        job_id, recording = bytes.fromhex(request["id"]), self._supervisor.recording
        job = self.jobs.get(job_id)
        if job is not None:
            return {"known": True, "cancelled": self.cancel(job)}
        if recording is None or len(job_id) != ID_BYTES:
            return {"known": False, "cancelled": False}
        recording.stored.cancel(job_id, client, int(request["number"]))
        return None

    def _call_claim_key(self, client: ClientLink, request: dict[str, Any]) -> _Reply:
        key, job_id = bytes.fromhex(request["key"]), bytes.fromhex(request["id"])
        number, seconds = int(request["number"]), float(request["seconds"])
        if len(job_id) != ID_BYTES or not seconds >= 0:
            raise ValueError("no job id, or a negative time")
        self._supervisor.unique_keys.claim(
            client, key, job_id, seconds, lambda holder: self.reply(client, number, {"id": holder.hex()})
        )
        return None

    def _call_release_key(self, _client: ClientLink, request: dict[str, Any]) -> _Reply:
        self._supervisor.unique_keys.release(bytes.fromhex(request["id"]))
        return {}

    def _call_queues(self, _client: ClientLink, _request: dict[str, Any]) -> _Reply:
        return {"queues": self._supervisor.dispatcher.describe_queues()}

    def _call_sweep(self, _client: ClientLink, _request: dict[str, Any]) -> _Reply:
        if self._supervisor.recording is not None:
            self._supervisor.recording.sweep()
        return {}

    def cancel(self, job: Job) -> bool:
        """Cancel a job; one that waits for its commit is cancelled after it, so that the store has it as cancelled."""
        durable = job.durable
        if durable is not None and not durable.is_committed and job.state not in FINAL:
            durable.is_cancelled = True
            return True
        return self._supervisor.dispatcher.cancel(job, self._supervisor.now)

    def _call_cancel_queued(self, client: ClientLink, _request: dict[str, Any]) -> _Reply:
        waiting = [j for j in self.jobs.values() if j.client is client and j.state not in FINAL]
        count = sum(self.cancel(job) for job in waiting if job.state is not JobState.RUNNING)
        return {"cancelled": count}

    def _call_resize(self, _client: ClientLink, request: dict[str, Any]) -> _Reply:
        least, most = request["workers"]
        self._supervisor.resize(int(least), int(most))
        return {}

    def _call_pause(self, _client: ClientLink, _request: dict[str, Any]) -> _Reply:
        self._supervisor.dispatcher.pause(self._supervisor.now)
        return {}

    def _call_resume(self, _client: ClientLink, _request: dict[str, Any]) -> _Reply:
        self._supervisor.dispatcher.paused = False
        return {}

    def _call_drain(self, _client: ClientLink, _request: dict[str, Any]) -> _Reply:
        self._supervisor.drain()
        self._room = 0
        return {}

    def _call_stop(self, _client: ClientLink, request: dict[str, Any]) -> _Reply:
        self._supervisor.stop("the pool was stopped", at_once=bool(request.get("at_once")))
        self._room = 0
        return {}

    def forget_client(self, client: ClientLink) -> None:
        """Let go of a client that has disconnected; its jobs go on, but for those that only it was waiting for."""
        if client.generation is not None:
            newest_generation(client).clients -= 1
        for job in client.tied:
            waiting = [job.client, *(job.watchers or ())]
            if job.state not in FINAL and all(other.closed for other in waiting):
                self.cancel(job)
        client.tied.clear()
        self._supervisor.unique_keys.forget_client(client)


def newest_generation(client: ClientLink) -> Generation:
    """Return the generation of a client, which is a newer one after a reload."""
    generation = client.generation
    assert generation is not None
    while generation.successor is not None:
        generation = client.generation = generation.successor
    return generation


def _short_name(name: str) -> bytes:
    """Return the end of a name, in UTF-8, as far as it fits into a row of the table."""
    text = name.encode(errors="replace")
    return text if len(text) <= 63 else "…".encode() + text[-57:].decode(errors="ignore").encode()


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
