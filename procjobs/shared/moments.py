"""Times as text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

MICROS: Final = 1_000_000
"""Microseconds in a second: the times of schedules are integers, Unix times in microseconds."""


def iso(moment: float | None) -> str | None:
    """Return a Unix time as ISO 8601 text in UTC, with milliseconds; None for None."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
