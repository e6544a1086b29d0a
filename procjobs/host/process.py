"""Starting, stopping and reaping processes: the only module that forks, kills or waits.

Workers are forked twice. The process between sends the worker's pid to the supervisor and ends at once, so the kernel
gives the worker to the nearest subreaper among its ancestors, which is the supervisor. The gains:

1. The supervisor learns every exit status from the kernel itself, and no pid is used again before it has been reaped.
2. PR_SET_PDEATHSIG in the worker is tied to the supervisor, so even `kill -9` of the supervisor kills the workers, in any
   code they run; the death of the template does not disturb them.
3. Processes that a dead worker leaves running become the supervisor's children, in any session. So the supervisor finds
   and kills them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, NoReturn

from procjobs.errors import UnsupportedPlatform
from procjobs.host import observe
from procjobs.originals import close, original, posix_spawn, waitpid

PR_SET_PDEATHSIG: Final = 1
PR_SET_NAME: Final = 15
PR_SET_CHILD_SUBREAPER: Final = 36
PR_GET_CHILD_SUBREAPER: Final = 37
FIRST_PASSED_FD: Final = 3
STACK_SIGNAL: Final = int(signal.SIGRTMIN) + 9
"""Makes a worker dump its stack. Few programs use real-time signals; programs that a worker starts do not inherit it."""
TELL_SIGNAL: Final = int(signal.SIGRTMIN) + 11
"""The same from the interpreter's main loop, for workers with several threads; see procjobs.supervisor.workers.stacks."""
STACK_END: Final = b"\0"
"""Ends a stack that a worker has dumped at TELL_SIGNAL."""
SOFT_SIGNAL: Final = int(signal.SIGRTMIN) + 10
"""Raises JobTimeout in a worker's job."""
_MAX_POLL_SECONDS: Final = 86_400.0  # poll(2) takes milliseconds in an int
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


class Exit(NamedTuple):
    """How a process ended: by a signal, or with an exit code; the other is None.

    `peak_bytes` is the highest resident size of the process, or of one that it has waited for (getrusage(2)).
    """

    pid: int
    signal: int | None
    code: int | None
    peak_bytes: int = 0


def check_platform() -> None:
    """Raise UnsupportedPlatform where the pool cannot keep its promises."""
    if not sys.platform.startswith("linux"):
        raise UnsupportedPlatform(
            f"procjobs needs Linux, and this is {sys.platform}: its supervisor is built on subreapers, parent-death "
            "signals and descriptors passed over Unix sockets. On Windows, the Windows Subsystem for Linux will do."
        )


def _prctl(option: int, value: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def become_subreaper() -> None:
    """Make orphans among this process's descendants its own children (prctl(2), PR_SET_CHILD_SUBREAPER).

    Raise UnsupportedPlatform where the kernel refuses it: the workers of a pool would be nobody's.
    """
    try:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
    except OSError as error:
        raise UnsupportedPlatform(
            f"the kernel refuses prctl(PR_SET_CHILD_SUBREAPER) ({os.strerror(error.errno or 0)}), and a supervisor must be "
            "the parent of its workers: allow it in the seccomp profile of the container or service"
        ) from error


def ask_subreaper() -> None:
    """Raise OSError where this process could not become a subreaper; changes nothing."""
    import ctypes

    _prctl(PR_GET_CHILD_SUBREAPER, ctypes.addressof(ctypes.c_int()))


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when `parent_pid`, its parent, dies; end at once if it is dead already.

    The signal is tied to the parent's thread that made the child, so the parent must have one thread (prctl(2)). Where the
    kernel refuses it, this process goes on: it sees the end of its pipe when the parent has gone.
    """
    with contextlib.suppress(OSError):
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def outlive_parent() -> None:
    """Undo `die_with_parent`."""
    with contextlib.suppress(OSError):
        _prctl(PR_SET_PDEATHSIG, 0)


def spawn(args: list[str], *, env: Mapping[str, str], stdin: int, passed: Sequence[int], own_session: bool) -> int:
    """Start a fresh program and return its pid. Its descriptors 3, 4, ... are those in `passed`; no others leak."""
    safe: list[int] = []
    try:
        first_safe = FIRST_PASSED_FD + len(passed)
        safe.extend(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, first_safe) for fd in passed)
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, fd, FIRST_PASSED_FD + n) for n, fd in enumerate(safe)]
        try:
            return _spawn(args, env, actions, own_session=own_session)
        except PermissionError:  # by a filter for setsid(2): then a signal to our group, such as Ctrl-C, reaches it too
            return _spawn(args, env, actions, own_session=False)
    finally:
        for fd in safe:
            close(fd)


def _spawn(args: list[str], env: Mapping[str, str], actions: list[tuple[int, int, int]], *, own_session: bool) -> int:
    return posix_spawn(
        args[0], args, env, file_actions=actions, setsid=own_session, setsigmask=[], setsigdef=[signal.SIGPIPE]
    )


def spawn_linked(
    args: list[str], *, env: Mapping[str, str], kind: int = socket.SOCK_STREAM, passed: Sequence[int] = ()
) -> tuple[int, socket.socket]:
    """Start a fresh program in a session of its own; return its pid, and our end of a pair of sockets.

    Its end is its descriptor 3, those `passed` come after it, and it has no input. OSError or ValueError if it cannot be
    started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    try:
        with theirs, open(os.devnull, "rb") as null:
            pid = spawn(args, env=env, stdin=null.fileno(), passed=[theirs.fileno(), *passed], own_session=True)
    except (OSError, ValueError):
        ours.close()
        raise
    return pid, ours


def fork_to_subreaper(child: Callable[[], NoReturn], tell: Callable[[int], None]) -> int:
    """Fork a process that belongs to the nearest subreaper, run `child` in it, and return its pid here.

    For a process with one thread. `tell(pid)` is called in the process between, before the new one changes parents, so
    that the subreaper can hear of the new child before it has it. OSError when a fork is refused.
    """
    status_read, status_write = os.pipe()
    try:
        with warnings.catch_warnings():
            # Libraries such as OpenBLAS start native threads on import and stop them around a fork by themselves.
            warnings.simplefilter("ignore", DeprecationWarning)
            between = os.fork()
            if between == 0:
                _fork_again(child, tell, status_write)
        close(status_write)
        status_write = -1
        status = int(os.read(status_read, 16) or b"0")
    finally:  # a template that may not fork tries again and again
        for fd in (status_read, status_write):
            if fd >= 0:
                close(fd)
    os.waitpid(between, 0)
    if status <= 0:
        raise OSError(-status, os.strerror(-status) if status else "the process between was killed")
    return status


def _fork_again(child: Callable[[], NoReturn], tell: Callable[[int], None], status: int) -> NoReturn:
    try:
        pid = os.fork()
    except OSError as error:
        os.write(status, str(-(error.errno or 0)).encode())
        os._exit(1)
    if pid == 0:
        close(status)
        child()
    try:
        tell(pid)
        os.write(status, str(pid).encode())
    finally:
        os._exit(0)


def try_fork(seconds: float) -> bool:
    """Fork a child that ends at once; return whether it has. After these seconds it is killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    has_ended = wait_for_child(pid, seconds)
    if not has_ended:
        kill_process(pid, signal.SIGKILL)
        wait_for_child(pid, seconds)
    return has_ended


def fork_daemon() -> None:
    """Go on in a child that init adopts; the calling process ends with status 0."""
    if os.fork():
        os._exit(0)


def wait_for_new_parent(parent_pid: int) -> None:
    """Return when this process has been given to `parent_pid`; end it if that never happens.

    Only the scheduler stands between the two forks; it takes some tens of microseconds.
    """
    deadline = time.monotonic() + 5.0
    while os.getppid() != parent_pid:
        if time.monotonic() > deadline:
            os._exit(1)
        os.sched_yield()


def reap_children(before_reaping: Callable[[int], None]) -> Iterator[Exit]:
    """Yield every child that has ended, without blocking.

    `before_reaping(pid)` is called while the zombie still has the pid, so its process group can be killed without any
    danger of hitting another process.
    """
    while True:
        try:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if info is None:
            return
        before_reaping(info.si_pid)
        _, _, usage = os.wait4(info.si_pid, 0)
        peak_bytes = usage.ru_maxrss * 1024
        if info.si_code == os.CLD_EXITED:
            yield Exit(info.si_pid, None, info.si_status, peak_bytes)
        else:
            yield Exit(info.si_pid, info.si_status, None, peak_bytes)


def wait_for_child(pid: int, timeout: float) -> bool:
    """Wait until this child has ended and reap it; return whether it did. Another caller may have reaped it."""
    child = watch(pid)
    if child is None:
        return True
    try:
        if not child.wait(timeout):
            return False
    finally:
        child.close()
    with contextlib.suppress(ChildProcessError):
        waitpid(pid, 0)
    return True


class WatchedProcess:
    """A process whose end is awaited; `close` it. Its number may be another one's by then.

    `fd` becomes readable at its end (pidfd_open(2)). It is -1 where the kernel is older than 5.3, a seccomp filter refuses
    the call, or no descriptor is left; then `wait` looks again and again.
    """

    __slots__ = ("_pid", "_started", "fd")

    def __init__(self, pid: int, fd: int) -> None:
        self.fd = fd
        self._pid = pid
        self._started = observe.start_ticks(pid) if fd < 0 else None

    def wait(self, timeout: float) -> bool:
        """Wait until the process has ended; return whether it did."""
        if self.fd >= 0:
            return wait_for_pidfd(self.fd, timeout)
        deadline = time.monotonic() + timeout
        pause = _FIRST_PAUSE
        while not self.has_ended():
            if time.monotonic() >= deadline:
                return False
            original("time", "sleep")(min(pause, max(deadline - time.monotonic(), 0.0)))
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        return True

    def has_ended(self) -> bool:
        """Return whether the process has ended. Does not block."""
        if self.fd >= 0:
            return wait_for_pidfd(self.fd, 0.0)
        with contextlib.suppress(ChildProcessError):  # no child of this process: then the kernel tells less
            return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        if observe.sees_processes():
            return self._started is None or observe.start_ticks(self._pid) != self._started
        return not _exists(self._pid)

    def close(self) -> None:
        """Let go of the process."""
        if self.fd >= 0:
            close(self.fd)


def watch(pid: int) -> WatchedProcess | None:
    """Return a process whose end can be awaited; None if there is no such process."""
    try:
        return WatchedProcess(pid, os.pidfd_open(pid))
    except ProcessLookupError:
        return None
    except OSError:
        return WatchedProcess(pid, -1) if _exists(pid) else None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def wait_for_pidfd(pidfd: int, timeout: float) -> bool:
    """Wait until the process behind a pidfd has ended, or a pipe can be read; return whether it is so."""
    import select

    poll = original("select", "poll")()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(min(max(timeout, 0.0), _MAX_POLL_SECONDS) * 1000))


def kill_process(pid: int, number: int) -> None:
    """Send a signal to a child that has not been reaped; nothing happens if it is dead already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def kill_group(pid: int, number: int) -> None:
    """Send a signal to the process group of a child that has not been reaped (its zombie keeps the number taken)."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:  # forked a moment ago, it does not lead its group yet; or it has died
        kill_process(pid, number)
    except PermissionError:
        pass


def has_children() -> bool:
    """Return whether this process has any child, running or not reaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def end_children(spared: set[int], seconds: float) -> None:
    """Kill and reap this process's children and all of their descendants, except those spared and the DETACHED.

    For a subreaper: it adopts the children of a killed child, and kills them in turn. Gives up after this number of seconds
    (a process that hangs in the kernel cannot be killed).
    """
    deadline = time.monotonic() + seconds
    while (doomed := observe.own_children() - spared) and time.monotonic() < deadline:
        for pid in doomed:
            kill_process(pid, signal.SIGKILL)
        for pid in doomed:
            wait_for_child(pid, max(deadline - time.monotonic(), 0.0))


def be_nice(increment: int) -> None:
    """Add to the niceness of this process, where the kernel lets it: a job at the wrong one is better than none."""
    if increment:
        with contextlib.suppress(OSError):
            os.nice(increment)


def try_yield_as_group(nice: int) -> bool:
    """Set the niceness of this process's session among all sessions; return False if it is to be tried again.

    Where the kernel divides the CPUs among sessions (sched(7), autogroup), the niceness of a process counts only within its
    session. Without privileges, the kernel takes one such change in 0.1 s from the whole host.
    """
    try:
        with open("/proc/self/autogroup", "w") as file:
            file.write(str(nice))
    except BlockingIOError:
        return False
    except OSError:
        pass  # no such kernel, or not allowed: then sessions are all alike
    return True


def offer_to_oom_killer() -> None:
    """Have the kernel, when it runs out of memory, take this process before others (proc(5), oom_score_adj)."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/oom_score_adj", "r+") as file:
        score = min(int(file.read()) + 500, 1000)
        file.seek(0)
        file.write(str(score))


def kill_marked(mark: str) -> None:
    """Kill every other process of this user that was started with this MARK in its environment, except the DETACHED.

    For processes that jobs have started in sessions of their own, when no subreaper is left to adopt them.
    """
    for pid in observe.marked_processes(mark):
        kill_process(pid, signal.SIGKILL)


def lead_new_session() -> None:
    """Make this process the leader of a session and process group of its own; or of a group, where there is no more."""
    try:
        os.setsid()
    except OSError:  # by a filter: it is no group leader
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)


def unblock_signals() -> None:
    """Let every signal through: a program started in the foreground inherits the signals that its starter has blocked."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def set_title(title: str) -> None:
    """Set the name that `ps -o comm` and `top` show (15 bytes)."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_NAME, title.encode()[:15], 0, 0, 0)
