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
    check_way(path)
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode):
        raise OSError("it is not a directory")
    if info.st_uid != os.geteuid():
        raise UntrustedError(f"it belongs to user {info.st_uid}, not to {os.geteuid()}")
    if _is_open_to_others(info):
        advice = "take a directory of your own in it" if info.st_mode & stat.S_ISVTX else "chmod go-w, if it is yours alone"
        raise UntrustedError(f"other users may write to it (mode {stat.S_IMODE(info.st_mode):o}): {advice}")


def check_way(path: str) -> None:
    """Raise UntrustedError if another user may rename or replace a directory or a symbolic link on the way to this path.

    A volume of root's is no reason if the way goes on to the directory of this user in it (`own_name`): others who may write
    to the volume can take that away, and then nothing is found; they cannot make one that belongs to this user.
    """
    steps = list(_steps(os.path.dirname(path)))
    for step, following in zip(steps, [*steps[1:], path], strict=True):
        info = os.lstat(step)
        if info.st_uid not in _trusted():
            raise UntrustedError(f"{step}, on the way to it, belongs to user {info.st_uid}, who may replace it")
        if stat.S_ISDIR(info.st_mode) and not info.st_mode & stat.S_ISVTX and _is_open_to_others(info):
            if _is_roots(info) and os.path.basename(following) == own_name():
                continue
            raise UntrustedError(
                f"other users may replace it: {step} has mode {stat.S_IMODE(info.st_mode):o} (chmod go-w or chmod +t)"
            )


def own_name() -> str:
    """Return the name of this user's directory in one that several users may write to."""
    return f"procjobs-{os.geteuid()}"


def is_shared_volume(path: str) -> bool:
    """Return whether a directory is root's, and this user may write to it, but not alone.

    Such is `/tmp`, and a volume that an orchestrator mounts into a container.
    """
    try:
        info = os.stat(path)
    except OSError:
        return False
    is_shared = _is_roots(info) and (info.st_uid != os.geteuid() or _is_open_to_others(info))
    return stat.S_ISDIR(info.st_mode) and is_shared and os.access(path, os.W_OK | os.X_OK)


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


def peer_pid(sock: socket.socket) -> int:
    """Return the process at the other end of a Unix socket; for a client, the one that has called listen(2)."""
    pid, _, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return int(pid)


def _trusted() -> set[int]:
    """The owners who are no danger."""
    return {0, os.geteuid(), os.lstat("/").st_uid}


def _is_roots(info: os.stat_result) -> bool:
    """Return whether root is the owner, who is that of `/`, whatever root is called in a user namespace."""
    return info.st_uid in {0, os.lstat("/").st_uid}


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
