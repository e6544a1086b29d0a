"""`current`: web2py's own where this process runs in web2py, else an object of the same use."""

from __future__ import annotations

import sys
import threading
from typing import Any


class Storage(dict[str, Any]):
    """A dict whose items are attributes too; one that is missing is None."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class _Current(threading.local):
    """What belongs to the request, or the task, that this thread works on."""


_own = _Current()


def find_current() -> Any:
    """Return `gluon.current` if gluon has been imported, else the one of this module."""
    gluon = sys.modules.get("gluon.globals")
    return getattr(gluon, "current", _own)


def request() -> Any:
    """Return web2py's request, None outside of web2py."""
    return getattr(find_current(), "request", None)
