"""The supervisor's end of the socket to a template. Nothing here blocks."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

from procjobs.host import process
from procjobs.shared.wire import parse_json


class TemplateLink:
    """The socket to the template of one generation."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self.socket = sock
        self.pid = pid
        sock.setblocking(False)

    def spawn(self, slot: int, cpus: list[int], fds: list[int]) -> bool:
        """Ask for a worker, on these CPUs (none: on all); return False if the template cannot be reached."""
        return self._send({"spawn": slot, "cpus": cpus}, fds)

    def forget(self, pid: int) -> None:
        """Say that a worker has gone."""
        self._send({"gone": pid}, [])

    def _send(self, message: dict[str, Any], fds: list[int]) -> bool:
        try:
            socket.send_fds(self.socket, [json.dumps(message).encode()], fds)
        except OSError:
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
