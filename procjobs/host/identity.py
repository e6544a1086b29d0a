"""Who a process is, in such a way that another one can tell later, for certain, whether it has ended."""

from __future__ import annotations

import os
import socket
from typing import NamedTuple


class Identity(NamedTuple):
    """A process of a host: in which kernel's life and pid namespace it has its pid, and when it was started.

    `started` is in clock ticks since the boot (proc(5), stat). Pids are given again, but not with the same start.
    """

    host: str
    boot: str
    namespace: int
    pid: int
    started: int

    @property
    def is_visible(self) -> bool:
        """Whether it would be seen from here: its kernel and its pid namespace are those of this process."""
        return (self.boot, self.namespace) == _place()

    def has_ended(self) -> bool:
        """Return whether it is certain that the process has ended. One of another host may or may not run."""
        return self.is_visible and _start_of(self.pid) != self.started


def identify(pid: int) -> Identity:
    """Return the identity of a process of this host that runs."""
    return Identity(socket.gethostname(), *_place(), pid, _start_of(pid) or 0)


def _place() -> tuple[str, int]:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip(), os.stat("/proc/self/ns/pid").st_ino


def _start_of(pid: int) -> int | None:
    """Return the start of a process; None if there is no such process, or only its zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in b"ZX" else int(fields[19])
