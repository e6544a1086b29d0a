"""The two clocks, and the only module that reads them for decisions.

`monotonic` is for deadlines: it never steps. `wall` is for people: it goes into records that they compare with other
logs. Nothing is decided by it.
"""

from __future__ import annotations

from time import monotonic, perf_counter, sleep
from time import time as wall
from typing import Final

__all__ = ["NEVER", "monotonic", "perf_counter", "sleep", "wall"]

NEVER: Final = float("inf")
"""The deadline of things that have none: it comes after every other one."""
