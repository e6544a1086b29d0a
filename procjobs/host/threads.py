"""The threads of this process: Python's own, and those that libraries have started in native code."""

from __future__ import annotations

import contextlib
import os
from typing import Final

from procjobs.clock import sleep
from procjobs.host import process

_TRIAL_TIMEOUT: Final = 5.0
_THREAD_LOOKS, _THREAD_PAUSE = 20, 0.005


def thread_count() -> int:
    """Return the number of Python threads of this process, daemon and foreign ones included."""
    import _thread
    import threading

    return max(_thread._count() + 1, threading.active_count())  # noqa: SLF001 - sees threads that threading does not


def native_threads() -> list[str]:
    """Return the names (comm) of this process's threads but for its main one; none where /proc does not tell them."""
    names = []
    with contextlib.suppress(OSError):
        for task in os.listdir("/proc/self/task"):
            if task != str(os.getpid()):
                with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm") as file:
                    names.append(file.read().strip())
    return sorted(names)


def threads_kept_in_fork() -> list[str]:
    """Return the names of the threads that a fork of this process leaves running: a library relies on them in the child.

    Libraries that know about forks end their threads before one (pthread_atfork), and start them again when they need them.
    So this forks a child that ends at once, if there are threads at all. A child that does not get so far is killed, and
    whatever threads there are count. Without threads it takes 10 us; with some, as long as it takes to stop them, which is
    5 ms for OpenBLAS, and up to 0.1 s where some stay.
    """
    if not native_threads():
        return []
    if not process.try_fork(_TRIAL_TIMEOUT):
        return native_threads()
    for _ in range(_THREAD_LOOKS):
        names = native_threads()
        if not names:
            break
        sleep(_THREAD_PAUSE)  # a thread that was joined is in /proc for a moment longer
    return names
