"""The rules of schedules: when the periods of a schedule are. All are values; all times are Unix times in microseconds.

A period is the nominal time of a run, before jitter. Nothing here reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from procjobs.errors import ConfigurationError
from procjobs.schedules.cron import make_cron
from procjobs.schedules.zones import SECOND, Zone, find_zone, from_clock, to_clock
from procjobs.shared.durations import check_required

_MAX_MOMENT: Final = 100_000_000_000 * SECOND
"""A moment beyond the year 5000 is one in another unit."""


class Rule(Protocol):
    """When the periods of a schedule are."""

    def next_after(self, moment: int) -> int | None:
        """Return the first period after a moment; None if there is none."""

    def latest_until(self, moment: int) -> int | None:
        """Return the last period that is not after a moment; None if there is none."""

    def interval_at(self, period: int) -> int | None:
        """Return the microseconds from a period to the next one; None if there is no next one."""

    def count(self, after: int, until: int) -> int:
        """Return how many periods there are after one moment and not after another; of cron lines at most 100."""

    def explain(self) -> str:
        """Return the rule in words."""

    def expression(self) -> str:
        """Return what the user has written, as short text."""

    def to_json(self) -> dict[str, Any]:
        """Return the rule for the wire and the store."""


@dataclass(frozen=True, slots=True)
class Every:
    """A fixed grid: `anchor` and every `step` before and after it."""

    step: int
    anchor: int = 0

    def next_after(self, moment: int) -> int:
        """Return the first period after a moment."""
        return self.anchor + ((moment - self.anchor) // self.step + 1) * self.step

    def latest_until(self, moment: int) -> int:
        """Return the last period that is not after a moment."""
        return self.anchor + (moment - self.anchor) // self.step * self.step

    def interval_at(self, period: int) -> int:
        """Return the step."""
        return self.step

    def count(self, after: int, until: int) -> int:
        """Return how many periods there are after one moment and not after another."""
        return max((until - self.anchor) // self.step - (after - self.anchor) // self.step, 0)

    def explain(self) -> str:
        """Return the rule in words."""
        begin = f", counted from {_show(self.anchor)}" if self.anchor else ""
        return f"Every {_in_words(self.step, one='')}{begin}"

    def expression(self) -> str:
        """Return the rule as short text."""
        return f"every {_in_units(self.step)}"

    def to_json(self) -> dict[str, Any]:
        """Return the rule for the wire and the store."""
        return {"every": self.step, "anchor": self.anchor}


@dataclass(frozen=True, slots=True)
class After:
    """A pause between the end of a run and the start of the next. Only the timetable knows when runs end."""

    pause: int

    def next_after(self, moment: int) -> None:
        """Return None: this rule has no grid."""

    def latest_until(self, moment: int) -> None:
        """Return None: this rule has no grid."""

    def interval_at(self, period: int) -> None:
        """Return None: this rule has no grid."""

    def count(self, after: int, until: int) -> int:
        """Return 0: this rule has no grid."""
        return 0

    def explain(self) -> str:
        """Return the rule in words."""
        return f"{_in_words(self.pause)[0].upper()}{_in_words(self.pause)[1:]} after the end of the run before"

    def expression(self) -> str:
        """Return the rule as short text."""
        return f"after {_in_units(self.pause)}"

    def to_json(self) -> dict[str, Any]:
        """Return the rule for the wire and the store."""
        return {"after": self.pause}


@dataclass(frozen=True, slots=True)
class At:
    """A single period."""

    moment: int
    tz: str = "UTC"

    def next_after(self, moment: int) -> int | None:
        """Return the period if it is after a moment."""
        return self.moment if self.moment > moment else None

    def latest_until(self, moment: int) -> int | None:
        """Return the period if it is not after a moment."""
        return self.moment if self.moment <= moment else None

    def interval_at(self, period: int) -> None:
        """Return None: there is no next period."""

    def count(self, after: int, until: int) -> int:
        """Return 1 if the period is after one moment and not after another."""
        return int(after < self.moment <= until)

    def explain(self) -> str:
        """Return the rule in words."""
        shown = Zone(self.tz).shown_at(self.moment).isoformat(" ", "seconds")
        return f"Once, at {shown} ({self.tz})"

    def expression(self) -> str:
        """Return the rule as short text."""
        return f"at {Zone(self.tz).shown_at(self.moment).isoformat('T', 'seconds')}"

    def to_json(self) -> dict[str, Any]:
        """Return the rule for the wire and the store."""
        return {"at": self.moment, "tz": self.tz}


def make_rule(
    *,
    cron: object = None,
    every: object = None,
    after: object = None,
    at: object = None,
    tz: object = None,
    anchor: object = None,
) -> Rule:
    """Return the rule that is given; raise ConfigurationError, with what to write, unless it is exactly one."""
    options = {"cron": cron, "every": every, "after": after, "at": at}
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        found = " and ".join(f"{name}=" for name in given) if given else "none of them"
        raise ConfigurationError(f"expected exactly one of cron=, every=, after= and at=, got {found}")
    if tz is not None and not isinstance(tz, str):
        raise ConfigurationError(f"tz={tz!r}: expected the name of a time zone, such as 'Europe/Berlin'")
    if tz is not None:
        find_zone(tz)
    if anchor is not None and every is None:
        raise ConfigurationError(f"anchor= is for every= alone, and this is {given[0]}=: leave it away")
    if cron is not None:
        return make_cron(cron, tz or "UTC")
    if at is not None:
        return At(_check_datetime("at", at, tz), tz or "UTC")
    if tz is not None and not (isinstance(anchor, datetime) and anchor.tzinfo is None):
        raise ConfigurationError(f"tz={tz!r} is for cron= and for at=, and this is {given[0]}=: leave it away")
    if after is not None:
        return After(_check_step("after", after))
    return Every(_check_step("every", every), 0 if anchor is None else _check_anchor(anchor, tz))


def rule_from_json(values: object) -> Rule:
    """Return the rule that `to_json` has described; raise ConfigurationError for anything else."""
    match values:
        case {"cron": str(line), "tz": str(tz), **rest} if not rest:
            return make_cron(line, tz)
        case {"every": int(step), "anchor": int(anchor), **rest} if not rest and _is_step(step) and _is_moment(anchor):
            return Every(step, anchor)
        case {"after": int(pause), **rest} if not rest and _is_step(pause):
            return After(pause)
        case {"at": int(moment), "tz": str(tz), **rest} if not rest and _is_moment(moment):
            find_zone(tz)
            return At(moment, tz)
    raise ConfigurationError(f"{values!r:.200} describes no rule of a schedule: was it written by another release?")


def _is_step(value: int) -> bool:
    return not isinstance(value, bool) and SECOND <= value <= _MAX_MOMENT


def _is_moment(value: int) -> bool:
    return not isinstance(value, bool) and abs(value) <= _MAX_MOMENT


def _check_step(name: str, value: object) -> int:
    step = round(check_required(name, value) * SECOND)
    if step < SECOND:
        raise ConfigurationError(f"{name}={value!r}: expected at least one second")
    return step


def _check_anchor(value: object, tz: str | None) -> int:
    if isinstance(value, datetime):
        return _check_datetime("anchor", value, tz)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) * SECOND <= _MAX_MOMENT:
        raise ConfigurationError(f"anchor={value!r}: expected a datetime, or a Unix time in seconds")
    return round(value * SECOND)


def _check_datetime(name: str, value: object, tz: str | None) -> int:
    """Return the moment of a datetime with a zone of its own, or in `tz`."""
    if not isinstance(value, datetime):
        raise ConfigurationError(f"{name}={value!r}: expected a datetime, such as datetime(2027, 1, 1, tzinfo=UTC)")
    if value.utcoffset() is not None:
        return from_clock(value.astimezone(UTC).replace(tzinfo=None))
    if tz is None:
        raise ConfigurationError(f"{name}={value!r} has no time zone: give it one, or say tz='Europe/Berlin'")
    shown = value.replace(tzinfo=None, fold=0)
    moments = Zone(tz).moments_of(shown)
    if not moments:
        raise ConfigurationError(f"{name}={value!r}: no clock shows that time in {tz}, where clocks are set forward then")
    return moments[min(value.fold, len(moments) - 1)]


def _show(moment: int) -> str:
    return f"{to_clock(moment).isoformat(' ')} UTC"


_UNITS: Final = (("d", "day", 86_400), ("h", "hour", 3600), ("m", "minute", 60), ("s", "second", 1))


def _parts(step: int) -> list[tuple[float, str, str]]:
    """Return the counts of a duration with their units, short and in words."""
    seconds, fraction = divmod(step, SECOND)
    found: list[tuple[float, str, str]] = []
    for short, word, size in _UNITS:
        count: float
        count, seconds = divmod(seconds, size)
        if size == 1 and fraction:
            count += fraction / SECOND
        if count:
            found.append((count, short, word))
    return found


def _in_units(step: int) -> str:
    return "".join(f"{count:g}{short}" for count, short, _ in _parts(step))


def _in_words(step: int, *, one: str = "1 ") -> str:
    parts = _parts(step)
    if len(parts) == 1 and parts[0][0] == 1:
        return f"{one}{parts[0][2]}"
    return " ".join(f"{count:g} {word}{'s' if count != 1 else ''}" for count, _, word in parts)
