"""What a thread waits on, and other threads ring: a lock, or something that lets other greenlets run meanwhile.

The receiver thread is one of the operating system in any case, so an answer arrives whatever greenlets do. A greenlet that
waits gives way to the others of its thread; the receiver rings its bell through the loop of the library that runs it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, Protocol

from procjobs.originals import close, has_green_threads, original

allocate_lock = original("_thread", "allocate_lock")


class Bell(Protocol):
    """Rung with `release`, once, from any thread."""

    def acquire(self, blocking: bool, timeout: float, /) -> bool:
        """Wait until it is rung; return False if `timeout` seconds pass first, without limit if that is negative."""

    def release(self) -> None:
        """Ring."""


def make_bell() -> tuple[Bell, contextlib.AbstractContextManager[object]]:
    """Return a bell for this thread or greenlet, and the context in which it can be waited on."""
    if "gevent" in sys.modules or "eventlet" in sys.modules:
        green = _green_bell()
        if green is not None:
            return green, contextlib.closing(green)
    lock = allocate_lock()
    lock.acquire()
    return lock, contextlib.nullcontext()


def _green_bell() -> _GeventBell | _EventletBell | None:
    """Return a bell for a greenlet, None where no loop runs other ones meanwhile; the loop itself cannot wait so."""
    from greenlet import getcurrent

    local = sys.modules.get("gevent._hub_local")
    hub = None if local is None else local.get_hub_if_exists()
    if hub is not None or sys.modules.get("gevent.monkey") is not None:
        if hub is None and has_green_threads():
            hub = sys.modules["gevent"].get_hub()
        return None if hub is None or getcurrent() is hub else _GeventBell(hub)
    hubs = sys.modules.get("eventlet.hubs")
    if hubs is None or not has_green_threads() or hubs.get_hub().greenlet is getcurrent():
        return None
    return _EventletBell(hubs)


class _GeventBell:
    """A greenlet of gevent waits for an event, which a watcher of its loop sets."""

    def __init__(self, hub: Any) -> None:
        from gevent.event import Event

        self._event = Event()
        self._lock = allocate_lock()
        self._watcher: Any = hub.loop.async_()
        self._watcher.start(self._event.set)

    def acquire(self, _blocking: bool, timeout: float, /) -> bool:
        return bool(self._event.wait(None if timeout < 0 else timeout))

    def release(self) -> None:
        with self._lock:
            if self._watcher is not None:
                self._watcher.send()  # the one thing that another thread may do to a loop

    def close(self) -> None:
        with self._lock:
            watcher, self._watcher = self._watcher, None
        watcher.stop()
        watcher.close()


class _EventletBell:
    """A greenlet of eventlet waits for a descriptor: its loop has nothing else that another thread may touch."""

    def __init__(self, hubs: Any) -> None:
        self._hubs = hubs
        self._lock = allocate_lock()
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def acquire(self, _blocking: bool, timeout: float, /) -> bool:
        try:
            self._hubs.trampoline(self._fd, read=True, timeout=None if timeout < 0 else timeout, timeout_exc=_TimeUp)
        except _TimeUp:
            return False
        return True

    def release(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1
            close(fd)


class _TimeUp(Exception):
    """The time of a wait is up."""
