"""The first frames of a connection: a process introduces itself, and the supervisor welcomes or refuses it."""

from __future__ import annotations

import errno
import json
import os
import socket
from typing import Any, Final, NamedTuple

from procjobs.client.connection.receiver import READ_BYTES
from procjobs.errors import SupervisorError, SupervisorLost, SupervisorRefused
from procjobs.shared import wire
from procjobs.shared.wire import BODY, Frame, FrameReader, WireError

_REPLY_TIMEOUT: Final = 30.0
_REFUSED: Final = {errno.EPERM, errno.EACCES, errno.ENOSYS}
"""What a filter answers; a supervisor that has gone is none of these."""


class Greeting(NamedTuple):
    """What the supervisor said of itself, its newest problem, and the reader with the bytes that came behind that.

    `warning` says in what its workers differ from this process. `files_sent` is how many entries of SOURCES it knows,
    None where source files do not count.
    """

    welcome: dict[str, Any]
    problem: str | None
    reader: FrameReader
    warning: str = ""
    files_sent: int | None = None


def say_hello(sock: socket.socket, generation: str, spec_fd: int, executable: str) -> Greeting:
    """Introduce this process; raise SupervisorError if that does not end in a welcome."""
    text = json.dumps({"pid": os.getpid(), "generation": generation, "executable": executable}).encode()
    body = wire.MAGIC + wire.WIRE_VERSION.to_bytes(2, "little") + text
    try:
        socket.send_fds(sock, [wire.frame(Frame.HELLO, body, descriptors=1)], [spec_fd])
    except OSError as error:
        if error.errno not in _REFUSED:
            raise SupervisorLost(f"the supervisor ended while this process said hello: {error}") from error
        raise SupervisorError(
            f"this process cannot pass a descriptor to the supervisor: {error.strerror}. Allow sendmsg and recvmsg, with "
            "SCM_RIGHTS, in the seccomp profile or security module of the container or service"
        ) from error
    try:
        sock.settimeout(_REPLY_TIMEOUT)
        greeting = _read_welcome(sock)
    except TimeoutError:
        raise SupervisorLost(
            f"the supervisor did not answer within {_REPLY_TIMEOUT:g} s: is it stopped (SIGSTOP)?"
        ) from None
    except (OSError, WireError) as error:
        raise SupervisorLost(f"the supervisor ended while this process said hello: {error}") from error
    sock.settimeout(None)
    return greeting


def _read_welcome(sock: socket.socket) -> Greeting:
    reader = FrameReader()
    welcome: dict[str, Any] = {}
    problem: str | None = None
    warning = ""
    while not welcome:
        data = sock.recv(READ_BYTES)
        if not data:
            raise SupervisorLost("the supervisor closed the connection instead of a welcome; see the pool's log")
        for kind, raw, _ in reader.feed(data):
            if kind == Frame.REFUSED:
                raise SupervisorRefused(str(wire.parse_json(raw[BODY:]).get("message")))
            if kind == Frame.WELCOME:
                welcome = _check_welcome(wire.parse_json(raw[BODY:]))
                problem, warning = welcome["problem"], str(welcome.get("warning") or "")
            elif kind == Frame.NOTICE:
                notice = wire.parse_json(raw[BODY:])
                problem, warning = notice.get("problem"), str(notice.get("warning") or warning)
    return Greeting(welcome, problem, reader, warning)


def _check_welcome(welcome: dict[str, Any]) -> dict[str, Any]:
    """Return a welcome that says what is needed later; raise WireError for any other."""
    settings = welcome.get("settings")
    known = settings if isinstance(settings, dict) else {}
    numbers = welcome.get("pid"), known.get("result_ttl"), known.get("max_queued")
    if "problem" not in welcome or not all(isinstance(number, int | float) for number in numbers):
        raise WireError("a WELCOME without the pid, the settings or the problem")
    return welcome
