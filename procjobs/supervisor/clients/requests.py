"""The frames that clients send: each kind of frame has one function here.

A frame that makes no sense raises WireError: the connection it came over is closed with a line in the log, and nobody
else notices.
"""

from __future__ import annotations

import os
import struct
from collections import defaultdict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procjobs.shared import hello, wire
from procjobs.shared.code_spec import check_files
from procjobs.shared.ids import ID_BYTES
from procjobs.shared.meta import unpack_meta
from procjobs.shared.states import FINAL
from procjobs.shared.table.annex import Extras
from procjobs.shared.wire import BODY, Frame, WireError, failure_frame
from procjobs.supervisor.clients.admission import Submission
from procjobs.supervisor.clients.batches import StagedFiles, read_frames
from procjobs.supervisor.job import SupervisedJob
from procjobs.version import __version__

if TYPE_CHECKING:
    from procjobs.supervisor.clients.admission import Admission
    from procjobs.supervisor.clients.calls import Calls
    from procjobs.supervisor.clients.client_link import ClientLink
    from procjobs.supervisor.clients.hand_over import HandOver
    from procjobs.supervisor.clients.schedule_requests import ScheduleRequests
    from procjobs.supervisor.durable.durability import Durability
    from procjobs.supervisor.generations import Generations
    from procjobs.supervisor.registry import Registry

_MAX_KINDS: Final = 8192
_KEY_AT: Final = wire.SUBMIT_FRAME.size
_HAS_DESCRIPTOR_AT: Final = 5


class Identity(NamedTuple):
    """The facts about itself with which a supervisor welcomes clients.

    `is_served`: it is a pool of `procjobs serve`. `mark`: the pool's own processes have it in their environment.
    """

    pool: str
    settings: dict[str, Any]
    store_name: str
    is_served: bool
    mark: str


class RequestHandler:
    """Reads the frames of clients and acts on them."""

    def __init__(
        self, identity: Identity, registry: Registry, generations: Generations, durability: Durability,
        admission: Admission, calls: Calls, schedules: ScheduleRequests, hand_over: HandOver,
    ) -> None:  # fmt: skip
        self._identity = identity
        self._registry = registry
        self._generations = generations
        self._durability = durability
        self._admission = admission
        self._calls = calls
        self._hand_over = hand_over
        self._insiders: set[ClientLink] = set()
        self._staged: defaultdict[ClientLink, StagedFiles] = defaultdict(StagedFiles)
        self._handlers: dict[int, Callable[[ClientLink, bytes, int | None], None]] = {
            Frame.SUBMIT: self._on_submit,
            Frame.SUBMIT_UNIQUE: self._on_submit_unique,
            Frame.STAGE: self._on_stage,
            Frame.SUBMIT_MANY: self._on_submit_many,
            Frame.KIND: self._on_kind,
            Frame.CALLER: self._on_caller,
            Frame.FORGET: self._on_forget,
            Frame.WATCH: self._on_watch,
            Frame.REQUEST: self._on_request,
            Frame.HELLO: self._on_hello,
            Frame.CODE: self._on_code,
            Frame.SCHEDULE: lambda client, raw, fd: schedules.on_frame(client, raw[BODY:], fd),
        }

    def read(self, client: ClientLink) -> None:
        """Act on everything that has arrived from a client; raise WireError."""
        handlers = self._handlers
        self._admission.begin_turn()
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

    def _on_hello(self, client: ClientLink, raw: bytes, fd: int | None) -> None:
        try:
            said = hello.parse_hello(raw)
        except WireError:
            _close(fd)
            raise
        key, executable, pid = (said.values.get(name) for name in ("generation", "executable", "pid"))
        if said.ask or said.wire_version != wire.WIRE_VERSION:
            _close(fd)
            refusal = self._act_on_ask(client, said.ask, pid) if said.ask else self._describe_versions(said)
            if refusal:
                self._refuse(client, refusal)
            return
        if client.generation is not None or fd is None:
            _close(fd)
            raise WireError("this is not how procjobs says hello")
        if not (isinstance(key, str) and isinstance(executable, str) and isinstance(pid, int)):
            _close(fd)
            raise WireError("HELLO lacks the generation, the executable or the pid")
        client.pid = pid
        if said.values.get("inside") == self._identity.mark:
            self._insiders.add(client)
        client.generation, warning = self._generations.join(key, executable, fd)
        welcome = {
            "pid": os.getpid(),
            "settings": self._identity.settings,
            "problem": client.generation.problem,
            "notice": client.generation.notice,
            "warning": warning,
            "version": __version__,
            "store_name": self._identity.store_name,
            "inside": client in self._insiders,
        }
        client.queue_frame(wire.json_frame(Frame.WELCOME, welcome))

    def _act_on_ask(self, client: ClientLink, ask: str, pid: object) -> str:
        """Do what a process of any release asks for; return why not, empty if it is done."""
        pool = self._identity.pool
        if ask == hello.STOP:
            self._calls.stop()
            return ""
        if ask != hello.HAND_OVER or not isinstance(pid, int):
            return f"the supervisor of pool {pool!r} runs procjobs {__version__}, and does not know the wish {ask[:40]!r}"
        if self._identity.is_served:
            return f"pool {pool!r} is running already, served by process {os.getpid()}"
        problem = self._hand_over.begin(client, pid)
        return problem and f"pool {pool!r} cannot be taken over: {problem}"

    def _describe_versions(self, said: hello.Hello) -> str:
        return hello.describe_versions(self._identity.pool, self._describe_self(), said.release, said.wire_version)

    def _describe_self(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "version": __version__, "wire": wire.WIRE_VERSION, "served": self._identity.is_served}

    def _refuse(self, client: ClientLink, message: str) -> None:
        client.queue_frame(wire.json_frame(Frame.REFUSED, {"message": message, **self._describe_self()}))
        client.stream.ended = True

    def _on_code(self, client: ClientLink, raw: bytes, fd: int | None) -> None:
        _close(fd)
        assert client.generation is not None, "HELLO comes first"
        files = check_files(wire.parse_json(raw[BODY:]).get("files"))
        client.generation, warning = self._generations.declare(client.generation.newest(), files)
        if warning:
            client.queue_frame(wire.json_frame(Frame.NOTICE, {"problem": client.generation.problem, "warning": warning}))

    def _on_kind(self, client: ClientLink, raw: bytes, fd: int | None) -> None:
        number, length = wire.KIND.unpack_from(raw, BODY)
        start = BODY + wire.KIND.size
        text, function = raw[start : start + length], raw[start + length :]
        if fd is not None or len(function) > wire.MAX_FUNCTION_BYTES or len(client.kinds) >= _MAX_KINDS:
            _close(fd)
            raise WireError("a KIND that is too large, or one too many")
        client.kinds[number] = self._registry.kinds.intern(text, function, client.kinds.caller)

    def _on_caller(self, client: ClientLink, raw: bytes, fd: int | None) -> None:
        body = raw[BODY:]
        if fd is not None or len(body) > wire.MAX_CALLER_BYTES:
            _close(fd)
            raise WireError("a CALLER that is too large")
        wire.parse_json(body)
        client.kinds.caller = body

    def _on_forget(self, client: ClientLink, _raw: bytes, fd: int | None) -> None:
        _close(fd)
        client.kinds.clear()

    def _on_submit_unique(self, client: ClientLink, raw: bytes, fd: int | None) -> None:
        (seconds,) = wire.F64.unpack_from(raw, _KEY_AT)
        if not seconds >= 0 or not raw[_KEY_AT - 1]:
            _close(fd)
            raise WireError("a submission that is to be unique for a bad time, or has no key")
        self._on_submit(client, raw[:_KEY_AT] + raw[_KEY_AT + wire.F64.size :], fd, seconds)

    def _on_submit(self, client: ClientLink, raw: bytes, fd: int | None, unique: float | None = None) -> None:
        submission = self._read_submission(client, raw, fd)
        if submission is not None:
            self._admission.admit(client, *submission, unique)

    def _on_stage(self, client: ClientLink, raw: bytes, fd: int | None) -> None:
        (number,) = wire.U64.unpack_from(raw, BODY)
        if fd is None:
            raise WireError("a STAGE without a descriptor")
        self._staged[client].add(number, fd)

    def _on_submit_many(self, client: ClientLink, raw: bytes, fd: int | None) -> None:
        number, count = wire.BATCH.unpack_from(raw, BODY)
        files = deque(self._staged[client].take(number))
        submissions: list[Submission] = []
        try:
            if fd is None:
                raise WireError("a SUBMIT_MANY without a descriptor")
            for frame in read_frames(fd, count):
                file = files.popleft() if frame[_HAS_DESCRIPTOR_AT] else None
                submission = self._read_submission(client, frame, file)
                if submission is not None:
                    submissions.append(submission)
            if files or len({one.job.id for one in submissions}) != len(submissions):
                raise WireError("a batch with an unclaimed descriptor, or with the same job twice")
        except (WireError, IndexError):
            for left in [*files, *(one.job.fd for one in submissions)]:
                _close(left)
            raise WireError("a SUBMIT_MANY that makes no sense") from None
        if submissions:
            self._admission.admit_many(client, submissions)

    def _read_submission(self, client: ClientLink, raw: bytes, fd: int | None) -> Submission | None:
        """Return the submission of a SUBMIT frame; None for one that was taken already."""
        _, _, _, _, job_id, number, delay, expires, meta_length, key_length = wire.SUBMIT_FRAME.unpack_from(raw)
        kind = client.kinds.get(number)
        meta_at = _KEY_AT + key_length
        inline = raw[meta_at + meta_length :]
        if kind is None or len(inline) > wire.MAX_INLINE_BYTES or not delay >= 0 or not expires >= 0:
            _close(fd)
            raise WireError("a SUBMIT of an unknown kind, too large, or with a bad time")
        if job_id in self._registry.jobs:  # sent again by a client that had lost its connection
            _close(fd)
            if not self._hand_over.has_left(job_id):
                self._durability.acknowledge(client)
                self._registry.watch(client, self._registry.jobs[job_id])
            return None
        generation = client.generation
        assert generation is not None, "HELLO comes first"
        if generation.successor is not None:
            generation = client.generation = generation.newest()
        job = SupervisedJob(job_id, kind, generation, client, inline, fd)
        if key_length:
            job.key = raw[_KEY_AT:meta_at]
        if meta_length:
            job.extras = Extras(_check_meta(raw[meta_at : meta_at + meta_length], fd))
        if kind.options.cancel_on_disconnect:
            client.tied.add(job)
        return Submission(job, delay, expires)

    def _on_watch(self, client: ClientLink, raw: bytes, fd: int | None) -> None:
        _close(fd)
        job_id = raw[BODY:]
        job = self._registry.jobs.get(job_id)
        if self._hand_over.has_left(job_id):
            return  # the client asks the successor
        if job is not None:
            self._registry.watch(client, job)
        elif len(job_id) != ID_BYTES or not self._durability.find(job_id, client):
            text = f"job {job_id.hex()} is not known to this pool"
            client.queue_frame(failure_frame(job_id[:ID_BYTES], "UnknownJob", text))

    def _on_request(self, client: ClientLink, raw: bytes, fd: int | None) -> None:
        (number,) = wire.U32.unpack_from(raw, BODY)  # if it is too short, `read` closes the descriptor
        _close(fd)
        self._calls.act_on(client, number, wire.parse_json(raw[BODY + 4 :]))

    @property
    def insiders(self) -> int:
        """How many clients are processes of this pool itself: its template, its workers, programs that jobs have started."""
        return len(self._insiders)

    def forget_client(self, client: ClientLink) -> None:
        """Let go of a client that has disconnected; its jobs go on, except for those that only it was waiting for."""
        self._hand_over.forget_client(client)
        if client in self._insiders:
            self._insiders.discard(client)
            self._calls.end_waits(client)
        if client in self._staged:
            self._staged.pop(client).begin(0)
        if client.generation is not None:
            client.generation.newest().clients -= 1
        for job in client.tied:
            waiting = [job.client, *(job.watchers or ())]
            if job.state not in FINAL and all(other.closed for other in waiting):
                self._admission.cancel(job)
        client.tied.clear()


def _check_meta(packed: bytes, fd: int | None) -> bytes:
    try:
        unpack_meta(packed)
    except ValueError:
        _close(fd)
        raise WireError("a SUBMIT with a meta that is none") from None
    return packed


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
