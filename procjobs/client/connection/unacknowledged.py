"""The submissions that no supervisor has acknowledged, and the files that are retained for them.

A submission is kept, its file with it, from before its frame is sent until it is acknowledged.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final

from procjobs.client.connection.submission import Submission
from procjobs.clock import monotonic
from procjobs.errors import JobExpired

if TYPE_CHECKING:
    from procjobs.host.descriptors import Descriptor

_MAX_RETAINED: Final = 256
"""The most files that this process retains. A job that brings one more is not sent again."""

_retained: set[weakref.ref[Descriptor]] = set()
"""The files that are alive: each takes itself out when its last reference goes."""


def try_retain(file: Descriptor) -> bool:
    """Count a file among the retained ones as long as somebody holds it; return False if there are too many already."""
    if len(_retained) >= _MAX_RETAINED:
        return False
    _retained.add(weakref.ref(file, _retained.discard))
    return True


def _close_retained() -> None:
    for reference in list(_retained):
        file = reference()
        if file is not None:
            file.close()


os.register_at_fork(after_in_child=_close_retained)


class Unacknowledged(deque[Submission]):
    """The submissions of one connection, in order.

    Threads that submit append, under the connection's lock. The receiver thread takes from the other end, and has it alone
    once the connection is lost.
    """

    def job_ids(self) -> set[bytes]:
        """Return the ids of the jobs."""
        return {submission.handle.raw_id for submission in self}

    def drop_until(self, sequence: int) -> None:
        """Forget the submissions up to this one of the connection; the supervisor has them."""
        while self:
            try:
                first = self.popleft()
            except IndexError:  # the thread that submitted it has given it up in this very moment
                return
            if first.sequence > sequence:
                self.appendleft(first)
                return

    def keep(self, job_ids: AbstractSet[bytes]) -> None:
        """Forget all but these."""
        for _ in range(len(self)):
            submission = self.popleft()
            if submission.handle.raw_id in job_ids:
                self.append(submission)

    def resendable(self, oldest: float) -> Iterator[bytes]:
        """Yield the ids of the jobs that can be sent again and were sent after `oldest`; of a batch all, or none."""
        torn = {one.batch for one in self if one.batch is not None and not one.can_be_sent_again()}
        for submission in self:
            if submission.sent_at > oldest and submission.can_be_sent_again() and submission.batch not in torn:
                yield submission.handle.raw_id

    def end_expired(self) -> None:
        """End the jobs that are not to be started any more."""
        now = monotonic()
        expired = [submission.handle for submission in self if submission.has_expired(now)]
        self.keep(self.job_ids() - {handle.raw_id for handle in expired})
        for handle in expired:
            message = f"job {handle.id} {handle.name} had not been started when its `expires` came"
            handle.abandon(JobExpired(message, job_id=handle.id))
