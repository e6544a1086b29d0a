"""Where workers are: asks them for their Python stacks, and waits for the text without blocking.

A worker tells its stack from a signal handler of faulthandler, in C, so also from code that holds the interpreter. It
writes into a pipe; it is done when the kernel shows the signal neither pending nor blocked.

That handler reads the frames of all threads, and crashes now and then where one of them goes on running. So a worker with
several threads is first asked to tell from its interpreter, which stops the others meanwhile. If it does not answer it is in
C code, and most likely holds the interpreter: then they are stopped anyway.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER
from procjobs.dispatch.watchdog import EXAMINE_SECONDS
from procjobs.host import observe, process
from procjobs.host.loop import Loop
from procjobs.shared.wire import limit_text

if TYPE_CHECKING:
    from procjobs.dispatch.model import Job, Slot
    from procjobs.supervisor.workers.worker_link import WorkerLink

MAX_STACK_BYTES: Final = 16 * 1024
_LOOK_AGAIN_SECONDS: Final = 0.001
_TELL_SECONDS: Final = 0.05
_TELL_SECONDS_EACH: Final = 0.005
_MAX_TELL_SECONDS: Final = 0.3
"""How long a worker has to tell from its interpreter; it takes a millisecond, but that each of its threads may keep the
interpreter for 5 ms (sys.getswitchinterval) while its main thread waits."""
_FIRST: Final = "(most recent call first):"
_OWN_FRAMES: Final = (
    *(f"/procjobs/{module}.py" for module in ("worker/worker", "template/template", "host/process")),
    'File "<string>", line 1 in',
)


class StackSource:
    """What the loop hands out when a worker tells its stack."""

    __slots__ = ("link", "slot")

    def __init__(self, slot: Slot, link: WorkerLink) -> None:
        self.slot = slot
        self.link = link


class _Examination:
    """One worker that was asked, and who wants to know."""

    __slots__ = ("is_for_dispatcher", "is_telling", "job", "look_at", "text", "until", "waiters")

    def __init__(self, job: Job | None, now: float) -> None:
        self.job = job
        self.text = b""
        self.until = now + EXAMINE_SECONDS
        self.look_at = self.until
        self.is_telling = False
        self.is_for_dispatcher = False
        self.waiters: list[Callable[[str], None]] = []


class Stacks:
    """The examinations that are under way; `on_examined(slot, job, text)` hears of the end of those without a waiter."""

    def __init__(self, loop: Loop, on_examined: Callable[[Slot, Job | None, str], None]) -> None:
        self._loop = loop
        self._on_examined = on_examined
        self._running: dict[Slot, _Examination] = {}

    def ask(self, slot: Slot, waiter: Callable[[str], None] | None = None) -> None:
        """Ask a worker where it is, for `waiter`, or for the dispatcher."""
        examination = self._running.get(slot)
        if examination is None:
            examination = self._running[slot] = _Examination(slot.current, self._loop.now)
            threads = observe.count_threads(slot.pid)
            if threads > 1:
                examination.is_telling = True
                patience = min(_TELL_SECONDS + _TELL_SECONDS_EACH * threads, _MAX_TELL_SECONDS)
                examination.look_at = self._loop.now + patience
                process.kill_process(slot.pid, process.TELL_SIGNAL)
            elif slot.pid:
                process.kill_process(slot.pid, process.STACK_SIGNAL)
        if waiter is None:
            examination.is_for_dispatcher = True
        else:
            examination.waiters.append(waiter)

    def read(self, source: StackSource, _events: int) -> None:
        """Take what a worker has written."""
        if source.link.closed:  # in this very turn, by what its template said: the number may be another file's by now
            return
        try:
            data = os.read(source.link.stack, 65536)
        except BlockingIOError:
            return
        if not data:  # its process has gone, or has closed it: it would wake the loop until it is reaped
            self._loop.remove(source.link.stack)
            return
        examination = self._running.get(source.slot)
        if examination is not None:
            examination.text += data + _read_some(source.link.stack)
            self._look(source.slot, examination, source.link.stack)

    def _look(self, slot: Slot, examination: _Examination, fd: int) -> None:
        if examination.is_telling:
            examination.look_at = examination.until
            if examination.text.endswith(process.STACK_END):
                self._conclude(slot)
        elif observe.is_in_handler(slot.pid, process.STACK_SIGNAL):
            examination.look_at = min(self._loop.now + _LOOK_AGAIN_SECONDS, examination.until)
        else:
            examination.text += _read_some(fd)  # what it wrote between being read and being looked at
            self._conclude(slot)

    def next_deadline(self) -> float:
        """Return when an examination is to be looked at again."""
        return min((e.look_at for e in self._running.values()), default=NEVER)

    def advance(self, now: float, links: dict[int, WorkerLink]) -> None:
        """End the examinations whose text is there, or whose time is over."""
        for slot, examination in list(self._running.items()):
            if examination.look_at <= now:
                if now >= examination.until:
                    self._conclude(slot)
                elif examination.is_telling and not examination.text:
                    examination.is_telling = False
                    examination.look_at = examination.until
                    process.kill_process(slot.pid, process.STACK_SIGNAL)
                else:
                    self._look(slot, examination, links[slot.number].stack)

    def forget(self, slot: Slot) -> None:
        """End the examination of a worker that has gone."""
        if slot in self._running:
            self._conclude(slot)

    def _conclude(self, slot: Slot) -> None:
        examination = self._running.pop(slot)
        text = _for_readers(examination.text.replace(process.STACK_END, b""))
        if not text and slot.pid:
            text = f"(it does not answer; its process is {observe.describe_state(slot.pid)})"
        for waiter in examination.waiters:
            waiter(text)
        if examination.is_for_dispatcher:
            self._on_examined(slot, examination.job, text)


def _read_some(fd: int) -> bytes:
    """Read what has been written, as far as a few calls get: others are waiting while a worker goes on writing."""
    data = b""
    with contextlib.suppress(BlockingIOError):
        for _ in range(4):
            data += os.read(fd, 65536)
    return data


def without_own_frames(text: str) -> str:
    """Return what a job wrote to standard error without the worker's frames in faulthandler's stacks.

    They come last, so that in the end of the text they would be in the place of the job's own.
    """
    if _FIRST not in text:
        return text
    return "".join(line for line in text.splitlines(keepends=True) if not _is_own_frame(line))


def _is_own_frame(line: str) -> bool:
    is_frame = line.startswith('  File "') and ", in " not in line  # that would be a traceback's
    return is_frame and any(frame in line for frame in _OWN_FRAMES)


def _for_readers(text: bytes) -> str:
    """Return the stacks without the frames of the worker itself."""
    lines = text.decode(errors="replace").splitlines()
    kept: list[str] = []
    for line in [*lines, ""]:
        if kept and not line.startswith(" ") and kept[-1].endswith(_FIRST):
            kept.append("  (in a function that is not written in Python)")
        if not _is_own_frame(line):
            kept.append(line)
    return limit_text("\n".join(kept).strip(), MAX_STACK_BYTES)
