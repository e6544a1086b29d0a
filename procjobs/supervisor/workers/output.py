"""The output of jobs: its tail is kept with each job, all of it goes to the pool's log, and to the console if there is one.

Standard output and error of a worker, and of everything that its jobs start, are two pipes. Text that is read from them
belongs to the job that the worker is in. A job that floods them is read with pauses, so that it waits, not the others.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER
from procjobs.dispatch.limits import Stop
from procjobs.shared.ids import to_text
from procjobs.supervisor.job import supervised
from procjobs.supervisor.transcripts import Transcript

if TYPE_CHECKING:
    from procjobs.dispatch.model import Slot
    from procjobs.host.loop import Loop
    from procjobs.supervisor.job import SupervisedJob
    from procjobs.supervisor.log import Log
    from procjobs.supervisor.registry import Registry
    from procjobs.supervisor.workers.console import Console

_READ_BYTES: Final = 64 * 1024  # the capacity of a pipe
_PAUSE_SECONDS: Final = 0.004
_LONGEST_LINE: Final = 4096


class OutputSource:
    """One stream of a worker: 1 is standard output, 2 standard error.

    `label` and `owner`, the id of a job, tell whose text came last: the job itself may be forgotten before more comes.
    `rest` is a line without its end; `held` is one, too, that is not on the console yet, which takes whole lines for now.
    """

    __slots__ = ("fd", "held", "label", "owner", "paused", "rest", "slot", "stream")

    def __init__(self, slot: Slot, fd: int, stream: int) -> None:
        self.slot = slot
        self.fd = fd
        self.stream = stream
        self.label = _label(slot, None)
        self.owner = b""
        self.rest = b""
        self.held = b""
        self.paused = False


class Outputs:
    """Reads the streams of all workers."""

    def __init__(self, loop: Loop, log: Log, console: Console | None, registry: Registry) -> None:
        """`registry` tells which job a worker has begun."""
        self._loop = loop
        self._log = log
        self._console = console
        self._registry = registry
        self._paused: deque[tuple[float, OutputSource]] = deque()
        self._held: set[OutputSource] = set()

    def read(self, source: OutputSource) -> None:
        """Take the text that has been printed, up to the capacity of a pipe."""
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
        owner = b"" if job is None else job.id
        if owner != source.owner:
            self._end_line(source)
            source.owner, source.label = owner, _label(source.slot, job)
        if job is not None:
            job.kind.prints = True
            if job.transcript is None:
                job.transcript = Transcript()
            job.transcript.everything.append(data)
            if source.stream == 2:
                job.transcript.stderr.append(data)
        if self._console is not None:
            self._show(self._console, source, data)
        lines, end, rest = (source.rest + data).rpartition(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = lines + end + rest, b""
        source.rest = rest
        if lines:
            self._log.write_output(source.label, lines)

    def _show(self, console: Console, source: OutputSource, data: bytes) -> None:
        if source.held:
            data, source.held = source.held + data, b""
        if console.is_diverted(source.stream):
            lines, end, rest = data.rpartition(b"\n")
            if len(rest) <= _LONGEST_LINE:
                data, source.held = lines + end, rest
            if source.held:
                self._held.add(source)
        if data:
            console.write(source.stream, data)

    def _show_held(self, source: OutputSource) -> None:
        if source.held and self._console is not None:
            self._console.write(source.stream, source.held + b"\n")
        source.held = b""
        self._held.discard(source)

    def divert(self, name: str) -> bool:
        """Show the output of jobs in another place, as `Console.divert` says, by whole lines."""
        return self._console is not None and self._console.divert(name)

    def mark(self, name: str) -> None:
        """Let the reader of this FIFO know that it has had everything that was printed until now."""
        for source in list(self._held):
            self._show_held(source)
        if self._console is not None:
            self._console.mark(name)

    def restore(self, name: str) -> None:
        """Show it where it was shown before."""
        for source in list(self._held):
            self._show_held(source)
        if self._console is not None:
            self._console.restore(name)

    def _current_job(self, slot: Slot) -> SupervisedJob | None:
        """Return the job that a worker is in: the last of its jobs that it has begun."""
        if len(slot.jobs) <= 1 or slot.stop is not Stop.NONE:
            return supervised(slot.jobs[0]) if slot.jobs else None
        jobs = [supervised(job) for job in slot.jobs]
        return next((job for job in reversed(jobs) if self._registry.has_begun(job)), jobs[0])

    def _end_line(self, source: OutputSource) -> None:
        if source.rest:
            self._log.write_output(source.label, source.rest)
            source.rest = b""
        self._show_held(source)

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
        """Read the pipes of a worker that has gone to their end; another process may hold them open."""
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
        """Read a stream in its pause: its job has ended, and the text in the pipe is that job's."""
        if source.paused:
            self._read_rest(source)


def _label(slot: Slot, job: SupervisedJob | None) -> str:
    if job is None:
        return f"worker {slot.number}"
    return f"{to_text(job.id)} {job.kind.name.decode(errors='replace')}"
