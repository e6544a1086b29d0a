"""Who holds an item: one thread of one process, written so that other processes can tell later whether it has ended.

1. Where the process can be seen (same kernel, same pid namespace), the kernel decides: its pid with its start time, and the
   thread with its own start time. A process that was stopped (SIGSTOP) has not ended; a zombie has.
2. Elsewhere (another container, another host) the lock of the process decides. It has the number of the process, which is
   random and never used again, and it ends with the process. A file beside an SQLite database has one byte for each number
   (`FileLocks`); in PostgreSQL it is an advisory lock of the session (`SessionLocks`).
3. A session ends with its connection, too, and the process renews it. So a lock in PostgreSQL counts as gone only when it
   was missing for GRACE seconds.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import text

from procjobs.clock import monotonic, sleep
from procjobs.errors import StoreUnavailable
from procjobs.host import observe
from procjobs.host.identity import Identity, identify
from procjobs.originals import close, original
from procjobs.shared import private_files

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from sqlalchemy.engine import Connection

GRACE: Final = 4.0
"""How many seconds the lock of a process in PostgreSQL has to be missing. With one look in a second, its items come back
within 6 seconds."""
_HELD: Final = text(
    "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_KEEPALIVE: Final = ("tcp_keepalives_idle = 5", "tcp_keepalives_interval = 2", "tcp_keepalives_count = 3")
_LOCK_STRUCT: Final = "hhqqi"  # struct flock of fcntl(2): type, whence, start, length, pid
_GATE_TIMEOUT: Final = 10.0
_FIRST_PAUSE: Final = 0.0002
_LONGEST_PAUSE: Final = 0.005


class Holder(NamedTuple):
    """One thread of one process; a greenlet counts as a thread. `serial` tells the threads of a process apart."""

    number: int
    serial: int
    thread: int
    thread_started: int
    process: Identity

    def __str__(self) -> str:
        """Return the text that stands in the database."""
        of = self.process
        words = (of.pid, of.started, self.thread, self.thread_started, of.namespace, of.boot or "-", of.host or "-")
        return f"{self.number}.{self.serial} " + " ".join(map(str, words))

    def has_visibly_ended(self) -> bool | None:
        """Return whether it has ended, None where that cannot be seen from here."""
        if not self.process.is_visible:
            return None
        pid = self.process.pid
        return self.process.has_ended() or observe.thread_start_ticks(pid, self.thread) != self.thread_started


def describe_thread(number: int, serial: int) -> Holder:
    """Return the calling thread as a holder; `number` is that of this process."""
    thread = original("_thread", "get_native_id")()
    started = observe.thread_start_ticks(os.getpid(), thread) or 0
    return Holder(number, serial, thread, started, identify(os.getpid()))


def parse_holder(written: str) -> Holder | None:
    """Return the holder that a text describes; None for a text that is none, which others have written."""
    try:
        first, pid, started, thread, thread_started, namespace, boot, host = written.split(" ")
        number, serial = first.split(".")
        process = Identity(host, boot.removeprefix("-"), int(namespace), int(pid), int(started))
        return Holder(int(number), int(serial), int(thread), int(thread_started), process)
    except ValueError:
        return None


class Locks(ABC):
    """The locks of processes that take items from one database. `number` is that of this process.

    `grace` is how many seconds the lock of a process has to be missing until it counts as gone.
    """

    grace = 0.0

    def __init__(self) -> None:
        self.number = secrets.randbits(61) + 1

    @abstractmethod
    def prepare(self, connection: Connection) -> None:
        """Make a new connection one whose end is noticed soon after that of its process."""

    @abstractmethod
    def hold(self, connection: Connection) -> None:
        """Take the lock of this process, where it has not got it."""

    @abstractmethod
    def find_held(self, connection: Connection, numbers: AbstractSet[int]) -> set[int]:
        """Return which of these numbers are those of processes that have not ended."""

    @abstractmethod
    def enter(self) -> None:
        """Wait for the turn of this process to write. Raise StoreUnavailable where another one does not leave."""

    @abstractmethod
    def leave(self) -> None:
        """Let other processes write; nothing happens where it is not the turn of this one."""

    @abstractmethod
    def renew(self) -> None:
        """Find out where the locks are, before a new connection is used."""

    @abstractmethod
    def forget(self) -> None:
        """Leave the locks alone, in a child to which they do not belong."""


class FileLocks(Locks):
    """Locks of fcntl(2) on the bytes of a file beside an SQLite database. The kernel drops them at the end of a process.

    A child does not inherit them. The file stays open as long as it is there: to close any descriptor of it would drop them.

    Byte 0 is the right to write. Two processes that write one write-ahead log at the same instant can corrupt it (until
    SQLite 3.51.3), and SQLite's own way to wait for a writer may leave one out for long.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._fd = private_files.open_or_create(path)

    def prepare(self, connection: Connection) -> None:
        """Do nothing: these locks are not the connection's."""

    def hold(self, connection: Connection) -> None:
        """Lock the byte of this process."""
        del connection
        fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self.number)

    def find_held(self, connection: Connection, numbers: AbstractSet[int]) -> set[int]:
        """Return whose bytes are locked. The kernel does not show this process its own lock."""
        del connection
        return {number for number in numbers if number == self.number or self._find_owner(number) is not None}

    def _find_owner(self, number: int) -> int | None:
        """Return the pid of the process that has locked this byte (0 for one that cannot be seen), None if none has."""
        asked = struct.pack(_LOCK_STRUCT, fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        kind, *_, pid = struct.unpack(_LOCK_STRUCT, fcntl.fcntl(self._fd, fcntl.F_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else int(pid)

    def enter(self) -> None:
        """Lock byte 0; raise StoreUnavailable after ten seconds."""
        deadline = monotonic() + _GATE_TIMEOUT
        pause = _FIRST_PAUSE
        while not self._try_enter():
            if monotonic() > deadline:
                raise StoreUnavailable(
                    f"process {self._find_owner(0) or '?'} has been writing to the queue for {_GATE_TIMEOUT:.0f} s (it has "
                    f"the lock of {self._path}): perhaps it was stopped in the middle. Let it continue, or end it"
                )
            sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _try_enter(self) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
        except (BlockingIOError, PermissionError):  # fcntl(2): one of these two
            return False
        return True

    def leave(self) -> None:
        """Unlock byte 0."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, 0)

    def renew(self) -> None:
        """Open the file again, where it was removed or replaced."""
        if not os.path.exists(self._path) or not os.path.samestat(os.stat(self._path), os.fstat(self._fd)):
            close(self._fd)  # of a file that nobody will open any more
            self._fd = private_files.open_or_create(self._path)

    def forget(self) -> None:
        """Close the descriptor; the locks of the parent stay."""
        close(self._fd)


class SessionLocks(Locks):
    """Advisory locks of PostgreSQL, which belong to the session of a connection. The server orders writers by itself."""

    grace = GRACE

    def prepare(self, connection: Connection) -> None:
        """Have the server notice within some ten seconds that the host of this session has lost its power."""
        for setting in _KEEPALIVE:
            connection.execute(text(f"SET {setting}"))

    def hold(self, connection: Connection) -> None:
        """Take the lock for this session, once more where it has it."""
        # False where the session before, whose connection broke, has it still: its end is noticed later.
        connection.execute(text("SELECT pg_try_advisory_lock(:number)"), {"number": self.number})

    def find_held(self, connection: Connection, numbers: AbstractSet[int]) -> set[int]:
        """Return whose locks a session has."""
        return {number for number in connection.scalars(_HELD) if number in numbers} | ({self.number} & numbers)

    def enter(self) -> None:
        """Do nothing."""

    def leave(self) -> None:
        """Do nothing."""

    def renew(self) -> None:
        """Do nothing."""

    def forget(self) -> None:
        """Do nothing."""
