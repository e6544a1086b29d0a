"""Cron lines. cronsim knows the calendar; this module maps what it finds to moments of a time zone.

cronsim is only given clocks without a zone, so all of this is the same in both directions, and in zones that change by
half an hour. What happens where the clock is changed depends on the hours of the line:

    hours           clock set back (a time is shown twice)      clock set forward (a time is not shown)
    named: 2, 1-5   the first of the two                        moved to the change; several become one. Lines with a star
                                                                for the minutes: not at all
    a star: *, */2  both                                        not at all
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from procjobs.errors import ConfigurationError
from procjobs.schedules.zones import SECOND, Zone, to_clock

MACROS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MAX_LETTERS: Final = 200
_MAX_COUNT: Final = 100
_SECOND: Final = timedelta(seconds=1)
_FIELDS: Final = "expected [second] minute hour day-of-month month day-of-week, such as '30 2 * * *' or '*/5 9-17 * * 1-5'"


@dataclass(frozen=True, slots=True)
class Cron:
    """The moments of a cron line in a time zone. `line` is as the user has written it, with single spaces."""

    line: str
    tz: str

    def next_after(self, moment: int) -> int | None:
        """Return the first period after a moment; None if there is none within 50 years."""
        walk = _walk_of(self.line, self.tz)
        try:
            return walk.next_after(moment)
        except (OverflowError, ValueError, StopIteration):  # beyond the year 9999
            return None

    def latest_until(self, moment: int) -> int | None:
        """Return the last period that is not after a moment; None if there is none within 50 years."""
        walk = _walk_of(self.line, self.tz)
        try:
            return walk.latest_until(moment)
        except (OverflowError, ValueError, StopIteration):
            return None

    def interval_at(self, period: int) -> int | None:
        """Return the microseconds from a period to the next one."""
        after = self.next_after(period)
        return None if after is None else after - period

    def count(self, after: int, until: int) -> int:
        """Return how many periods there are after one moment and not after another; 100 for more."""
        found = 0
        period = self.next_after(after)
        while period is not None and period <= until and found < _MAX_COUNT:
            found += 1
            period = self.next_after(period)
        return found

    def explain(self) -> str:
        """Return the line in words."""
        from cronsim import CronSim

        return f"{CronSim(_expand(self.line), to_clock(0)).explain()} ({self.tz})"

    def expression(self) -> str:
        """Return what the user has written."""
        return self.line

    def to_json(self) -> dict[str, Any]:
        """Return the rule for the wire and the store."""
        return {"cron": self.line, "tz": self.tz}


def make_cron(line: object, tz: str) -> Cron:
    """Return the rule of a cron line; raise ConfigurationError if it makes no sense, or cronsim is not installed."""
    if not isinstance(line, str) or len(line) > _MAX_LETTERS:
        raise ConfigurationError(f"cron={line!r}: {_FIELDS}")
    line = " ".join(line.split())
    expanded = _expand(line)
    if expanded.startswith("@"):
        raise ConfigurationError(f"cron={line!r}: there is no such name; there are {', '.join(MACROS)}")
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise ConfigurationError(
            f"cron={line!r}: cron lines need the package cronsim: pip install 'procjobs[schedules]'"
        ) from None
    try:
        CronSim(expanded, to_clock(0)).explain()
    except CronSimError as error:
        raise ConfigurationError(f"cron={line!r}: {error}; {_FIELDS}") from None
    Zone(tz)
    return Cron(line, tz)


def _expand(line: str) -> str:
    return MACROS.get(line.lower(), line)


@lru_cache(maxsize=1024)
def _walk_of(line: str, tz: str) -> _Walk:
    expanded = _expand(line)
    minute, hour = expanded.split()[-5:-3]
    zone = Zone(tz)
    if hour.startswith("*"):
        return _EveryHour(expanded, zone)
    return _NamedHours(expanded, zone, moves=not minute.startswith("*"))


class _Walk(ABC):
    """Finds the periods of a line; StopIteration where there is none."""

    def __init__(self, line: str, zone: Zone) -> None:
        from cronsim import CronSim

        self._cronsim = CronSim
        self._line = line
        self._zone = zone

    @abstractmethod
    def next_after(self, moment: int) -> int:
        """Return the first period after a moment."""

    @abstractmethod
    def latest_until(self, moment: int) -> int:
        """Return the last period that is not after a moment."""

    def _first(self, shown: datetime) -> datetime:
        """Return the first time of the line that is not before this one. Both are what the clock shows."""
        return next(self._cronsim(self._line, _whole_second_up(shown) - _SECOND))

    def _last(self, shown: datetime) -> datetime:
        """Return the last time of the line that is not after this one."""
        return next(self._cronsim(self._line, shown.replace(microsecond=0) + _SECOND, reverse=True))

    def _shown_before_change(self, shown: datetime) -> datetime:
        """Return what the clock showed when it was changed, for a time in a fold or in a gap."""
        change = self._zone.change_at(shown)
        return to_clock(change + self._zone.offsets_of(shown)[0])

    def _shown_after_change(self, shown: datetime) -> datetime:
        """Return to what the clock was changed, for a time in a fold or in a gap."""
        change = self._zone.change_at(shown)
        return to_clock(change + self._zone.offsets_of(shown)[1])


class _NamedHours(_Walk):
    """Each time of the line once: the first one of a fold."""

    def __init__(self, line: str, zone: Zone, *, moves: bool) -> None:
        super().__init__(line, zone)
        self._moves = moves

    def next_after(self, moment: int) -> int:
        shown = self._zone.shown_at(moment)
        is_repeated = self._is_repeated(shown, moment)
        found = self._first(self._shown_before_change(shown) if is_repeated else _next_second(shown))
        period = self._moment_of(found)
        while period is None:
            found = self._first(self._shown_after_change(found))
            period = self._moment_of(found)
        return period

    def latest_until(self, moment: int) -> int:
        shown = self._zone.shown_at(moment)
        if self._is_repeated(shown, moment):
            shown = self._shown_before_change(shown) - _SECOND
        found = self._last(shown)
        period = self._moment_of(found)
        while period is None:
            found = self._last(self._shown_before_change(found) - _SECOND)
            period = self._moment_of(found)
        return period

    def _is_repeated(self, shown: datetime, moment: int) -> bool:
        """Return whether the clock shows this for the second time."""
        moments = self._zone.moments_of(shown)
        return len(moments) == 2 and moments[1] == moment

    def _moment_of(self, shown: datetime) -> int | None:
        moments = self._zone.moments_of(shown)
        if moments:
            return moments[0]
        return self._zone.change_at(shown) if self._moves else None


class _EveryHour(_Walk):
    """Every moment at which the clock shows a time of the line."""

    def next_after(self, moment: int) -> int:
        shown = self._zone.shown_at(moment)
        moments = self._zone.moments_of(shown)
        found = self._first(_next_second(shown))
        if len(moments) == 2 and moments[0] == moment and found >= self._shown_before_change(shown):
            found = self._first(self._shown_after_change(shown))  # from the beginning of the fold once more
        while True:
            later = [period for period in self._zone.moments_of(found) if period > moment]
            if later:
                return later[0]
            found = self._first(self._shown_after_change(found))

    def latest_until(self, moment: int) -> int:
        shown = self._zone.shown_at(moment)
        moments = self._zone.moments_of(shown)
        found = self._last(shown)
        if len(moments) == 2 and moments[1] == moment and found < self._shown_after_change(shown):
            found = self._last(self._shown_before_change(shown) - _SECOND)
        while True:
            earlier = [period for period in self._zone.moments_of(found) if period <= moment]
            if earlier:
                return earlier[-1]
            found = self._last(self._shown_before_change(found) - _SECOND)


def _next_second(shown: datetime) -> datetime:
    return shown.replace(microsecond=0) + _SECOND


def _whole_second_up(shown: datetime) -> datetime:
    return _next_second(shown) if shown.microsecond else shown


assert _SECOND // timedelta(microseconds=1) == SECOND
