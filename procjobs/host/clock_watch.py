"""Notices that somebody has set the clock, or that the host was suspended: deadlines by the wall clock are others then.

Linux wakes a timer of CLOCK_REALTIME with ECANCELED (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET). Elsewhere, and where the
kernel refuses it, there is no descriptor, and whoever waits for a time of the wall clock looks at it now and then.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

_CLOCK_REALTIME: Final = 0
_ABSTIME_AND_CANCEL_ON_SET: Final = 1 | 2
_NEVER: Final = 2**62
"""A time in seconds that does not come."""


class ClockWatch:
    """`fd` is readable when the clock was set; -1 where that cannot be noticed."""

    def __init__(self) -> None:
        self.fd = _try_open()

    def acknowledge(self) -> None:
        """Take note that the clock was set, and wait for the next time."""
        with contextlib.suppress(OSError):  # ECANCELED: it was set, and the timer watches on
            os.read(self.fd, 8)

    def close(self) -> None:
        """Release the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _try_open() -> int:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "timerfd_create"):
        return -1
    fd = int(libc.timerfd_create(_CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0:
        return -1
    interval_and_value = (ctypes.c_long * 4)(0, 0, _NEVER, 0)
    if libc.timerfd_settime(fd, _ABSTIME_AND_CANCEL_ON_SET, interval_and_value, None) != 0:
        os.close(fd)
        return -1
    return fd
