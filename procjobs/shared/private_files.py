"""Files and directories of procjobs: for this user alone, whatever the umask is.

They hold arguments, results and output of jobs, and whoever could write them could run code. A umask of 0 would open them
to others, one of 777 would close them to ourselves. A process with threads must not change its umask for a moment, so the
mode is set on what was made here. What was there before is taken as it is.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700


class FileToMap(io.FileIO):
    """A file that is read by mapping it, and closed with its last holder.

    An interruption can come between the body of a `with` and its end. Python would warn of a file that was left open so.
    """

    __del__ = io.FileIO.close


def create(path: str, *, replace: bool = False) -> int:
    """Return a descriptor, to read and write, of a new file.

    Raise FileExistsError if something is there; with `replace`, a file there is removed.
    """
    if replace:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    os.fchmod(fd, FILE_MODE)
    return fd


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yield the name of a new file, which takes the place of `path` when the block has written it whole.

    If the block raises, whatever it is, nothing of the new file is left: half a file takes memory that others are short of.
    """
    part = f"{path}.new"
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def open_or_create(path: str, flags: int = 0) -> int:
    """Return a descriptor, to read and write, of the file that is there, or else of a new one.

    `flags` are further ones of open(2).
    """
    flags |= os.O_RDWR | os.O_CLOEXEC
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags)
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, FILE_MODE)
        except FileExistsError:  # a symbolic link to a file that is not there yet; or another process was faster
            path = os.path.realpath(path)
            continue
        os.fchmod(fd, FILE_MODE)
        return fd


def make_directory(path: str) -> None:
    """Make a directory; raise FileExistsError if something is there."""
    os.mkdir(path, DIRECTORY_MODE)
    if stat.S_IMODE(os.lstat(path).st_mode) != DIRECTORY_MODE:  # by the umask
        os.chmod(path, DIRECTORY_MODE)


def make_directories(path: str) -> None:
    """Make a directory, and those above it, where there are none; raise FileExistsError if something else is there."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        make_directories(parent)
    try:
        make_directory(path)
    except FileExistsError:
        if not os.path.isdir(path):  # as it is where another process was faster
            raise
