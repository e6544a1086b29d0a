"""The side of a job's handle that a connection sees. The handle itself, `procjobs.client.job.Job`, stands above."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from procjobs.errors import ProcjobsError
    from procjobs.host.payload import Received


class Handle(Protocol):
    """The handle of a job whose answer is awaited over a connection.

    Its `route` is the connection, which the handle asks to cancel the job and whether the job was accepted.
    """

    raw_id: bytes

    @property
    def id(self) -> str:
        """The id as text, for messages."""

    @property
    def name(self) -> str:
        """The name, for messages."""

    def done(self) -> bool:
        """Return whether the job has ended for this handle."""

    def settle(self, raw: bytes, received: Received | None) -> None:
        """Take the answer: a FINISHED frame, and the payload that came in a descriptor. Runs no code of the job's."""

    def abandon(self, error: ProcjobsError) -> None:
        """End without an answer."""

    def refer_to(self, holder: bytes) -> None:
        """Take note that there is no such job, since the one with this id has its key."""

    def sent_over(self, route: Any, sequence: int) -> None:
        """Take note of the connection that the answer will come over, and of the submission's number there (0: watched)."""

    def is_awaited_from(self, route: Any) -> bool:
        """Return whether the answer is to come over this connection."""
