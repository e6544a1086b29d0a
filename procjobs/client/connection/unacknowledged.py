"""The submissions that no supervisor has acknowledged, and the descriptors that are retained for them.

A submission is kept, its descriptor with it, from before its frame is sent until it is acknowledged.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Final

from procjobs.client.connection.submission import Submission
from procjobs.clock import monotonic
from procjobs.errors import JobExpired

_MAX_RETAINED: Final = 256
"""The most descriptors that this process retains. A job that brings one more is not sent again."""

_retained: set[int] = set()


def retain_fd(fd: int) -> bool:
    """Retain a descriptor until it is released; return False if there are too many already."""
    if len(_retained) >= _MAX_RETAINED:
        return False
    _retained.add(fd)
    return True


def release_fd(fd: int) -> None:
    """Close a descriptor, retained or not."""
    # Forgotten before it is closed: the number may be another's a moment later, and a fork closes all retained ones.
    _retained.discard(fd)
    os.close(fd)


def _close_retained() -> None:
    while _retained:
        os.close(_retained.pop())


os.register_at_fork(after_in_child=_close_retained)


class Unacknowledged(deque[Submission]):
    """The submissions of one connection, in order.

    Threads that submit append, under the connection's lock. The receiver thread takes from the other end, and has it alone
    once the connection is lost.
    """

    def job_ids(self) -> set[bytes]:
        """Return the ids of the jobs."""
        return {submission.handle.raw_id for submission in self}

    def drop(self, count: int) -> None:
        """Forget the oldest; the supervisor has them."""
        for _ in range(min(count, len(self))):
            fd = self.popleft().fd
            if fd is not None:
                release_fd(fd)

    def keep(self, job_ids: AbstractSet[bytes]) -> None:
        """Forget all but these."""
        for _ in range(len(self)):
            if self[0].handle.raw_id in job_ids:
                self.rotate(-1)
            else:
                self.drop(1)

    def resendable(self, oldest: float) -> Iterator[bytes]:
        """Yield the ids of the jobs that can be sent again and were sent after `oldest`."""
        for submission in self:
            if submission.sent_at > oldest and submission.can_be_sent_again():
                yield submission.handle.raw_id

    def end_expired(self) -> None:
        """End the jobs that are not to be started any more."""
        now = monotonic()
        expired = [submission.handle for submission in self if submission.has_expired(now)]
        self.keep(self.job_ids() - {handle.raw_id for handle in expired})
        for handle in expired:
            message = f"job {handle.id} {handle.name} had not been started when its `expires` came"
            handle.abandon(JobExpired(message, job_id=handle.id))
