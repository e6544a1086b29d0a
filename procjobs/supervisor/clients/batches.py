"""Jobs that a client submits together: their frames are in a file, and the files of large payloads came before it."""

from __future__ import annotations

import os
from typing import Final

from procjobs.shared.wire import HEADER, MAX_BATCH_BYTES, MAX_STAGED, SUBMIT_FRAME, Frame, WireError

_SUBMIT: Final = int(Frame.SUBMIT)


class StagedFiles:
    """The descriptors that a client has sent ahead of a batch. Those of a batch that never came are closed."""

    __slots__ = ("_fds", "_number")

    def __init__(self) -> None:
        self._number = 0
        self._fds: list[int] = []

    def begin(self, number: int) -> None:
        """Close those of any other batch than this one."""
        if number != self._number or not number:
            for fd in self._fds:
                os.close(fd)
            self._fds = []
        self._number = number

    def add(self, number: int, fd: int) -> None:
        """Keep one for a batch; raise WireError for one too many, which is closed."""
        self.begin(number)
        self._fds.append(fd)
        if len(self._fds) > MAX_STAGED:
            raise WireError("too many descriptors for one batch")

    def take(self, number: int) -> list[int]:
        """Return those of a batch, which are the caller's from then on."""
        self.begin(number)
        fds, self._fds = self._fds, []
        return fds


def read_frames(fd: int, count: int) -> list[bytes]:
    """Return the SUBMIT frames in a file; raise WireError if it has anything else. The descriptor is closed.

    It is read at once: the client may still have the file, and change it.
    """
    try:
        size = os.fstat(fd).st_size
        if not 0 < count * SUBMIT_FRAME.size <= size <= MAX_BATCH_BYTES:
            raise WireError(f"a batch of {count} jobs in {size} bytes")
        content = os.pread(fd, size, 0)
    except OSError as error:
        raise WireError(f"a batch that cannot be read: {error}") from None
    finally:
        os.close(fd)
    return _cut(content, count)


def _cut(content: bytes, count: int) -> list[bytes]:
    frames, position, end = [], 0, len(content)
    while position + SUBMIT_FRAME.size <= end:
        length, kind, descriptors, zero = HEADER.unpack_from(content, position)
        if kind != _SUBMIT or descriptors > 1 or zero or not SUBMIT_FRAME.size <= length <= end - position:
            raise WireError("a batch with something that is no SUBMIT")
        frames.append(content[position : position + length])
        position += length
    if position != end or len(frames) != count:
        raise WireError(f"a batch of {len(frames)} jobs that is said to have {count}")
    return frames
