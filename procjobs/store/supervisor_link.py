"""A recorder's end of the socket to its supervisor."""

from __future__ import annotations

import select
import socket
from collections import deque
from typing import Final, NamedTuple

from procjobs.host import descriptors, payload
from procjobs.host.descriptors import Descriptor
from procjobs.shared import wire
from procjobs.shared.recorder_wire import BatchReader, EventWithFd, RecorderFrame

_READ_BYTES: Final = 256 * 1024
_MAX_EVENTS: Final = 4000
"""About how many events one transaction takes: they take some 0.1 s."""
_GATHER_TIME: Final = 0.003


class Batch(NamedTuple):
    """Events with their descriptors, and the number of the last one."""

    events: list[EventWithFd]
    last: int


class SupervisorLink:
    """Reads batches of events, and sends frames."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._reader = BatchReader()
        self._fds: deque[int] = deque()
        self._part: list[Batch] = []  # their last event belongs in one commit with one that has not come
        self.has_ended = False

    def read(self, timeout: float | None, *, is_busy: bool = False) -> list[Batch]:
        """Wait for batches and return all that have arrived; an empty list at the timeout, and when the supervisor has gone.

        Events that belong in one commit are returned together; a part of them that the supervisor has left is dropped.
        When `is_busy`, a moment more is waited for others to come along: a transaction costs as much as ten of its jobs.
        """
        found: list[Batch] = []
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        count = 0
        while not self.has_ended and count < _MAX_EVENTS and poll.poll(0 if found else _milliseconds(timeout)):
            self._receive()
            while (arrived := self._next_batch()) is not None:
                batch, is_open = arrived
                self._part.append(batch)
                count += len(batch.events)
                if not is_open:
                    found += self._part
                    self._part = []
            if not found and timeout is not None:
                break
            if is_busy:
                is_busy = False
                self.wait_for_end(_GATHER_TIME)
        return found

    def _receive(self) -> None:
        try:
            data, fds, _ = descriptors.receive(self._socket, _READ_BYTES)
        except ConnectionResetError:  # it was killed with unread frames in its socket: its last events are still in this one
            return
        self._fds.extend(fds)
        self._reader.feed(data)
        self.has_ended = not data

    def _next_batch(self) -> tuple[Batch, bool] | None:
        batch = self._reader.next()
        if batch is None:
            return None
        events, last, has_descriptor, is_open = batch
        fds: list[int | None] = [None] * len(events)
        if has_descriptor:
            fds[-1] = self._fds.popleft()
        return Batch(list(zip(events, fds, strict=True)), last), is_open

    def wait_for_end(self, seconds: float) -> bool:
        """Wait for this time, or until the supervisor has gone; return whether it has."""
        poll = select.poll()
        poll.register(self._socket, 0)  # POLLHUP alone: events that can be read have to wait
        return bool(poll.poll(seconds * 1000))

    def send(self, kind: RecorderFrame, body: bytes, fd: int | None = None) -> None:
        """Send a frame, and a descriptor with it; nothing happens where the supervisor has gone."""
        frame = wire.HEADER.pack(wire.HEADER.size + len(body), kind, fd is not None, 0) + body
        try:
            if fd is None:
                self._socket.sendall(frame)
            else:
                sent = socket.send_fds(self._socket, [frame], [fd])
                self._socket.sendall(frame[sent:])
        except (BrokenPipeError, ConnectionResetError):
            self.has_ended = True

    def send_data(self, kind: RecorderFrame, body: bytes, data: bytes) -> None:
        """Send a frame, and data in a memory file with it."""
        file = _memory_file(data)
        self.send(kind, body, file.fileno())
        file.close()


def _milliseconds(timeout: float | None) -> float | None:
    return None if timeout is None else max(timeout, 0.0) * 1000


def _memory_file(data: bytes) -> Descriptor:
    memory = payload.open_memory_file("/tmp")  # noqa: S108 - where there is no memfd, an unnamed file
    with open(memory.fileno(), "wb", closefd=False) as file:
        file.write(data)
    return memory
