"""Requests to the supervisor, beside the jobs that are sent to it, and their replies."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from procjobs.errors import SubmitTimeout, SupervisorLost
from procjobs.shared import wire
from procjobs.shared.wire import Frame

if TYPE_CHECKING:
    from procjobs.client.connection.sender import FrameSender
    from procjobs.client.connection.state import Lifecycle


def request_frame(call: str, number: int = 0, **arguments: Any) -> bytes:
    """Return the frame of a request; one with the number 0 gets no reply."""
    return wire.json_frame(Frame.REQUEST, {"call": call, **arguments}, prefix=wire.U32.pack(number))


class RequestChannel:
    """Requests of any thread, and their replies, which the receiver thread takes in."""

    def __init__(self, sender: FrameSender, lifecycle: Lifecycle) -> None:
        self._sender = sender
        self._lifecycle = lifecycle
        self._replies: dict[int, dict[str, Any] | None] = {}
        self._last_number = 0

    def request(self, call: str, timeout: float | None, **arguments: Any) -> dict[str, Any]:
        """Ask the supervisor and wait for its reply; raise SupervisorLost if there is none."""
        number = self._send(call, arguments)
        with self._lifecycle.changed:
            answered = self._lifecycle.changed.wait_for(
                lambda: self._replies[number] is not None or self._lifecycle.is_lost, timeout
            )
            reply = self._replies.pop(number)
        if reply is not None:
            return reply
        problem = "went away before it answered" if answered else f"did not answer within {timeout:g} s"
        raise SupervisorLost(f"the supervisor {problem} ({call})")

    def _send(self, call: str, arguments: dict[str, Any]) -> int:
        with self._sender.lock:
            self._last_number = number = self._last_number % 0x7FFF_FFFF + 1
            self._replies[number] = None
            try:
                self._sender.send(request_frame(call, number, **arguments))
            except BaseException:
                self._replies.pop(number, None)
                raise
        return number

    def take_reply(self, number: int, reply: dict[str, Any]) -> None:
        """Let the thread have its reply that waits for it, if there is still one."""
        with self._lifecycle.changed:
            if number in self._replies:
                self._replies[number] = reply
                self._lifecycle.changed.notify_all()

    def post(self, call: str, **arguments: Any) -> None:
        """Ask the supervisor for something that it does without a reply."""
        with self._sender.lock:
            self._sender.send(request_frame(call, **arguments))

    def post_stop(self) -> None:
        """Ask for the end of the pool, if the supervisor can still be asked."""
        with contextlib.suppress(SupervisorLost, SubmitTimeout):
            self.post("stop")

    def post_cancel(self, job_id: bytes) -> None:
        """Ask for the end of a job."""
        try:
            self.post("cancel", id=job_id.hex())
        except (SupervisorLost, SubmitTimeout):
            return  # with the supervisor, the job goes too; a stopped one has stopped workers' answers as well

    def post_acknowledge(self) -> None:
        """Ask the supervisor to acknowledge at once; by itself it waits a moment for an answer to send along.

        Nothing is waited for. Where the socket takes no more just now, the acknowledgement comes all the same.
        """
        if self._sender.lock.acquire(blocking=False):
            try:
                self._sender.send_if_free(request_frame("acknowledge"))
            finally:
                self._sender.lock.release()
