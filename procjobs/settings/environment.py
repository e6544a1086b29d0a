"""Settings from environment variables: PROCJOBS_NICE for all pools, PROCJOBS_MEDIA_NICE for the pool "media".

A pool's name is written in capitals, with an underscore for every character except letters and digits. A name that could be
both (PROCJOBS_SOFT_TIMEOUT, for a pool "soft") is the one for all pools.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from procjobs.errors import ConfigurationError
from procjobs.settings.keys import SETTINGS, check_written, parse_setting
from procjobs.shared.passwords import hide

PREFIX: Final = "PROCJOBS_"
_GENERAL: Final = {name.upper(): name for name in SETTINGS}
_NO_SETTINGS: Final = frozenset({"CONFIG", "DIRECTORY", "POOL", "DETACHED"})
"""Other variables of procjobs: the places of the settings file and of the pools, and the marks of a pool's processes."""
_NEARNESS: Final = 0.8
"""How similar (difflib) a name must be to count as a misspelt setting. Other names may be the user's own."""


class Variable(NamedTuple):
    """A variable that holds for a pool, and the checked value of its setting."""

    variable: str
    setting: str
    value: Any

    def __repr__(self) -> str:
        return f"Variable({self.variable})"  # the value of a store may have a password


def read_variables(pool: str | None, environment: Mapping[str, str]) -> dict[str, Variable]:
    """Return the variables of the environment that hold for a pool (None: one without a name), by setting.

    Raise ConfigurationError for a value that is out of range, and for a name that is probably misspelt.
    """
    found: dict[str, Variable] = {}
    own = {} if pool is None else {f"{slug(pool)}_{name.upper()}": name for name in SETTINGS}
    for rest, text in _ours(environment):
        name = _GENERAL.get(rest) or own.get(rest)
        if name is None:
            _refuse_misspelt(rest, pool)
        elif rest not in _GENERAL or name not in found:  # one for the pool comes before one for all
            found[name] = Variable(PREFIX + rest, name, _value(PREFIX + rest, name, text))
    return found


def _ours(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and (rest := variable.removeprefix(PREFIX)) not in _NO_SETTINGS:
            yield rest, environment[variable]


def _value(variable: str, name: str, text: str) -> Any:
    try:
        return check_written(name, parse_setting(name, text))
    except ConfigurationError as error:
        raise ConfigurationError(f"environment variable {variable}={hide(text)}: {error}") from None


def _refuse_misspelt(rest: str, pool: str | None) -> None:
    if any(rest.endswith(f"_{name}") for name in _GENERAL):
        return  # a setting of another pool
    import difflib

    prefix = f"{slug(pool)}_" if pool is not None and rest.startswith(f"{slug(pool)}_") else ""
    close = difflib.get_close_matches(rest.removeprefix(prefix), _GENERAL, 1, _NEARNESS)
    if close:
        raise ConfigurationError(f"environment variable {PREFIX}{rest}: did you mean {PREFIX}{prefix}{close[0]}?")


def slug(pool: str) -> str:
    """Return a pool's name as it is written in variables.

    >>> slug("media-2.x")
    'MEDIA_2_X'
    """
    return re.sub(r"[^A-Za-z0-9]", "_", pool).upper()
