"""Every setting of a pool by its name: its possible values, and the values of texts. From procjobs.shared.config."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from types import MappingProxyType, NoneType
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints

from procjobs.errors import ConfigurationError
from procjobs.shared.config import (
    Affinity,
    ClientSettings,
    JobOptions,
    PoolSettings,
    Workers,
    check_affinity,
    check_workers,
)
from procjobs.shared.durations import parse_seconds_or_number, parse_size

_Owner = type[PoolSettings] | type[JobOptions] | type[ClientSettings]

_OWNERS: Final[tuple[_Owner, ...]] = (PoolSettings, ClientSettings, JobOptions)
_NO_KEYS: Final = frozenset({"job_defaults", "origins", "sources", "name"})
"""Fields that are not settings of a pool: `name`, for instance, is of one job."""
# Not compiled here: every process that makes a pool imports this, and few read such texts.
_WORKERS: Final = r"\s*(\d+)\s*-\s*(\d+)\s*\Z"
_CPUS: Final = r"[0-9]{1,6}(-[0-9]{1,6})?(,[0-9]{1,6}(-[0-9]{1,6})?)*\Z"
_MAX_CPUS: Final = 2**16
_WORDS: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


class Setting(NamedTuple):
    """A setting: the class in procjobs.shared.config that has it, and its default."""

    name: str
    owner: _Owner
    default: Any

    @property
    def kinds(self) -> frozenset[Any]:
        """The types that it may have, without the words that have a meaning of their own."""
        if self.name == "workers":
            return frozenset({int})  # beside "auto" and ranges
        return _kinds_of(_hints(self.owner.__name__)[self.name])

    @property
    def is_size(self) -> bool:
        """Whether it is a number of bytes."""
        return self.name == "max_rss" or self.name.endswith("_bytes")

    @property
    def may_be_none(self) -> bool:
        """Whether None, which files and variables write as "none", is one of its values."""
        return NoneType in self.kinds and str not in self.kinds


def _settings_of(owner: _Owner) -> Iterable[Setting]:
    for field in fields(owner):
        if field.name not in _NO_KEYS:
            made = "auto" if field.default_factory is MISSING else field.default_factory()  # `workers` has no default there
            yield Setting(field.name, owner, made if field.default is MISSING else field.default)


@functools.cache
def _hints(owner: str) -> dict[str, Any]:
    """Return the types of the fields of a class. To read them takes a millisecond, and most programs do not need them."""
    return next(get_type_hints(one) for one in _OWNERS if one.__name__ == owner)


def _kinds_of(hint: Any) -> frozenset[Any]:
    is_one = isinstance(hint, type) or get_origin(hint) is tuple
    return frozenset(kind for kind in ([hint] if is_one else get_args(hint)) if get_origin(kind) is not Literal)


SETTINGS: Final[Mapping[str, Setting]] = MappingProxyType(
    {
        setting.name: setting
        for owner in _OWNERS
        for setting in _settings_of(owner)
    }
)
"""All settings by name. A field that is added to a class of procjobs.shared.config becomes one."""


def check_setting(name: str, value: Any) -> Any:
    """Return a value as its setting holds it; raise ConfigurationError if it cannot be one."""
    owner: Any = SETTINGS[name].owner
    if name == "workers":
        return check_workers(value)
    required = {"workers": (1, 1)} if owner is PoolSettings else {}
    return getattr(owner(**required, **{name: value}).validated(), name)


def check_written(name: str, value: Any) -> Any:
    """Do the same for a value from a file or a variable, where None and True are not written as in Python."""
    try:
        return check_setting(name, value)
    except ConfigurationError as error:
        text = str(error).replace(" or None", ' or "none"').replace("expected True or False", "expected true or false")
        raise ConfigurationError(text) from None


def parse_setting(name: str, text: str) -> Any:
    """Return the value of a text in a variable; `check_setting` refuses texts that have none.

    >>> parse_setting("workers", "2-8"), parse_setting("max_rss", "500M"), parse_setting("timeout", "none")
    ((2, 8), 524288000, None)
    >>> parse_setting("timeout", "90"), parse_setting("result_ttl", "1h30m")
    (90.0, 5400.0)
    >>> parse_setting("nice", "5"), parse_setting("strict", "yes"), parse_setting("preload", "numpy, jobs")
    (5, True, ('numpy', 'jobs'))
    >>> parse_setting("threads", "auto"), parse_setting("affinity", "0,2-3")
    ('auto', (0, 2, 3))
    """
    text, setting = text.strip(), SETTINGS[name]
    if setting.may_be_none and text.lower() == "none":
        return None
    if name == "workers" and re.match(_WORKERS, text):
        return parse_workers(text)
    if setting.is_size:
        return parse_size(text)
    if tuple[str, ...] in setting.kinds:
        return tuple(word for word in re.split(r"[,\s]+", text) if word)
    if bool in setting.kinds and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    return _parse_numbers(text, setting.kinds)


def _parse_numbers(text: str, kinds: frozenset[Any]) -> Any:
    with contextlib.suppress(ValueError):
        if tuple[int, ...] in kinds and re.match(_CPUS, text):
            return parse_cpus(text)
        if int in kinds:
            return int(text)
        if float in kinds:
            return parse_seconds_or_number(text)
    return text


def parse_text_in_file(name: str, text: str) -> Any:
    """Return the value of a text in a settings file. TOML has numbers, so a number in quotes stays a text.

    >>> parse_text_in_file("max_rss", "500M"), parse_text_in_file("nice", "5"), parse_text_in_file("affinity", "0-2")
    (524288000, '5', (0, 1, 2))
    """
    setting = SETTINGS[name]
    pattern = _WORKERS if name == "workers" else _CPUS if tuple[int, ...] in setting.kinds else None
    is_range = pattern is not None and re.match(pattern, text) is not None
    is_none = setting.may_be_none and text.lower() == "none"
    return parse_setting(name, text) if setting.is_size or is_range or is_none else text


def parse_workers(text: str) -> Workers:
    """Return a number of workers: 4, auto, or 2-8 for between the two.

    >>> parse_workers("4"), parse_workers("auto"), parse_workers("2-8")
    (4, 'auto', (2, 8))
    """
    pair = re.match(_WORKERS, text)
    if text == "auto":
        return "auto"
    if pair:
        return int(pair[1]), int(pair[2])
    if not text.isdecimal():
        raise ConfigurationError(f"{text!r} is no number of workers: give 4, or 2-8, or auto")
    return int(text)


def parse_cpus(text: str) -> Affinity:
    """Return the numbers of CPUs: 0, or 0,2-3, or spread.

    >>> parse_cpus("0,2-4"), parse_cpus("spread")
    ((0, 2, 3, 4), 'spread')
    """
    if text == "spread":
        return "spread"
    if not re.match(_CPUS, text):
        raise ConfigurationError(f"{text!r} are no CPUs: give 0,2-3, or spread")
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if int(last or 0) > _MAX_CPUS:
            raise ConfigurationError(f"{text!r} are no CPUs: there is no CPU {last}")
        numbers |= set(range(int(first), int(last or first) + 1))
    return check_affinity(numbers)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the name that was probably meant, else all names that there are.

    >>> suggest("workres", ["nice", "workers"]), suggest("x", ["nice", "workers"])
    ("did you mean 'workers'?", 'there are: nice, workers')
    """
    import difflib

    known = sorted(known)
    close = difflib.get_close_matches(name.lower(), known, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
