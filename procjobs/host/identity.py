"""Who a process is, in such a way that another one can tell later, for certain, whether it has ended."""

from __future__ import annotations

import os
import socket
from typing import NamedTuple

from procjobs.host import observe


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
        return bool(self.boot) and (self.boot, self.namespace) == _place()

    def has_ended(self) -> bool:
        """Return whether it is certain that the process has ended. One of another host may or may not run."""
        return self.is_visible and observe.start_ticks(self.pid) != self.started


def identify(pid: int) -> Identity:
    """Return the identity of a process of this host that runs."""
    return Identity(socket.gethostname(), *_place(), pid, observe.start_ticks(pid) or 0)


def _place() -> tuple[str, int]:
    """Return the kernel's life and the pid namespace; an empty text where /proc tells nothing about the kernel."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip(), os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return "", 0
