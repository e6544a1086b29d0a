"""Asking the supervisor of a pool for what every release understands: to end, or to leave the pool to this process."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from procjobs.client import launcher
from procjobs.clock import monotonic, sleep
from procjobs.errors import SupervisorError, SupervisorRefused
from procjobs.host import descriptors
from procjobs.host.descriptors import Descriptor
from procjobs.shared import hello, wire
from procjobs.shared.wire import BODY, Frame, FrameReader, WireError

if TYPE_CHECKING:
    from procjobs.host.rundir import RunDir

_READ_BYTES: Final = 64 * 1024
_LOOK_INTERVAL: Final = 5.0
_STOP_TIMEOUT: Final = 600.0
"""How long the end of a pool may take: its running jobs have their grace period, which is not known here."""
_PAUSE: Final = 0.02
_MAX_SILENT: Final = 3
"""How many connections may end without a word before it is said that the supervisor does not understand."""

OnWaiting = Callable[[int, int], None]
"""Is told, every few seconds, for which supervisor (pid) and for how many running jobs this process waits."""


def take_lock(directory: RunDir, on_waiting: OnWaiting, timeout: float | None = None) -> Descriptor:
    """Return the lock of a pool, for this process to become its supervisor or start one.

    A supervisor that clients have started is asked to hand over, and waited for: as long as its running jobs take, or
    for `timeout` seconds. Raise SupervisorRefused if it does not hand over, since it is served; SupervisorError if it does
    not answer, or not in time.
    """
    ends_at = None if timeout is None else monotonic() + timeout
    silent, unreachable_at = 0, monotonic() + launcher.START_TIMEOUT
    while True:
        lock = launcher.try_lock(directory)
        if lock is not None:
            return lock
        sock = launcher.try_connect(directory)
        if sock is None:  # it is starting, or just ending
            if monotonic() > unreachable_at:
                raise launcher.unreachable(directory)
        else:
            with sock:
                lock, has_answered = _ask_for_lock(sock, directory, on_waiting, ends_at)
            if lock is not None:
                return lock
            unreachable_at = monotonic() + launcher.START_TIMEOUT
            silent = 0 if has_answered else silent + 1
            if silent >= _MAX_SILENT:
                raise SupervisorError(
                    f"the supervisor of pool {directory.name!r} does not hand over: it runs an old release of procjobs. "
                    f"Stop it with its own `procjobs stop {directory.name}`"
                )
        sleep(_PAUSE)


def _ask_for_lock(
    sock: socket.socket, directory: RunDir, on_waiting: OnWaiting, ends_at: float | None
) -> tuple[Descriptor | None, bool]:
    """Ask one supervisor; return the lock, None if it has ended without that, and whether it has said anything."""
    reader, has_answered, pid, running = FrameReader(), False, 0, 0
    silent_until = monotonic() + launcher.START_TIMEOUT
    sock.settimeout(_LOOK_INTERVAL)
    try:
        sock.sendall(hello.hello_frame({"pid": os.getpid(), "ask": hello.HAND_OVER}))
        while True:
            try:
                data, fds, _ = descriptors.receive(sock, _READ_BYTES)
            except TimeoutError:
                if not has_answered and monotonic() > silent_until:
                    raise launcher.unreachable(directory) from None
                _check_time(directory, pid, running, ends_at)
                on_waiting(pid, running)
                continue
            files = [Descriptor(fd) for fd in fds]
            if not data:
                return None, has_answered
            for kind, raw, _ in reader.feed(data):
                has_answered = True
                answer = _parse(kind, raw)
                if answer.get("state") == hello.OVER and files:
                    return files[0], True
                pid, running = int(answer.get("pid", 0)), int(answer.get("running", 0))
                on_waiting(pid, running)
    except (ConnectionResetError, BrokenPipeError):
        return None, has_answered
    except (WireError, ValueError) as error:
        raise SupervisorError(f"the supervisor of pool {directory.name!r} has sent nonsense: {error}") from error


def _check_time(directory: RunDir, pid: int, running: int, ends_at: float | None) -> None:
    if ends_at is not None and monotonic() > ends_at:
        raise SupervisorError(
            f"the supervisor of pool {directory.name!r} (pid {pid}) did not hand over in time: it has {running} running "
            f"job(s). Try again later, or stop it with `procjobs stop {directory.name}`"
        )


def _parse(kind: int, raw: bytes) -> dict[str, Any]:
    """Return what a supervisor says; raise SupervisorRefused if it refuses."""
    answer = wire.parse_json(raw[BODY:])
    if kind == Frame.REFUSED:
        raise SupervisorRefused(str(answer.get("message")), answer)
    return answer if kind == Frame.CONTROL else {}


def stop(directory: RunDir) -> bool:
    """Ask the supervisor of a pool, of whatever release, to end, and wait for that; return whether nobody has the pool now.

    Raise SupervisorRefused if it does not do that.
    """
    sock = launcher.try_connect(directory)
    if sock is not None:
        with sock, contextlib.suppress(ConnectionResetError, BrokenPipeError, TimeoutError):
            sock.settimeout(_STOP_TIMEOUT)
            sock.sendall(hello.hello_frame({"pid": os.getpid(), "ask": hello.STOP}))
            reader = FrameReader()
            while data := descriptors.receive(sock, _READ_BYTES)[0]:  # it closes the connection when it ends
                for kind, raw, _ in reader.feed(data):
                    _parse(kind, raw)
    return launcher.wait_for_end(directory, launcher.START_TIMEOUT)
