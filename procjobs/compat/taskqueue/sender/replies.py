"""What becomes of a task after its request: pure."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from procjobs.compat.taskqueue.sender.backoff import backoff, is_given_up
from procjobs.compat.taskqueue.sender.claims import GIVEN_UP, SUCCEEDED, Claim, Ending
from procjobs.compat.taskqueue.settings.queues import QueueSettings

_SECOND: Final = 1_000_000
OVERLOADED: Final = 503
"""The status by which an application says that it cannot take a request now; its handler has not seen the task."""


class Reply(NamedTuple):
    """How a request has ended: its status, None where there was none; and in words why there is no good answer."""

    status: int | None
    problem: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the task is done."""
        return self.status is not None and 200 <= self.status < 300 and not self.problem

    @property
    def reason(self) -> str:
        """The value of X-AppEngine-TaskRetryReason."""
        return self.problem or f"status {self.status}"


def end(claim: Claim, queue: QueueSettings, reply: Reply, now: int) -> Ending:
    """Return what becomes of a task; `now` is microseconds since 1970 in UTC.

    The execution count grows with each answer of the handler: not without an answer, and not with a 503.
    """
    if reply.is_good:
        return Ending(claim.id, claim.run, SUCCEEDED)
    retry = claim.retry_parameters(queue)
    failures = claim.retry_count + 1
    age = (now - (claim.first_try_usec or now)) / _SECOND
    if is_given_up(retry, failures, age):
        return Ending(claim.id, claim.run, GIVEN_UP)
    executions = claim.execution_count + (reply.status not in {None, OVERLOADED})
    pause = math.ceil(backoff(retry, failures) * _SECOND)
    return Ending(
        claim.id, claim.run, "", now + pause, failures, executions, reply.status, reply.reason,
    )  # fmt: skip
