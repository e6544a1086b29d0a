"""One run of a program: started, read, stopped and reaped by a thread of its own.

1. The interruption of a job is an exception in the main thread, at any line. So the process belongs to the thread, and
   to nobody else: no exception can come between its start and the moment from which somebody knows it.
2. The thread ends soon after the process, whoever else holds its pipes; and soon after it is to stop: SIGTERM, then SIGKILL.
3. The thread keeps little: a bounded number of lines goes into the queue, however much the program writes.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import queue
import re
import select
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, Final, NamedTuple

from procjobs import current_job
from procjobs.errors import JobCancelled

_SLICE: Final = 0.1
"""Seconds after which the thread looks whether it is to stop, while the program says nothing."""
_START_TIMEOUT: Final = 1.0
"""Seconds for a thread of which nobody knows whether its start was interrupted before it was one."""
_MAX_LINE: Final = 4096
MAX_LINES: Final = 400
"""Lines of standard error that are handed over while the program runs: some 30 kB of what is usual, never more than 2 MB."""
_LAST_LINES: Final = 20
GRACE_PERIOD: Final = 2.0
"""Seconds. It has to be less than four fifths of the pool's `grace_period`, after which the pool kills a job's programs."""
_READ: Final = 65536
_ADDRESS: Final = r" @ 0x[0-9a-f]+(?=\])"
"""Of an object in the memory of ffmpeg, as in `[in#0 @ 0x55f0]`: of no use to anybody, and another one each time."""
_OF_OURS: Final = "ffmpeg stats and -progress period set to"
"""What it says of an argument that the user has not given."""

Files = IO[bytes] | int | None
Block = dict[str, str]


class Ended(NamedTuple):
    """The end of the program: its exit status, or why it was not started. `left_out` counts lines not handed over."""

    exit_status: int
    error: BaseException | None
    last_lines: list[str]
    left_out: int


class Program:
    """A program that runs, as seen by the thread that waits for it."""

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        *,
        stdin: Files = None,
        stdout: Files = None,
        cwd: str | None = None,
        grace_period: float = GRACE_PERIOD,
        max_lines: int = MAX_LINES,
    ) -> None:
        self._program = program
        self._arguments = arguments
        self._stdin = subprocess.DEVNULL if stdin is None else stdin
        self._stdout = subprocess.DEVNULL if stdout is None else stdout
        self._cwd = cwd
        self._grace_period = grace_period
        self._max_lines = max_lines
        self._events: queue.SimpleQueue[str | Block | Ended] = queue.SimpleQueue()
        self._lines = _Lines()
        self._blocks = _Lines()
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._count = 0
        self._block: Block = {}
        self._is_stopping = False
        self._ended = threading.Event()
        self._has_begun = False

    def run_to_end(self, on_line: Callable[[str], object], on_block: Callable[[Block], object]) -> Ended:
        """Run the program; call the functions with its lines on standard error and with its reports; return its end.

        Whatever is raised here, by the functions or by an interruption, the program is stopped first. In another thread of
        a job that is being stopped JobCancelled is raised: the worker interrupts the main thread alone.
        """
        try:
            # An exception in the middle of Thread.start() can have the new thread end at once, with a KeyError.
            _thread.start_new_thread(self._own, ())
            while not isinstance(event := self._next_event(), Ended):
                if isinstance(event, str):
                    on_line(event)
                else:
                    on_block(event)
        finally:
            self._stop()
        return event

    def _next_event(self) -> str | Block | Ended:
        if threading.current_thread() is threading.main_thread():
            return self._events.get()
        while True:
            try:
                return self._events.get(timeout=_SLICE)
            except queue.Empty:
                raise_if_stopping()

    def _stop(self) -> None:
        """Stop the program if it runs, and wait for the end of it and of its thread."""
        self._is_stopping = True
        seconds = self._grace_period + 2 * _SLICE + _START_TIMEOUT if self._has_begun else _START_TIMEOUT
        self._ended.wait(seconds)

    def _own(self) -> None:
        self._has_begun = True
        status, error = -1, None
        try:
            status = self._run()
        except BaseException as caught:  # noqa: BLE001 - whatever it is, the thread that waits has to hear of it
            error = caught
        self._events.put(Ended(status, error, list(self._last), max(0, self._count - self._max_lines)))
        self._ended.set()

    def _run(self) -> int:
        if self._is_stopping:
            return -1
        with contextlib.ExitStack() as stack:
            reading, writing = os.pipe()
            reports = stack.enter_context(open(reading, "rb", buffering=0))
            with open(writing, "wb", buffering=0):
                process = self._start(writing)
            assert process.stderr is not None
            stack.enter_context(process.stderr)
            self._read(process, {process.stderr.fileno(): self._on_stderr, reports.fileno(): self._on_report})
        # Its pipes are closed now. So a program that is being stopped does not wait for somebody to read them.
        if process.poll() is None:
            self._end(process)
        return process.wait()

    def _start(self, progress_fd: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - the arguments are the caller's, and no shell reads them
            [self._program, "-progress", f"pipe:{progress_fd}", *self._arguments],
            stdin=self._stdin,
            stdout=self._stdout,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=self._cwd,
            pass_fds=(progress_fd,),
        )

    def _read(self, process: subprocess.Popen[bytes], readers: dict[int, Callable[[bytes], None]]) -> None:
        """Read until the program has ended, or is to be stopped. Children of it may hold its pipes for longer."""
        poller = select.poll()
        for fd in readers:
            poller.register(fd, select.POLLIN)
        while not self._is_stopping:
            ready = poller.poll(_SLICE * 1000)
            for fd, _ in ready:
                data = os.read(fd, _READ)
                if data:
                    readers[fd](data)
                else:
                    poller.unregister(fd)
                    del readers[fd]
            if not readers:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_SLICE)
            if process.poll() is not None and (not ready or not readers):
                break
        self._take(self._lines.rest())

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()  # a program that encodes finishes the file on it
        try:
            process.wait(self._grace_period)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _on_stderr(self, data: bytes) -> None:
        self._take(self._lines.feed(data))

    def _take(self, lines: list[str]) -> None:
        for line in lines:
            if line.startswith(_OF_OURS):
                continue
            self._count += 1
            self._last.append(line)
            if self._count <= self._max_lines:
                self._events.put(line)

    def _on_report(self, data: bytes) -> None:
        for line in self._blocks.feed(data):
            key, _, value = line.partition("=")
            self._block[key] = value.strip()
            if key == "progress":
                self._events.put(self._block)
                self._block = {}


class _Lines:
    """Cuts bytes into lines of bounded length; empty ones are dropped."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *lines, rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        self._rest = rest[:_MAX_LINE]  # what is beyond belongs to a line that is cut off anyway
        texts = (line[:_MAX_LINE].decode(errors="replace").rstrip() for line in lines)
        return [re.sub(_ADDRESS, "", text) for text in texts if text]

    def rest(self) -> list[str]:
        return self.feed(b"\n")


def raise_if_stopping() -> None:
    """Raise JobCancelled if the job of this thread is being stopped: cancelled, timed out, or with its pool."""
    job = current_job()
    if job is not None and job.cancelled:
        text = f"job {job.id} {job.name} is being stopped, and ffmpeg with it (attempt {job.attempt})"
        raise JobCancelled(text, job_id=job.id, attempt=job.attempt)
