"""The engines with which this process reads stores: one for each database, whichever pools have it."""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING, Final

from procjobs.store.database import open_engine

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

_MAX_ENGINES: Final = 16
_engines: dict[str, Engine] = {}


def engine_of(url: str) -> Engine:
    """Return the engine that reads the store at `url`; raise StoreUnavailable if there is no driver for it."""
    engine = _engines.get(url)
    if engine is None:
        while len(_engines) >= _MAX_ENGINES:
            dispose(next(iter(_engines), ""))
        engine = _engines.setdefault(url, open_engine(url, read_only=True))
    return engine


def dispose(url: str) -> None:
    """Close the connections to a store that are open; the next read makes a new one."""
    engine = _engines.pop(url, None)
    if engine is not None:
        engine.dispose()


def _dispose_all() -> None:
    for url in list(_engines):
        dispose(url)


def _forget_after_fork() -> None:
    """Leave the connections, which are the parent's, as they are."""
    while _engines:
        _engines.popitem()[1].dispose(close=False)


atexit.register(_dispose_all)
os.register_at_fork(after_in_child=_forget_after_fork)
