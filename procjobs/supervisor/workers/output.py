"""What jobs print: kept as the tail of each job's output, written to the pool's log, passed on where it is to be seen.

Standard output and error of a worker, and of everything that its jobs start, are two pipes. What is read from them
belongs to the job that the worker is in. A job that floods them is read with pauses, so that it waits, not the others.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER
from procjobs.dispatch.model import Job, Slot
from procjobs.host.loop import READ, WRITE, Loop
from procjobs.shared.ids import to_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from procjobs.supervisor.log import Log

TAIL_BYTES: Final = 16 * 1024
STDERR_TAIL_BYTES: Final = 4 * 1024
_MAX_KEPT_BYTES: Final = 16 * 2**20
"""What the tails of all finished jobs may take together; beyond it the oldest are dropped."""
_READ_BYTES: Final = 64 * 1024  # the capacity of a pipe
_PAUSE_SECONDS: Final = 0.004
_LONGEST_LINE: Final = 4096


class Tail:
    """The last bytes of a stream; `length` is how many there were in all."""

    __slots__ = ("_data", "_max_bytes", "length")

    def __init__(self, max_bytes: int) -> None:
        self._data = b""
        self._max_bytes = max_bytes
        self.length = 0

    def __len__(self) -> int:
        return len(self._data)

    def append(self, data: bytes) -> None:
        """Add to the end; what is too much is lost at the beginning, at a whole line where there is one."""
        self.length += len(data)
        joined = self._data + data
        if len(joined) > self._max_bytes:
            joined = joined[-self._max_bytes :]
            cut = joined.find(b"\n", 0, self._max_bytes // 2) + 1
            joined = joined[cut:]
        self._data = joined

    def text(self) -> str:
        """Return the tail as text."""
        return self._data.decode(errors="replace")

    def text_since(self, length: int) -> str:
        """Return what has come since the stream had this length, as far as it is still here."""
        count = min(self.length - length, len(self._data))
        return self._data[len(self._data) - count :].decode(errors="replace")


class Transcript:
    """What a job has printed: both streams in the order in which they were read, and standard error alone."""

    __slots__ = ("_begun_at", "everything", "stderr")

    def __init__(self) -> None:
        self._begun_at = 0
        self.everything = Tail(TAIL_BYTES)
        self.stderr = Tail(STDERR_TAIL_BYTES)

    def __len__(self) -> int:
        return len(self.everything) + len(self.stderr)

    def begin_attempt(self) -> None:
        """Let standard error be that of the attempt to come."""
        self._begun_at = self.everything.length
        self.stderr = Tail(STDERR_TAIL_BYTES)

    def text_of_attempt(self) -> str:
        """Return the tail of what this attempt has printed."""
        return self.everything.text_since(self._begun_at)


class OutputSource:
    """One stream of a worker: 1 is standard output, 2 standard error. `rest` is a line without its end."""

    __slots__ = ("fd", "job", "paused", "rest", "slot", "stream")

    def __init__(self, slot: Slot, fd: int, stream: int) -> None:
        self.slot = slot
        self.fd = fd
        self.stream = stream
        self.job: Job | None = None
        self.rest = b""
        self.paused = False


class Console:
    """The supervisor's own standard output and error, for a private pool: those of the process that owns it.

    A descriptor is written to when the kernel says that it takes 4 KiB (PIPE_BUF), so that nothing blocks. What it does
    not take is kept, and from `_MAX_WAITING` bytes on jobs that print more have to wait. Jobs that end do not wait: from
    `_MAX_BEHIND` bytes on what they have printed is not passed on.
    """

    _MAX_WAITING: Final = 64 * 1024
    _MAX_BEHIND: Final = 8 * 2**20

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting = {1: bytearray(), 2: bytearray()}

    @property
    def is_full(self) -> bool:
        """Whether more has to wait."""
        return any(len(data) > self._MAX_WAITING for data in self._waiting.values())

    @property
    def is_empty(self) -> bool:
        """Whether everything was passed on."""
        return not any(self._waiting.values())

    def write(self, stream: int, data: bytes) -> None:
        """Pass on what a job has printed, now or soon."""
        waiting = self._waiting[stream]
        if not waiting:
            try:
                self._loop.add(stream, self.write_some if stream == 1 else self.write_more, WRITE)
            except PermissionError:  # a regular file, which epoll refuses: it takes everything at once
                self._put(stream, data)
                return
            except OSError:  # it is closed
                return
        if len(waiting) < self._MAX_BEHIND:
            waiting += data

    def write_some(self) -> None:
        """Write to standard output, which is ready."""
        self._flush(1)

    def write_more(self) -> None:
        """Write to standard error, which is ready."""
        self._flush(2)

    def _flush(self, stream: int) -> None:
        waiting = self._waiting[stream]
        del waiting[: self._put(stream, waiting[:4096])]
        if not waiting:
            self._loop.remove(stream)

    @staticmethod
    def _put(stream: int, data: bytes | bytearray) -> int:
        """Write as much as is taken; return how many bytes are done with."""
        try:
            return os.write(stream, data)
        except BlockingIOError:  # its owner has made it so, and somebody else was faster
            return 0
        except OSError:  # nobody reads it any more
            return len(data)


class Outputs:
    """Reads the streams of all workers."""

    def __init__(self, loop: Loop, log: Log, console: Console | None, current_job: Callable[[Slot], Job | None]) -> None:
        self._loop = loop
        self._log = log
        self._console = console
        self._current_job = current_job
        self._paused: deque[tuple[float, OutputSource]] = deque()
        self._kept: deque[Job] = deque()
        self._kept_bytes = 0

    def read(self, source: OutputSource, _events: int = READ) -> None:
        """Take what has been printed, up to the capacity of a pipe."""
        try:
            data = os.read(source.fd, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove(source.fd)
            return
        self._take(source, data)
        is_full = self._console is not None and self._console.is_full
        if (len(data) == _READ_BYTES or is_full) and not source.paused:
            source.paused = True
            self._loop.remove(source.fd)
            self._paused.append((self._loop.now + _PAUSE_SECONDS, source))

    def _take(self, source: OutputSource, data: bytes) -> None:
        job = self._current_job(source.slot)
        if job is not source.job:
            self._end_line(source)
            source.job = job
        if job is not None:
            job.kind.talks = True
            if job.transcript is None:
                job.transcript = Transcript()
            job.transcript.everything.append(data)
            if source.stream == 2:
                job.transcript.stderr.append(data)
        if self._console is not None:
            self._console.write(source.stream, data)
        lines, end, rest = (source.rest + data).rpartition(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = lines + end + rest, b""
        source.rest = rest
        if lines:
            self._log.write_output(_label(source), lines)

    def _end_line(self, source: OutputSource) -> None:
        if source.rest:
            self._log.write_output(_label(source), source.rest)
            source.rest = b""

    @property
    def is_pausing(self) -> bool:
        """Whether a stream was flooded and is left alone for a while."""
        return bool(self._paused)

    def next_deadline(self) -> float:
        """Return when a stream that was flooded is read again."""
        return self._paused[0][0] if self._paused else NEVER

    def advance(self, now: float) -> None:
        """Read on where a pause is over."""
        while self._paused and self._paused[0][0] <= now:
            if self._console is not None and self._console.is_full:
                self._paused[0] = (now + _PAUSE_SECONDS, self._paused[0][1])
                return
            _, source = self._paused.popleft()
            if source.paused:
                source.paused = False
                self._loop.add(source.fd, source)

    def finish(self, sources: list[OutputSource]) -> None:
        """Read what a worker that has gone has left, to the end of its pipes; another process may hold them open."""
        for source in sources:
            for _ in range(2):
                self._read_rest(source)
            self._end_line(source)
            if source.paused:
                source.paused = False  # its entry among the paused is skipped
                self._paused = deque(entry for entry in self._paused if entry[1] is not source)
            self._loop.remove(source.fd)

    def _read_rest(self, source: OutputSource) -> None:
        try:
            data = os.read(source.fd, _READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._take(source, data)

    def read_paused(self, source: OutputSource) -> None:
        """Read a stream in its pause: its job has ended, and what is in the pipe is that job's."""
        if source.paused:
            self._read_rest(source)

    def keep(self, job: Job) -> None:
        """Keep the tail of a job that has ended, for as long as there is room."""
        if job.transcript is not None:
            self._kept.append(job)
            self._kept_bytes += len(job.transcript)
            while self._kept_bytes > _MAX_KEPT_BYTES:
                oldest = self._kept.popleft()
                if oldest.transcript is not None:
                    self._kept_bytes -= len(oldest.transcript)
                    oldest.transcript = None


def _label(source: OutputSource) -> str:
    job = source.job
    if job is None:
        return f"worker {source.slot.number}"
    return f"{to_text(job.id)} {job.kind.name.decode(errors='replace')}"
