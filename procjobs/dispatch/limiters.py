"""Jobs that share a limit, by their queue or their key, and wait for their turn. Pure.

1. A job is looked at when it comes to the front of its generation's queue. Where a line that it belongs to has no room,
   it waits in that line, so that others go on.
2. A line that has room again calls the best of those that wait (by priority, then by age), as many as there is room for,
   back to the front of their queues: so many of each generation, since one may have no workers just now. A job has its
   turn when it is started, not when it is called, so that one of higher priority can still come first.
3. In any stretch of a rate's period no more than its count are started. What is taken back unstarted does not count.
4. A line of a key lives as long as a job belongs to it, and while its rate remembers a start.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from procjobs.clock import NEVER
from procjobs.shared.queues import Queue, Rate, parse_rate

if TYPE_CHECKING:
    from procjobs.dispatch.model import Generation, Job

_NO_QUEUE: Final = Queue()
_UNDECLARED: Final = Queue(limit=1)
"""What holds for a queue that is not declared any more, of which the store still has jobs."""


class Turn(IntEnum):
    """Where a job is in the lines that it belongs to."""

    NONE = 0
    WAITS = 1
    CALLED = 2  # at the front of its queue again
    RUNS = 3


class Line:
    """What is shared: how many run and may run, when they were started; and by generation who waits, and was called."""

    __slots__ = ("__weakref__", "called", "held", "limit", "rate", "running", "starts", "waiting", "wakes_at")

    def __init__(self, limit: int | None, rate: Rate | None) -> None:
        self.limit = NEVER if limit is None else limit
        self.rate = rate
        self.running = self.held = 0
        self.called: Counter[Generation] = Counter()
        self.starts: deque[float] = deque()
        self.waiting: dict[Generation, list[tuple[float, int, Job]]] = {}  # heaps; who has gone is dropped on coming up
        self.wakes_at = NEVER

    def room(self, now: float) -> float:
        """Return how many more may be started now."""
        room = self.limit - self.running
        return room if self.rate is None else min(room, self._rest(now, self.rate))

    def _rest(self, now: float, rate: Rate) -> int:
        while self.starts and self.starts[0] + rate.period <= now:
            self.starts.popleft()
        return rate.starts - len(self.starts)

    def best(self, generation: Generation) -> Job | None:
        """Return the first of those of a generation that wait, and leave it there."""
        waiting = self.waiting.get(generation, ())
        while waiting:
            place = waiting[0][2].place
            if place is not None and place.line is self and place.turn is Turn.WAITS and place.generation is generation:
                return waiting[0][2]
            heapq.heappop(waiting)
        self.waiting.pop(generation, None)
        return None


class Place:
    """Where a job is in its lines: `line` is the one in which it waits, or which has called it, for a `generation`."""

    __slots__ = ("generation", "line", "lines", "order", "started_at", "turn")

    def __init__(self, lines: tuple[Line, ...], order: int) -> None:
        self.lines = lines
        self.order = order
        self.line: Line | None = None
        self.generation: Generation | None = None
        self.turn = Turn.NONE
        self.started_at = 0.0


class Lines:
    """All lines of a pool."""

    def __init__(self, queues: Mapping[str, Queue]) -> None:
        self._queues = dict(queues)
        self._of_queue = {name: Line(queue.limit, parse_rate(queue.rate)) for name, queue in queues.items()}
        self._of_key: WeakValueDictionary[tuple[str | None, bytes], Line] = WeakValueDictionary()
        self._held: set[Job] = set()
        self._held_of: Counter[str | None] = Counter()
        self._changed: dict[Line, None] = {}  # those that may have room for some that wait
        self._clock: list[tuple[float, int, Line]] = []
        self._sequence = 0

    # Who belongs where ------------------------------------------------------------------------------------------

    def enter(self, job: Job) -> None:
        """Give a new job its place, if it has a queue or a key."""
        queue = job.kind.options.queue
        lines = []
        if queue is not None:
            if queue not in self._queues:
                self._queues[queue] = _UNDECLARED
                self._of_queue[queue] = Line(_UNDECLARED.limit, None)
            lines.append(self._of_queue[queue])
        if job.key:
            lines.append(self._line_of_key(queue, job.key))
        if lines:
            self._sequence += 1
            job.place = Place(tuple(lines), self._sequence)

    def _line_of_key(self, queue: str | None, key: bytes) -> Line:
        line = self._of_key.get((queue, key))
        if line is None:
            limits = _NO_QUEUE if queue is None else self._queues[queue]
            line = self._of_key[queue, key] = Line(limits.key_limit, parse_rate(limits.key_rate))
        return line

    # Waiting ----------------------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """How many jobs wait here."""
        return len(self._held)

    def crowded(self, most: int) -> dict[str, int]:
        """Return the queues so many of whose jobs wait here, and how many these are."""
        return {name: count for name in self._of_queue if (count := self._held_of[name]) >= most}

    @staticmethod
    def closed(place: Place, now: float) -> Line | None:
        """Return the first line that has no room for one that belongs to it, None if it may start."""
        for line in place.lines:
            if line.room(now) <= 0:
                return line
        return None

    @staticmethod
    def closed_to_newcomer(job: Job, now: float) -> Line | None:
        """Return a line in which a new job can wait from the beginning, without having come to the front.

        It has no room and nobody was called, or others wait in it that come before this one.
        """
        generation = job.generation
        for line in () if job.place is None else job.place.lines:
            best = line.best(generation) if line.held else None
            if best is not None and best.rank >= job.rank:
                return line
            if line.room(now) <= 0 and not line.called[generation]:
                return line
        return None

    def park(self, job: Job, line: Line) -> None:
        """Let a job wait in a line."""
        place = job.place
        assert place is not None
        self._leave(job, place)
        place.turn, place.line, place.generation = Turn.WAITS, line, job.generation
        line.held += 1
        self._held.add(job)
        self._held_of[job.kind.options.queue] += 1
        waiting = line.waiting.setdefault(job.generation, [])
        heapq.heappush(waiting, (-job.rank, place.order, job))
        self._arm(line)

    def join_again(self, job: Job) -> None:
        """Let a job that was not started after all wait where its age says; the line is about to call the best."""
        assert job.place is not None
        line = job.place.lines[0]
        self.park(job, line)
        self._note_room(line)

    def take(self, place: Place, job: Job, now: float) -> None:
        """Note that a job is started."""
        self._leave(job, place)
        place.turn, place.line, place.started_at = Turn.RUNS, None, now
        for line in place.lines:
            line.running += 1
            if line.rate is not None:
                line.starts.append(now)
                self._arm(line)

    def release(self, job: Job, *, was_started: bool = True) -> None:
        """Note that a job does not run, wait, or stand at the front any more."""
        place = job.place
        if place is None:
            return
        self._leave(job, place)
        if place.turn is Turn.RUNS:
            for line in place.lines:
                line.running -= 1
                if not was_started and place.started_at in line.starts:
                    line.starts.remove(place.started_at)
                self._note_room(line)
        place.turn, place.line = Turn.NONE, None

    def _leave(self, job: Job, place: Place) -> None:
        """Count a job out of the line in which it waits, or which has called it."""
        line = place.line
        if line is None:
            return
        if place.turn is Turn.WAITS:
            line.held -= 1
            self._held.discard(job)
            self._held_of[job.kind.options.queue] -= 1
        elif place.turn is Turn.CALLED and place.generation is not None:
            line.called[place.generation] -= 1
            if not line.called[place.generation]:
                del line.called[place.generation]
            self._note_room(line)

    def _note_room(self, line: Line) -> None:
        if line.held:
            self._changed[line] = None

    def call(self, now: float) -> list[Job]:
        """Return those whose turn has come, the last one first; each is to be put to the front of its queue."""
        called: list[Job] = []
        while self._changed:
            line, _ = self._changed.popitem()
            room = line.room(now)
            for generation, waiting in list(line.waiting.items()):
                while line.called[generation] < room and (job := line.best(generation)) is not None:
                    heapq.heappop(waiting)
                    self._call(job, line)
                    called.append(job)
            self._arm(line)
        called.reverse()
        return called

    def _call(self, job: Job, line: Line) -> None:
        place = job.place
        assert place is not None
        self._leave(job, place)
        place.turn = Turn.CALLED
        line.called[job.generation] += 1

    @staticmethod
    def holds(job: Job) -> bool:
        """Return whether a job waits here."""
        return job.place is not None and job.place.turn is Turn.WAITS

    def jobs(self) -> list[Job]:
        """Return the jobs that wait here, the oldest first."""
        return sorted(self._held, key=lambda job: 0 if job.place is None else job.place.order)

    def drain(self) -> list[Job]:
        """Take out all that wait."""
        jobs = self.jobs()
        for job in jobs:
            self.release(job)
        return jobs

    # Time -------------------------------------------------------------------------------------------------------

    def next_time(self) -> float:
        """Return when a rate lets somebody start who waits, or forgets its last start."""
        return self._clock[0][0] if self._clock else NEVER

    def advance(self, now: float) -> None:
        """Take note of the rates whose time has come."""
        while self._clock and self._clock[0][0] <= now:
            when, _, line = heapq.heappop(self._clock)
            if when == line.wakes_at:
                line.wakes_at = NEVER
                line.room(now)
                self._note_room(line)
                if not line.held:
                    self._arm(line)

    def _arm(self, line: Line) -> None:
        """Look at a line again when its rate lets the next one start, or, where nobody waits for that, forgets the last."""
        if line.rate is None or not line.starts:
            return
        is_awaited = line.held and len(line.starts) >= line.rate.starts
        when = line.starts[0 if is_awaited else -1] + line.rate.period
        if when < line.wakes_at:
            self._sequence += 1
            line.wakes_at = when
            heapq.heappush(self._clock, (when, self._sequence, line))

    # What it tells ----------------------------------------------------------------------------------------------

    def describe(self) -> list[dict[str, Any]]:
        """Return the queues with what runs in them, and what waits for their limits."""
        return [
            {
                "name": name,
                **{field: getattr(self._queues[name], field) for field in Queue.__slots__},
                "running": line.running,
                "held": self._held_of[name],
            }
            for name, line in self._of_queue.items()
        ]
