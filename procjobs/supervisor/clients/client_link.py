"""The supervisor's ends of its sockets: to a template, to a client. Nothing here blocks.

Whatever is read here may have been written by a bug or an attacker: a link answers nonsense with WireError or by being
closed, never with another exception, and one link's fate is no other's.
"""

from __future__ import annotations

import array
import json
import os
import socket
import stat
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from procjobs.clock import NEVER
from procjobs.host import process
from procjobs.host.loop import READ
from procjobs.shared.wire import U64, Frame, FrameReader, WireError, frame, parse_json

if TYPE_CHECKING:
    from procjobs.dispatch.model import Generation, Job, Kind

READ_BYTES: Final = 64 * 1024
"""Read at once. From 128 KiB on, malloc maps fresh pages for every call, which costs 15 us (Linux, glibc 2.36)."""
_MAX_FDS: Final = 253  # SCM_MAX_FD of the kernel
_FD_SPACE: Final = socket.CMSG_SPACE(_MAX_FDS * 4)
_CLOEXEC: Final = int(socket.MSG_CMSG_CLOEXEC)  # plain numbers: two flags of an enum cost 0.5 us to combine
_TRUNCATED: Final = int(socket.MSG_CTRUNC)


class FrameStream:
    """Frames and descriptors that arrive from a client.

    Only regular files are taken, as memory files are. Of a socket, our peer's own end would never let this stream end; a
    device or a pipe has no size, and may never come to an end when it is read. And a peer that sends more descriptors than
    its frames claim would take them away from everybody.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._reader = FrameReader()
        self._fds: deque[int] = deque()
        self.ended = False

    def read(self) -> Iterator[tuple[int, bytes, int | None]]:
        """Yield (kind, frame, descriptor) of the frames that have arrived; sets `ended` at the end of the stream."""
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(READ_BYTES, _FD_SPACE, _CLOEXEC)
        except BlockingIOError:
            return
        except OSError:  # ECONNRESET: the peer has gone with something unread
            self.ended = True
            return
        if ancillary:
            self._take_descriptors(ancillary)
        if not data:
            self.ended = True
            return
        if flags & _TRUNCATED:
            raise WireError("descriptors were lost: the limit of open files is reached")
        for kind, raw, has_descriptor in self._reader.feed(data):
            if has_descriptor:
                if not self._fds:
                    raise WireError("a frame claims a descriptor that did not come with it")
                yield kind, raw, self._fds.popleft()
            else:
                yield kind, raw, None
        if len(self._fds) > 1:  # that of a frame which has not arrived whole may wait
            raise WireError(f"{len(self._fds)} descriptors came that no frame claims")

    def _take_descriptors(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._fds.extend(array.array("i", content[: len(content) // 4 * 4]))
        if not all(stat.S_ISREG(os.fstat(fd).st_mode) for fd in self._fds):
            raise WireError("a descriptor that came is not one of a regular file")

    def close(self) -> None:
        """Close the descriptors that no frame has claimed."""
        while self._fds:
            os.close(self._fds.popleft())


class TemplateLink:
    """The socket to the template of one generation."""

    def __init__(self, generation: Generation, sock: socket.socket, pid: int) -> None:
        self.generation = generation
        self.socket = sock
        self.pid = pid
        sock.setblocking(False)

    def spawn(self, slot: int, cpus: list[int], fds: list[int]) -> bool:
        """Ask for a worker, on these CPUs (none: on all); return False if the template cannot be reached."""
        return self._send({"spawn": slot, "cpus": cpus}, fds)

    def forget(self, pid: int) -> None:
        """Say that a worker has gone."""
        self._send({"gone": pid}, [])

    def _send(self, message: dict[str, Any], fds: list[int]) -> bool:
        try:
            socket.send_fds(self.socket, [json.dumps(message).encode()], fds)
        except OSError:
            return False
        return True

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the messages that have arrived; what is none (a preload has written it) raises WireError."""
        while True:
            try:
                message = self.socket.recv(65536)
            except OSError:
                return
            if not message:
                return
            yield parse_json(message)

    def stop(self) -> None:
        """Kill the template and close its socket; workers that it has forked are not touched."""
        process.kill_process(self.pid, 9)
        self.socket.close()


class ClientLink:
    """A client's connection: frames in, answers out. What the client does not read waits here, and only here."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.setblocking(False)
        self.stream = FrameStream(sock)
        self.pid = 0
        self.generation: Generation | None = None
        self.kinds: dict[int, Kind] = {}
        self.accepted = 0
        self.accepted_told = 0
        self.told_by = NEVER  # when it is told at the latest
        self.outgoing: deque[bytes | Job] = deque()
        self._answers: list[bytes] = []  # the first of this turn, which go out before what is in `outgoing`
        self._answers_bytes = 0
        self._unsent = b""
        self.waits_to_write = False
        self.events = READ
        self.tied: set[Job] = set()  # jobs that are cancelled when nobody is left who waits for them
        self.closed = False

    def queue_acknowledgement(self) -> None:
        """Say how many of its submissions were taken."""
        self.accepted_told = self.accepted
        self.told_by = NEVER
        self.outgoing.append(frame(Frame.ACCEPTED, U64.pack(self.accepted)))

    def queue_answer(self, job: Job) -> None:
        """Let a job's answer go out with the next flush; until it has, it is not evicted to make room.

        To a client that keeps up, a small one goes as the bytes that it is: that saves 1 us for each.
        """
        answer = job.answer
        if self.waits_to_write or self.outgoing or answer.has_descriptor or self._answers_bytes > READ_BYTES:
            job.unsent += 1
            self.outgoing.append(job)
        else:
            data = answer.fetch(job)[0]
            self._answers.append(data)
            self._answers_bytes += len(data)

    @property
    def has_more(self) -> bool:
        """Whether there is something to flush."""
        return bool(self._answers or self.outgoing or self._unsent)

    def flush(self) -> bool:
        """Send as much as the client takes; return whether everything is sent. Raises OSError when it has gone."""
        if self._answers:
            self._unsent += b"".join(self._answers)
            self._answers.clear()
            self._answers_bytes = 0
        while self._unsent or self.outgoing:
            if not self._unsent and self._first_has_descriptor():
                if not self._try_send_first():
                    return False
                continue
            data = self._unsent or self._next_batch()
            try:
                self._unsent = data[self.socket.send(data) :]
            except BlockingIOError:
                self._unsent = data
                return False
        return True

    def _first_has_descriptor(self) -> bool:
        first = self.outgoing[0]
        return not isinstance(first, bytes) and first.answer.has_descriptor

    def _try_send_first(self) -> bool:
        job = self.outgoing[0]
        assert not isinstance(job, bytes)
        answer, fd, close_after = job.answer.fetch(job)
        try:
            sent = socket.send_fds(self.socket, [answer], [fd])
        except BlockingIOError:
            return False
        finally:
            if close_after:
                os.close(fd)
        self.outgoing.popleft()
        job.unsent -= 1
        self._unsent = answer[sent:]
        return True

    def _next_batch(self) -> bytes:
        """Return the next frames that can go out in one call, those before the next one with a descriptor."""
        parts, size = [], 0
        while self.outgoing and size < READ_BYTES and not self._first_has_descriptor():
            item = self.outgoing.popleft()
            if isinstance(item, bytes):
                data = item
            else:
                data = item.answer.fetch(item)[0]
                item.unsent -= 1
            parts.append(data)
            size += len(data)
        return b"".join(parts)

    def close(self) -> None:
        """Close the connection and forget what was not sent."""
        self.closed = True
        for item in self.outgoing:
            if not isinstance(item, bytes):
                item.unsent -= 1
        self.outgoing.clear()
        self._answers.clear()
        self._unsent = b""
        self.stream.close()
        self.socket.close()
