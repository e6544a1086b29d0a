"""Descriptors: their owner in this process, and those that arrive over a Unix socket (unix(7), SCM_RIGHTS).

This is the one module that receives them.
The kernel gives a process new descriptors the moment it reads a message, whether it wants them or not. So the receiver
says how many it has room for, and closes those that it has no use for.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import io
import os
import resource
import socket
import stat
import sys
from collections.abc import Callable, Iterable
from termios import FIONREAD
from typing import Any, Final, NamedTuple

from procjobs.originals import close

ROOM_FOR_ALL: Final = socket.CMSG_LEN(253 * 4)
"""Room for the most descriptors that one message can carry (SCM_MAX_FD of the kernel)."""
ROOM_FOR_ONE: Final = socket.CMSG_LEN(4)
"""Room for one descriptor; CMSG_SPACE would leave room for a second one."""
# Plain numbers: to combine two flags of an enum costs 0.5 us.
CLOEXEC: Final = int(socket.MSG_CMSG_CLOEXEC)
NO_WAIT: Final = int(socket.MSG_DONTWAIT) | CLOEXEC
_MOST_CLOSED: Final = 65_536
_TRUNCATED: Final = int(socket.MSG_CTRUNC)
_HIGH: Final = 1024
"""The usual limit of open files. Beyond it, the kernel's table of them would grow with each worker."""
_ROOM: Final = 32


class Descriptor(io.FileIO):
    """A descriptor that is closed once, with its last reference at the latest.

    A number that is kept in a variable is lost, or closed twice, when an exception from outside (Ctrl-C, a signal handler)
    comes between two lines. This is not, if it is made by `open_descriptor`.
    """

    # Without the ResourceWarning of io.FileIO. A function of C, too: what a signal handler raises in one of Python here
    # would be lost.
    __del__ = io.FileIO.close


def open_descriptor(function: Callable[..., int], *arguments: Any) -> Descriptor:
    """Return the owner of a descriptor that a built-in function returns; raise as that does."""
    # One call of C from beginning to end: no exception from outside can come between the two steps.
    return next(map(Descriptor, map(function, *([argument] for argument in arguments))))


def pack_descriptor(file: Descriptor) -> list[tuple[int, int, array.array[int]]]:
    """Return what `socket.sendmsg` takes to send a descriptor along."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))]


def room_for(count: int) -> int:
    """Return the room for this many descriptors."""
    return socket.CMSG_LEN(count * 4)


def receive(
    sock: socket.socket, max_bytes: int, room: int = ROOM_FOR_ALL, flags: int = CLOEXEC
) -> tuple[bytes, list[int], bool]:
    """Read from a socket: return the bytes, the descriptors that came with them, and whether some were lost.

    Descriptors are lost where more came than there is room for, or than this process may open; the kernel closes these.
    Raises as `socket.recvmsg` does. Runs for every message between processes, nearly all of which carry no descriptor.
    """
    data, ancillary, received, _ = sock.recvmsg(max_bytes, room, flags)
    if not ancillary:
        return data, [], received & _TRUNCATED != 0
    fds: list[int] = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += array.array("i", content[: len(content) // 4 * 4])
    return data, fds, received & _TRUNCATED != 0


def out_of_descriptors(who: str) -> str:
    """Return what to say where a descriptor was lost because this process, `who` in words, may open no more."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"the {who} (pid {os.getpid()}) has as many files open as it may ({limit}): raise the limit (ulimit -n)"


def move_up(fd: int) -> int:
    """Give a descriptor a number that the files of jobs do not meet, and return that; it is closed for other programs.

    New files get the lowest number that is free, and code that closes or replaces descriptors by number counts from 3. A
    process that may open few keeps the number that it had.
    """
    moved = copy_up(fd)
    close(fd)
    return moved


def copy_up(fd: int) -> int:
    """Return a copy of a descriptor, with such a number."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    lowest = min(soft if soft > 0 else _HIGH, _HIGH) - _ROOM
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(lowest, 3))
    except OSError:  # these numbers are taken
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def is_regular(fd: int) -> bool:
    """Return whether this is a regular file, as memory files are.

    Nothing else is taken from a process that is not trusted: a pipe or a device has no size and may have no end.
    """
    return stat.S_ISREG(os.fstat(fd).st_mode)


def unread_bytes(fd: int) -> int:
    """Return how many bytes have arrived at a stream socket that were not read yet."""
    return int.from_bytes(fcntl.ioctl(fd, FIONREAD, bytes(4)), sys.byteorder)


def close_all(fds: Iterable[int]) -> None:
    """Close these descriptors."""
    for fd in fds:
        close(fd)


def close_inherited(first: int) -> None:
    """Close all descriptors from this number on: a program begins with those that its starter has left inheritable.

    Locks, listening sockets and pipes of the starter would stay taken for as long as this process lives.
    """
    try:
        found = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # no /proc
        os.closerange(first, _MOST_CLOSED)
        return
    for fd in found:
        if fd >= first:
            with contextlib.suppress(OSError):  # the one that the listing itself has had
                close(fd)


class DescriptorLimit(NamedTuple):
    """How many descriptors this process may open (soft limit): now, and as its starter had it."""

    now: int
    before: int


def raise_descriptor_limit() -> DescriptorLimit:
    """Raise the soft limit of open descriptors to the hard one; children are to get the one from before.

    Programs that use select(2) break with numbers above 1,023, and some close every number up to their limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        return DescriptorLimit(soft, soft)
    return DescriptorLimit(hard, soft)


def set_descriptor_limit(soft: int) -> None:
    """Set the soft limit of open descriptors, as far as the hard one allows."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
