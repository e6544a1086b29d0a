"""The state of a worker's process that a job can change: timers, signals, directory, umask, limits, the interpreter.

It is noted once, after the initializer, and put back after each job. A look costs as little as it can: a call that puts
back without asking is cheaper than two, and the functions of `_signal` spare the enums of `signal`.
"""

from __future__ import annotations

import _locale
import _signal  # type: ignore[import-not-found]
import contextlib
import faulthandler
import gc
import locale
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

from procjobs.host import process
from procjobs.host.descriptors import move_up
from procjobs.worker.startup import offer_stacks

_BLOCK, _ALL = int(signal.SIG_BLOCK), int(locale.LC_ALL)
_NUMBERS: Final = tuple(map(int, sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})))
_OFTEN: Final = tuple(
    map(int, (signal.SIGINT, signal.SIGALRM, signal.SIGTERM, signal.SIGCHLD, process.SOFT_SIGNAL))
)
"""The signals that programs handle; the others are looked at with everything else."""
_FAULTS: Final = {
    *map(int, (signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL)),
    process.STACK_SIGNAL, process.TELL_SIGNAL,
}  # fmt: skip
"""The signals whose handlers are those of faulthandler."""
_OWN: Final = {int(signal.SIGTERM), int(signal.SIGINT), process.STACK_SIGNAL, process.TELL_SIGNAL, process.SOFT_SIGNAL}
"""The signals that come from the pool or its user: blocked by a job, they are for the worker all the same."""
_TIMERS: Final = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_SETTINGS: Final[tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...]] = (
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (gc.isenabled, lambda is_enabled: gc.enable() if is_enabled else gc.disable()),
    (socket.getdefaulttimeout, socket.setdefaulttimeout),
    (sys.getprofile, sys.setprofile),
    (sys.gettrace, sys.settrace),
    (sys.getswitchinterval, sys.setswitchinterval),
    (gc.get_threshold, lambda thresholds: gc.set_threshold(*thresholds)),
)
_GETTERS: Final = tuple(getter for getter, _ in _SETTINGS)


# Plain names: to look them up in their modules, for every job, costs 0.5 us.
_alarm, _getsignal, _pthread_sigmask = _signal.alarm, _signal.getsignal, _signal.pthread_sigmask
_cancel_dump = faulthandler.cancel_dump_traceback_later
_umask, _fchdir = os.umask, os.fchdir


class ProcessState:
    """The state that was there when this was made."""

    def __init__(self, stack: int) -> None:
        """`stack` is the pipe into which the worker writes its stack."""
        self._stack = stack
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._directory = _open_directory()
        self._mask = _pthread_sigmask(_BLOCK, ())
        self._often = list(map(_getsignal, _OFTEN))
        self._handlers = list(map(_getsignal, _NUMBERS))
        self._wakeup = signal.set_wakeup_fd(-1)
        self._set_wakeup()
        self._limits = _limits()
        self._nice = os.getpriority(os.PRIO_PROCESS, 0)
        self._locale = _locale.setlocale(_ALL)
        self._settings = tuple(getter() for getter in _GETTERS)
        self._is_faulthandler_on = faulthandler.is_enabled()

    def disarm(self) -> None:
        """Stop the timers: what they would interrupt is not the job any more."""
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        faulthandler.cancel_dump_traceback_later()

    def put_back_cheaply(self) -> bool:
        """Put back what takes one cheap call; return whether the rest that is cheap to see is as it was."""
        _alarm(0)
        _cancel_dump()
        _umask(self._umask)
        try:
            if self._directory is not None:
                _fchdir(self._directory[0])
        except OSError:
            return False
        return list(map(_getsignal, _OFTEN)) == self._often

    def is_intact(self) -> bool:
        """Return whether everything else is as it was."""
        wakeup = signal.set_wakeup_fd(-1)  # the one way to ask
        self._set_wakeup()
        return wakeup == self._wakeup and (
            list(map(_getsignal, _NUMBERS)) == self._handlers
            and _pthread_sigmask(_BLOCK, ()) == self._mask
            and tuple(getter() for getter in _GETTERS) == self._settings
            and faulthandler.is_enabled() == self._is_faulthandler_on
            and _limits() == self._limits
            and not any(signal.getitimer(timer)[0] for timer in _TIMERS)
            and os.getpriority(os.PRIO_PROCESS, 0) == self._nice
            and _locale.setlocale(_ALL) == self._locale
        )

    def put_back(self) -> list[str]:
        """Put everything back; return what could not be."""
        self.disarm()
        for (getter, setter), value in zip(_SETTINGS, self._settings, strict=True):
            if getter() != value:
                setter(value)
        os.umask(self._umask)
        self._set_wakeup()
        lost = self._put_back_handlers()
        self._put_back_mask()
        if not self._try_go_back():
            lost.append("the working directory")
        lost += [name for name, limits in self._limits.items() if not _try_set_limit(_LIMITS[name], limits)]
        if not self._try_set_nice():
            lost.append("the niceness")
        with contextlib.suppress(locale.Error):
            locale.setlocale(_ALL, self._locale)
        return lost

    def _set_wakeup(self) -> None:
        try:
            signal.set_wakeup_fd(self._wakeup)
        except (OSError, ValueError):  # the job has closed that of the initializer
            signal.set_wakeup_fd(-1)

    def _put_back_handlers(self) -> list[str]:
        """Put the handlers of all signals back; return those that were not set by Python, and cannot be."""
        changed = [
            (number, handler)
            for number, handler in zip(_NUMBERS, self._handlers, strict=True)
            if _getsignal(number) != handler
        ]
        for number, handler in changed:
            if handler is not None:
                signal.signal(number, handler)
        if faulthandler.is_enabled() != self._is_faulthandler_on or any(number in _FAULTS for number, _ in changed):
            offer_stacks(self._stack)
            signal.signal(process.TELL_SIGNAL, self._handlers[_NUMBERS.index(process.TELL_SIGNAL)])
        return [f"the handler of {signal.Signals(number).name}" for number, handler in changed if handler is None]

    def _put_back_mask(self) -> None:
        blocked = _pthread_sigmask(_BLOCK, ())
        if blocked == self._mask:
            return
        # Pending signals were for the job. Most would end the worker at the moment when they are let through.
        while (blocked & signal.sigpending()) - _OWN - self._mask:
            signal.sigtimedwait((blocked & signal.sigpending()) - _OWN - self._mask, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _try_go_back(self) -> bool:
        if self._directory is None:
            return True
        fd, identity = self._directory
        try:
            os.fchdir(fd)
            return _identity(fd) == identity
        except OSError:
            return False

    def _try_set_nice(self) -> bool:
        if os.getpriority(os.PRIO_PROCESS, 0) == self._nice:
            return True
        try:
            os.setpriority(os.PRIO_PROCESS, 0, self._nice)
        except OSError:  # without privileges, a process becomes nicer only
            return False
        return True


def _open_directory() -> tuple[int, tuple[int, int]] | None:
    """Return a descriptor of the working directory and its identity, None if this user may not enter it."""
    try:
        here = move_up(os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError:
        return None
    return here, _identity(here)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _limits() -> dict[str, tuple[int, int]]:
    """Return the limits of this process."""
    return {name: resource.getrlimit(number) for name, number in _LIMITS.items()}


def _known_limits() -> dict[str, int]:
    """Return the limits that programs set, as far as this kernel knows them."""
    known = {}
    for name in ("CPU", "AS", "DATA", "STACK", "FSIZE", "NOFILE", "NPROC", "CORE", "MEMLOCK"):
        number = getattr(resource, f"RLIMIT_{name}")
        with contextlib.suppress(OSError, ValueError):
            resource.getrlimit(number)
            known[f"RLIMIT_{name}"] = number
    return known


_LIMITS: Final = _known_limits()


def _try_set_limit(number: int, limits: tuple[int, int]) -> bool:
    """Set a soft and a hard limit; return False if the hard one was lowered and may not be raised again."""
    if resource.getrlimit(number) == limits:
        return True
    try:
        resource.setrlimit(number, limits)
    except (OSError, ValueError):
        return False
    return True
