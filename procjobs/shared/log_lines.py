"""The log of a pool, as those agree on it who write it, name it and read it."""

from __future__ import annotations

import os
from typing import Final

from procjobs.errors import ConfigurationError

WARNING: Final = "WARNING "
"""Comes after the time in lines that somebody should look at."""
_POOL: Final = "{pool}"


def resolve_log(path: object, pool: str | None) -> str | None:
    """Return the absolute path of a pool's log, None for one in the pool's directory; `{pool}` in it is the pool's name.

    Raise ConfigurationError for a value that can be none.
    """
    if path is None:
        return None
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigurationError(f"log={path!r}: expected the path of a file, or None")
    return os.path.abspath(os.path.expanduser(path.replace(_POOL, pool or "private")))
