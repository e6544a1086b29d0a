"""The answer of one job: in memory, in a file, or dropped.

Each can be fetched as (frame, the descriptor that goes with it, whether the descriptor is to be closed after sending).
"""

from __future__ import annotations

import contextlib
import os
from typing import Final
from zlib import crc32

from procjobs.shared.wire import failure_frame

_OVERHEAD_BYTES: Final = 512
"""The memory that a kept job costs besides its answer, about."""


class Answer:
    """An answer in memory: its frame, and a descriptor where it is large."""

    __slots__ = ("fd", "frame", "kept_at", "size")

    def __init__(self, frame: bytes, fd: int | None, now: float) -> None:
        self.frame = frame
        self.fd = fd
        self.kept_at = now
        self.size = len(frame) + _OVERHEAD_BYTES + (os.fstat(fd).st_size if fd is not None else 0)

    @property
    def has_descriptor(self) -> bool:
        """Whether a descriptor goes with the frame."""
        return self.fd is not None

    def fetch(self, _job_id: bytes, _attempt: int) -> tuple[bytes, int | None, bool]:
        """Return the frame, the descriptor to send with it, and whether that is to be closed after sending."""
        return self.frame, self.fd, False

    def drop(self) -> None:
        """Release its descriptor."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class SpilledAnswer:
    """An answer in a file of its own, made of the descriptor's contents; the frame stays in memory where it is small.

    Of a frame in a file, `checksum` is the CRC-32: sent as it is, one that was damaged would end its reader's connection.
    """

    __slots__ = ("_checksum", "_frame", "_path", "kept_at", "size")

    def __init__(self, frame: bytes, path: str, kept_at: float, *, checksum: int = 0) -> None:
        self._frame = frame
        self._path = path
        self._checksum = checksum
        self.kept_at = kept_at
        self.size = 0

    @property
    def has_descriptor(self) -> bool:
        """Whether a descriptor goes with the frame."""
        return bool(self._frame) and os.path.isfile(self._path)

    def fetch(self, job_id: bytes, attempt: int) -> tuple[bytes, int | None, bool]:
        """Read the answer back; a descriptor is opened anew for every reader that is sent it."""
        if self.has_descriptor:
            return self._frame, os.open(self._path, os.O_RDWR | os.O_CLOEXEC), True
        try:
            with open(self._path, "rb") as file:
                frame = file.read()
        except OSError:
            frame = b""
        if self._frame or crc32(frame) != self._checksum:
            return EvictedAnswer(self.kept_at).fetch(job_id, attempt)
        return frame, None, False

    def drop(self) -> None:
        """Remove the file."""
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(self._path)


class EvictedAnswer:
    """Takes the place of an answer that was dropped: its client was too slow, or there was no room to keep it."""

    __slots__ = ("kept_at",)

    has_descriptor = False

    def __init__(self, kept_at: float) -> None:
        self.kept_at = kept_at

    def fetch(self, job_id: bytes, attempt: int) -> tuple[bytes, int | None, bool]:
        """Return an answer that says so."""
        message = "the result was not fetched in time, or there was no room for it; it is not kept"
        return failure_frame(job_id, "UnknownJob", message, attempt=attempt), None, False

    def drop(self) -> None:
        """Do nothing: it holds nothing."""
