"""What a job notes of its schedule: the name, and for which moment the job was made. Pure.

A moment is a Unix time in whole microseconds, so that it is the same number in every process and database.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from procjobs.shared.moments import MICROS

MAX_NAME_CHARACTERS: Final = 100
MAX_NAME_BYTES: Final = 4 * MAX_NAME_CHARACTERS
MAX_MOMENT: Final = 253_402_300_799 * MICROS
"""The last second that a datetime can be."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def pack_origin(schedule: object, scheduled_for: object) -> tuple[bytes, int]:
    """Return the name of a job's schedule as bytes, and its moment; (b"", 0) of a job that has none.

    Raise ValueError for what is none of both: it may have been read in a place where others write.
    """
    if not schedule and not scheduled_for:
        return b"", 0
    if not isinstance(schedule, str) or not 1 <= len(schedule) <= MAX_NAME_CHARACTERS:
        raise ValueError("this is no name of a schedule")
    if type(scheduled_for) is not int or not 0 < scheduled_for <= MAX_MOMENT:
        raise ValueError("this is no moment of a schedule")
    return schedule.encode(), scheduled_for


def name_of(schedule: bytes) -> str | None:
    """Return the name of a job's schedule, None for a job that has none."""
    return schedule.decode(errors="replace") or None


def seconds_of(scheduled_for: int | None) -> float | None:
    """Return a moment as a Unix time in seconds, None where there is none."""
    return scheduled_for / MICROS if scheduled_for else None


def datetime_of(scheduled_for: int) -> datetime | None:
    """Return a moment as an aware datetime in UTC, exactly; None where there is none."""
    return _EPOCH + timedelta(microseconds=scheduled_for) if scheduled_for else None
