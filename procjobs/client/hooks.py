"""Hooks as users give them to `Pool(on_failure=...)`: functions or names, turned into the texts of settings."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from typing import Any, Final

from procjobs.errors import ConfigurationError, PayloadError
from procjobs.host import payload
from procjobs.shared.config import UNSET
from procjobs.shared.hook_names import PICKLED

_MAX_BYTES: Final = 32 * 1024

Hook = str | Callable[..., Any]


def describe_hooks(setting: str, value: Any) -> Any:
    """Return the hooks that were given, one or several, as texts; the rest of the check is that of all settings.

    A function of a module goes by its name, any other function as its pickle. Raise PayloadError if it has none, and
    ConfigurationError for a large one.
    """
    if value is UNSET or value is None or isinstance(value, str):
        return value
    hooks = list(value) if isinstance(value, list | tuple) else [value]
    return tuple(_describe(setting, hook) if callable(hook) else hook for hook in hooks)


def _describe(setting: str, hook: Callable[..., Any]) -> str:
    module, name = getattr(hook, "__module__", None), getattr(hook, "__qualname__", None)
    if isinstance(module, str) and isinstance(name, str) and module != "__main__" and _find(module, name) is hook:
        return f"{module}:{name}"
    try:
        pickled = base64.b64encode(payload.dump_inline(hook)).decode()
    except Exception as error:
        raise PayloadError(f"{setting}: {hook!r} cannot be pickled: {error}") from error
    if len(pickled) > _MAX_BYTES:
        raise ConfigurationError(
            f"{setting}: {hook!r} takes {len(pickled)} bytes as a pickle, and {_MAX_BYTES} are allowed. Put the function "
            "into a module, and give its name"
        )
    return PICKLED + pickled


def _find(module: str, name: str) -> object:
    found: object = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found
