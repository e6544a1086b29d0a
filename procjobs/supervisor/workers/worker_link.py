"""The supervisor's ends of the pipes and the socket to a worker. Nothing here blocks.

A pipe costs half as much as a socket, and carries no descriptors. So small messages take a pipe each way, jobs as packets
(pipe(2), O_DIRECT). A message that is large or has a descriptor takes a socket beside them, and is announced in the pipe.

    jobs      pipe of packets     a job, or one byte: the job is the next message of the socket
    side      SOCK_SEQPACKET      towards the worker large jobs, towards the supervisor the descriptors of answers
    answers   pipe                frames; the descriptor of a frame was sent over the socket before it
    stdout, stderr, stack         pipes

Where the kernel has no pipes of packets (gVisor), or /proc is not mounted, `jobs` is a SOCK_SEQPACKET pair, which costs
more.

The supervisor has reading ends of `jobs` and `side` of its own. So it can read back the jobs that the worker has not read:
the kernel hands each message to exactly one of the two.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from procjobs.host import descriptors
from procjobs.host.descriptors import out_of_descriptors
from procjobs.shared.ids import ID_BYTES
from procjobs.shared.wire import (
    JOB,
    JOB_ASIDE,
    MAX_JOB_BYTES,
    MAX_PACKET_BYTES,
    FrameReader,
    WireError,
    without_payload,
)

if TYPE_CHECKING:
    from procjobs.supervisor.job import SupervisedJob, SupervisedKind

_PIPE_BYTES: Final = 64 * 4096
_READ_BYTES: Final = 64 * 1024
_KINDS_KNOWN: Final = 1024
"""The number of kinds that a worker remembers. Beyond it, the worker gets the order to forget all of them."""
_FUNCTION_BYTES_KNOWN: Final = 4 * 2**20
"""The same for the bytes of their functions."""


class AnswerStream:
    """Frames that arrive in a worker's pipe, with the descriptors that arrive over its socket.

    A descriptor is taken only where a frame claims one, and only that of a regular file, as memory files are: a device or a
    pipe has no size, and may never come to an end when it is read.
    """

    def __init__(self, pipe: int, side: socket.socket) -> None:
        self.pipe = pipe
        self._side = side
        self._reader = FrameReader()
        self.ended = False
        self.drained = False

    def read(self) -> Iterator[tuple[int, bytes, int | None]]:
        """Yield (kind, frame, descriptor) of the frames that have arrived.

        Sets `ended` at the end of the stream, and `drained` where there was nothing.
        """
        try:
            data = os.read(self.pipe, _READ_BYTES)
        except BlockingIOError:
            self.drained = True
            return
        if not data:
            self.ended = True
            return
        self.drained = False
        for kind, raw, has_descriptor in self._reader.feed(data):
            if has_descriptor:
                fd = self._take_descriptor()
                yield kind, raw if fd is not None else without_payload(raw, out_of_descriptors("supervisor")), fd
            else:
                yield kind, raw, None

    @property
    def has_part(self) -> bool:
        """Whether a frame has begun to arrive that is not whole yet."""
        return self._reader.has_part

    def _take_descriptor(self) -> int | None:
        """Return the descriptor, None if this process may open no more; raise WireError if none came."""
        try:
            _, fds, is_lost = descriptors.receive(self._side, 1, descriptors.ROOM_FOR_ONE, descriptors.NO_WAIT)
        except OSError:
            fds, is_lost = [], False
        if is_lost and not fds:
            return None
        if len(fds) != 1:
            raise WireError("a frame claims a descriptor that did not come before it")
        if not descriptors.is_regular(fds[0]):
            os.close(fds[0])
            raise WireError("a descriptor that came is not one of a regular file")
        return fds[0]


class WorkerLink:
    """A worker's pipes and its socket."""

    def __init__(self) -> None:
        self.closed = False
        self._fds: list[int] = []
        self._sockets: list[socket.socket] = []
        self._worker_side: list[int] = []
        self._kinds: set[int] = set()  # numbers, which are never used again: a kind may be forgotten before its workers are
        self._unconfirmed: dict[bytes, int] = {}
        self._function_bytes = 0
        self._read_unread: Callable[[], bytes]
        try:
            try:
                jobs_read = self._open_pipe_of_packets()
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
                    raise
                self._close_fds()
                jobs_read = self._open_socket_of_packets()
            self._side, self._side_read = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._sockets += [self._side, self._side_read]
            self._side.setblocking(False)
            self._side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024 * 1024)
            readers, writers = zip(*(self._pipe() for _ in range(4)), strict=True)
        except OSError:
            self.close()
            raise
        for fd in readers:
            os.set_blocking(fd, False)
        self._worker_side = [jobs_read, *writers]
        self._fds = [fd for fd in self._fds if fd not in self._worker_side]
        answers, self.stdout, self.stderr, self.stack = readers
        self.stream = AnswerStream(answers, self._side)

    def _pipe(self, flags: int = 0) -> tuple[int, int]:
        read, write = os.pipe2(os.O_CLOEXEC | flags)
        self._fds += [read, write]
        return read, write

    def _open_pipe_of_packets(self) -> int:
        """Set the supervisor's ends of `jobs`, and return the worker's."""
        jobs_read, self._jobs = self._pipe(os.O_DIRECT)
        os.set_blocking(self._jobs, False)
        with contextlib.suppress(OSError):  # beyond a user's limit it keeps its 16 pages, one for each packet (pipe(7))
            fcntl.fcntl(self._jobs, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        # O_NONBLOCK belongs to the open file, which the worker shares and where it must block: so it is opened again.
        unread = os.open(f"/proc/self/fd/{jobs_read}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._fds.append(unread)
        self._read_unread = partial(os.read, unread, MAX_PACKET_BYTES)
        return jobs_read

    def _open_socket_of_packets(self) -> int:
        """Do the same with sockets."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._jobs, jobs_read = os.dup(ours.fileno()), os.dup(theirs.fileno())
        self._fds += [self._jobs, jobs_read]
        self._sockets.append(theirs)
        self._read_unread = partial(theirs.recv, MAX_PACKET_BYTES, descriptors.NO_WAIT)
        ours.close()
        return jobs_read

    def fds_for_worker(self) -> list[int]:
        """Return the descriptors that the new worker is to have."""
        jobs, *writers = self._worker_side
        return [jobs, self._side_read.fileno(), *writers]

    def close_worker_side(self) -> None:
        """Close the descriptors that only the worker needs, once it has them."""
        while self._worker_side:
            os.close(self._worker_side.pop())

    def send(self, job: SupervisedJob) -> bool:
        """Send a job; return False if the worker's queue is full or the worker has gone."""
        kind = job.kind
        description = function = b""
        is_new = kind.number not in self._kinds
        if is_new:
            description, function = self._describe(kind), kind.function
        head = JOB.pack(job.id, kind.number, job.row, job.attempt, len(description), len(function))
        message = b"".join((head, description, function, job.inline))
        try:
            if job.fd is None and len(message) <= MAX_PACKET_BYTES:
                os.write(self._jobs, message)
            elif not self._send_aside(message, job.fd):
                return False
        except OSError:  # it has gone, its queue is full, or the host is out of buffers or of descriptors on their way
            return False
        if is_new:
            self._unconfirmed[job.id] = kind.number
            self._function_bytes += len(function)
        return True

    def _send_aside(self, message: bytes, fd: int | None) -> bool:
        """Send a message over the socket; False if it could not be announced. Nobody else writes, so room stays room."""
        poll = select.poll()
        poll.register(self._jobs, select.POLLOUT)
        if not poll.poll(0):
            return False
        if fd is None:
            self._side.send(message)
        else:
            socket.send_fds(self._side, [message], [fd])
        os.write(self._jobs, JOB_ASIDE)
        return True

    def confirm(self, job_id: bytes) -> None:
        """Note that the worker has answered a job, and so knows its kind.

        Until then every job of the kind brings the description: the first one to do so may be taken back.
        """
        if self._unconfirmed and (number := self._unconfirmed.pop(job_id, None)) is not None:
            self._kinds.add(number)

    def _describe(self, kind: SupervisedKind) -> bytes:
        options = kind.options
        text: dict[str, Any] = {"name": kind.name.decode(errors="replace"), "timeout": options.timeout}
        text |= {"soft_timeout": options.soft_timeout, "keep_children": options.keep_children}
        text["grace_period"] = options.grace_period
        text["measures"] = options.max_rss is not None
        text["records"] = kind.is_recorded
        text["caller"] = json.loads(kind.caller or b"{}")
        if len(self._kinds) >= _KINDS_KNOWN or self._function_bytes > _FUNCTION_BYTES_KNOWN:
            text["forget"] = True
            self._function_bytes = 0
            self._kinds.clear()
            self._unconfirmed.clear()  # or answers to earlier jobs would make these kinds known again
        return json.dumps(text).encode()

    def reclaim(self) -> list[bytes]:
        """Read the jobs back that the worker has not read; return their ids.

        The worker may be reading at the same time, so they need not be the last ones that were sent.
        """
        taken: list[bytes] = []
        while True:
            try:
                message = self._read_unread()
                if message == JOB_ASIDE:
                    message = self._take_aside()
            except BlockingIOError:
                return taken
            if not message:
                return taken
            taken.append(message[:ID_BYTES])
            self._unconfirmed.pop(message[:ID_BYTES], None)

    def _take_aside(self) -> bytes:
        message, fds, _ = descriptors.receive(
            self._side_read, MAX_JOB_BYTES, descriptors.ROOM_FOR_ONE, descriptors.NO_WAIT
        )
        descriptors.close_all(fds)  # the job itself still has the original
        return message

    def end_jobs(self) -> None:
        """Let the worker find the end of its jobs."""
        if self._jobs in self._fds:
            self._fds.remove(self._jobs)
            os.close(self._jobs)

    def close(self) -> None:
        """Close everything."""
        self.closed = True
        self.close_worker_side()
        self._close_fds()
        for sock in self._sockets:
            sock.close()

    def _close_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())
