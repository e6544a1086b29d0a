"""Where jobs wait: by priority for a worker, by time for a moment. Pure; of a job it reads three fields."""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from procjobs.clock import NEVER
from procjobs.shared.states import JobState

_QUEUED: Final = JobState.QUEUED
_MAX_LEFT_OVER: Final = 100
"""How many jobs a queue may hold that do not wait in it any more, beyond as many as do."""

_NEAR_END: Final = 100


class Queued(Protocol):
    """The fields of a job that a queue reads."""

    state: JobState
    effective_priority: float
    queued_at: float


J = TypeVar("J", bound=Queued)
T = TypeVar("T")


class JobQueue(Generic[J]):
    """Jobs that could run now: higher priority first, first in first out within one priority.

    A job that stops waiting for another reason (cancelled, expired) is left in place and counted out with `forget`; it is
    dropped when it comes to the front, or with all others of its kind once they are more than those that wait. So everything
    takes constant time on average, however long the queue is.
    """

    def __init__(self) -> None:
        self._levels: dict[float, deque[J]] = {}
        self._order: list[tuple[float, deque[J]]] = []  # the levels by negated priority, ascending
        self._front: deque[J] = deque()  # the level of the job that `first` returned
        self._waiting = 0
        self._left_over = 0

    def __len__(self) -> int:
        return self._waiting

    def _level(self, priority: float) -> deque[J]:
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = deque()
            insort(self._order, (-priority, level))
        return level

    def push(self, job: J) -> None:
        """Put a job behind those of its priority."""
        level = self._levels.get(job.effective_priority)
        if level is None:
            level = self._level(job.effective_priority)
        level.append(job)
        self._waiting += 1

    def push_front(self, job: J) -> None:
        """Put a job before those of its priority: it had been at the front already."""
        self._level(job.effective_priority).appendleft(job)
        self._waiting += 1

    def move_to_front(self, job: J, priority: float) -> bool:
        """Put a job that waits here before all others of its priority, or of this one if it is higher.

        Return False if it does not wait here. It is looked for at the end first: such jobs have come a moment ago.
        """
        level = self._levels.get(job.effective_priority, deque())
        near = (place for place in range(len(level) - 1, max(len(level) - _NEAR_END, 0) - 1, -1) if level[place] is job)
        place = next(near, None)
        if place is None:
            if job not in level:
                return False
            place = level.index(job)
        del level[place]
        self._waiting -= 1
        job.effective_priority = max(job.effective_priority, priority)
        self.push_front(job)
        return True

    def first(self) -> J | None:
        """Return the job that is to be started next and leave it where it is."""
        while self._order:
            level = self._order[0][1]
            while level:
                job = level[0]
                if job.state is _QUEUED:
                    self._front = level
                    return job
                level.popleft()
            del self._levels[-self._order.pop(0)[0]]
        return None

    def jobs(self) -> list[J]:
        """Return the jobs that wait, the one to start next first; they stay."""
        return [job for _, level in self._order for job in level if job.state is _QUEUED]

    def oldest(self) -> float:
        """Return since when the job that has waited for longest does, infinity where no job waits.

        Only the first one of each priority is looked at: jobs behind it came later, or were put back a moment ago.
        """
        oldest = NEVER
        for level in self._levels.values():
            while level and level[0].state is not _QUEUED:
                level.popleft()
            if level and level[0].queued_at < oldest:
                oldest = level[0].queued_at
        return oldest

    def front(self) -> J | None:
        """Return the job that is to be started next, None where jobs of several priorities wait; after `oldest`."""
        return self._order[0][1][0] if len(self._order) == 1 and self._order[0][1] else None

    def drop_first(self) -> None:
        """Take out the job that `first` has just returned."""
        self._front.popleft()
        self._waiting -= 1

    def forget(self) -> None:
        """Count out one job that is about to wait no longer."""
        if self._left_over > self._waiting + _MAX_LEFT_OVER:
            self._left_over = 0
            for level in self._levels.values():
                waiting = [job for job in level if job.state is _QUEUED]
                level.clear()
                level.extend(waiting)
        self._waiting -= 1
        self._left_over += 1


class DelayQueue(Generic[T]):
    """Jobs by the monotonic time at which something is to be done about them.

    One whose time does not matter any more is left in place and counted out with `forget`, as in a JobQueue.
    """

    def __init__(self, matters: Callable[[T], bool]) -> None:
        """`matters(job)` tells whether its time still does."""
        self._matters = matters
        self._heap: list[tuple[float, int, T]] = []
        self._sequence = 0
        self._left_over = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, when: float, job: T) -> None:
        """Enter a job; jobs with the same time come out in the order in which they went in."""
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, job))

    def next_time(self) -> float:
        """Return the earliest time entered, infinity when there is none."""
        return self._heap[0][0] if self._heap else NEVER

    def jobs(self) -> list[T]:
        """Return all jobs entered, also those whose time does not matter any more."""
        return [job for _, _, job in self._heap]

    def entries(self) -> list[tuple[float, T]]:
        """Return all jobs entered, by their times, also those whose time does not matter any more."""
        return [(when, job) for when, _, job in sorted(self._heap, key=lambda entry: entry[:2])]

    def reschedule(self, time_of: Callable[[T], float | None]) -> None:
        """Enter the jobs at other times: at what `time_of(job)` returns, unless that is None."""
        moved = [(time_of(job), when, sequence, job) for when, sequence, job in self._heap]
        self._heap = [(when if new is None else new, sequence, job) for new, when, sequence, job in moved]
        heapq.heapify(self._heap)

    def pop_due(self, now: float) -> T | None:
        """Take out a job whose time has come, None when there is none."""
        if self._heap and self._heap[0][0] <= now:
            return heapq.heappop(self._heap)[2]
        return None

    def forget(self) -> None:
        """Count out one job whose time is about to matter no longer; it may have been taken out already."""
        if 2 * self._left_over > len(self._heap) + _MAX_LEFT_OVER:
            self._left_over = 0
            self._heap = [entry for entry in self._heap if self._matters(entry[2])]
            heapq.heapify(self._heap)
        self._left_over += 1
