"""The time of day, and how documents write it."""

from __future__ import annotations

from datetime import UTC, datetime


def wall() -> float:
    """Return the Unix time in seconds."""
    return datetime.now(UTC).timestamp()


def iso(moment: float | None) -> str | None:
    """Return a Unix time as ISO 8601 text in UTC, None for None."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
