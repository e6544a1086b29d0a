"""Locks and waiting that an exception from outside cannot break.

Ctrl-C, a signal handler, a soft timeout and a debugger raise between any two lines of a thread. Three rules keep a
connection whole all the same:

1. A lock is held only while one function runs (`Exclusive.run`). No exception can come between taking it and that function,
   or between that function and leaving it, so nobody can be locked out by a thread that has moved on.
2. The function first writes down what it is about to do. What it leaves half done, the next one to hold the lock finds
   written down, and finishes or undoes.
3. A thread waits on a bell of its own, which others only ring (`News`). The threads that bring news lock nothing.

The locks are the original ones of Python, and no greenlet gives way while it holds one: another greenlet of the same thread
that then wanted it would wait for ever.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from operator import methodcaller
from typing import Final, TypeVar, TypeVarTuple, Unpack

from procjobs.client.connection.bells import Bell, make_bell
from procjobs.clock import monotonic
from procjobs.errors import JobTimeout
from procjobs.originals import original

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_FOR_EVER: Final = -1.0
_RING: Final = methodcaller("release")
_lock = original("_thread", "allocate_lock")
_nesting_lock = original("_thread", "RLock")


class Exclusive:
    """A lock under which functions run, one thread at a time. A thread that holds it may take it once more if `nests`."""

    __slots__ = ("lock",)

    def __init__(self, *, nests: bool = False) -> None:
        self.lock: contextlib.AbstractContextManager[object] = _nesting_lock() if nests else _lock()

    def run(self, function: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Call the function under the lock; wait for the lock as long as it takes."""
        # One line: the interpreter looks for signals, and tells tracers of a new line, before the lock is taken and after it
        # is left. Between, everything is within reach of the `with`.
        with self.lock: return function(*args)  # noqa: E701


class News:
    """Wakes the threads that wait for a change. One that is interrupted leaves nothing behind that others wait for."""

    __slots__ = ("_bells",)

    def __init__(self) -> None:
        self._bells: deque[Bell] = deque()

    def wait_for(self, has_come: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until `has_come`, which is asked after each piece of news; return False if `timeout` seconds pass first."""
        deadline = None if timeout is None else monotonic() + timeout
        while not has_come():
            rest = _FOR_EVER if deadline is None else min(deadline - monotonic(), threading.TIMEOUT_MAX)
            if deadline is not None and rest <= 0:
                return False
            self._wait(has_come, rest)
        return True

    def _wait(self, has_come: Callable[[], bool], timeout: float) -> None:
        bell, in_use = make_bell()
        with in_use:
            self._bells.append(bell)
            is_rung = False
            try:
                is_rung = not has_come() and bell.acquire(True, timeout)  # asked again: news before it hung rang no bell
            finally:
                if not is_rung:
                    with contextlib.suppress(ValueError):  # it rang in this very moment
                        self._bells.remove(bell)

    def is_awaited(self) -> bool:
        """Return whether a thread waits."""
        return bool(self._bells)

    def spread(self) -> None:
        """Wake all threads that wait."""
        try:  # noqa: SIM105 - for many jobs, and 0.5 us cheaper
            # Each bell is taken out and rung, all in one call of C: no exception can come between.
            deque(map(_RING, iter(self._bells.popleft, None)), maxlen=0)
        except IndexError:
            pass


def came_from_outside(error: BaseException) -> bool:
    """Return whether a signal handler, a tracer or a soft timeout raised this, whatever the thread was doing just then."""
    if isinstance(error, JobTimeout):
        return True
    raisers = [sys.gettrace(), *(signal.getsignal(number) for number in signal.valid_signals())]
    codes = {getattr(getattr(raiser, "__func__", raiser), "__code__", None) for raiser in raisers}
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False
