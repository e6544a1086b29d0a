"""The file of an SQLite store: who has it, and whether it is still the same one.

1. The lock (flock) is on the database file itself, so it is one lock however the file is reached: by a link, by another
   mount. SQLite's own locks are of another kind (fcntl), and the two do not see each other on a local disk.
2. The lock belongs to the opened file, which the supervisor and its recorder share: it ends with the last of both. Two
   processes that write one write-ahead log at the same instant can corrupt it (until SQLite 3.51.3).
3. A file that was removed or replaced takes commits until it is closed, and loses them all. So its identity is looked at
   after each commit, before that is told to anybody.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
from typing import Final
from urllib.parse import quote

from procjobs.errors import StoreUnavailable
from procjobs.shared import private_files

_MAGIC: Final = b"SQLite format 3\0"


class StoreFile:
    """The database file at `path`; `fd` is the opened file that an earlier recorder has locked, None for the first one."""

    def __init__(self, path: str, fd: int | None) -> None:
        self.fd = fd
        self._path = path
        self._log: tuple[int, int] | None = None

    def lock(self) -> None:
        """Have the file, before a database is opened in it; raise StoreUnavailable if it is another's, or has gone."""
        if self.fd is None:
            self.fd = self._create_and_lock()
        self._log = None
        self._check_identity()

    def _create_and_lock(self) -> int:
        fd = private_files.open_or_create(self._path)  # what SQLite adds gets the mode of this one
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise StoreUnavailable(
                f"the store {self._path} is in use by {_describe_holder(self._path)}. An SQLite file belongs to one pool: "
                "give this one another file, or let all processes use one named pool, with one runtime directory"
            ) from None
        except BaseException:
            os.close(fd)
            raise
        return fd

    def check(self) -> None:
        """Raise StoreUnavailable if what was committed is not in the file that others will open."""
        self._check_identity()
        assert self.fd is not None
        if os.pread(self.fd, len(_MAGIC), 0) != _MAGIC:
            raise StoreUnavailable(self.describe_loss())
        log = _identity(f"{self._path}-wal")
        if self._log is None:
            self._log = log
        elif log != self._log:
            raise StoreUnavailable(
                f"the write-ahead log {self._path}-wal was removed or replaced while the pool ran, and its last commits "
                f"with it: {self._advice}"
            )

    def describe_loss(self) -> str:
        """Return the news that what was in the file is not there any more."""
        return f"the store {self._path} was overwritten or cut off while the pool ran: {self._advice}"

    def _check_identity(self) -> None:
        assert self.fd is not None
        own = os.fstat(self.fd)
        if _identity(self._path) != (own.st_dev, own.st_ino):
            raise StoreUnavailable(f"the store {self._path} was removed or replaced while the pool ran: {self._advice}")

    @property
    def _advice(self) -> str:
        return "put it back, or stop the pool, which begins with the file that is there then; no job is acknowledged before"

    def close(self) -> None:
        """Let go of the file, after the database in it was closed: a closed descriptor ends SQLite's own locks."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def _identity(path: str) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def _describe_holder(path: str) -> str:
    """Return who has claimed the jobs in a file, as far as it can be read."""
    with contextlib.suppress(sqlite3.Error, ValueError, LookupError):
        connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=0.1)
        try:
            pool, holder = connection.execute("SELECT pool, holder FROM procjobs_claims WHERE owner <> ''").fetchone()
        except TypeError:  # nobody, yet
            return "another process"
        finally:
            connection.close()
        return f"pool {pool} (supervisor {json.loads(holder)['pid']})"
    return "another process"
