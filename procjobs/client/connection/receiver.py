"""Frames in, with the descriptors that come along. It only moves bytes: it unpickles nothing."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from procjobs.shared.wire import WireError

if TYPE_CHECKING:
    from procjobs.shared.wire import FrameReader, RawFrame

READ_BYTES: Final = 64 * 1024  # see procjobs.supervisor.clients.client_link
_FD_SPACE: Final = socket.CMSG_SPACE(253 * 4)
_CLOEXEC: Final = int(socket.MSG_CMSG_CLOEXEC)


class FrameReceiver:
    """The receiving half of a connection, for its receiver thread. It owns the socket."""

    def __init__(self, sock: socket.socket, reader: FrameReader) -> None:
        self._socket = sock
        self._reader = reader
        self._fds: deque[int] = deque()

    def receive(self) -> Iterable[RawFrame] | None:
        """Wait for bytes and return the frames that are complete with them; None at the end."""
        data, ancillary, _, _ = self._socket.recvmsg(READ_BYTES, _FD_SPACE, _CLOEXEC)
        for _, _, content in ancillary:
            self._fds.extend(array.array("i", content[: len(content) // 4 * 4]))
        return self._reader.feed(data) if data else None

    def take_descriptor(self) -> int:
        """Return the descriptor of the frame that is being read; the caller closes it."""
        if not self._fds:
            raise WireError("a descriptor did not come: the limit of open files is reached")
        return self._fds.popleft()

    def shut_down(self) -> None:
        """End the connection for both sides; a thread that receives sees its end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, and the descriptors that nobody has taken."""
        while self._fds:
            os.close(self._fds.popleft())
        self._socket.close()
