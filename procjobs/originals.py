"""The functions of the standard library as they were before gevent or eventlet has put others in their places.

Theirs let other greenlets run while one waits. Between two lines that belong together, or while a lock is held, no other
greenlet may run: there procjobs uses the originals, whenever it was imported. Where a greenlet waits for a job, it waits as
its library wants (procjobs.client.connection.bells).
"""

from __future__ import annotations

import importlib
import sys
from posix import close, posix_spawn, waitpid
from typing import Any

__all__ = ["close", "has_green_threads", "original", "posix_spawn", "waitpid"]


def original(module: str, name: str) -> Any:
    """Return an attribute of a module of the standard library as it was before any library has replaced it."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None:
        return gevent.get_original(module, name)
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.already_patched:
        return getattr(eventlet.original(module), name)
    return getattr(importlib.import_module(module), name)


def has_green_threads() -> bool:
    """Return whether a library has replaced the threads of this process by greenlets."""
    gevent = sys.modules.get("gevent.monkey")
    eventlet = sys.modules.get("eventlet.patcher")
    return (gevent is not None and bool(gevent.is_module_patched("threading"))) or (
        eventlet is not None and bool(eventlet.is_monkey_patched("thread"))
    )
