"""Where workers are: asks them for their Python stacks, and collects the text without blocking.

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
from procjobs.dispatch.watchdog import STACK_TIMEOUT
from procjobs.host import observe, process
from procjobs.host.loop import Loop
from procjobs.supervisor.stack_text import for_readers
from procjobs.supervisor.workers.events import StackDumped

if TYPE_CHECKING:
    from procjobs.dispatch.model import Job, Slot
    from procjobs.supervisor.workers.worker_link import WorkerLink

_POLL_INTERVAL: Final = 0.001
"""Between two looks whether a worker is still in its signal handler."""
_TELL_TIMEOUT: Final = 0.05
_TELL_TIMEOUT_PER_THREAD: Final = 0.005
_MAX_TELL_TIMEOUT: Final = 0.3
"""How long a worker may take to tell its stack from its interpreter. It takes a millisecond, and 5 ms more for each thread
that keeps the interpreter while its main thread waits (sys.getswitchinterval)."""


class StackSource:
    """The loop hands this out when a worker tells its stack."""

    __slots__ = ("link", "slot")

    def __init__(self, slot: Slot, link: WorkerLink) -> None:
        self.slot = slot
        self.link = link


class _Dump:
    """One worker that was asked. `waiters` get the text; `is_for_core`: the core wants to know too."""

    __slots__ = ("fd", "is_for_core", "is_telling", "job", "look_at", "text", "until", "waiters")

    def __init__(self, job: Job | None, fd: int, now: float) -> None:
        self.job = job
        self.fd = fd
        self.text = b""
        self.until = now + STACK_TIMEOUT
        self.look_at = self.until
        self.is_telling = False
        self.is_for_core = False
        self.waiters: list[Callable[[str], None]] = []


class Stacks:
    """The dumps that are under way. Those for the core end as `StackDumped`."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._running: dict[Slot, _Dump] = {}

    def ask(self, slot: Slot, fd: int, waiter: Callable[[str], None] | None = None) -> None:
        """Ask a worker where it is, for `waiter`, or for the core. `fd` is the pipe that it writes into."""
        dump = self._running.get(slot)
        if dump is None:
            dump = self._running[slot] = _Dump(slot.current, fd, self._loop.now)
            threads = observe.count_threads(slot.pid)
            if threads > 1:
                dump.is_telling = True
                timeout = min(_TELL_TIMEOUT + _TELL_TIMEOUT_PER_THREAD * threads, _MAX_TELL_TIMEOUT)
                dump.look_at = self._loop.now + timeout
                process.kill_process(slot.pid, process.TELL_SIGNAL)
            elif slot.pid:
                process.kill_process(slot.pid, process.STACK_SIGNAL)
        if waiter is None:
            dump.is_for_core = True
        else:
            dump.waiters.append(waiter)

    def read(self, source: StackSource) -> list[StackDumped]:
        """Take the text that a worker has written."""
        if source.link.closed:  # in this very turn, by what its template said: the number may be another file's by now
            return []
        try:
            data = os.read(source.link.stack, 65536)
        except BlockingIOError:
            return []
        if not data:  # its process has gone, or has closed it: it would wake the loop until it is reaped
            self._loop.remove(source.link.stack)
            return []
        dump = self._running.get(source.slot)
        if dump is None:
            return []
        dump.text += data + _read_some(dump.fd)
        return self._look(source.slot, dump)

    def _look(self, slot: Slot, dump: _Dump) -> list[StackDumped]:
        if dump.is_telling:
            dump.look_at = dump.until
            return self._conclude(slot) if dump.text.endswith(process.STACK_END) else []
        if observe.is_in_handler(slot.pid, process.STACK_SIGNAL):
            dump.look_at = min(self._loop.now + _POLL_INTERVAL, dump.until)
            return []
        dump.text += _read_some(dump.fd)  # text that it wrote after it was read, and before it was looked at
        return self._conclude(slot)

    def next_deadline(self) -> float:
        """Return when a dump is to be looked at again."""
        return min((dump.look_at for dump in self._running.values()), default=NEVER)

    def advance(self, now: float) -> list[StackDumped]:
        """End the dumps whose text is complete, or whose time is over."""
        ended = []
        for slot, dump in list(self._running.items()):
            if dump.look_at <= now:
                if now >= dump.until:
                    ended += self._conclude(slot)
                elif dump.is_telling and not dump.text:
                    dump.is_telling = False
                    dump.look_at = dump.until
                    process.kill_process(slot.pid, process.STACK_SIGNAL)
                else:
                    ended += self._look(slot, dump)
        return ended

    def forget(self, slot: Slot) -> list[StackDumped]:
        """End the dump of a worker that has gone, if there is one."""
        return self._conclude(slot) if slot in self._running else []

    def _conclude(self, slot: Slot) -> list[StackDumped]:
        dump = self._running.pop(slot)
        text = for_readers(dump.text.replace(process.STACK_END, b""))
        if not text and slot.pid:
            text = f"(it does not answer; its process is {observe.describe_state(slot.pid)})"
        for waiter in dump.waiters:
            waiter(text)
        return [StackDumped(slot, dump.job, text)] if dump.is_for_core else []


def _read_some(fd: int) -> bytes:
    """Read what has been written, as far as a few calls get: others are waiting while a worker goes on writing."""
    data = b""
    with contextlib.suppress(BlockingIOError):
        for _ in range(4):
            data += os.read(fd, 65536)
    return data
