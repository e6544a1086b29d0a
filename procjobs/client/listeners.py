"""Everybody who wants to hear of the end of one job: threads that wait, callbacks, and concurrent.futures.

The thread that tells them takes no lock, so none that was interrupted can stop it. Each listener is told once: whoever takes
it out of its list tells it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures._base import PENDING
from typing import TYPE_CHECKING, Any, Protocol

from procjobs.client.connection.interruptible import News
from procjobs.client.nested import Awaited, WaitRoute, wait_for_several
from procjobs.worker.context import current_job

if TYPE_CHECKING:
    from typing import Self

_log = logging.getLogger("concurrent.futures")


class Ending(Protocol):
    """A job, as its listeners see it."""

    raw_id: bytes

    def way(self) -> WaitRoute | None:
        """Return the connection over which its answer comes."""

    def done(self) -> bool:
        """Return whether it has ended."""

    def cancelled(self) -> bool:
        """Return whether it was cancelled."""

    def has_failed(self) -> bool:
        """Return whether it has ended with an exception."""

    def present_state(self) -> str:
        """Return its state in the words of concurrent.futures."""


class Listeners:
    """The listeners of a job. Most jobs never have any: an object of this class is made for the first one."""

    __slots__ = ("callbacks", "futures", "news")

    def __init__(self) -> None:
        self.news = News()
        self.callbacks: deque[Callable[[Any], object]] = deque()
        self.futures: FuturesWaiters | None = None

    def tell(self, job: Ending) -> None:
        """Tell all that are here that the job has ended. May be called by several threads, and again."""
        self.news.spread()
        if self.futures is not None:
            self.futures.tell()
        while self.callbacks:
            try:
                callback = self.callbacks.popleft()
            except IndexError:
                return
            try:
                callback(job)
            except Exception:  # noqa: BLE001 - the user's code, and here is nobody to raise it to
                _log.exception("exception calling callback for %r", job)


class _Event:
    """As threading.Event, for one thread that waits; `set` takes no lock. `jobs` set it; known inside a job only."""

    def __init__(self) -> None:
        self._is_set = False
        self._news = News()
        self.jobs: list[Awaited] = []

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._news.spread()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        if self.jobs:
            return wait_for_several(self.jobs, self._news, self.is_set, timeout)
        return self._news.wait_for(self.is_set, timeout)

    def note_end(self) -> None:
        """Wake the thread that waits: one of the jobs has ended."""
        if self.jobs:
            self._news.spread()


class FuturesWaiters(list[Any]):
    """Stands for the condition and the waiters that concurrent.futures' `wait` and `as_completed` use of a Future.

    They look at the state of all their futures and then add a waiter to each, with all conditions acquired, so that no
    future ends in between. Here it may end: a thread sees the state that was when it acquired the condition, and a waiter
    that is added later is told at once of an end that its thread has not seen.
    """

    def __init__(self, job: Ending) -> None:
        super().__init__()
        self._job = weakref.ref(job)  # a cycle would keep the job, and its pool, until the garbage collector comes
        self._seen: dict[int, str] = {}

    def _present_job(self) -> Ending:
        job = self._job()
        assert job is not None, "whoever calls has the job"
        return job

    def seen_state(self) -> str | None:
        """Return the state that this thread is to see, None if it has not acquired the condition."""
        return self._seen.get(threading.get_ident())

    # The condition

    def acquire(self) -> None:
        """Let this thread see the state that is now."""
        self._seen[threading.get_ident()] = self._present_job().present_state()

    def release(self) -> None:
        """Let this thread see the state of each moment again."""
        self._seen.pop(threading.get_ident(), None)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    # The waiters

    def append(self, waiter: Any) -> None:
        """Add a waiter, to be told of an end that its thread has not seen yet."""
        if self.seen_state() not in {None, PENDING}:
            return
        if isinstance(getattr(waiter, "event", None), threading.Event):
            waiter.event = _Event()  # a thread that is interrupted while it waits for the other leaves it locked
        if isinstance(waiter.event, _Event) and current_job() is not None:
            waiter.event.jobs.append(self._present_job())
        super().append(waiter)
        if self._present_job().done():
            self.tell()

    def remove(self, waiter: Any) -> None:
        """Take a waiter out, unless it was told."""
        with contextlib.suppress(ValueError):
            super().remove(waiter)

    def tell(self) -> None:
        """Tell the waiters that the job has ended."""
        while self:
            try:
                waiter = self.pop()
            except IndexError:
                return
            job = self._present_job()
            if job.cancelled():
                waiter.add_cancelled(job)
            elif job.has_failed():
                waiter.add_exception(job)
            else:
                waiter.add_result(job)
            if isinstance(waiter.event, _Event):
                waiter.event.note_end()
