"""`import gluon.scheduler` finds this package, for applications that are not to be changed."""

from __future__ import annotations

import importlib
import sys
from typing import Final

from procjobs.errors import ConfigurationError

_NAME: Final = "gluon.scheduler"
_OURS: Final = __package__


def install() -> None:
    """Let `gluon.scheduler` be this package, here and in the workers; call it before the first import of the original.

    Raise ConfigurationError if the original has been imported already.
    """
    found = sys.modules.get(_NAME)
    if found is not None and found.__name__ != _OURS:
        raise ConfigurationError(f"{_NAME} was imported already, from {found.__file__}; call install() before that")
    ours = importlib.import_module(_OURS)
    sys.modules[_NAME] = ours
    parent = sys.modules.get("gluon")
    if parent is not None:
        vars(parent)["scheduler"] = ours


def is_installed() -> bool:
    """Return whether the alias is there."""
    return getattr(sys.modules.get(_NAME), "__name__", None) == _OURS
