"""Requests to the supervisor, beside the jobs that are sent to it, and their replies."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from procjobs.client.connection.sender import request_frame
from procjobs.errors import SubmitTimeout, SupervisorLost

if TYPE_CHECKING:
    from procjobs.client.connection.sender import FrameSender
    from procjobs.client.connection.state import Lifecycle
    from procjobs.host.descriptors import Descriptor


class RequestChannel:
    """Requests of any thread, and their replies, which the receiver thread takes in."""

    def __init__(self, sender: FrameSender, lifecycle: Lifecycle) -> None:
        self._sender = sender
        self._lifecycle = lifecycle
        self._replies: dict[int, list[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)

    @property
    def are_awaited(self) -> bool:
        """Whether a thread waits for a reply."""
        return bool(self._replies) and self._lifecycle.news.is_awaited()

    def request(self, call: str, timeout: float | None, **arguments: Any) -> dict[str, Any]:
        """Ask the supervisor and wait for its reply; raise SupervisorLost if there is none."""
        return self.ask(call, lambda number: request_frame(call, number, **arguments), timeout)

    def ask(
        self, what: str, frame_of: Callable[[int], bytes], timeout: float | None, file: Descriptor | None = None
    ) -> dict[str, Any]:
        """Send the frame of a request, which gets its number, and wait for the reply; raise as `request`."""
        number = next(self._numbers) % 0x7FFF_FFFF + 1
        replies: list[dict[str, Any]] = []
        try:
            self._replies[number] = replies
            self._sender.post(frame_of(number), file)
            has_ended = self._lifecycle.news.wait_for(lambda: bool(replies) or self._lifecycle.is_lost, timeout)
        finally:
            self._replies.pop(number, None)
        if replies:
            return replies[0]
        problem = "went away before it answered" if has_ended else f"did not answer within {timeout:g} s"
        raise SupervisorLost(f"the supervisor {problem} ({what})")

    def take_reply(self, number: int, reply: dict[str, Any]) -> None:
        """Let the thread have its reply that waits for it, if there is still one."""
        replies = self._replies.get(number)
        if replies is not None:
            replies.append(reply)
            self._lifecycle.news.spread()

    def post(self, call: str, **arguments: Any) -> None:
        """Ask the supervisor for something that it does without a reply."""
        self._sender.post(request_frame(call, **arguments))

    def post_stop(self) -> None:
        """Ask for the end of the pool, if the supervisor can still be asked."""
        with contextlib.suppress(SupervisorLost, SubmitTimeout):
            self.post("stop")

    def post_cancel(self, job_id: bytes) -> None:
        """Ask for the end of a job. If the supervisor takes no bytes now, it is asked before it is sent anything else."""
        # A supervisor that has gone is no concern of the caller's: the receiver thread tells its successor.
        with contextlib.suppress(SupervisorLost, SubmitTimeout):
            self._sender.exclusive.run(self._sender.send_owed, request_frame("cancel", id=job_id.hex()))

    def post_wait(self, waiter: str, job_ids: list[bytes]) -> int:
        """Tell that a job (the hexadecimal id) waits for any of these; return the number under which it ends."""
        number = next(self._numbers)
        with contextlib.suppress(SupervisorLost, SubmitTimeout):  # the receiver thread settles what is awaited
            self.post("wait", job=waiter, wait=number, **{"for": [job_id.hex() for job_id in job_ids]})
        return number

    def post_wait_over(self, number: int) -> None:
        """Tell that a wait is over."""
        with contextlib.suppress(SupervisorLost, SubmitTimeout):
            self.post("wait_over", wait=number)

    def post_acknowledge(self) -> None:
        """Ask the supervisor to acknowledge at once; by itself it waits a moment for an answer to send along.

        Nothing is waited for. Where the socket takes no more just now, the acknowledgement comes all the same.
        """
        if not self._sender.is_busy:
            self._sender.exclusive.run(self._sender.send_if_free, request_frame("acknowledge"))
