"""Where the output of jobs is shown: on the terminal of the process that owns the pool, or above a bar that it draws."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from procjobs.host.loop import WRITE

if TYPE_CHECKING:
    from collections.abc import Callable

    from procjobs.host.loop import Loop

DIVERSION_PREFIX: Final = "output-"
"""The beginning of the name of a FIFO in the pool's directory that a client shows output from."""
_MAX_WAITING: Final = 64 * 1024
_MAX_BEHIND: Final = 8 * 2**20


class _Sink:
    """A descriptor that output goes to, and what it has not taken yet. `flush` is called when it takes more."""

    __slots__ = ("_flush", "_loop", "fd", "waiting")

    def __init__(self, loop: Loop, fd: int, flush: Callable[[], None]) -> None:
        self._loop = loop
        self._flush = flush
        self.fd = fd
        self.waiting = bytearray()

    def write(self, data: bytes | bytearray) -> None:
        if not self.waiting:
            try:
                self._loop.add(self.fd, self._flush, WRITE)
            except PermissionError:  # a regular file, which epoll refuses: it takes everything at once
                put(self.fd, data)
                return
            except OSError:  # it is closed
                return
        if len(self.waiting) < _MAX_BEHIND:
            self.waiting += data


class _Diversion(_Sink):
    """The FIFO called `name`; `is_ending` when it is closed as soon as it has taken everything."""

    __slots__ = ("is_ending", "name")

    def __init__(self, loop: Loop, fd: int, flush: Callable[[], None], name: str) -> None:
        super().__init__(loop, fd, flush)
        self.name = name
        self.is_ending = False


class Console:
    """The supervisor's own standard output and error, for a private pool: those of the process that owns it.

    A descriptor is written to when the kernel says that it takes 4 KiB (PIPE_BUF), so that nothing blocks. The rest is
    kept, and from `_MAX_WAITING` bytes on jobs that print more have to wait. Jobs that end do not wait: from `_MAX_BEHIND`
    bytes on their output is not passed on.

    While a client draws a bar on the terminal, what would be written there goes to the client instead, through a FIFO. When
    the client does not read it any more, because it has ended in whatever way, the terminal has it again.
    """

    def __init__(self, loop: Loop, directory: str) -> None:
        """`directory` is that of the pool, where clients make their FIFOs."""
        self._loop = loop
        self._directory = directory
        self._own = {1: _Sink(loop, 1, self._flush_output), 2: _Sink(loop, 2, self._flush_errors)}
        self._diversion: _Diversion | None = None

    @property
    def is_full(self) -> bool:
        """Whether more has to wait."""
        return any(len(sink.waiting) > _MAX_WAITING for sink in self._sinks())

    @property
    def is_empty(self) -> bool:
        """Whether everything was passed on."""
        return not any(sink.waiting for sink in self._sinks())

    def _sinks(self) -> list[_Sink]:
        return [*self._own.values(), *([] if self._diversion is None else [self._diversion])]

    def is_diverted(self, stream: int) -> bool:
        """Return whether a client shows this stream, which goes to a terminal, above its bar."""
        return self._diversion is not None and os.isatty(stream)

    def write(self, stream: int, data: bytes) -> None:
        """Pass on the output of a job, now or soon."""
        if self._diversion is not None and os.isatty(stream):
            self._diversion.write(data)
        else:
            self._own[stream].write(data)

    def divert(self, name: str) -> bool:
        """Let a client show what would go to a terminal: it reads the FIFO of this name in the pool's directory.

        Return False if nothing goes to a terminal, or nobody reads. One that shows the output already has no more of it.
        """
        if not name.startswith(DIVERSION_PREFIX) or "/" in name:
            raise ValueError(f"no client shows output from {name!r}")
        if not any(map(os.isatty, self._own)):
            return False
        try:
            fd = os.open(f"{self._directory}/{name}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.close(fd)
            return False
        left = b"" if self._diversion is None else self._end_diversion(self._diversion)
        self._diversion = _Diversion(self._loop, fd, self._flush_diversion, name)
        if left:
            self._diversion.write(left)
        return True

    def mark(self, name: str) -> None:
        """Write the name of this FIFO into it, as a line: all that was printed before is before it."""
        if self._diversion is not None and self._diversion.name == name:
            self._diversion.write(f"{name}\n".encode())

    def restore(self, name: str) -> None:
        """Let the terminal have the output again, when the client that reads this FIFO has had everything until now."""
        diversion = self._diversion
        if diversion is not None and diversion.name == name:
            diversion.is_ending = True
            if not diversion.waiting:
                self._end_diversion(diversion)

    def _end_diversion(self, diversion: _Diversion) -> bytes:
        """Close a FIFO; return what it has not taken."""
        self._loop.remove(diversion.fd)
        os.close(diversion.fd)
        self._diversion = None
        return bytes(diversion.waiting)

    def _flush_diversion(self) -> None:
        diversion = self._diversion
        if diversion is None:  # it was closed in this turn
            return
        try:
            del diversion.waiting[: os.write(diversion.fd, diversion.waiting[:4096])]
        except BlockingIOError:
            return
        except OSError:  # nobody reads it any more
            self._own[2].write(self._end_diversion(diversion))
            return
        if not diversion.waiting:
            self._loop.remove(diversion.fd)
            if diversion.is_ending:
                self._end_diversion(diversion)

    def _flush_output(self) -> None:
        self._flush(self._own[1])

    def _flush_errors(self) -> None:
        self._flush(self._own[2])

    def _flush(self, sink: _Sink) -> None:
        del sink.waiting[: put(sink.fd, sink.waiting[:4096])]
        if not sink.waiting:
            self._loop.remove(sink.fd)


def put(fd: int, data: bytes | bytearray) -> int:
    """Write as much as the descriptor takes; return how many bytes are done with."""
    try:
        return os.write(fd, data)
    except BlockingIOError:  # its owner has made it so, and somebody else was faster
        return 0
    except OSError:  # nobody reads it any more
        return len(data)
