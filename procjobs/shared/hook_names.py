"""Hooks as settings have them: `module:function`, or the pickle of a function that has no such name."""

from __future__ import annotations

import re
from typing import Final

from procjobs.errors import ConfigurationError

PICKLED: Final = "pickle:"
"""Before the base64 of a pickled function."""
_NAME: Final = r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*\Z"


def check_hooks(setting: str, value: object) -> tuple[str, ...]:
    """Return hooks, one or several, as a tuple; raise ConfigurationError for one that is neither a name nor a pickle."""
    if value is None:
        return ()
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise ConfigurationError(f"{setting}={value!r}: expected 'module:function', or a list of such names")
    for name in names:
        if not isinstance(name, str) or not (name.startswith(PICKLED) or re.match(_NAME, name)):
            raise ConfigurationError(f"{setting}={name!r}: expected 'module:function', such as 'app.jobs:tell'")
    return tuple(names)


def show_hook(hook: str) -> str:
    """Return the name of a hook for messages."""
    return "a pickled function" if hook.startswith(PICKLED) else hook
