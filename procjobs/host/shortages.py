"""Refusals of the host in words: what is missing, how much, and what to do.

Most of them are met when a pool is started in a container, by somebody who has not made the container.
"""

from __future__ import annotations

import errno
import os
import resource
import traceback
from collections.abc import Callable
from typing import Final

from procjobs.errors import ProcjobsError

_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT}
_NO_LOCKS: Final = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_MIB: Final = 2**20
_SMALL_POOL_BYTES: Final = 2 * _MIB


def explain(error: BaseException, directory: str = "/", *, needed_bytes: int = 0) -> str:
    """Return on one line why something failed that needed room in `directory`, a process, memory or descriptors.

    For an error that is none of the host's, that is a bug: the text is its traceback.
    """
    if isinstance(error, ProcjobsError):
        return str(error)
    if isinstance(error, MemoryError):
        return _explain_memory()
    if not isinstance(error, OSError):
        return "".join(traceback.format_exception(error)).strip()
    if error.errno in _NO_ROOM:
        return _explain_room(directory, needed_bytes)
    known: dict[int, Callable[[], str]] = {
        errno.EFBIG: lambda: _explain_file_size(needed_bytes),
        errno.EMFILE: lambda: f"a process may open no more than {_limit(resource.RLIMIT_NOFILE)} files: raise the limit "
        "(ulimit -n, LimitNOFILE=, docker run --ulimit nofile=)",
        errno.ENFILE: lambda: "all files together that the host may open are open (sysctl fs.file-max)",
        errno.ENOMEM: _explain_memory,
        errno.EAGAIN: _explain_processes,
        errno.EROFS: lambda: f"{error.filename or directory} is on a read-only file system: set XDG_RUNTIME_DIR to a "
        "directory that can be written, best on a tmpfs",
    }
    words = known.get(error.errno or 0)
    return words() if words is not None else str(error)


def explain_lock(error: OSError, path: str) -> str:
    """Return why a lock cannot be had: on some network file systems there are none."""
    directory = os.path.dirname(path)
    if error.errno in _NO_LOCKS:
        return (
            f"{directory} is on a file system without locks (flock: {error.strerror}): set XDG_RUNTIME_DIR or "
            "Pool(directory=...) to a directory on a tmpfs or a local disk"
        )
    return f"the lock {path} cannot be used: {explain(error, directory)}"


def _explain_room(directory: str, needed_bytes: int) -> str:
    while not os.path.isdir(directory) and directory != "/":  # it was removed again
        directory = os.path.dirname(directory)
    try:
        facts = os.statvfs(directory)
        free = f"{size(facts.f_bavail * facts.f_frsize)} of {size(facts.f_blocks * facts.f_frsize)} free"
        if not facts.f_favail and facts.f_files:
            free += ", and no room for another file"
    except OSError:
        free = "no room"
    return (
        f"{directory} has {free}, and a pool needs {size(needed_bytes or _SMALL_POOL_BYTES)} there: free some, give the "
        "container more (docker run --shm-size=256m; in Kubernetes, an emptyDir with medium: Memory at /dev/shm), or set "
        "XDG_RUNTIME_DIR to another directory"
    )


def _explain_file_size(needed_bytes: int) -> str:
    needs = f", and the pool's table needs {size(needed_bytes)}" if needed_bytes else ""
    return (
        f"a file may have no more than {size(resource.getrlimit(resource.RLIMIT_FSIZE)[0])}{needs}: raise the limit "
        "(ulimit -f, LimitFSIZE=), or lower max_queued"
    )


def _explain_memory() -> str:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return "there is no memory left: give the host or the container more, or lower max_queued"
    return (
        f"a process may have no more than {size(limit)} of addresses: raise the limit (ulimit -v, LimitAS=), or lower "
        "max_queued"
    )


def _explain_processes() -> str:
    return (
        f"the host refuses another process; this user may have {_limit(resource.RLIMIT_NPROC)} (ulimit -u, LimitNPROC=), "
        "and a container may have a bound of its own (docker run --pids-limit, pids.max of the control group)"
    )


def _limit(kind: int) -> str:
    soft = resource.getrlimit(kind)[0]
    return "any number of" if soft == resource.RLIM_INFINITY else str(soft)


def size(count: int) -> str:
    """Return a number of bytes for people, with the unit that makes it short."""
    return f"{count / _MIB:.1f} MiB" if count < 100 * _MIB else f"{count / _MIB:.0f} MiB"
