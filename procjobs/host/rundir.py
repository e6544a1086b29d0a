"""The runtime directory of a pool: its place, its permissions, its owner.

    BASE/NAME.lock    held (flock) by the supervisor as long as it lives, and before that by the client that starts it
    BASE/NAME.begun   the attempts that a killed supervisor's workers had begun, until the pool's store has counted them
    BASE/NAME.waiting the jobs that a supervisor has handed over, until its successor has them
    BASE/NAME+items/  mode 0700, signed: the items of pull queues without a store; no pool can have this name
    BASE/NAME/        mode 0700
        .procjobs     the signature: procjobs has made the directory, and may remove it with everything in it
        socket        where clients connect
        table         the shared table
        annex         what a row of the table has no room for: the meta of jobs, failed attempts
        counts        how jobs of each kind have fared, and how long jobs wait
        trend         how busy the pool was in the last hour
        arguments     those of jobs, as texts for people, in a pool that records them
        log           messages of the pool, and the output of its jobs
        mark          the text that every process of the pool carries in its environment
        data-ID       progress data too big for the table
        checkpoint-ID what a job has handed over last with procjobs.checkpoint
        results-N     results beyond the memory bound

BASE is the first that exists or can be made of $XDG_RUNTIME_DIR/procjobs, /dev/shm/procjobs-UID and
TMPDIR/procjobs-UID. In a directory that is given and is root's and open to others (a volume of a container), it is
procjobs-UID in there. The holder of the lock may remove all files of an earlier owner: that one is dead.
Nothing is removed that procjobs has not signed (procjobs.host.signature): a BASE that is given may have files of others,
with the names of pools. A BASE that procjobs has made is signed too, and goes with its last pool.
A BASE that is given may be readable by others, as /run/NAME of a service is; nobody else may write to it or rename it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from typing import Final, NamedTuple

from procjobs.errors import ConfigurationError, SupervisorError
from procjobs.host import ownership, signature
from procjobs.host.descriptors import Descriptor, open_descriptor
from procjobs.host.signature import ForeignFileError
from procjobs.originals import close
from procjobs.shared import private_files

SOCKET: Final = "socket"
TABLE: Final = "table"
COUNTS: Final = "counts"
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
    def waiting(self) -> str:
        """The file with the jobs that a supervisor has handed over."""
        return f"{self.base}/{self.name}.waiting"

    @property
    def items(self) -> str:
        """The directory of the pool's pull queues."""
        return f"{self.base}/{self.name}+items"

    @property
    def socket(self) -> str:
        """The socket that clients connect to."""
        return f"{self.path}/{SOCKET}"

    @property
    def table(self) -> str:
        """The shared table."""
        return f"{self.path}/{TABLE}"

    @property
    def counts(self) -> str:
        """The counters of kinds of jobs, and of queues."""
        return f"{self.path}/{COUNTS}"

    @property
    def log(self) -> str:
        """The pool's log file."""
        return f"{self.path}/{LOG}"


def _runtime_directory() -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        return ""
    return f"{runtime}/{ownership.own_name() if ownership.is_shared_volume(runtime) else 'procjobs'}"


def _given_directory(path: str) -> str:
    """Return where the pools of a directory that is given are: in it, or in this user's own directory in it."""
    place = os.path.abspath(path)
    return f"{place}/{ownership.own_name()}" if ownership.is_shared_volume(place) else place


def _candidates() -> list[str]:
    runtime = _runtime_directory()
    parents = [path for path in ("/dev/shm", _temporary_directory()) if os.path.isdir(path)]  # noqa: S108 - see _claim
    return [runtime] * bool(runtime) + [f"{parent}/{ownership.own_name()}" for parent in parents]


def _temporary_directory() -> str:
    """Return TMPDIR or the like; an empty text if this process can write to none, as on a read-only root."""
    import tempfile

    try:
        return tempfile.gettempdir()
    except OSError:
        return ""


def find_base(explicit: str | None = None) -> str:
    """Return the directory that holds the pools' directories, made if need be.

    Raise SupervisorError when none can be used, and say why for each. An XDG_RUNTIME_DIR in which another user may have a
    hand is an error too: the pool that is meant is not in any other directory.
    """
    runtime = _runtime_directory()
    reasons = []
    for path in [_given_directory(explicit)] if explicit else _candidates():
        try:
            _claim(path)
        except OSError as error:
            reasons.append(f"{path}: {error.strerror or error}")
            if isinstance(error, ownership.UntrustedError) and not explicit and path == runtime:
                raise SupervisorError(
                    f"XDG_RUNTIME_DIR cannot be used: {reasons[-1]}. `su -` and `sudo -i` set the one of the new user; "
                    "or unset it, or set it to a directory of yours"
                ) from error
        else:
            if not explicit:
                signature.adopt_if_empty(path)
            return path
    raise SupervisorError(
        "no directory for the pool's socket and table can be used: " + "; ".join(reasons) + ". Set XDG_RUNTIME_DIR or "
        "Pool(directory=...) to a directory of yours, best on a tmpfs."
    )


def existing_bases(explicit: str | None = None) -> list[str]:
    """Return the directories of this user that may have pools, the one for new pools first; makes none.

    Often a service has no $XDG_RUNTIME_DIR and its administrator's shell has one: pools are in several directories.
    Raise SupervisorError for an explicit directory in which another user may have a hand; others of that kind are left out.
    """
    usual = f"/run/user/{os.geteuid()}/procjobs"
    candidates = [_given_directory(explicit)] if explicit else [*_candidates(), usual]
    found = []
    for path in dict.fromkeys(candidates):
        try:
            ownership.check_private_directory(path)
        except OSError as error:
            if explicit and isinstance(error, ownership.UntrustedError):
                raise SupervisorError(f"{path} is not read: {error.strerror or error}") from error
        else:
            found.append(path)
    return found


def others_bases(explicit: str) -> list[tuple[str, int]]:
    """Return the directories of other users in a shared one (`/tmp`, a volume) in which they have pools, with the uids."""
    place = os.path.abspath(explicit)
    found = []
    if ownership.is_shared_volume(place):
        for entry in os.scandir(place):
            with contextlib.suppress(OSError):
                uid = entry.stat(follow_symlinks=False).st_uid
                if entry.name == f"procjobs-{uid}" and uid != os.geteuid() and entry.is_dir(follow_symlinks=False):
                    found.append((entry.path, uid))
    return sorted(found)


def list_pools(base: str) -> list[RunDir]:
    """Return the pools in a base directory, by name: those that run, and those whose supervisor was killed."""
    with contextlib.suppress(FileNotFoundError):
        names = sorted(entry.removesuffix(".lock") for entry in os.listdir(base) if entry.endswith(".lock"))
        return [pool for pool in (RunDir(base, name) for name in names) if signature.is_signed_file(pool.lock)]
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
    except OSError:  # there are no locks in this file system
        return False
    finally:
        close(fd)
    return False


def _claim(path: str) -> None:
    """Make the directory, or check that the existing one may hold a pool. The mode of an existing one is never changed."""
    ownership.check_way(path)
    with contextlib.suppress(FileExistsError):
        private_files.make_directory(path)
        signature.sign_directory(path)
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


def try_lock(path: str) -> Descriptor | None:
    """Return the open file that holds the pool's lock until it is closed, None if another holds it. Does not block.

    Raise ForeignFileError where there are files or directories with the pool's name that procjobs did not make.
    """
    for _ in range(_LOCK_TRIES):
        try:
            file = open_descriptor(os.open, path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            _make_lock(path)
            continue
        if not signature.is_signed(file.fileno()):
            raise _foreign(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError:  # there are no locks in this file system, so nobody holds this one
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            raise
        if _is_still(file.fileno(), path):
            return file
        file.close()  # its owner removed it between open and flock: others will find another file than the locked one
    raise FileNotFoundError(errno.ENOENT, "no file can be made there, though its directory is there", path)


def _make_lock(path: str) -> None:
    """Make the lock's file, if nobody else is quicker, and its directory if the last pool to end has just removed it."""
    directory = path.removesuffix(".lock")
    if os.path.lexists(directory) and not signature.is_signed_directory(directory):
        raise _foreign(directory)
    try:
        signature.make_signed_file(path)
    except FileExistsError:
        return
    except FileNotFoundError:
        _claim(os.path.dirname(path))


def _foreign(path: str) -> ForeignFileError:
    kind = "a link" if os.path.islink(path) else "a directory" if os.path.isdir(path) else "a file"
    return ForeignFileError(
        f"{path} is {kind} that procjobs did not make, and does not touch: give the pool another name or directory=, or "
        "remove it if nobody needs it"
    )


def _is_still(fd: int, path: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(path))
    return False


def make_fresh(rundir: RunDir) -> None:
    """Remove the files of a dead owner and make the directory anew. Only for the holder of the lock.

    Raise ForeignFileError if there is anything with the directory's name that procjobs did not make.
    """
    if not _remove_directory(rundir):
        raise _foreign(rundir.path)
    private_files.make_directory(rundir.path)
    signature.sign_directory(rundir.path)


def _remove_directory(rundir: RunDir) -> bool:
    """Remove the pool's directory, if it is ours; return whether it is gone. Only for the holder of the lock."""
    with contextlib.suppress(OSError):  # empty and not signed: its owner was killed when it had just made it
        os.rmdir(rundir.path)
    return signature.remove_signed_directory(rundir.path)


def make_items_directory(rundir: RunDir) -> None:
    """Make the directory of the pool's pull queues where there is none, and have it signed.

    Raise ForeignFileError if there is anything with its name that procjobs did not make.
    """
    if signature.is_signed_directory(rundir.items):
        return
    with contextlib.suppress(FileExistsError):
        private_files.make_directory(rundir.items)
    signature.adopt_if_empty(rundir.items)
    if not signature.is_signed_directory(rundir.items):
        raise _foreign(rundir.items)


def write_mark(rundir: RunDir, mark: str) -> None:
    """Leave the mark of the pool's processes for the supervisor that takes over after a kill."""
    with open(private_files.create(f"{rundir.path}/{MARK}"), "w") as file:
        file.write(mark)


def read_mark(rundir: RunDir) -> str | None:
    """Return the mark that a dead owner has left, None if there is none."""
    if not signature.is_signed_directory(rundir.path):
        return None
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
        if not _is_still(lock, rundir.lock):
            retaken = try_lock(rundir.lock) if os.path.exists(rundir.base) else None
            if retaken is None:
                return
    remove(rundir)


def remove_own_directory(rundir: RunDir, lock: int) -> bool:
    """Remove the pool's directory, and nothing else; return False if the lock is not this descriptor's any more."""
    if not _is_still(lock, rundir.lock):
        return False
    _remove_directory(rundir)
    return True


def remove(rundir: RunDir) -> None:
    """Remove everything of the pool that procjobs has made, the lock file last. Only for the holder of the lock."""
    _remove_directory(rundir)
    if signature.is_signed_file(rundir.lock):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(rundir.lock)
    signature.remove_if_empty(rundir.base)


def sweep_stale(base: str, end_processes: Callable[[str], None], keep: Callable[[RunDir], None]) -> None:
    """Remove the files of pools whose supervisors were killed: those names may never be used again.

    `end_processes(mark)` is called for pools that left a mark, `keep(rundir)` before anything is removed.
    """
    signature.sweep_parts(base)
    for rundir in list_pools(base):
        with contextlib.suppress(OSError):
            lock = try_lock(rundir.lock)
            if lock is not None:
                mark = read_mark(rundir)
                if mark is not None:
                    end_processes(mark)
                keep(rundir)
                remove(rundir)
                lock.close()
