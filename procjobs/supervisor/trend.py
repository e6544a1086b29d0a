"""How busy the pool is, noted now and then for charts.

A point is the state in which a turn of the supervisor left the pool: that holds until the next turn. So there is no timer:
a pool that sleeps writes nothing, and when it wakes it notes until when nothing had changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from procjobs.clock import wall
from procjobs.shared.fact_records import TrendPoint

if TYPE_CHECKING:
    from procjobs.shared.table.layout import Counters
    from procjobs.shared.table.trend import TrendWriter

PERIOD: Final = 5.0
"""The least number of seconds between two points, except the two at both ends of a sleep."""


class Trend:
    """The points of one pool."""

    def __init__(self, writer: TrendWriter, now: float) -> None:
        self._writer = writer
        self._turn_at = now
        self._due = now + PERIOD

    def advance(self, now: float, counters: Counters | None, waiting_since: float) -> None:
        """Note the state that the turn before this one has left, if it is time; `waiting_since` is NEVER if no job waits."""
        left_at, self._turn_at = self._turn_at, now
        if now < self._due or counters is None:
            return
        self._due = now + PERIOD
        self._write(left_at - now, counters, left_at - waiting_since)
        if now - left_at > PERIOD:
            self._write(0.0, counters, now - waiting_since)

    def _write(self, offset: float, counters: Counters, waited: float) -> None:
        self._writer.write(
            TrendPoint(
                wall() + offset, counters.finished, counters.failed, counters.queued, counters.busy, counters.workers,
                max(waited, 0.0),
            )
        )  # fmt: skip

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
