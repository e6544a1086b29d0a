"""The event loop: the only place in a supervisor or template that blocks.

Signal handlers only mark: the interpreter writes the number of a signal into a pipe, and `wait` hands it out. There is
no tick: `wait` sleeps until something is ready or until the deadline it was given.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
from collections.abc import Iterable
from typing import Any, NamedTuple

from procjobs.clock import monotonic

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE
_LONGEST_WAIT = 86_400.0  # epoll_wait takes milliseconds in an int, so a wait for a distant deadline ends once a day


class Ready(NamedTuple):
    """The events that woke the loop: (source, READ | WRITE) pairs, and the numbers of signals that arrived."""

    sources: list[tuple[Any, int]]
    signals: set[int]


class Loop:
    """Waits for descriptors, signals and deadlines. One thread. `now` is when it last woke, monotonic."""

    def __init__(self, *, signals: Iterable[int] = ()) -> None:
        self._selector = selectors.DefaultSelector()
        self.now = monotonic()
        self._wakeup_read, self._wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wakeup_read, READ, None)
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, _mark)

    def add(self, fd: int, source: Any, events: int = READ) -> None:
        """Watch a descriptor; `wait` hands out `source` for it."""
        self._selector.register(fd, events, source)

    def change(self, fd: int, source: Any, events: int) -> None:
        """Watch a known descriptor for other events."""
        self._selector.modify(fd, events, source)

    def remove(self, fd: int) -> None:
        """Stop watching a descriptor; does nothing for one that is closed (-1) or not watched."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(fd)

    def wait(self, until: float | None) -> Ready:
        """Block until something is ready, a signal arrives or the monotonic time `until` has come (None: never)."""
        timeout = None if until is None else min(max(until - monotonic(), 0.0), _LONGEST_WAIT)
        sources, signals = [], set()
        for key, events in self._selector.select(timeout):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    signals = set(os.read(self._wakeup_read, 4096))
            else:
                sources.append((key.data, events))
        self.now = monotonic()
        return Ready(sources, signals)

    def close(self) -> None:
        """Release the loop's descriptors."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        os.close(self._wakeup_read)
        os.close(self._wakeup_write)


def _mark(_number: int, _frame: object) -> None:
    """Do nothing: the number is in the wake-up pipe already."""
