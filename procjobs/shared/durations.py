"""Durations and sizes as users give them: numbers, timedeltas, and texts such as "1h30m" and "512M"."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final, TypeAlias

from procjobs.errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import timedelta

Seconds: TypeAlias = "float | timedelta | str"
"""A duration: a number of seconds, a timedelta, or a text with units."""
Size: TypeAlias = int | str
"""A number of bytes, or a text with a unit."""

_UNITS: Final = {"w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_MAX_SECONDS: Final = 1000 * 365.25 * 86_400
_MAX_TIME: Final = 1e11
"""A Unix time beyond the year 5000 is one in milliseconds."""
# Not compiled here: every process that makes a pool imports this, and few read such texts.
_PART: Final = r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|[wdhms])\s*"
_SIZE: Final = r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?b)?|b)?\s*\Z"


def parse_seconds(text: str) -> float:
    """Return the seconds of a text with units, the largest unit first; raise ConfigurationError for any other text.

    >>> parse_seconds("5s"), parse_seconds("1h30m"), parse_seconds("500ms"), parse_seconds("1.5 d")
    (5.0, 5400.0, 0.5, 129600.0)
    """
    lowered = text.strip().lower()
    parts = re.findall(_PART, lowered, re.ASCII)
    order = [list(_UNITS).index(unit) for _, unit in parts]
    if not re.fullmatch(f"(?:{_PART})+", lowered, re.ASCII) or order != sorted(set(order)):
        raise ConfigurationError(
            f"{text!r} is no duration: give a number with its unit (ms, s, m, h, d, w), such as 1h30m"
        )
    return math.fsum(float(number) * _UNITS[unit] for number, unit in parts)


def parse_seconds_or_number(text: str) -> float:
    """Do the same for the environment and the command line, where everything is text: a number alone means seconds.

    >>> parse_seconds_or_number("90"), parse_seconds_or_number("2m")
    (90.0, 120.0)
    """
    try:
        return float(text)
    except ValueError:
        return parse_seconds(text)


def check_seconds(name: str, value: object, *, zero: bool = False, optional: bool = True) -> float | None:
    """Return a duration in seconds as a float; raise ConfigurationError unless it is finite and positive."""
    if value is None and optional:
        return None
    seconds = _to_number(value)
    if seconds is None or math.isnan(seconds):
        raise ConfigurationError(
            f"{name}={value!r}: expected seconds as a number{' or None' if optional else ''}; a timedelta, or a text such "
            "as '90s' or '1h30m', is taken too"
        )
    if seconds > _MAX_SECONDS:
        without = "; None means without limit" if optional else ""
        raise ConfigurationError(f"{name}={value!r}: expected seconds, at most those of 1000 years{without}")
    if seconds < 0 or (seconds == 0 and not zero):
        raise ConfigurationError(f"{name}={value!r}: expected {'zero or more' if zero else 'more than zero'} seconds")
    return seconds


def _to_number(value: object) -> float | None:
    if isinstance(value, str):
        try:
            return parse_seconds(value)
        except ConfigurationError:
            return None
    if isinstance(value, bool):
        return None
    if isinstance(value, int) and abs(value) > _MAX_SECONDS:  # perhaps beyond the range of a float
        return math.inf if value > 0 else -math.inf
    if isinstance(value, int | float):
        return float(value)
    total = getattr(value, "total_seconds", None)  # datetime is not imported for this
    return float(total()) if callable(total) else None


def check_required(name: str, value: object, *, zero: bool = False) -> float:
    """Do the same for a duration that cannot be None."""
    seconds = check_seconds(name, value, zero=zero, optional=False)
    assert seconds is not None
    return seconds


def wait_seconds(value: object) -> float | None:
    """Return how long to wait: None for ever, and not at all where the time has passed, as concurrent.futures does.

    Raise ConfigurationError for what is no duration.
    """
    seconds = None if value is None else _to_number(value)
    if seconds is not None and seconds <= 0:
        return 0.0
    return check_seconds("timeout", value)


def check_moment(name: str, value: object) -> float | None:
    """Return a Unix time given as a number or a datetime, None for None; raise ConfigurationError for anything else."""
    told = getattr(value, "timestamp", None)
    moment = told() if callable(told) else value
    if moment is None:
        return None
    if isinstance(moment, bool) or not isinstance(moment, int | float) or not 0 <= moment < _MAX_TIME:
        late = isinstance(moment, int | float) and moment >= _MAX_TIME
        hint = "; is this one in milliseconds?" if late else ""
        raise ConfigurationError(f"{name}={value!r}: expected a Unix time in seconds, or a datetime{hint}")
    return float(moment)


def parse_size(text: str) -> int:
    """Return a number of bytes; raise ConfigurationError for other texts.

    >>> parse_size("5000000"), parse_size("300M"), parse_size("1.5G"), parse_size("1GiB")
    (5000000, 314572800, 1610612736, 1073741824)
    """
    found = re.match(_SIZE, text, re.ASCII | re.IGNORECASE)
    if found is None:
        raise ConfigurationError(f"{text!r} is no size: give bytes, or 300M, or 2G")
    number, unit, rest = found.groups()
    if rest is not None and rest.lower() == "b":
        raise ConfigurationError(
            f"{text!r} may count in thousands or in 1024s: give {number}{unit.upper()}iB, which counts in 1024s"
        )
    return int(float(number) * 1024 ** ("kmgt".index(unit.lower()) + 1 if unit else 0))


def check_size(name: str, value: object) -> object:
    """Return a size given as text as a number, anything else as it is; raise ConfigurationError for a text that is none."""
    if not isinstance(value, str):
        return value
    try:
        return parse_size(value)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}={value!r}: {error}") from None
