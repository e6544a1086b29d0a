"""The first frames of a connection: a process introduces itself, and the supervisor welcomes or refuses it."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, Final, NamedTuple

from procjobs.client.connection.receiver import READ_BYTES
from procjobs.errors import JobTimeout, SupervisorError, SupervisorLost, SupervisorRefused
from procjobs.host import observe
from procjobs.shared import wire
from procjobs.shared.hello import hello_frame
from procjobs.shared.wire import BODY, Frame, FrameReader, WireError

_REPLY_TIMEOUT: Final = 30.0
_REFUSED: Final = {errno.EPERM, errno.EACCES, errno.ENOSYS}
"""What a filter answers; a supervisor that has gone is none of these."""


class Greeting(NamedTuple):
    """What the supervisor said of itself, its newest NOTICE, and the reader with the bytes that came behind that.

    `files_sent` is how many entries of SOURCES it knows, None where source files do not count.
    """

    welcome: dict[str, Any]
    news: dict[str, Any]
    reader: FrameReader
    files_sent: int | None = None


def say_hello(sock: socket.socket, generation: str, spec_fd: int, executable: str) -> Greeting:
    """Introduce this process; raise SupervisorError if that does not end in a welcome."""
    values = {"pid": os.getpid(), "generation": generation, "executable": executable, "inside": observe.own_mark()}
    try:
        socket.send_fds(sock, [hello_frame(values, descriptors=1)], [spec_fd])
    except JobTimeout:  # an OSError as well: the soft timeout of the job that does this
        raise
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
    except JobTimeout:
        raise
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
    news: dict[str, Any] = {}
    while not welcome:
        data = sock.recv(READ_BYTES)
        if not data:
            raise SupervisorLost("the supervisor closed the connection instead of a welcome; see the pool's log")
        for kind, raw, _ in reader.feed(data):
            if kind == Frame.REFUSED:
                refusal = wire.parse_json(raw[BODY:])
                raise SupervisorRefused(str(refusal.get("message")), refusal)
            if kind == Frame.WELCOME:
                welcome = news = _check_welcome(wire.parse_json(raw[BODY:]))
            elif kind == Frame.NOTICE:
                newer = wire.parse_json(raw[BODY:])
                news = {**newer, "warning": newer.get("warning") or news.get("warning")}
    return Greeting(welcome, news, reader)


def _check_welcome(welcome: dict[str, Any]) -> dict[str, Any]:
    """Return a welcome that says what is needed later; raise WireError for any other."""
    settings = welcome.get("settings")
    known = settings if isinstance(settings, dict) else {}
    numbers = welcome.get("pid"), known.get("result_ttl"), known.get("max_queued")
    if "problem" not in welcome or not all(isinstance(number, int | float) for number in numbers):
        raise WireError("a WELCOME without the pid, the settings or the problem")
    return welcome
