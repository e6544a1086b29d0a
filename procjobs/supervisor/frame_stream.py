"""Frames and descriptors that arrive over a Unix stream socket, from a client or from the recorder. Nothing here blocks.

The bytes may have been written by a bug or an attacker: a stream answers nonsense with WireError, never with another
exception, and the fate of one link is no other's.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator
from typing import Final

from procjobs.host import descriptors
from procjobs.shared.wire import FrameReader, WireError

READ_BYTES: Final = 64 * 1024
"""Read at once. From 128 KiB on, malloc maps fresh pages for every call, which costs 15 us (Linux, glibc 2.36)."""


class FrameStream:
    """Frames from one socket, each with its descriptor.

    Only regular files are taken, as memory files are. Of a socket, our peer's own end would never let this stream end; a
    device or a pipe has no size, and may never come to an end when it is read. And a peer that sends more descriptors than
    its frames claim would take them away from everybody. `bytes_read` is how far the stream was read.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._reader = FrameReader()
        self._fds: deque[int] = deque()
        self.ended = False
        self.bytes_read = 0

    def read(self) -> Iterator[tuple[int, bytes, int | None]]:
        """Yield (kind, frame, descriptor) of the frames that have arrived; set `ended` at the end of the stream."""
        try:
            data, fds, is_truncated = descriptors.receive(self._socket, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # ECONNRESET: the peer has gone with something unread
            self.ended = True
            return
        if fds:
            self._take_descriptors(fds)
        if not data:
            self.ended = True
            return
        self.bytes_read += len(data)
        if is_truncated:
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

    def _take_descriptors(self, fds: list[int]) -> None:
        self._fds.extend(fds)
        if not all(map(descriptors.is_regular, fds)):
            raise WireError("a descriptor that came is not one of a regular file")

    def close(self) -> None:
        """Close the descriptors that no frame has claimed."""
        while self._fds:
            os.close(self._fds.popleft())
