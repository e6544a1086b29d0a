"""Reaching a pool's supervisor: connect to the one that is there, or start one under the pool's lock."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from procjobs.clock import monotonic, sleep
from procjobs.errors import SupervisorError
from procjobs.host import cpus, observe, ownership, payload, process, rundir, shortages, signature
from procjobs.host.descriptors import Descriptor
from procjobs.originals import original
from procjobs.shared.config import PoolSettings
from procjobs.shared.hello import STARTED
from procjobs.store import started_attempts

START_TIMEOUT: Final = 30.0
_START: Final = """if True:
    import sys, os
    try:
        if sys.argv[1] == 'daemon' and os.fork(): os._exit(0)
        sys.path[:] = sys.argv[2].split('\\n')
        from procjobs.supervisor.boot import main
    except BaseException as error:  # no process, no memory, no descriptor for a module
        os.write(4, f"its program could not be loaded: {type(error).__name__}: {error}\\n".encode())
        os._exit(1)
    main()
"""
_KILLED: Final = (
    "it was killed while it started. If the host or its control group was short of memory, the kernel's log says so"
)


def reach(directory: rundir.RunDir, settings: Callable[[], PoolSettings], *, private: bool) -> socket.socket:
    """Return a socket to the pool's supervisor, started if there is none; `settings` is called only then.

    Blocks until that is done. Raise SupervisorError if it cannot be started, or not within START_TIMEOUT, and
    ConfigurationError if the settings ask for CPUs that the host does not have.
    """
    deadline = monotonic() + START_TIMEOUT
    pause = 0.001
    starts = 0
    chosen: PoolSettings | None = None
    while True:
        sock = try_connect(directory)
        if sock is not None:
            return sock
        chosen = chosen or settings()
        check_startable(chosen)
        lock = try_lock(directory)
        if lock is not None:
            with lock:
                if starts and (private or monotonic() > deadline):
                    raise SupervisorError(
                        f"the supervisor of pool {directory.name!r} ended as soon as it had started, {starts} time(s). See "
                        f"{directory.log}; if the host or its control group was short of memory, the kernel's log says so"
                    )
                _start(directory, chosen, lock, private=private)
            starts += 1  # it can be connected to now, unless a service has taken the pool over in this very moment
        # Another process holds the lock: it is starting a supervisor, or it is one that is just about to end.
        elif monotonic() > deadline:
            raise unreachable(directory)
        else:
            sleep(pause)
            pause = min(pause * 1.5, 0.05)


def await_pool(directory: rundir.RunDir, deadline: float, is_given_up: Callable[[], bool]) -> socket.socket | None:
    """Return a socket to the pool's supervisor, which another process starts; None if there is none until the deadline.

    Or until `is_given_up` says that nobody waits any more. A deadline that has passed allows one look.
    """
    pause = 0.001
    while True:
        sock = try_connect(directory)
        if sock is not None or is_given_up() or monotonic() >= deadline:
            return sock
        sleep(min(pause, max(deadline - monotonic(), 0.0)))
        pause = min(pause * 1.5, 0.05)


def start_with_lock(directory: rundir.RunDir, settings: PoolSettings, lock: Descriptor) -> None:
    """Start a supervisor of a named pool whose lock this process holds, as `reach` does; the lock is closed here."""
    with lock:
        check_startable(settings)
        _start(directory, settings, lock, private=False)


def unreachable(directory: rundir.RunDir) -> SupervisorError:
    """Return the error that tells of a pool whose lock is held while nobody answers."""
    return SupervisorError(
        f"pool {directory.name!r} cannot be reached: a process holds {directory.lock} but does not answer on "
        f"{directory.socket}. Is its supervisor stopped? See {directory.log}"
    )


def check_startable(settings: PoolSettings) -> None:
    """Refuse CPUs that this host does not have, before there is anything that would be left behind."""
    cpus.check_usable(settings.affinity, cpus.usable_cpu_numbers())


def become_supervisor(
    directory: rundir.RunDir, settings: PoolSettings, lock: Descriptor, key: str, spec: Mapping[str, Any]
) -> NoReturn:
    """Let this process become the supervisor of a named pool, in the foreground, with the code that it begins with.

    It holds the pool's lock, and goes on under the same pid, which is the one that a service manager knows. Raise
    SupervisorError if the interpreter cannot be started.
    """
    code = {"key": key, "executable": interpreter()}
    try:
        boot = payload.memory_file(json.dumps(_describe_boot(directory, settings, None, code)).encode(), directory.base)
        code_spec = payload.memory_file(json.dumps(spec).encode(), directory.base)
        # An interpreter that runs a command line has nothing open under these numbers that would be missed.
        opened = boot.fileno(), lock.fileno(), 2, code_spec.fileno()
        safe = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 6) for fd in opened]
        for fd, number in zip(safe, (0, 3, 4, 5), strict=True):
            os.dup2(fd, number)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(interpreter(), _arguments("foreground"), _environment(private=False))  # noqa: S606 - as in process.spawn
    except OSError as error:
        rundir.remove_own(directory, lock.fileno())
        raise _failed_start(directory, shortages.explain(error, directory.base)) from error


def try_connect(directory: rundir.RunDir) -> socket.socket | None:
    """Return a socket connected to the pool's supervisor, None if none listens.

    Raise SupervisorError, before anything is sent or read, if another user may be behind the directory or the socket.
    """
    check_place(directory)
    try:
        sock: socket.socket = original("socket", "socket")(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise SupervisorError(f"no connection to pool {directory.name!r} can be made: {shortages.explain(error)}") from error
    try:
        sock.connect(directory.socket)
        ownership.check_peer(sock)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        sock.close()
        return None
    except OSError as error:
        sock.close()
        raise SupervisorError(f"the socket {directory.socket} cannot be used: {error.strerror or error}") from error
    return sock


def check_place(directory: rundir.RunDir) -> None:
    """Raise SupervisorError if another user may have put the pool's directory there, or may put another in its place.

    For each connection anew: whoever may rename a directory does so while nobody looks.
    """
    for path in (directory.base, directory.path):
        try:
            ownership.check_private_directory(path)
        except ownership.UntrustedError as error:
            raise SupervisorError(
                f"pool {directory.name!r} is not connected to, because another user may be behind it: {path}: {error}. "
                "Set XDG_RUNTIME_DIR or Pool(directory=...) to a directory that nobody else can write or rename"
            ) from error
        except OSError:  # it is not there, or is no directory: the caller finds that out
            return


def try_lock(directory: rundir.RunDir) -> Descriptor | None:
    """Return the pool's lock, None if another process holds it; raise SupervisorError if it cannot be used."""
    check_place(directory)
    try:
        return rundir.try_lock(directory.lock)
    except signature.ForeignFileError as error:
        raise SupervisorError(f"pool {directory.name!r} cannot be in {directory.base}: {error}") from None
    except OSError as error:
        signature.remove_if_empty(directory.base)
        raise SupervisorError(
            f"pool {directory.name!r} cannot be used: {shortages.explain_lock(error, directory.lock)}"
        ) from error


def _start(directory: rundir.RunDir, settings: PoolSettings, lock: Descriptor, *, private: bool) -> None:
    """Start a supervisor and wait until clients can connect to it. That of a private pool is a child of this process.

    Nothing is left behind by one that could not start.
    """
    try:
        pid, ready = _spawn_supervisor(directory, settings, lock, private=private)
    except OSError as error:
        rundir.remove_own(directory, lock.fileno())
        raise _failed_start(directory, shortages.explain(error, directory.base)) from error
    with ready:
        problem = _await_ready(ready, directory)
    if not private or problem:
        process.wait_for_child(pid, START_TIMEOUT)
    if problem:
        rundir.remove_own(directory, lock.fileno())
        raise _failed_start(directory, problem)


def _spawn_supervisor(
    directory: rundir.RunDir, settings: PoolSettings, lock: Descriptor, *, private: bool
) -> tuple[int, Descriptor]:
    """Return the pid of a new process, and the pipe that ends when it is ready."""
    boot = payload.memory_file(
        json.dumps(_describe_boot(directory, settings, os.getpid() if private else None)).encode(), directory.base
    )
    ready_read, ready_write = (Descriptor(fd) for fd in os.pipe())
    with boot, ready_write:
        pid = process.spawn(
            _arguments("child" if private else "daemon"),
            env=_environment(private=private),
            stdin=boot.fileno(),
            passed=[lock.fileno(), ready_write.fileno()],
            own_session=True,
        )
    return pid, ready_read


def _await_ready(ready: Descriptor, directory: rundir.RunDir) -> str:
    """Wait until a new supervisor is ready, or has ended; return why it has, in words, empty where it is ready."""
    deadline = monotonic() + START_TIMEOUT
    text = b""
    while process.wait_for_pidfd(ready.fileno(), deadline - monotonic()):
        data = ready.read(65_536)
        if not data:
            return "" if text == STARTED else text.decode(errors="replace").strip() or _KILLED
        text += data
    raise SupervisorError(
        f"the supervisor of pool {directory.name!r} is not ready after {START_TIMEOUT:g} s: is the host overloaded, or "
        f"{directory.base} on a file system that does not answer? See {directory.log}"
    )


def _failed_start(directory: rundir.RunDir, why: str) -> SupervisorError:
    separator = "\n" if "\n" in why else " "
    return SupervisorError(f"the supervisor of pool {directory.name!r} could not start:{separator}{why}")


def _describe_boot(
    directory: rundir.RunDir, settings: PoolSettings, owner_pid: int | None, code: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    base, name = directory
    return {"base": base, "name": name, "settings": settings.to_json(), "owner_pid": owner_pid, "code": code}


def _arguments(how: str) -> list[str]:
    path = [os.path.dirname(os.path.dirname(os.path.dirname(__file__))), *sys.path]
    return [interpreter(), "-S", "-E", "-c", _START, how, "\n".join(path)]


def _environment(*, private: bool) -> dict[str, str]:
    """Return the environment of a supervisor: a named pool's outlives the job that may have started it."""
    if private:
        return dict(os.environ)
    kept = {name: value for name, value in os.environ.items() if name != observe.MARK}
    return {**kept, observe.DETACHED: "1"}


def interpreter() -> str:
    """Return the Python interpreter to start; where Python is embedded, the one it was built with."""
    if sys.executable and "python" in os.path.basename(sys.executable).lower():
        return sys.executable
    candidate = f"{sys.exec_prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    if os.access(candidate, os.X_OK):
        return candidate
    raise SupervisorError(f"no Python interpreter was found to run the supervisor with (sys.executable={sys.executable!r})")


def wait_for_end(directory: rundir.RunDir, timeout: float) -> bool:
    """Wait until no supervisor holds the pool's lock; return whether that came within the timeout."""
    deadline = monotonic() + timeout
    while os.path.exists(directory.lock):
        lock = try_lock(directory)
        if lock is not None:
            if (mark := rundir.read_mark(directory)) is not None:  # it was killed: its processes may still be there
                process.kill_marked(mark)
                started_attempts.keep(directory)
            rundir.remove(directory)
            lock.close()
            return True
        if monotonic() > deadline:
            return False
        sleep(0.002)
    return True
