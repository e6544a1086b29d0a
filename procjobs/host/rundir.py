"""The runtime directory of a pool: its place, its permissions, its owner.

    BASE/NAME.lock    held (flock) by the supervisor as long as it lives, and before that by the client that starts it
    BASE/NAME.begun   the attempts that a killed supervisor's workers had begun, until the pool's store has counted them
    BASE/NAME/        mode 0700
        socket        where clients connect
        table         the shared table
        log           messages of the pool, and the output of its jobs
        mark          the text that every process of the pool carries in its environment
        data-ID       progress data too big for the table
        results-N     results beyond the memory bound

BASE is the first that exists or can be made of $XDG_RUNTIME_DIR/procjobs, /dev/shm/procjobs-UID and
TMPDIR/procjobs-UID. The holder of the lock may remove all files of an earlier owner: that one is dead.
A BASE that is given may be readable by others, as /run/NAME of a service is; nobody else may write to it or rename it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from typing import Final, NamedTuple

from procjobs.errors import ConfigurationError, SupervisorError
from procjobs.host import ownership
from procjobs.shared import private_files

SOCKET: Final = "socket"
TABLE: Final = "table"
LOG: Final = "log"
MARK: Final = "mark"
PRIVATE_PREFIX: Final = "private-"
_LOCK_TRIES: Final = 1000
_LONGEST_SOCKET_PATH: Final = 107  # sun_path of unix(7), less its closing zero


class RunDir(NamedTuple):
    """The paths of one pool."""

    base: str
    name: str

    @property
    def path(self) -> str:
        """The pool's directory."""
        return f"{self.base}/{self.name}"

    @property
    def lock(self) -> str:
        """The pool's lock file."""
        return f"{self.base}/{self.name}.lock"

    @property
    def begun(self) -> str:
        """The file with the attempts that a killed supervisor's workers had begun."""
        return f"{self.base}/{self.name}.begun"

    @property
    def socket(self) -> str:
        """The socket that clients connect to."""
        return f"{self.path}/{SOCKET}"

    @property
    def table(self) -> str:
        """The shared table."""
        return f"{self.path}/{TABLE}"

    @property
    def log(self) -> str:
        """The pool's log file."""
        return f"{self.path}/{LOG}"


def _candidates() -> list[str]:
    import tempfile

    runtime = os.environ.get("XDG_RUNTIME_DIR")
    named = [f"{runtime}/procjobs"] if runtime else []
    parents = [p for p in ("/dev/shm", tempfile.gettempdir()) if os.path.isdir(p)]  # noqa: S108 - checked by _claim
    return named + [f"{parent}/procjobs-{os.geteuid()}" for parent in parents]


def find_base(explicit: str | None = None) -> str:
    """Return the directory that holds the pools' directories, made if need be.

    Raise SupervisorError when none can be used, and say why for each.
    """
    reasons = []
    for path in [os.path.abspath(explicit)] if explicit else _candidates():
        try:
            _claim(path)
        except OSError as error:
            reasons.append(f"{path}: {error.strerror or error}")
        else:
            return path
    raise SupervisorError(
        "no directory for the pool's socket and table can be used: " + "; ".join(reasons) + ". Set XDG_RUNTIME_DIR or "
        "Pool(directory=...) to a directory of yours, best on a tmpfs."
    )


def existing_bases(explicit: str | None = None) -> list[str]:
    """Return the directories of this user that may have pools, the one for new pools first; makes none.

    Often a service has no $XDG_RUNTIME_DIR and its administrator's shell has one: pools are in several directories.
    """
    usual = f"/run/user/{os.geteuid()}/procjobs"
    candidates = [os.path.abspath(explicit)] if explicit else [*_candidates(), usual]
    return [path for path in dict.fromkeys(candidates) if _is_own(path)]


def _is_own(path: str) -> bool:
    try:
        ownership.check_private_directory(path)
    except OSError:
        return False
    return True


def list_pools(base: str) -> list[RunDir]:
    """Return the pools in a base directory, by name: those that run, and those whose supervisor was killed."""
    with contextlib.suppress(FileNotFoundError):
        names = sorted(entry.removesuffix(".lock") for entry in os.listdir(base) if entry.endswith(".lock"))
        return [RunDir(base, name) for name in names]
    return []


def is_held(path: str) -> bool:
    """Return whether a process holds the pool's lock: its supervisor, or a client that starts it. Makes no file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two processes that look do not see each other
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _claim(path: str) -> None:
    """Make the directory, or check that the existing one may hold a pool. The mode of an existing one is never changed."""
    ownership.check_way(os.path.dirname(path))
    with contextlib.suppress(FileExistsError):
        private_files.make_directory(path)
    ownership.check_private_directory(path)
    if not os.access(path, os.W_OK | os.X_OK):
        raise OSError("it cannot be written")


def check_socket_path(rundir: RunDir) -> None:
    """Raise ConfigurationError if the socket's path is longer than the kernel allows."""
    if len(os.fsencode(rundir.socket)) > _LONGEST_SOCKET_PATH:
        raise ConfigurationError(
            f"the path {rundir.socket} is longer than the {_LONGEST_SOCKET_PATH} bytes that a Unix socket may have: "
            "choose a shorter name or Pool(directory=...)"
        )


def try_lock(path: str) -> int | None:
    """Return a descriptor that holds the pool's lock, None if another process holds it. Does not block."""
    for _ in range(_LOCK_TRIES):
        try:
            fd = private_files.open_or_create(path, os.O_NOFOLLOW)
        except FileNotFoundError:  # the last pool to end has just removed the empty base
            _claim(os.path.dirname(path))
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if _is_still(fd, path):
            return fd
        os.close(fd)  # its owner removed it between open and flock: others will find another file than the locked one
    raise FileNotFoundError(errno.ENOENT, "no file can be made there, though its directory is there", path)


def _is_still(fd: int, path: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(path))
    return False


def make_fresh(rundir: RunDir) -> None:
    """Remove the files of a dead owner and make the directory anew. Only for the holder of the lock."""
    if os.path.islink(rundir.path) or os.path.isfile(rundir.path):
        os.unlink(rundir.path)
    shutil.rmtree(rundir.path, ignore_errors=True)
    private_files.make_directory(rundir.path)


def write_mark(rundir: RunDir, mark: str) -> None:
    """Leave the mark of the pool's processes for the supervisor that takes over after a kill."""
    with open(private_files.create(f"{rundir.path}/{MARK}"), "w") as file:
        file.write(mark)


def read_mark(rundir: RunDir) -> str | None:
    """Return the mark that a dead owner has left, None if there is none."""
    try:
        with open(f"{rundir.path}/{MARK}") as file:
            return file.read(64) or None
    except (OSError, ValueError):
        return None


def close_to_new_clients(rundir: RunDir) -> None:
    """Take the socket away: a client that comes now waits for the lock and starts a supervisor."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(rundir.socket)


def remove_own(rundir: RunDir, lock: int) -> None:
    """Remove everything of the pool whose lock is this descriptor, unless another supervisor has taken the name over.

    That is possible if the lock file, or all of the base directory, was removed while the pool was running.
    """
    with contextlib.suppress(OSError):
        if not _is_still(lock, rundir.lock) and (not os.path.exists(rundir.base) or try_lock(rundir.lock) is None):
            return
    remove(rundir)


def remove(rundir: RunDir) -> None:
    """Remove everything of the pool, the lock file last. Only for the holder of the lock."""
    shutil.rmtree(rundir.path, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(rundir.lock)
    if os.path.basename(rundir.base).startswith("procjobs"):  # one of ours, not a directory that the user gave
        with contextlib.suppress(OSError):  # there are other pools
            os.rmdir(rundir.base)


def sweep_stale(base: str, end_processes: Callable[[str], None], keep: Callable[[RunDir], None]) -> None:
    """Remove the files of pools whose supervisors were killed: those names may never be used again.

    `end_processes(mark)` is called for pools that left a mark, `keep(rundir)` before anything is removed.
    """
    for entry in os.listdir(base):
        if entry.endswith(".lock"):
            rundir = RunDir(base, entry.removesuffix(".lock"))
            with contextlib.suppress(OSError):
                fd = try_lock(rundir.lock)
                if fd is not None:
                    mark = read_mark(rundir)
                    if mark is not None:
                        end_processes(mark)
                    keep(rundir)
                    remove(rundir)
                    os.close(fd)
