"""Time zones: from moments to what a clock on the wall shows, and back.

A moment is a Unix time in microseconds. What the clock shows is a datetime without a zone. A clock that is set back shows
some times twice (a fold); one that is set forward skips some (a gap).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final

from procjobs.errors import ConfigurationError
from procjobs.shared.moments import MICROS
from procjobs.shared.suggestions import nearest

SECOND: Final = MICROS
"""One second, in microseconds."""
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - what the clock shows
_MICROSECOND: Final = timedelta(microseconds=1)


@lru_cache(maxsize=64)
def find_zone(name: str) -> tzinfo:
    """Return a time zone by its name; raise ConfigurationError, with names that are near, if there is none."""
    if name == "UTC":
        return UTC  # on hosts without a database of zones too
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (OSError, LookupError, ValueError):  # a directory, an unknown name, a path
        known = zoneinfo.available_timezones()
    hint = nearest(name, known) or "give a name such as 'Europe/Berlin' or 'UTC'"
    if len(known) < 2:
        hint = "this host has no database of time zones: pip install tzdata"
    raise ConfigurationError(f"tz={name!r}: no such time zone; {hint}")


def from_clock(shown: datetime) -> int:
    """Return what a clock of UTC shows as a moment."""
    return (shown - _EPOCH) // _MICROSECOND


def to_clock(moment: int) -> datetime:
    """Return what a clock of UTC shows at a moment; raise OverflowError outside the years 1 to 9999."""
    return _EPOCH + timedelta(microseconds=moment)


class Zone:
    """The clock on a wall in one time zone."""

    def __init__(self, name: str) -> None:
        self._zone = find_zone(name)

    def offset_at(self, moment: int) -> int:
        """Return how far the clock is ahead of UTC, in microseconds."""
        offset = to_clock(moment).replace(tzinfo=UTC).astimezone(self._zone).utcoffset()
        return 0 if offset is None else offset // _MICROSECOND

    def shown_at(self, moment: int) -> datetime:
        """Return what the clock shows at a moment."""
        return to_clock(moment + self.offset_at(moment))

    def offsets_of(self, shown: datetime) -> tuple[int, int]:
        """Return the offsets before and after the nearest change of the clock; they are equal where there is none."""
        first, second = (shown.replace(tzinfo=self._zone, fold=fold).utcoffset() for fold in (0, 1))
        return (first or timedelta()) // _MICROSECOND, (second or timedelta()) // _MICROSECOND

    def moments_of(self, shown: datetime) -> tuple[int, ...]:
        """Return the moments at which the clock shows this, ascending: one, two in a fold, none in a gap."""
        before, after = self.offsets_of(shown)
        moment = from_clock(shown)
        if before == after:
            return (moment - before,)
        return (moment - before, moment - after) if before > after else ()

    def change_at(self, shown: datetime) -> int:
        """Return the moment at which the clock was changed, for a time in a fold or in a gap."""
        before, after = self.offsets_of(shown)
        moment = from_clock(shown)
        low, high = sorted((moment - before, moment - after))
        low, high = low // SECOND - 1, high // SECOND + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.offset_at(middle * SECOND) == before:
                low = middle
            else:
                high = middle
        return high * SECOND
