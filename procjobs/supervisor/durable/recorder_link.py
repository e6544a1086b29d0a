"""The supervisor's end of the socket to its recorder. Nothing here blocks."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any, Final

from procjobs.host import observe, process
from procjobs.host.loop import READ, WRITE, Loop
from procjobs.supervisor.frame_stream import FrameStream

_START: Final = "import sys; sys.path[:] = sys.argv[1].split('\\n'); from procjobs.store.recorder import main; main()"


class RecorderLink:
    """The socket to a recorder process."""

    def __init__(self, loop: Loop, source: Any) -> None:
        """Start a recorder; OSError if that cannot be done."""
        self._loop = loop
        command = [sys.executable, "-S", "-E", "-c", _START, "\n".join(sys.path)]
        self.pid, ours = process.spawn_linked(command, env={**os.environ, observe.DETACHED: "1"})
        ours.setblocking(False)
        self.socket = ours
        self.stream = FrameStream(ours)
        self.rest = b""
        self._rest_fd: int | None = None
        self._source = source
        self._events = READ
        loop.add(ours.fileno(), source)

    def send(self, data: bytes, fd: int | None) -> None:
        """Send a batch, as far as it goes; the rest is sent by `flush`."""
        self.rest, self._rest_fd = data, fd
        self.flush()

    def flush(self) -> bool:
        """Send the rest; return whether everything is sent. The end of a recorder is noticed where it is read."""
        try:
            while self.rest:
                if self._rest_fd is not None:
                    sent = socket.send_fds(self.socket, [self.rest], [self._rest_fd])
                    self._rest_fd = None
                else:
                    sent = self.socket.send(self.rest)
                self.rest = self.rest[sent:]
        except OSError:  # EAGAIN, EPIPE
            pass
        events = READ | WRITE if self.rest else READ
        if events != self._events:
            self._events = events
            self._loop.change(self.socket.fileno(), self._source, events)
        return not self.rest

    def close(self) -> None:
        """Close the socket, at which the recorder ends."""
        self._loop.remove(self.socket.fileno())
        self.stream.close()
        self.socket.close()
