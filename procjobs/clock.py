"""The clocks, and the only module that reads them for decisions.

`monotonic` is for deadlines: it never steps, and stands still while the host is suspended. `boottime` goes on then: it is
for what others, who are not suspended, may do meanwhile. `wall` is for people: it goes into records that they compare with
other logs, and schedules follow it. Nothing else is decided by it.
"""

from __future__ import annotations

from time import CLOCK_BOOTTIME, clock_gettime, monotonic, perf_counter
from time import time as wall
from typing import Final

from procjobs.originals import original

__all__ = ["NEVER", "boottime", "monotonic", "perf_counter", "sleep", "wall"]

sleep = original("time", "sleep")

NEVER: Final = float("inf")
"""The deadline of things that have none: it comes after every other one."""


def boottime() -> float:
    """Return the seconds since the host was started, its time in suspension included."""
    return clock_gettime(CLOCK_BOOTTIME)
