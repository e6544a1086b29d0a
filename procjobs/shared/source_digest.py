"""The digest of a source file: equal digests are equal code, as far as anybody can tell without running it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import source_hash
from typing import Final

_MAX_READ_BYTES: Final = 4 * 2**20
GONE: Final = ""
"""The digest of a file that cannot be read."""


def digest(path: str) -> str:
    """Return 16 hexadecimal digits for the contents of a source file, GONE if it cannot be read.

    Of compiled files, and of huge ones, time of change and size stand for the contents. Blocks for the read: 20 us for a
    file that the kernel has in memory.
    """
    try:
        if path.endswith(".py"):
            with open(path, "rb", buffering=0) as file:
                data = file.read(_MAX_READ_BYTES + 1)
            if len(data) <= _MAX_READ_BYTES:
                return source_hash(data).hex()
        info = os.stat(path)
    except (OSError, ValueError):
        return GONE
    return f"{info.st_mtime_ns:x}-{info.st_size:x}"


def changed(digests: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the files, of those whose earlier digests are given, that have other digests now, with these.

    Not those that are gone: nobody can load them any more.
    """
    return {path: now for path, before in digests if (now := digest(path)) not in {before, GONE}}
