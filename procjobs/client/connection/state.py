"""The states of a connection to a supervisor. One function changes them, and wakes the threads that wait for a change."""

from __future__ import annotations

from enum import Enum
from typing import Final

from procjobs.client.connection.interruptible import Exclusive, News


class ConnectionState(Enum):
    """How far a connection is from its end.

    OPEN: entered at construction. Frames are sent and answers are received. Left for any other state but ENDED.

    LEAVING: entered by `Connection.close_when_idle`. As OPEN, but when the last awaited answer has arrived, the receiver
    thread ends the connection. Left for LOST or CLOSING.

    LOST: entered when a frame could not be sent, or when the receiver thread has read all that the supervisor had sent
    before it went away. Nothing is sent any more. The receiver thread offers the jobs to a successor and ends those that
    have none. Left for ENDED, or for CLOSING if this process closes the connection meanwhile.

    CLOSING: entered by `Connection.close`, from any state but ENDED. Nothing is sent any more, no successor is looked for,
    and the jobs that are still awaited end with PoolClosed. Left for ENDED.

    ENDED: entered by the receiver thread, or by the thread that closes a connection without one. Every job has ended or
    is awaited over another connection, and the socket is closed. Never left.
    """

    OPEN = "open"
    LEAVING = "leaving"
    LOST = "lost"
    CLOSING = "closing"
    ENDED = "ended"


OPEN: Final = ConnectionState.OPEN
"""By itself, for the comparisons that are made for every job: one look-up less."""

_FOLLOWING: Final = {
    OPEN: frozenset({ConnectionState.LEAVING, ConnectionState.LOST, ConnectionState.CLOSING}),
    ConnectionState.LEAVING: frozenset({ConnectionState.LOST, ConnectionState.CLOSING}),
    ConnectionState.LOST: frozenset({ConnectionState.CLOSING, ConnectionState.ENDED}),
    ConnectionState.CLOSING: frozenset({ConnectionState.ENDED}),
    ConnectionState.ENDED: frozenset[ConnectionState](),
}


class Lifecycle:
    """The state of one connection, shared by its parts, and where threads wait for news of it.

    `is_stop_asked` says that this process has asked for the end of the pool: then the end of the supervisor is no loss.
    """

    def __init__(self) -> None:
        self.state = OPEN
        self.is_stop_asked = False
        self.news = News()
        self._moving = Exclusive()

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.state is not OPEN and self.state is not ConnectionState.LEAVING

    @property
    def is_closing(self) -> bool:
        """Whether this process is closing the connection."""
        return self.state is ConnectionState.CLOSING

    @property
    def has_ended(self) -> bool:
        """Whether everything that was awaited is settled."""
        return self.state is ConnectionState.ENDED

    def move_to(self, state: ConnectionState) -> None:
        """Enter a state if it may follow the present one, and wake all threads that wait."""
        self._moving.run(self._move, state)
        self.news.spread()

    def _move(self, state: ConnectionState) -> None:
        if state in _FOLLOWING[self.state]:
            self.state = state
