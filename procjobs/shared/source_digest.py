"""The digest of a source file: equal digests are equal code, as far as anybody can tell without running it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import source_hash
from typing import Final, NamedTuple

_MAX_READ_BYTES: Final = 4 * 2**20


class Source(NamedTuple):
    """What is known of a file: a digest of its contents, and when it was changed (ctime, which nobody can set back).

    `is_loaded` says that the process has loaded it, and not only seen that it is there.
    """

    digest: str
    changed_at: float
    is_loaded: bool = False


def read_source(path: str) -> Source | None:
    """Return what is known of a source file, None if it cannot be read.

    Of compiled files, and of huge ones, time and size stand for the contents. Blocks for the read: 20 us for a file that the
    kernel has in memory.
    """
    try:
        if not path.endswith(".py"):
            return _stamp(os.stat(path))
        with open(path, "rb", buffering=0) as file:
            data = file.read(_MAX_READ_BYTES + 1)
            info = os.fstat(file.fileno())
    except (OSError, ValueError):
        return None
    return _stamp(info) if len(data) > _MAX_READ_BYTES else Source(source_hash(data).hex(), info.st_ctime)


def _stamp(info: os.stat_result) -> Source:
    return Source(f"{info.st_mtime_ns:x}-{info.st_size:x}", info.st_ctime)


def find_changed(digests: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the files, of those whose earlier digests are given, that have other digests now, with these.

    Not those that are gone: nobody can load them any more.
    """
    changed = {}
    for path, before in digests:
        source = read_source(path)
        if source is not None and source.digest != before:
            changed[path] = source.digest
    return changed
