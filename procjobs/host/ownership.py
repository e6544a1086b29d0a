"""Who may change what a path leads to: nothing of another user is opened, mapped, connected to or unpickled.

Looks only. A mode or an owner that is wrong is an error, and is never mended: the directory may serve others.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat
import struct
from collections.abc import Iterator
from typing import Final

_MAX_LINKS: Final = 40  # as the kernel: path_resolution(7)
_PEER: Final = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


class UntrustedError(OSError):
    """Another user owns it, or may put something else in its place."""


def check_private_directory(path: str) -> None:
    """Raise OSError unless the path is a directory of this user that nobody else may write, rename or replace.

    The error is an UntrustedError where another user is the reason.
    """
    check_way(os.path.dirname(path))
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode):
        raise OSError("it is not a directory")
    if info.st_uid != os.geteuid():
        raise UntrustedError(f"it belongs to user {info.st_uid}, not to {os.geteuid()}")
    if _is_open_to_others(info):
        advice = "take a directory of your own in it" if info.st_mode & stat.S_ISVTX else "chmod go-w, if it is yours alone"
        raise UntrustedError(f"other users may write to it (mode {stat.S_IMODE(info.st_mode):o}): {advice}")


def check_way(path: str) -> None:
    """Raise UntrustedError if another user may rename or replace a directory or a symbolic link on the way to this one."""
    for step in _steps(path):
        info = os.lstat(step)
        if info.st_uid not in _trusted():
            raise UntrustedError(f"{step}, on the way to it, belongs to user {info.st_uid}, who may replace it")
        if stat.S_ISDIR(info.st_mode) and not info.st_mode & stat.S_ISVTX and _is_open_to_others(info):
            raise UntrustedError(
                f"other users may replace it: {step} has mode {stat.S_IMODE(info.st_mode):o} (chmod go-w or chmod +t)"
            )


def check_peer(sock: socket.socket) -> None:
    """Raise UntrustedError unless the process at the other end of a Unix socket is of this user.

    For a client that is the process that listens, as it was at its listen(2).
    """
    uid = peer_uid(sock)
    if uid != os.geteuid():
        raise UntrustedError(errno.EPERM, f"the process that listens there is of user {uid}, not of {os.geteuid()}")


def peer_uid(sock: socket.socket) -> int:
    """Return the effective user of the process at the other end of a Unix socket."""
    _, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return int(uid)


def _trusted() -> set[int]:
    """The owners who are no danger: the owner of `/` is root, whatever root is called in a user namespace."""
    return {0, os.geteuid(), os.lstat("/").st_uid}


def _steps(path: str) -> Iterator[str]:
    """Yield each directory and each symbolic link that the kernel passes on the way to a path, and the path."""
    at, links = "/", 0
    names = list(reversed(os.path.abspath(path).split("/")))
    yield at
    while names:
        name = names.pop()
        if name in {"", "."}:
            continue
        step = os.path.dirname(at) if name == ".." else os.path.join(at, name)
        yield step
        if not os.path.islink(step):
            at = step
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink(step)
        names += reversed(target.split("/"))
        at = "/" if target.startswith("/") else at


def _is_open_to_others(info: os.stat_result) -> bool:
    return bool(info.st_mode & stat.S_IWOTH) or (bool(info.st_mode & stat.S_IWGRP) and not _is_private_group(info.st_gid))


def _is_private_group(gid: int) -> bool:
    """Return whether a group has no members but this user: many systems give each user one, and the umask 002."""
    if gid == 0:
        return True
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and user.pw_name == group.gr_name and set(group.gr_mem) <= {user.pw_name}
