"""Frames out: each is sent whole, or its rest is kept and sent before anything else. The caller holds a lock."""

from __future__ import annotations

import select
import socket
from typing import Final

from procjobs.clock import monotonic
from procjobs.errors import SubmitTimeout, SupervisorLost

_FLAGS: Final = int(socket.MSG_DONTWAIT) | int(socket.MSG_NOSIGNAL)


class FrameSender:
    """The sending half of a connection. `_unsent` is what is left of a frame of which a part was sent."""

    def __init__(self, sock: socket.socket, submit_timeout: float) -> None:
        self._socket = sock
        self._submit_timeout = submit_timeout
        self.lost = False
        self._unsent = b""

    def _send(self, data: bytes, fd: int | None = None) -> None:
        """Send a frame, and a descriptor with it, waiting for room at most `submit_timeout` for it and what is before it.

        Raise SubmitTimeout, and SupervisorLost if the other side has gone.
        """
        if self.lost:
            raise SupervisorLost("the connection to the supervisor was lost")
        try:
            if self._unsent:
                self._send_rest(None)
            sent = self._try_send(data, fd)
            if sent == len(data):
                return
            if sent == 0:
                self._wait_writable(monotonic() + self._submit_timeout)
                sent = self._try_send(data, fd)
            self._unsent = data[sent:]
            self._send_rest(data)
        except (BrokenPipeError, ConnectionResetError):
            self.lost = True  # the receiver sees it too, and settles what is awaited
            raise SupervisorLost("the supervisor has gone") from None

    def _try_send(self, data: bytes, fd: int | None) -> int:
        try:
            if fd is None:
                return self._socket.send(data, _FLAGS)
            return socket.send_fds(self._socket, [data], [fd], _FLAGS)
        except BlockingIOError:
            return 0

    def _send_rest(self, own: bytes | None) -> None:
        """Send what is left of a frame. If time runs out before any of `own` was sent, it is taken back."""
        deadline = monotonic() + self._submit_timeout
        while self._unsent:
            try:
                self._wait_writable(deadline)
            except SubmitTimeout:
                if own is not None and len(self._unsent) == len(own):
                    self._unsent = b""
                raise
            self._unsent = self._unsent[self._try_send(self._unsent, None) :]

    def _wait_writable(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        if not poll.poll(max(deadline - monotonic(), 0.0) * 1000):
            raise SubmitTimeout(
                f"the supervisor took no bytes for {self._submit_timeout:g} s: is it stopped (SIGSTOP), or is the host "
                "overloaded? The job was not submitted"
            )
