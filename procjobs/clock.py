"""The two clocks, and the only module that reads them for decisions.

`monotonic` is for deadlines: it never steps. `wall` is for people: it goes into records that are read by other
processes and compared with their own logs, and nothing is decided by it.
"""

from __future__ import annotations

from time import monotonic, perf_counter, sleep
from time import time as wall
from typing import Final

__all__ = ["NEVER", "monotonic", "perf_counter", "sleep", "wall"]

NEVER: Final = float("inf")
"""The deadline of what has none: it comes after every other one."""
