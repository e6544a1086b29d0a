"""Cron lines as web2py reads them: five fields, names, steps, `L` for the last day of a month, and macros.

web2py's notation becomes numbers here, and cronsim walks the calendar.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any, Final

_MACROS: Final = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip
_DAYS: Final = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}
_FIELDS: Final[tuple[tuple[int, int, dict[str, int]], ...]] = (
    (0, 59, {}), (0, 23, {}), (1, 31, {}), (1, 12, _MONTHS), (0, 7, _DAYS)
)  # fmt: skip
_DAY_OF_MONTH: Final = 2
_DAY_OF_WEEK: Final = 4
_TERM: Final = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?")


class CronParser:
    """An endless iterator over the times of a cron line after `base` (default: now). Times keep the seconds of `base`.

    A line that is wrong, or has no time, raises ValueError with the first `next()`.
    """

    def __init__(self, cronline: str, base: dt.datetime | None = None) -> None:
        self.cronline = cronline
        self.sched = base or dt.datetime.now()  # noqa: DTZ005 - web2py's times are local and naive
        self._times: Any = None

    def __iter__(self) -> CronParser:
        return self

    def next(self) -> dt.datetime:
        """Return the next time; raise ValueError if the line is wrong or no such day exists."""
        cronsim = _cronsim()
        base = self.sched
        seconds = dt.timedelta(seconds=base.second, microseconds=base.microsecond)
        try:
            if self._times is None:
                self._times = cronsim.CronSim(_translate(self.cronline), base - seconds)
            time: dt.datetime = self._times.__next__()
        except cronsim.CronSimError as error:
            raise ValueError(f"Invalid cron expression ({error}): {self.cronline}") from None
        except StopIteration:
            raise ValueError(f"Invalid cron expression (no such day in 50 years): {self.cronline}") from None
        self.sched = time + seconds
        return self.sched

    __next__ = next  # noqa: A003 - the method, not the builtin


class IS_CRONLINE:  # noqa: N801 - its name in web2py
    """A validator of cron lines."""

    def __init__(self, error_message: str | None = None) -> None:
        self.error_message = error_message

    def __call__(self, value: Any, record_id: Any = None) -> tuple[Any, str | None]:
        """Return the value, and None or what is wrong with it."""
        try:
            CronParser(value).next()
        except ValueError as error:
            return value, self.error_message or str(error)
        return value, None


def _cronsim() -> Any:
    try:
        import cronsim
    except ModuleNotFoundError:
        raise ModuleNotFoundError("cron lines need cronsim: pip install 'procjobs[web2py]'") from None
    return cronsim


def _translate(line: Any) -> str:
    """Return a cron line in which all is numbers."""
    if not isinstance(line, str):
        raise ValueError(f"Invalid cron line (not a text): {line!r}")  # noqa: TRY004 - validators take a ValueError for a wrong value
    line = line.strip().lower()
    fields = _MACROS.get(line, line).split()
    if len(fields) != len(_FIELDS):
        raise ValueError(f"Invalid cron line (too {'short' if len(fields) < len(_FIELDS) else 'long'}): {line}")
    return " ".join(_translate_field(number, text) for number, text in enumerate(fields))


def _translate_field(number: int, text: str) -> str:
    if text == "*":
        return text
    values: set[str] = set()
    for term in text.split(","):
        if number == _DAY_OF_MONTH and term == "l":
            values.add("L")
        else:
            values |= {str(value) for value in _values(number, term, text)}
    # No field begins with a star: cronsim takes a day that is in both fields, then, and web2py one that is in either.
    return ",".join(sorted(values))


def _values(number: int, term: str, text: str) -> range:
    """Return what a term such as `1-9/2` stands for."""
    found = _TERM.fullmatch(term)
    least, most, names = _FIELDS[number]
    wrong = ValueError(f"Invalid cron value ({text})")
    if found is None:
        raise wrong
    star, first, last, step = found.groups()
    if star:
        low, high = least, 6 if number == _DAY_OF_WEEK else most
    else:
        low = _number(first, names, wrong)
        high = _number(last, names, wrong) if last else most if step else low
    if step == "0" or not least <= low <= high <= most:
        raise wrong
    return range(low, high + 1, int(step or 1))


def _number(text: str, names: dict[str, int], wrong: ValueError) -> int:
    if text in names:
        return names[text]
    if not text.isdecimal():
        raise wrong
    return int(text)
