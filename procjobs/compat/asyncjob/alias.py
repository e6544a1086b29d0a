"""`import tgext.asyncjob` finds this package, for code that is not to be changed."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Final

from procjobs.errors import ConfigurationError

_NAME: Final = "tgext.asyncjob"
_OURS: Final = __package__
_MODULES: Final = {
    "": "",
    ".progress": ".progress",
    ".queue": ".perform",
    ".sqlahelpers": ".queries",
    ".tghooks": ".starting",
    ".worker": ".progress",
    ".trackers": ".trackers",
    ".trackers.memory": ".trackers.memory",
    ".trackers.redisdb": ".trackers.redisdb",
}


def install() -> None:
    """Let `tgext.asyncjob` and its modules be these, here and in the workers; call it before their first import.

    Raise ConfigurationError if the original has been imported already.
    """
    found = sys.modules.get(_NAME)
    if found is not None and found.__name__ != _OURS:
        raise ConfigurationError(f"{_NAME} was imported already, from {found.__file__}; call install() before that")
    try:
        parent = importlib.import_module("tgext")  # other extensions may live there
    except ModuleNotFoundError:
        parent = sys.modules["tgext"] = types.ModuleType("tgext")
        parent.__path__ = []
    for theirs, ours in _MODULES.items():
        sys.modules[_NAME + theirs] = importlib.import_module(_OURS + ours)
    parent.asyncjob = sys.modules[_NAME]  # type: ignore[attr-defined]


def is_installed() -> bool:
    """Return whether the alias is there."""
    return getattr(sys.modules.get(_NAME), "__name__", None) == _OURS
