"""Frames out: each is sent whole, or its rest is kept and sent before anything else."""

from __future__ import annotations

import select
import socket
import threading
from socket import send_fds
from typing import TYPE_CHECKING, Final

from procjobs.client.connection.state import OPEN, ConnectionState
from procjobs.clock import monotonic
from procjobs.errors import SubmitTimeout, SupervisorLost

if TYPE_CHECKING:
    from procjobs.client.connection.state import Lifecycle

_FLAGS: Final = int(socket.MSG_DONTWAIT) | int(socket.MSG_NOSIGNAL)


class FrameSender:
    """The sending half of a connection. `unsent` is the rest of a frame of which a part was sent.

    Its methods, and whatever is done together with them, run under `lock`.
    """

    def __init__(self, sock: socket.socket, submit_timeout: float, lifecycle: Lifecycle) -> None:
        self.lock = threading.Lock()
        self.unsent = b""
        self._socket = sock
        self._submit_timeout = submit_timeout
        self._lifecycle = lifecycle

    def send(self, data: bytes, fd: int | None = None) -> None:
        """Send a frame, and a descriptor with it, behind the rest of the one before; wait at most `submit_timeout` for each.

        Raise SubmitTimeout, and SupervisorLost if the other side has gone.
        """
        if self._lifecycle.state is not OPEN and self._lifecycle.is_lost:
            raise SupervisorLost("the connection to the supervisor was lost")
        try:
            if self.unsent:
                self._send_rest(None)
            try:
                sent = self._socket.send(data, _FLAGS) if fd is None else send_fds(self._socket, [data], [fd], _FLAGS)
            except BlockingIOError:
                sent = 0
            if sent == len(data):
                return
            if sent == 0:
                self._wait_writable(monotonic() + self._submit_timeout)
                sent = self._try_send(data, fd)
            self.unsent = data[sent:]
            self._send_rest(data)
        except (BrokenPipeError, ConnectionResetError):
            self._lifecycle.move_to(ConnectionState.LOST)  # the receiver sees it too, and settles what is awaited
            raise SupervisorLost("the supervisor has gone") from None

    def send_if_free(self, data: bytes) -> None:
        """Send a frame where the socket takes it just now, and begin it only if nothing else is under way."""
        if not self.unsent and not self._lifecycle.is_lost:
            try:
                sent = self._try_send(data, None)
            except OSError:
                return  # the supervisor has gone; the receiver sees it too
            self.unsent = data[sent:] if sent else b""

    def _try_send(self, data: bytes, fd: int | None) -> int:
        try:
            if fd is None:
                return self._socket.send(data, _FLAGS)
            return send_fds(self._socket, [data], [fd], _FLAGS)
        except BlockingIOError:
            return 0

    def _send_rest(self, own: bytes | None) -> None:
        """Send the rest of a frame. If time runs out before any of `own` was sent, it is taken back."""
        deadline = monotonic() + self._submit_timeout
        while self.unsent:
            try:
                self._wait_writable(deadline)
            except SubmitTimeout:
                if own is not None and len(self.unsent) == len(own):
                    self.unsent = b""
                raise
            self.unsent = self.unsent[self._try_send(self.unsent, None) :]

    def _wait_writable(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        if not poll.poll(max(deadline - monotonic(), 0.0) * 1000):
            raise SubmitTimeout(
                f"the supervisor took no bytes for {self._submit_timeout:g} s: is it stopped (SIGSTOP), or is the host "
                "overloaded? The job was not submitted"
            )
