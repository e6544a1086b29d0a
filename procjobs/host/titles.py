"""The command lines that `ps` shows of the processes of a pool.

The kernel shows the arguments where they lie in the memory of a process, so a process can write others in their place
(proc(5), cmdline). It does that through /proc/self/mem: where a kernel forbids it, it is an error and no crash.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

_ARG_START, _ARG_END = 48 - 3, 49 - 3
"""The fields of /proc/self/stat with the place of the arguments, counted from the one after the name."""
_MAX_BYTES: Final = 2**20


def show_title(title: str) -> None:
    """Let `ps` show a title in the place of this process's arguments, cut to their length; nothing where that is refused."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        _write(title.encode(errors="replace"))


def _write(title: bytes) -> None:
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b") ")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    size = end - start
    if not 1 < size <= _MAX_BYTES:
        return
    with open("/proc/self/cmdline", "rb") as file:
        shown = file.read()
    memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.pread(memory, size, start).startswith(shown[:size].rstrip(b"\0")):  # else it is not what it seems
            os.pwrite(memory, title[: size - 1].ljust(size, b"\0"), start)
    finally:
        os.close(memory)
