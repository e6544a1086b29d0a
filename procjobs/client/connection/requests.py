"""What a connection asks of the supervisor, beside the jobs that it sends."""

from __future__ import annotations

import contextlib
import socket
import threading
from abc import abstractmethod
from typing import Any, Final

from procjobs.client.connection.sender import FrameSender
from procjobs.errors import SubmitTimeout, SupervisorLost
from procjobs.shared import wire
from procjobs.shared.wire import Frame

REQUEST_TIMEOUT: Final = 30.0


class Asker(FrameSender):
    """Requests and their replies, which the receiver thread takes in."""

    def __init__(self, sock: socket.socket, submit_timeout: float) -> None:
        super().__init__(sock, submit_timeout)
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._receiver: threading.Thread | None = None
        self._replies: dict[int, dict[str, Any] | None] = {}
        self._requests = 0
        self._accepted = 0

    @abstractmethod
    def _start_receiver(self) -> None:
        """Start the receiver thread, if it has not been."""

    def request(self, call: str, *, timeout: float | None = REQUEST_TIMEOUT, **arguments: Any) -> dict[str, Any]:
        """Ask the supervisor and wait for its reply; raise SupervisorLost if there is none."""
        number = self._send_request(call, arguments, expected=True)
        if self._receiver is None:
            self._start_receiver()
        with self._changed:
            answered = self._changed.wait_for(lambda: self._replies[number] is not None or self.lost, timeout)
            reply = self._replies.pop(number)
        if reply is not None:
            return reply
        what = "went away before it answered" if answered else f"did not answer within {timeout:g} s"
        raise SupervisorLost(f"the supervisor {what} ({call})")

    def _send_request(self, call: str, arguments: dict[str, Any], *, expected: bool) -> int:
        with self._lock:
            number = 0
            if expected:
                self._requests = number = self._requests % 0x7FFF_FFFF + 1
                self._replies[number] = None
            try:
                self._send(wire.json_frame(Frame.REQUEST, {"call": call, **arguments}, prefix=wire.U32.pack(number)))
            except BaseException:
                self._replies.pop(number, None)
                raise
        return number

    def ask_to_stop(self) -> None:
        """Ask the supervisor to end the pool; nothing is waited for."""
        with contextlib.suppress(SupervisorLost, SubmitTimeout):
            self._send_request("stop", {}, expected=False)

    def _take_reply(self, number: int, reply: dict[str, Any]) -> None:
        with self._changed:
            if number in self._replies:
                self._replies[number] = reply
                self._changed.notify_all()

    def ask_to_cancel(self, job_id: bytes) -> None:
        """Have a job cancelled; nothing is waited for."""
        try:
            self._send_request("cancel", {"id": job_id.hex()}, expected=False)
        except (SupervisorLost, SubmitTimeout):
            return  # with the supervisor, the job goes too; a stopped one has stopped workers' answers as well

    def sweep_outbox(self) -> None:
        """Let the pool look into its outbox; nothing is waited for."""
        self._send_request("sweep", {}, expected=False)

    def _ask_for_acknowledgement(self, sequence: int) -> None:
        """Have the supervisor say at once what it has; by itself it waits a moment for an answer to say it with.

        Nothing is waited for: where the socket takes no more just now, the supervisor says it all the same.
        """
        if self._accepted >= sequence or not self._lock.acquire(blocking=False):
            return
        try:
            if not self._unsent and not self.lost:
                data = wire.json_frame(Frame.REQUEST, {"call": "acknowledge"}, prefix=wire.U32.pack(0))
                with contextlib.suppress(OSError):  # it has gone; the receiver sees it too
                    sent = self._try_send(data, None)
                    self._unsent = data[sent:] if sent else b""
        finally:
            self._lock.release()
