"""The life of a job as one table: (state, event) -> state.

queued     Entered when the supervisor takes a submission, when a waiting time is over, or when a job that was sent to a
           worker comes back unstarted. In it: the job is in its generation's queue, is throttled by a limit that it shares
           with others, or lies unread before a worker.
           Left by START, DELAY, CANCEL, EXPIRE, REJECT; by RETURN and FAIL where the store has its answer already.
scheduled  Entered on submission with `delay` or `at`. In it: the job is in the queue of delayed jobs.
           Left by DUE, CANCEL, EXPIRE, REJECT; by RETURN and FAIL where the store has its answer already.
running    Entered when a worker has the job and nothing before it. In it: the job is in exactly one slot, its attempt is
           counted, its deadline runs.
           Left by RETURN, FAIL, RETRY, CANCEL, RECLAIM (the worker had not begun it).
retrying   Entered when an attempt failed and another is allowed. In it: the job is in the queue of delayed jobs.
           Left by DUE, CANCEL, EXPIRE.
succeeded, failed, cancelled, expired
           Final. In it: the job's one answer has been made and is kept for readers by id until it is evicted.

The state tells where a job is in its life, the Reason tells why. Only the supervisor advances the state of a job, through
`Job.advance`. Readers of the shared table see one thing earlier than the supervisor: a worker marks in the job's row that
it has begun an attempt, and a queued job with such a mark is shown as running.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NoReturn


class JobState(IntEnum):
    """Where a job is in its life; `str()` and comparison with text use the lower-case name."""

    QUEUED = 1
    SCHEDULED = 2
    RUNNING = 3
    RETRYING = 4
    SUCCEEDED = 5
    FAILED = 6
    CANCELLED = 7
    EXPIRED = 8

    @property
    def text(self) -> str:
        """The state as users see it: `"queued"`, `"running"`, ..."""
        return self.name.lower()


class Reason(IntEnum):
    """Why a job is in its state."""

    NONE = 0
    RAISED = 1
    TIMEOUT = 2
    CRASHED = 3
    CANCELLED = 4
    EXPIRED = 5
    PAYLOAD = 6
    REJECTED = 7
    STOPPED = 8
    STALLED = 9
    MEMORY = 10
    QUARANTINED = 11

    @property
    def text(self) -> str | None:
        """The reason as users see it, None where there is nothing to say."""
        return self.name.lower() if self else None


class Event(IntEnum):
    """Events in the life of a job."""

    START = 1
    DUE = 2
    RETURN = 3
    FAIL = 4
    RETRY = 5
    CANCEL = 6
    EXPIRE = 7
    REJECT = 8
    RECLAIM = 9
    DELAY = 10


FINAL: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})

TRANSITIONS: Final[dict[tuple[JobState, Event], JobState]] = {
    (JobState.QUEUED, Event.START): JobState.RUNNING,
    (JobState.QUEUED, Event.DELAY): JobState.SCHEDULED,
    (JobState.QUEUED, Event.RETURN): JobState.SUCCEEDED,
    (JobState.QUEUED, Event.FAIL): JobState.FAILED,
    (JobState.QUEUED, Event.CANCEL): JobState.CANCELLED,
    (JobState.QUEUED, Event.EXPIRE): JobState.EXPIRED,
    (JobState.QUEUED, Event.REJECT): JobState.FAILED,
    (JobState.SCHEDULED, Event.DUE): JobState.QUEUED,
    (JobState.SCHEDULED, Event.RETURN): JobState.SUCCEEDED,
    (JobState.SCHEDULED, Event.FAIL): JobState.FAILED,
    (JobState.SCHEDULED, Event.CANCEL): JobState.CANCELLED,
    (JobState.SCHEDULED, Event.EXPIRE): JobState.EXPIRED,
    (JobState.SCHEDULED, Event.REJECT): JobState.FAILED,
    (JobState.RUNNING, Event.RETURN): JobState.SUCCEEDED,
    (JobState.RUNNING, Event.FAIL): JobState.FAILED,
    (JobState.RUNNING, Event.RETRY): JobState.RETRYING,
    (JobState.RUNNING, Event.CANCEL): JobState.CANCELLED,
    (JobState.RUNNING, Event.RECLAIM): JobState.QUEUED,
    (JobState.RETRYING, Event.DUE): JobState.QUEUED,
    (JobState.RETRYING, Event.CANCEL): JobState.CANCELLED,
    (JobState.RETRYING, Event.EXPIRE): JobState.EXPIRED,
}
NEXT_STATES: Final[tuple[tuple[JobState | None, ...], ...]] = tuple(
    tuple(TRANSITIONS.get((JobState(state), Event(event))) if state and event else None for event in range(len(Event) + 1))
    for state in range(len(JobState) + 1)
)
"""The same table by position, None where an event cannot happen. It is read for every job: to look up keys that are members
of an enum takes five times as long, since their hash is computed in Python."""


def refuse_event(state: JobState, event: Event) -> NoReturn:
    """Raise ValueError: this event cannot happen in this state."""
    raise ValueError(f"a job that is {state.text} cannot {event.name}")
