"""Calls about jobs that the supervisor does not know yet: they wait until it has read what was sent before them.

A process gives another one the id of a job as soon as `submit` has returned. The submission then lies in the socket of the
first, and the question about it may be read before it. So such a call notes how many bytes each client had sent that were
not read, and is answered when they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER
from procjobs.host.descriptors import unread_bytes

if TYPE_CHECKING:
    from procjobs.supervisor.clients.client_link import ClientLink

_MAX_DELAY: Final = 1.0
"""A call is answered after this time in any case: a client that takes no answers is not read."""


class _Batch:
    """The calls of one turn, and how far each client is to be read before they are answered."""

    __slots__ = ("_answers", "_positions", "until")

    def __init__(self, answers: list[Callable[[], None]], clients: Collection[ClientLink], until: float) -> None:
        self._answers = answers
        self.until = until
        self._positions: list[tuple[ClientLink, int]] = []
        for client in clients:
            unread = unread_bytes(client.socket.fileno())
            if unread:
                self._positions.append((client, client.stream.bytes_read + unread))

    def is_due(self, now: float) -> bool:
        """Return whether everything that was sent before the calls is read, or they have waited for long enough."""
        self._positions = [
            (client, position)
            for client, position in self._positions
            if not client.closed and client.stream.bytes_read < position
        ]
        return not self._positions or now >= self.until

    def answer(self) -> None:
        """Answer the calls."""
        for answer in self._answers:
            answer()


class DeferredCalls:
    """The calls that wait."""

    def __init__(self) -> None:
        self._new: list[Callable[[], None]] = []
        self._batches: list[_Batch] = []

    def add(self, answer: Callable[[], None]) -> None:
        """Have `answer` called when everything is read that clients have sent by now."""
        self._new.append(answer)

    def next_deadline(self) -> float:
        """Return until when calls wait at the longest."""
        return self._batches[0].until if self._batches else NEVER

    def advance(self, clients: Collection[ClientLink], now: float) -> None:
        """Answer the calls whose time has come. For after the clients were read; costs nothing where no call waits."""
        if self._new:
            self._batches.append(_Batch(self._new, clients, now + _MAX_DELAY))
            self._new = []
        while self._batches and self._batches[0].is_due(now):
            self._batches.pop(0).answer()
