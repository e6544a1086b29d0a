"""Limits that jobs share, by their queue or their key, and the jobs that wait because of them. Pure.

1. A job is checked when it comes to the front of its generation's queue. Where one of its limiters has no capacity, the job
   is throttled: it waits in that limiter, so that others go on.
2. A limiter that has capacity again wakes the best of its throttled jobs (by priority, then by age), as many as it has
   capacity for, and puts them back to the front of their queues; and a throttled job of a higher priority than all that
   are woken, such as one that was reclaimed after they were. It does so for each generation, since one may have no
   workers just now. A job counts when it is started, not when it is woken, so that a job of higher priority can still come
   first.
3. In any stretch of a rate's period no more than its count are started. A start that is reclaimed does not count.
4. The limiter of a key lives as long as a job is a member of it. The starts that its rate still counts are kept apart.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final
from weakref import ref

from procjobs.clock import NEVER
from procjobs.dispatch.model import Generation, Job
from procjobs.dispatch.past_starts import PastStarts
from procjobs.shared.queues import Queue, Rate, parse_rate

_NO_QUEUE: Final = Queue()
_UNDECLARED: Final = Queue(limit=1)
"""Holds for a queue that is not declared any more, of which the store still has jobs."""
_NO_STARTS: Final[deque[float]] = deque(maxlen=0)
"""For limiters without a rate: there may be one for each waiting job, and an empty deque takes 0.6 kB."""
_MAX_STALE: Final = 100
"""How many entries a limiter may hold of jobs that it does not throttle any more, beyond twice as many as it does."""


class Turn(IntEnum):
    """Where a job is with the limiters that it is a member of."""

    NONE = 0
    THROTTLED = 1
    WOKEN = 2  # at the front of its queue again
    RUNNING = 3


class Limiter:
    """One limit: how many jobs run and may run, when they were started; the throttled and the woken ones by generation.

    `key` is empty for that of a queue; `members` are its jobs, whatever their turn.
    """

    __slots__ = (
        "__weakref__",
        "key",
        "limit",
        "members",
        "rate",
        "running",
        "starts",
        "throttled",
        "waiting",
        "wakes_at",
        "woken",
    )

    def __init__(self, limit: int | None, rate: Rate | None, key: bytes = b"") -> None:
        self.limit = NEVER if limit is None else limit
        self.rate = rate
        self.key = key
        self.members = self.running = self.throttled = 0
        self.woken: dict[Generation, Counter[float]] = {}  # by priority
        self.starts: deque[float] = _NO_STARTS if rate is None else deque()
        self.waiting: dict[Generation, list[tuple[float, int, Membership]]] = {}  # heaps, with stale entries
        self.wakes_at = NEVER

    def may_wake(self, job: Job, generation: Generation, capacity: float) -> bool:
        """Return whether a throttled job, the best one, is to be woken beside those that are."""
        woken = self.woken.get(generation)
        if woken is None or capacity <= 0:
            return capacity > 0
        return woken.total() < capacity or max(woken) < job.effective_priority

    def capacity(self, now: float) -> float:
        """Return how many more jobs may be started now."""
        capacity = self.limit - self.running
        return capacity if self.rate is None else min(capacity, self._rest_of_rate(now, self.rate))

    def _rest_of_rate(self, now: float, rate: Rate) -> int:
        while self.starts and self.starts[0] + rate.period <= now:
            self.starts.popleft()
        return rate.starts - len(self.starts)

    def best(self, generation: Generation) -> Membership | None:
        """Return the first of the throttled jobs of a generation, and leave it there."""
        waiting = self.waiting.get(generation, ())
        while waiting:
            member = waiting[0][2]
            if self._throttles(member, generation):
                return member
            heapq.heappop(waiting)
        self.waiting.pop(generation, None)
        return None

    def _throttles(self, member: Membership, generation: Generation) -> bool:
        return member.limiter is self and member.turn is Turn.THROTTLED and member.generation is generation

    def drop_stale(self, generation: Generation) -> None:
        """Drop the entries of jobs that are not throttled any more, if they are the most by far."""
        waiting = self.waiting.get(generation, [])
        if len(waiting) > 2 * self.throttled + _MAX_STALE:
            waiting[:] = [entry for entry in waiting if self._throttles(entry[2], generation)]
            heapq.heapify(waiting)


class Membership:
    """A job with its limiters: `limiter` is the one that throttles it, or has woken it, for a `generation`."""

    __slots__ = ("generation", "job", "limiter", "limiters", "order", "started_at", "turn")

    def __init__(self, job: Job, limiters: tuple[Limiter, ...], order: int) -> None:
        self.job = job
        self.limiters = limiters
        self.order = order
        self.limiter: Limiter | None = None
        self.generation: Generation | None = None
        self.turn = Turn.NONE
        self.started_at = 0.0


class Limiters:
    """All limiters of a pool. Methods that take a job expect a member: a job that `shares_limits`."""

    def __init__(self, queues: Mapping[str, Queue]) -> None:
        self._queues = dict(queues)
        self._of_queue = {name: Limiter(queue.limit, parse_rate(queue.rate)) for name, queue in queues.items()}
        self._of_key: dict[tuple[str | None, bytes], Limiter] = {}
        self._past_starts: dict[str | None, PastStarts] = {}  # by queue, where there are any
        self._forgets_at = NEVER
        self._members: dict[Job, Membership] = {}
        self._throttled: set[Membership] = set()
        self._throttled_of: Counter[str | None] = Counter()
        self._changed: dict[Limiter, None] = {}  # limiters that may have capacity for some of their throttled jobs
        self._clock: list[tuple[float, int, ref[Limiter]]] = []
        self._sequence = 0

    # Membership -------------------------------------------------------------------------------------------------

    def join(self, job: Job) -> None:
        """Make a new job a member of the limiters of its queue and its key, if it has any."""
        queue = job.kind.options.queue
        limiters = []
        if queue is not None:
            if queue not in self._queues:
                self._queues[queue] = _UNDECLARED
                self._of_queue[queue] = Limiter(_UNDECLARED.limit, None)
            limiters.append(self._of_queue[queue])
        if job.key:
            limiters.append(self._limiter_of_key(queue, job.key))
        if limiters:
            for limiter in limiters:
                limiter.members += 1
            self._sequence += 1
            self._members[job] = Membership(job, tuple(limiters), self._sequence)
            job.shares_limits = True

    def _limiter_of_key(self, queue: str | None, key: bytes) -> Limiter:
        limiter = self._of_key.get((queue, key))
        if limiter is None:
            limits = _NO_QUEUE if queue is None else self._queues[queue]
            limiter = self._of_key[queue, key] = Limiter(limits.key_limit, parse_rate(limits.key_rate), key)
            past_starts = self._past_starts.get(queue)
            if past_starts is not None:
                limiter.starts.extend(past_starts.take(key))
        return limiter

    def leave(self, job: Job) -> None:
        """End the membership of a job that has ended."""
        self.release(job)
        job.shares_limits = False
        member = self._members.pop(job)
        for limiter in member.limiters:
            limiter.members -= 1
            if limiter.key and not limiter.members:
                self._drop(limiter, job.kind.options.queue)
        member.limiters = ()  # a stale entry in the heap of a limiter would keep that one alive

    def _drop(self, limiter: Limiter, queue: str | None) -> None:
        """Forget the limiter of a key that has no more jobs, except for the starts that its rate counts."""
        del self._of_key[queue, limiter.key]
        if limiter.starts and limiter.rate is not None:
            past_starts = self._past_starts.get(queue)
            if past_starts is None:
                past_starts = self._past_starts[queue] = PastStarts(limiter.rate.period)
            past_starts.keep(limiter.key, limiter.starts)
            self._forgets_at = min(self._forgets_at, past_starts.next_time())

    # Throttling -------------------------------------------------------------------------------------------------

    @property
    def throttled(self) -> int:
        """How many jobs are throttled."""
        return len(self._throttled)

    def saturated(self, count: int) -> dict[str, int]:
        """Return the queues with at least `count` throttled jobs, and how many each has."""
        return {name: waiting for name in self._of_queue if (waiting := self._throttled_of[name]) >= count}

    def full(self, job: Job, now: float) -> Limiter | None:
        """Return the first limiter that has no capacity for a job, None if the job may start."""
        for limiter in self._members[job].limiters:
            if limiter.capacity(now) <= 0:
                return limiter
        return None

    def blocking(self, job: Job, stuck: set[Job]) -> Limiter | None:
        """Return the first limiter without capacity for a job while the `stuck` ones run, None if all have some."""
        for limiter in self._members[job].limiters if job.shares_limits else ():
            if sum(limiter in self._members[other].limiters for other in stuck if other.shares_limits) >= limiter.limit:
                return limiter
        return None

    def full_for_newcomer(self, job: Job, now: float) -> Limiter | None:
        """Return a limiter that throttles a new job from the beginning, before it has come to the front.

        It has no capacity and has woken no job, or it throttles jobs that come before this one.
        """
        generation = job.generation
        for limiter in self._members[job].limiters:
            best = limiter.best(generation) if limiter.throttled else None
            if best is not None and best.job.effective_priority >= job.effective_priority:
                return limiter
            if limiter.capacity(now) <= 0 and generation not in limiter.woken:
                return limiter
        return None

    def throttle(self, job: Job, limiter: Limiter) -> None:
        """Let a job wait in a limiter."""
        member = self._members[job]
        self._leave_limiter(member)
        member.turn, member.limiter, member.generation = Turn.THROTTLED, limiter, job.generation
        limiter.throttled += 1
        self._throttled.add(member)
        self._throttled_of[job.kind.options.queue] += 1
        waiting = limiter.waiting.setdefault(job.generation, [])
        heapq.heappush(waiting, (-job.effective_priority, member.order, member))
        self._arm(limiter)

    def requeue(self, job: Job) -> None:
        """Let a job that was not started after all wait where its age says; the limiter is about to wake the best one."""
        limiter = self._members[job].limiters[0]
        self.throttle(job, limiter)
        self._note_capacity(limiter)

    def move(self, job: Job) -> None:
        """Let a throttled job wait for its new generation."""
        limiter = self._members[job].limiter
        assert limiter is not None
        self.release(job)
        self.throttle(job, limiter)

    def start(self, job: Job, now: float) -> None:
        """Count a job that is started."""
        member = self._members[job]
        self._leave_limiter(member)
        member.turn, member.limiter, member.started_at = Turn.RUNNING, None, now
        for limiter in member.limiters:
            limiter.running += 1
            if limiter.rate is not None:
                limiter.starts.append(now)
                self._arm(limiter)

    def release(self, job: Job, *, was_started: bool = True) -> None:
        """Count a job out: it neither runs, nor is it throttled or woken any more."""
        member = self._members[job]
        self._leave_limiter(member)
        if member.turn is Turn.RUNNING:
            for limiter in member.limiters:
                limiter.running -= 1
                if not was_started and member.started_at in limiter.starts:
                    limiter.starts.remove(member.started_at)
                self._note_capacity(limiter)
        member.turn, member.limiter = Turn.NONE, None

    def _leave_limiter(self, member: Membership) -> None:
        """Count a job out of the limiter that throttles it, or has woken it."""
        limiter = member.limiter
        if limiter is None:
            return
        if member.turn is Turn.THROTTLED:
            if member.generation is not None:
                limiter.drop_stale(member.generation)
            limiter.throttled -= 1
            self._throttled.discard(member)
            self._throttled_of[member.job.kind.options.queue] -= 1
        elif member.turn is Turn.WOKEN and member.generation is not None:
            woken = limiter.woken[member.generation] = limiter.woken[member.generation] - Counter(
                [member.job.effective_priority]
            )
            if not woken:
                del limiter.woken[member.generation]
            self._note_capacity(limiter)

    def _note_capacity(self, limiter: Limiter) -> None:
        if limiter.throttled:
            self._changed[limiter] = None

    def wake(self, now: float) -> list[Job]:
        """Return the jobs that may be started now, the last one first; each is to be put to the front of its queue."""
        woken: list[Job] = []
        while self._changed:
            limiter, _ = self._changed.popitem()
            capacity = limiter.capacity(now)
            for generation, waiting in list(limiter.waiting.items()):
                while (member := limiter.best(generation)) and limiter.may_wake(member.job, generation, capacity):
                    heapq.heappop(waiting)
                    self._leave_limiter(member)
                    member.turn = Turn.WOKEN
                    limiter.woken.setdefault(generation, Counter())[member.job.effective_priority] += 1
                    woken.append(member.job)
            self._arm(limiter)
        woken.reverse()
        return woken

    def is_throttled(self, job: Job) -> bool:
        """Return whether a job, a member or not, is throttled."""
        return job.shares_limits and self._members[job].turn is Turn.THROTTLED

    def jobs(self) -> list[Job]:
        """Return the throttled jobs, the oldest first."""
        return [member.job for member in sorted(self._throttled, key=lambda member: member.order)]

    def drain(self) -> list[Job]:
        """Take out all throttled jobs."""
        jobs = self.jobs()
        for job in jobs:
            self.release(job)
        return jobs

    # Time -------------------------------------------------------------------------------------------------------

    def next_time(self) -> float:
        """Return when a rate lets a throttled job start, or forgets its last start."""
        return min(self._clock[0][0], self._forgets_at) if self._clock else self._forgets_at

    def advance(self, now: float) -> None:
        """Take note of the rates whose time has come."""
        while self._clock and self._clock[0][0] <= now:
            when, _, reference = heapq.heappop(self._clock)
            limiter = reference()
            if limiter is not None and when == limiter.wakes_at:
                limiter.wakes_at = NEVER
                limiter.capacity(now)  # forgets the starts that are over
                self._note_capacity(limiter)
                if not limiter.throttled:
                    self._arm(limiter)
        if self._forgets_at <= now:
            self._forget_past_starts(now)

    def _forget_past_starts(self, now: float) -> None:
        for queue, past_starts in list(self._past_starts.items()):
            past_starts.advance(now)
            if past_starts.next_time() == NEVER:
                del self._past_starts[queue]
        self._forgets_at = min((past_starts.next_time() for past_starts in self._past_starts.values()), default=NEVER)

    def _arm(self, limiter: Limiter) -> None:
        """Set when to look at a limiter again: when its rate lets the next job start, or forgets the last start.

        That of a key has nothing to forget in time: it goes with its last job.
        """
        if limiter.rate is None or not limiter.starts:
            return
        is_awaited = limiter.throttled and len(limiter.starts) >= limiter.rate.starts
        if limiter.key and not is_awaited:
            return
        when = limiter.starts[0 if is_awaited else -1] + limiter.rate.period
        if when < limiter.wakes_at:
            self._sequence += 1
            limiter.wakes_at = when
            heapq.heappush(self._clock, (when, self._sequence, ref(limiter)))

    # For users --------------------------------------------------------------------------------------------------

    def describe(self) -> list[dict[str, Any]]:
        """Return the queues with their limits, how many of their jobs run, and how many are throttled (`held`)."""
        return [
            {
                "name": name,
                **{field: getattr(self._queues[name], field) for field in Queue.__slots__},
                "running": limiter.running,
                "held": self._throttled_of[name],
            }
            for name, limiter in self._of_queue.items()
        ]
