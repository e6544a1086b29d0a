"""What procjobs has made in directories that others may use too: it bears a signature, and nothing else is ever removed.

A lock file is signed by its content. A directory is signed by the entry `.procjobs` in it, a symbolic link to nowhere:
it is there with its content or not at all, whenever the process that makes it is killed. Both belong to this user.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Final

from procjobs.originals import close
from procjobs.shared import private_files

FILE: Final = ".procjobs"
"""The name of the signature of a directory, and the beginning of the names of files that are about to get another name."""
_TEXT: Final = "made by procjobs, which removes it when it is no longer needed"
_CONTENT: Final = f"{_TEXT}\n".encode()


class ForeignFileError(OSError):
    """There is something in the place of a file of ours that procjobs did not make. It is left as it is."""


def sign_directory(path: str) -> None:
    """Sign a directory that was made by this process; FileExistsError if it is signed already."""
    os.symlink(_TEXT, f"{path}/{FILE}")


def adopt_if_empty(path: str) -> None:
    """Sign a directory with a name that only procjobs uses, if it is empty: its maker was killed before it had signed it."""
    with contextlib.suppress(OSError):  # another process is removing it, or has just signed it
        if not os.listdir(path):
            sign_directory(path)


def is_signed_directory(path: str) -> bool:
    """Return whether this is a directory, not a link to one, that procjobs has made for this user."""
    try:
        info, link = os.lstat(path), os.lstat(f"{path}/{FILE}")
        is_signed_one = os.readlink(f"{path}/{FILE}") == _TEXT
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and {info.st_uid, link.st_uid} == {os.geteuid()} and is_signed_one


def make_signed_file(path: str) -> None:
    """Make a file that is signed from its first moment on; FileExistsError if there is any file."""
    part = f"{os.path.dirname(path)}/{FILE}-{os.getpid()}-{os.urandom(6).hex()}"
    fd = private_files.create(part)
    try:
        os.write(fd, _CONTENT)
        os.link(part, path)
    finally:
        close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def is_signed_file(path: str) -> bool:
    """Return whether this is a file, not a link to one, that procjobs has signed for this user."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return is_signed(fd)
    finally:
        close(fd)


def is_signed(fd: int) -> bool:
    """Return whether an open file was signed for this user."""
    info = os.fstat(fd)
    is_own = stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and info.st_size == len(_CONTENT)
    return is_own and os.pread(fd, len(_CONTENT), 0) == _CONTENT


def remove_signed_directory(path: str) -> bool:
    """Remove a signed directory with all that is in it; return whether it is gone.

    The signature goes last: a process that is killed while it does this leaves what another one may remove.
    """
    import shutil

    if is_signed_directory(path):
        for name in os.listdir(path):
            entry = f"{path}/{name}"
            if os.path.isdir(entry) and not os.path.islink(entry):
                shutil.rmtree(entry, ignore_errors=True)
            elif name != FILE:
                with contextlib.suppress(OSError):
                    os.unlink(entry)
        _remove_empty(path)
    return not os.path.lexists(path)


def remove_if_empty(path: str) -> None:
    """Remove a signed directory if there is nothing in it but its signature."""
    with contextlib.suppress(OSError):
        if is_signed_directory(path) and os.listdir(path) == [FILE]:
            _remove_empty(path)


def _remove_empty(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(f"{path}/{FILE}")
        try:
            os.rmdir(path)
        except OSError:  # another process has just made a file in it
            sign_directory(path)


def sweep_parts(path: str) -> None:
    """Remove the files that processes were making in a directory when they were killed, signed or still empty.

    One that is still about to be made is made once more.
    """
    for name in os.listdir(path):
        part = f"{path}/{name}"
        if name.startswith(f"{FILE}-"):
            with contextlib.suppress(OSError):
                if os.path.getsize(part) == 0 or is_signed_file(part):
                    os.unlink(part)
