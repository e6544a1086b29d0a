"""The jobs that were entered with a connection: their handles, and the submissions that the supervisor may not have yet."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

from procjobs.client.connection.unacknowledged import Unacknowledged
from procjobs.shared.wire import verdict_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from procjobs.client.connection.handle import Handle
    from procjobs.client.connection.submission import Submission


class Entries:
    """The jobs whose answers come over one connection.

    A job is entered under the sender's lock before its frame is sent, so its answer always finds it. Its `sequence` is its
    place among the submissions of the connection, by which the supervisor acknowledges: `sent` have gone out whole, and
    `accepted` of these were taken. Nothing is counted up or down, so nothing is counted twice.

    A handle that is done and still here was cancelled, and the supervisor has not confirmed that yet. The jobs in `stopped`
    were cancelled too, and ended because the pool was stopped before the supervisor had read that. They `are_handed_over`
    once the supervisor has said that what it took and did not answer is its successor's.
    """

    def __init__(self) -> None:
        self.handles: dict[bytes, Handle] = {}
        self.unacknowledged = Unacknowledged()
        self.sent = 0
        self.accepted = 0
        self.stopped: deque[bytes] = deque()
        self.are_handed_over = False

    def enter(self, submission: Submission, route: object) -> None:
        """Enter a submission that is about to be sent."""
        handle = submission.handle
        submission.sequence = sequence = self.sent + 1
        self.handles[handle.raw_id] = handle
        handle.sent_over(route, sequence)
        self.unacknowledged.append(submission)

    def enter_many(self, submissions: Sequence[Submission], route: object) -> None:
        """Enter submissions that are about to be sent together."""
        for sequence, submission in enumerate(submissions, self.sent + 1):
            handle = submission.handle
            submission.sequence = sequence
            self.handles[handle.raw_id] = handle
            handle.sent_over(route, sequence)
            self.unacknowledged.append(submission)

    def note_sent(self, submission: Submission) -> None:
        """Note that a submission has gone out whole."""
        self.sent = submission.sequence

    def withdraw(self, submission: Submission) -> None:
        """Take out the last submission, entered or not, which was given up. Nobody has its handle."""
        self.handles.pop(submission.handle.raw_id, None)
        with contextlib.suppress(IndexError):  # acknowledged in this very moment
            if self.unacknowledged[-1] is submission:
                self.unacknowledged.pop()

    def withdraw_many(self, submissions: Sequence[Submission]) -> None:
        """Take out the last submissions, entered or not, which were given up."""
        for submission in reversed(submissions):
            self.withdraw(submission)

    def note_end_of_cancelled(self, job_id: bytes, raw: bytes) -> None:
        """Note the end of a job that was cancelled here. One that was stopped with its pool may be kept in a store."""
        if verdict_of(raw) == "PoolClosed":
            self.stopped.append(job_id)

    def take_acknowledgement(self, accepted: int) -> None:
        """Forget the submissions that the supervisor has; it has taken `accepted` since the connection began."""
        self.unacknowledged.drop_until(accepted)
        self.accepted = accepted
