"""Queues: limits that jobs share, whichever functions they call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, NamedTuple

from procjobs.errors import ConfigurationError
from procjobs.shared.durations import parse_seconds
from procjobs.shared.suggestions import suggest, suggesting

_PERIODS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_MAX_STARTS: Final = 100_000
_MAX_QUEUES: Final = 1000
_MAX_LETTERS: Final = 100
MAX_NAME_BYTES: Final = 4 * _MAX_LETTERS


class Rate(NamedTuple):
    """At most `starts` starts in any `period` seconds."""

    starts: int
    period: float


@dataclass(frozen=True, slots=True, repr=False)
class Queue:
    """The limits of the jobs of one queue together, for instance `Pool(queues={"mail": Queue(limit=2, rate="100/m")})`.

    `limit` is how many of them run at once, `rate` how many are started: "100/m" in any minute, "10/s", "1000/h", "5/d"
    likewise, and "100/30s" in any half minute; a retry is a start. `key_limit` and `key_rate` are the same for jobs of the
    queue with the same `key`. None means no limit.
    """

    limit: int | None = None
    rate: str | None = None
    key_limit: int | None = 1
    key_rate: str | None = None

    def __repr__(self) -> str:
        given = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return f"Queue({', '.join(f'{n}={v!r}' for n, v in given if v != getattr(_DEFAULT, n))})"

    def validated(self, name: str) -> Queue:
        """Return this; raise ConfigurationError naming queue `name` and the field that is out of range."""
        for field in ("limit", "key_limit"):
            value = getattr(self, field)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigurationError(f"queue {name!r}: {field}={value!r}: expected how many run at once, or None")
        for field in ("rate", "key_rate"):
            parse_rate(getattr(self, field), f"queue {name!r}: {field}")
        return self


Queue.__init__ = suggesting("Queue() has no field")(Queue.__init__)  # type: ignore[method-assign, assignment]
_FIELDS: Final = frozenset(field.name for field in fields(Queue))
_DEFAULT: Final = Queue()


def parse_rate(text: object, what: str = "rate") -> Rate | None:
    """Return the rate that a text means; raise ConfigurationError, `what` naming it, if it means none.

    >>> parse_rate("100/m"), parse_rate(None)
    (Rate(starts=100, period=60.0), None)
    """
    if text is None:
        return None
    count, slash, unit = text.partition("/") if isinstance(text, str) else ("", "", "")
    period = _PERIODS.get(unit) or _try_parse(unit)
    if not (slash and count.isascii() and count.isdecimal() and 1 <= int(count) <= _MAX_STARTS and period):
        raise ConfigurationError(
            f"{what}={text!r}: expected how many are started and in what time, such as '10/s', '100/m', '1000/h', '5/d' or "
            f"'100/30s', up to {_MAX_STARTS}"
        )
    return Rate(int(count), period)


def _try_parse(period: str) -> float:
    """Return the seconds of a period such as 30s; 0.0 for a text that is none."""
    try:
        return parse_seconds(period)
    except ConfigurationError:
        return 0.0


def check_queues(value: object) -> dict[str, Queue]:
    """Return the queues of a pool by name, given as Queue objects or as tables; raise ConfigurationError for others."""
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"queues={value!r}: expected names with their limits, such as {{'mail': Queue(limit=2)}}")
    if len(value) > _MAX_QUEUES:
        raise ConfigurationError(f"queues: {len(value)} are too many, {_MAX_QUEUES} the most: jobs of one may have keys")
    return {check_queue_name(name): _check_queue(name, queue) for name, queue in value.items()}


def check_queue_name(name: object) -> str:
    """Return the name of a queue; raise ConfigurationError if it cannot be one."""
    if not isinstance(name, str) or not 1 <= len(name) <= _MAX_LETTERS or not name.isprintable():
        raise ConfigurationError(f"queue={name!r}: expected a name, of 1 to {_MAX_LETTERS} letters that can be printed")
    return name


def refuse_queue(name: str, queues: Iterable[str], pool: str | None) -> str:
    """Return why a pool does not take jobs for a queue; empty if it is one of its `queues`."""
    if name in queues:
        return ""
    import difflib

    known = sorted(queues)
    close = difflib.get_close_matches(name, known, 1)
    hint = f"it has {', '.join(known)}" if known else "it was started without any"
    if close:
        hint = f"did you mean {close[0]!r}?"
    text = f"pool {pool or 'private'!r} has no queue {name!r}: {hint}"
    return f"{text}. Declare it where the pool is started: queues={{{name!r}: Queue(...)}}"


def _check_queue(name: str, queue: object) -> Queue:
    if isinstance(queue, Mapping):
        unknown = sorted(set(map(str, queue)) - _FIELDS)
        if unknown:
            raise ConfigurationError(f"queue {name!r} has no field{suggest(unknown, _FIELDS)}")
        values: dict[str, Any] = {key: None if value == "none" else value for key, value in queue.items()}
        queue = replace(Queue(), **values)
    if not isinstance(queue, Queue):
        raise ConfigurationError(f"queue {name!r} is {queue!r}: expected procjobs.Queue, or a table such as {{'limit': 2}}")
    return queue.validated(name)
