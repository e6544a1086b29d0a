"""A secret that all processes of one user on one host share, and nobody else knows."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import Final

from procjobs.errors import ConfigurationError
from procjobs.shared import private_files
from procjobs.shared.state_directory import find_state_directory

_BYTES: Final = 32
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,40}\Z")


def user_secret(name: str) -> bytes:
    """Return 32 random bytes, the same for all processes of this user on this host: a key to sign with.

    They are made when they are first asked for, and kept in a file of the user's state directory that only this user may
    read; another `name` (lower-case letters, digits, dashes) is another secret. To be rid of a secret, remove its file.
    Reads the file, or writes it. Raise ConfigurationError if there is no such directory, or the file cannot be used.
    """
    if not _NAME.match(name):
        raise ConfigurationError(f"{name!r} is no name of a secret: lower-case letters, digits and dashes")
    directory = find_state_directory()
    if directory is None:
        raise ConfigurationError(
            f"the secret {name!r} has no place: this user has no home directory; set XDG_STATE_HOME to a directory"
        )
    path = f"{directory}/secret-{name}"
    try:
        return _read(path) or _make(directory, path)
    except OSError as error:
        raise ConfigurationError(f"the secret {path} cannot be used: {error.strerror or error}") from error


def _read(path: str) -> bytes | None:
    """Return the secret, None if there is no file; raise ConfigurationError for a file that is none of ours."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
            raise ConfigurationError(f"the secret {path} is not safe: it must be a file of this user with mode 0600")
        secret = os.read(fd, _BYTES + 1)
    finally:
        os.close(fd)
    if len(secret) != _BYTES:
        raise ConfigurationError(f"the secret {path} has not {_BYTES} bytes: remove it, and another one is made")
    return secret


def _make(directory: str, path: str) -> bytes:
    """Write a new secret, or return that of a process that was faster."""
    private_files.make_directories(directory)
    part = f"{path}.{os.getpid()}-{os.urandom(4).hex()}"
    fd = private_files.create(part)
    try:
        os.write(fd, os.urandom(_BYTES))
        os.fsync(fd)
        with contextlib.suppress(FileExistsError):
            os.link(part, path)  # whole or not at all: others read it at once
    finally:
        os.close(fd)
        os.unlink(part)
    secret = _read(path)
    if secret is None:
        raise ConfigurationError(f"the secret {path} was removed while it was made")
    return secret
