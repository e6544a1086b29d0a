"""A client's connection: frames in, answers out. Nothing here blocks; what the client does not read waits here."""

from __future__ import annotations

import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Protocol

from procjobs.clock import NEVER
from procjobs.host.loop import READ
from procjobs.shared.wire import U64, Frame, frame
from procjobs.supervisor.frame_stream import READ_BYTES, FrameStream

if TYPE_CHECKING:
    from procjobs.dispatch.model import Generation
    from procjobs.supervisor.job import SupervisedJob, SupervisedKind


class _Outgoing(Protocol):
    """An answer that waits to be sent."""

    @property
    def has_descriptor(self) -> bool:
        """Whether a descriptor goes with the frame."""

    def fetch(self) -> tuple[bytes, int | None, bool]:
        """Return the frame, the descriptor to send with it, and whether that is to be closed after sending."""

    def release(self) -> None:
        """Note that it was sent, or will not be."""


class _KeptAnswer:
    """The answer of a job in memory. Until it is sent, it is not evicted to make room."""

    __slots__ = ("_job",)

    def __init__(self, job: SupervisedJob) -> None:
        self._job = job
        job.unsent += 1

    @property
    def has_descriptor(self) -> bool:
        return bool(self._job.answer.has_descriptor)

    def fetch(self) -> tuple[bytes, int | None, bool]:
        job = self._job
        fetched: tuple[bytes, int | None, bool] = job.answer.fetch(job.id, job.attempt)
        return fetched

    def release(self) -> None:
        self._job.unsent -= 1


class _RecalledAnswer:
    """An answer from the store, for this client alone."""

    __slots__ = ("_fd", "_frame")

    has_descriptor = True

    def __init__(self, raw: bytes, fd: int) -> None:
        self._frame = raw
        self._fd = fd

    def fetch(self) -> tuple[bytes, int | None, bool]:
        return self._frame, self._fd, False

    def release(self) -> None:
        os.close(self._fd)


class DescribedKinds(dict[int, "SupervisedKind"]):
    """The kinds that a client has described; `caller` goes to the workers with those that it describes next, as JSON."""

    caller = b""


class ClientLink:
    """One connection; a `Watcher` for those below. `kinds` are those that it has described, by its own numbers.

    `accepted` submissions were taken, and the client knows of `acknowledged`; it learns of the others at `ack_due_at` at
    the latest. `tied` are the jobs that are cancelled when no client waits for them any more.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.setblocking(False)
        self.stream = FrameStream(sock)
        self.pid = 0
        self.generation: Generation | None = None
        self.kinds = DescribedKinds()
        self.accepted = 0
        self.acknowledged = 0
        self.ack_due_at = NEVER
        self.waits_to_write = False
        self.events = READ
        self.tied: set[SupervisedJob] = set()
        self.closed = False
        self._outgoing: deque[bytes | _Outgoing] = deque()
        self._answers: list[bytes] = []  # the first of this turn, which go out before those in `_outgoing`
        self._answers_bytes = 0
        self._unsent = b""

    def queue_frame(self, raw: bytes) -> None:
        """Let a frame go out with the next flush."""
        self._outgoing.append(raw)

    def queue_acknowledgement(self) -> None:
        """Say how many of its submissions were taken."""
        self.acknowledged = self.accepted
        self.ack_due_at = NEVER
        self._outgoing.append(frame(Frame.ACCEPTED, U64.pack(self.accepted)))

    def queue_answer(self, job: SupervisedJob) -> None:
        """Let a job's answer go out with the next flush.

        To a client that keeps up, a small one goes as the bytes that it is: that saves 1 us for each.
        """
        answer = job.answer
        if self.waits_to_write or self._outgoing or answer.has_descriptor or self._answers_bytes > READ_BYTES:
            self._outgoing.append(_KeptAnswer(job))
        else:
            data = answer.fetch(job.id, job.attempt)[0]
            self._answers.append(data)
            self._answers_bytes += len(data)

    def queue_duplicate(self, job_id: bytes, holder: bytes) -> None:
        """Say that a submission is none, since another job has its key."""
        self._outgoing.append(frame(Frame.DUPLICATE, job_id + holder))

    def queue_recalled(self, raw: bytes, fd: int) -> None:
        """Let an answer from the store go out; the descriptor is taken over."""
        self._outgoing.append(_RecalledAnswer(raw, fd))

    @property
    def backlog(self) -> int:
        """How many answers wait for this client to read."""
        return len(self._outgoing)

    @property
    def has_more(self) -> bool:
        """Whether there is something to flush."""
        return bool(self._answers or self._outgoing or self._unsent)

    def flush(self) -> bool:
        """Send as much as the client takes; return whether everything is sent. Raise OSError when it has gone."""
        if self._answers:
            self._unsent += b"".join(self._answers)
            self._answers.clear()
            self._answers_bytes = 0
        while self._unsent or self._outgoing:
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
        first = self._outgoing[0]
        return not isinstance(first, bytes) and first.has_descriptor

    def _try_send_first(self) -> bool:
        answer = self._outgoing[0]
        assert not isinstance(answer, bytes)
        raw, fd, close_after = answer.fetch()
        try:
            sent = socket.send_fds(self.socket, [raw], [fd]) if fd is not None else 0  # its file may just have gone
        except BlockingIOError:
            return False
        finally:
            if close_after and fd is not None:
                os.close(fd)
        self._outgoing.popleft()
        answer.release()
        self._unsent = raw[sent:]
        return True

    def _next_batch(self) -> bytes:
        """Return the next frames that can go out in one call, those before the next one with a descriptor."""
        parts, size = [], 0
        while self._outgoing and size < READ_BYTES and not self._first_has_descriptor():
            item = self._outgoing.popleft()
            if isinstance(item, bytes):
                data = item
            else:
                data = item.fetch()[0]
                item.release()
            parts.append(data)
            size += len(data)
        return b"".join(parts)

    def close(self) -> None:
        """Close the connection and forget what was not sent."""
        self.closed = True
        for item in self._outgoing:
            if not isinstance(item, bytes):
                item.release()
        self._outgoing.clear()
        self._answers.clear()
        self._unsent = b""
        self.stream.close()
        self.socket.close()
