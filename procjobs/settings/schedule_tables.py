"""Schedules in a settings file, by pool: the table [pool.media.schedules.nightly].

    [pool.media.schedules.nightly]
    call = "app.jobs:make_report"       # module:function; the module is imported in the workers alone
    args = ["daily"]
    cron = "30 2 * * *"
    tz = "Europe/Berlin"
    timeout = "20m"                     # options of jobs
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procjobs.errors import ConfigurationError
from procjobs.settings.keys import SETTINGS, parse_text_in_file, suggest
from procjobs.shared.config import JOB_OPTION_NAMES
from procjobs.shared.queues import refuse_queue

if TYPE_CHECKING:
    from procjobs.schedules.declared import ScheduledCall

_RULES: Final = ("cron", "every", "after", "at")
KEYS: Final = frozenset(
    {"call", "args", "kwargs", *_RULES, "tz", "anchor", "catch_up", "overlap", "jitter", "expires", "key", "meta"}
    | JOB_OPTION_NAMES
)
"""All that the table of a schedule may have."""
_REFUSED: Final = frozenset({"delay", "unique"})  # ScheduledCall says what to write instead
_MOMENTS: Final = ("at", "anchor")


class FileSchedule(NamedTuple):
    """A schedule of a settings file: its call, where it stands, and its table as text that differs when that differs."""

    call: ScheduledCall
    where: str
    text: str
    has_zone: bool

    @property
    def target(self) -> str:
        """The function, as "module:function"."""
        return str(self.call.fn.target)  # type: ignore[attr-defined]  # it is a NamedFunction


def find_unknown(table: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence about each key that the table of a schedule cannot have."""
    for key in sorted(table.keys() - KEYS - _REFUSED):
        yield f"has an unknown key {key!r}; {suggest(key, KEYS)}"


def read_schedule(name: str, table: Mapping[str, Any], where: str) -> FileSchedule:
    """Return the schedule of a table without unknown keys; raise ConfigurationError for what is wrong in it."""
    from procjobs.schedules.declared import ScheduledCall  # here: most files have no schedules
    from procjobs.schedules.named import NamedFunction

    values = {key: _value(key, value) for key, value in table.items()}
    if "call" not in values:
        raise ConfigurationError('call is missing: the function as "module:function", such as "app.jobs:make_report"')
    target = values.pop("call")
    if not isinstance(target, str):
        raise ConfigurationError(f'call={target!r}: expected "module:function", such as "app.jobs:make_report"')
    if not isinstance(values.get("args", []), list):
        raise ConfigurationError(f'args={values["args"]!r}: expected a list, such as ["daily", 7]')
    if not isinstance(values.get("kwargs", {}), dict):
        raise ConfigurationError(f"kwargs={values['kwargs']!r}: expected a table, such as {{size = 256}}")
    try:
        call = ScheduledCall(name, _named(NamedFunction, target), **values)
    except ConfigurationError as error:
        raise ConfigurationError(_as_written(str(error), name)) from None
    return FileSchedule(call, where, repr((name, sorted(table.items()))), "tz" in table)


def _named(make: Any, target: str) -> Any:
    try:
        return make(target)
    except ConfigurationError as error:
        raise ConfigurationError(f"call={error}") from None


def _value(key: str, value: Any) -> Any:
    """Return the value of a key: texts as in the other tables of the file."""
    if key in _MOMENTS and not isinstance(value, datetime) and not (key == "anchor" and isinstance(value, int | float)):
        raise ConfigurationError(f"{key}={value!r}: expected a date with a time, without quotes: 2027-01-01T02:30:00Z")
    if isinstance(value, str) and key in SETTINGS:
        return parse_text_in_file(key, value)
    return None if key == "expires" and value == "none" else value


def _as_written(text: str, name: str) -> str:
    """Return a message of the schedule of that name as one about its table."""
    text = text.removeprefix(f"schedule {name!r}: ")
    return text.replace(" or None", ' or "none"').replace("expected True or False", "expected true or false")


def describe_misfits(
    schedules: Mapping[str, FileSchedule], store: object, queues: Mapping[str, Any], pool: str | None
) -> list[str]:
    """Return what schedules want that a pool with these settings does not have: a store, or a queue."""
    found = []
    for schedule in schedules.values():
        wish, queue = schedule.call.schedule.catch_up, schedule.call.options.get("queue")
        if wish in {"last", "all"} and not store:
            found.append(
                f'{schedule.where} catch_up="{wish}" needs a store: without one it is not known after a restart when the '
                "schedule ran last. Set store, or leave catch_up away"
            )
        if queue is not None and (why := refuse_queue(queue, queues, pool)):
            found.append(f"{schedule.where} queue={queue!r}: {why}")
    return found


def digest(schedules: Mapping[str, FileSchedule]) -> str:
    """Return text that tells these schedules from others."""
    import hashlib  # here, because to load it takes longer than to connect

    return hashlib.sha256("\n".join(sorted(one.text for one in schedules.values())).encode()).hexdigest()
