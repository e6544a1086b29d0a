"""The supervisor's end of the socket to a template. Nothing here blocks."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
from collections.abc import Iterator
from typing import Any, Final

from procjobs.host import process
from procjobs.shared.wire import parse_json

_TRY_AGAIN: Final = {
    errno.EAGAIN, errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS,
}  # fmt: skip


class TemplateLink:
    """The socket to the template of one generation."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self.socket = sock
        self.pid = pid
        sock.setblocking(False)

    def spawn(self, slot: int, cpus: list[int], fds: list[int]) -> bool:
        """Ask for a worker, on these CPUs (none: on all); return False if the template takes nothing now or has gone.

        Any other OSError comes through: the host refuses to pass descriptors.
        """
        return self._send({"spawn": slot, "cpus": cpus}, fds)

    def fork_hooks(self, fd: int) -> bool:
        """Ask for the process that calls hooks, which gets this descriptor; otherwise as `spawn`."""
        return self._send({"hooks": True}, [fd])

    def forget(self, pid: int) -> None:
        """Say that a worker has gone."""
        with contextlib.suppress(OSError):
            self._send({"gone": pid}, [])

    def _send(self, message: dict[str, Any], fds: list[int]) -> bool:
        try:
            socket.send_fds(self.socket, [json.dumps(message).encode()], fds)
        except OSError as error:
            if error.errno not in _TRY_AGAIN:
                raise
            return False
        return True

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the messages that have arrived; raise WireError for one that a preload has written there."""
        while True:
            try:
                message = self.socket.recv(65536)
            except OSError:
                return
            if not message:
                return
            yield parse_json(message)

    def stop(self) -> None:
        """Kill the template and close its socket; workers that it has forked are not touched."""
        process.kill_process(self.pid, 9)
        self.socket.close()
