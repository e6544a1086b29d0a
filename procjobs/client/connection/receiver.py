"""Frames in, with the descriptors that come along. It only moves bytes: it unpickles nothing."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from procjobs.errors import PayloadError
from procjobs.host import descriptors, payload
from procjobs.shared.wire import WireError, finished_payload

if TYPE_CHECKING:
    from procjobs.client.connection.handle import Handle
    from procjobs.shared.wire import FrameReader, RawFrame

READ_BYTES: Final = 64 * 1024  # see procjobs.supervisor.frame_stream


class FrameReceiver:
    """The receiving half of a connection, for its receiver thread. It owns the socket."""

    def __init__(self, sock: socket.socket, reader: FrameReader) -> None:
        self._socket = sock
        self._reader = reader
        self._fds: deque[int | None] = deque()  # None for one that was lost

    def receive(self) -> Iterable[RawFrame] | None:
        """Wait for bytes and return the frames that are complete with them; None at the end."""
        data, fds, is_lost = descriptors.receive(self._socket, READ_BYTES)
        self._fds.extend(fds)
        if is_lost:  # a message of the supervisor has one descriptor, and reading stops behind it
            self._fds.append(None)
        return self._reader.feed(data) if data else None

    def take_descriptor(self) -> int | None:
        """Return the descriptor of the frame that is being read; the caller closes it.

        None if it was lost, because this process may open no more.
        """
        if not self._fds:
            raise WireError("a frame claims a descriptor that did not come with it")
        return self._fds.popleft()

    def shut_down(self) -> None:
        """End the connection for both sides; a thread that receives sees its end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, and the descriptors that nobody has taken."""
        descriptors.close_all(fd for fd in self._fds if fd is not None)
        self._fds.clear()
        self._socket.close()


def settle_mapped(handle: Handle, raw: bytes, fd: int) -> None:
    """Give a handle its answer, whose payload is in a descriptor, which is closed."""
    try:
        received = payload.Received(finished_payload(raw), fd)
    except OSError as error:  # ENOMEM: too many mappings, or no address space
        handle.abandon(PayloadError(f"the result of job {handle.id} {handle.name} could not be mapped: {error}"))
    else:
        handle.settle(raw, received)
