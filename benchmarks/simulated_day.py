"""A day of load on a made-up host, in seconds: the real dispatcher with its scaling, and an engine that is arithmetic.

Jobs come as they do to web applications (few at night, most in the afternoon, a batch now and then), each needs some CPU
time, and whoever else is on the host needs CPUs too. Jobs that run share the CPUs that are left. Nothing sleeps: time goes
from one event to the next.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field
from typing import NamedTuple

from procjobs.dispatch.dispatcher import Dispatcher
from procjobs.dispatch.model import Generation, Job, Kind, SlotState
from procjobs.dispatch.scaling import CpuFacts, MemoryFacts
from procjobs.shared.config import JobOptions, PoolSettings
from procjobs.shared.wire import Finished, Outcome

DAY = 86_400.0
START_SECONDS = 0.05
"""From the decision for a worker to its being ready."""
NEVER = float("inf")


class Arrival(NamedTuple):
    at: float
    work: float


@dataclass(frozen=True)
class HostPlan:
    """A host and its day. `demand` is the CPUs that a job uses while it runs undisturbed, `work` its median seconds."""

    name: str
    cpus: int
    peak_per_second: float
    work: float
    demand: float = 1.0
    batch_jobs: int = 0
    others: float = 0.0
    memory: int = 2**36
    worker_bytes: int = 2**28
    seed: int = 1

    def arrivals(self, length=DAY):
        """Return the jobs of the day, drawn from its curve."""
        draw = random.Random(self.seed)
        found, now = [], 0.0
        while (now := now + draw.expovariate(self.peak_per_second)) < length:
            if draw.random() < curve(now):
                found.append(Arrival(now, self._work(draw)))
        for hour in range(1, int(length // 3600), 2):
            at = hour * 3600.0 + draw.uniform(0, 1800)
            found += [Arrival(at, self._work(draw)) for _ in range(self.batch_jobs)]
        return sorted(found)

    def _work(self, draw):
        return self.work * math.exp(draw.gauss(0.0, 0.6))

    def others_at(self, now):
        """Return the CPUs that others use, from one five minutes to the next."""
        return self.others * self.cpus * (0.3 + curve(now)) * random.Random(f"{self.seed} {now // 300}").uniform(0.5, 1.5)


def curve(now):
    """Return the part of the day's peak: 0.06 at three in the night, 1.0 at three in the afternoon."""
    return 0.06 + 0.94 * max(0.0, math.sin(math.pi * ((now / 3600 - 3) % 24) / 24)) ** 3


@dataclass
class Result:
    """What a day has come to."""

    waits: list = field(default_factory=list)
    turnarounds: list = field(default_factory=list)
    worker_seconds: float = 0.0
    changes: list = field(default_factory=list)
    sizes: list = field(default_factory=list)
    looks: int = 0
    wakes: int = 0

    def wait(self, percent):
        return sorted(self.waits)[min(len(self.waits) * percent // 100, len(self.waits) - 1)]

    def turnaround(self, percent):
        return sorted(self.turnarounds)[min(len(self.turnarounds) * percent // 100, len(self.turnarounds) - 1)]


class Day:
    """The engine of a dispatcher, and all that happens in a day. `done` of the running jobs grows alike for all of them."""

    def __init__(self, plan: HostPlan, workers: tuple[int, int], *, worker_idle: float = 10.0) -> None:
        self.plan = plan
        self.now = 0.0
        self.result = Result()
        self._done = 0.0
        self._running: list[tuple[float, int, Job]] = []  # by what is to be done when they end
        self._starting: list[tuple[float, int]] = []
        self._ending: list[int] = []
        self._arrivals = plan.arrivals()
        self._submitted: dict[Job, Arrival] = {}
        self._others = plan.others_at(0.0)
        self._busy = self._contended = self._since = 0.0
        self._kind = Kind(1, b"job", JobOptions(), b"", b"")
        self.dispatcher = Dispatcher(self, PoolSettings(workers, worker_idle=worker_idle), jitter=lambda: 0.0)
        self._generation = Generation(1, "")
        self._generation.ready = True
        self.dispatcher.generations.append(self._generation)

    # The engine

    def spawn(self, slot):
        heapq.heappush(self._starting, (self.now + START_SECONDS, slot.number))
        return True

    def send(self, slot, job):
        arrival = self._submitted[job]
        self.result.waits.append(self.now - arrival.at)
        heapq.heappush(self._running, (self._done + arrival.work, slot.number, job))
        return True

    def retire(self, slot):
        self._ending.append(slot.number)

    def has_begun(self, job):
        return True

    def answer(self, job, reason, frame, fd, error):
        self.result.turnarounds.append(self.now - self._submitted.pop(job).at)

    def begin_look(self):
        self.result.looks += 1
        self._busy, self._contended, self._since = 0.0, 0.0, self.now

    def look_at_cpus(self):
        seconds = self.now - self._since
        used, pressure = self._busy / (seconds * self.plan.cpus), self._contended / seconds
        self.begin_look()
        return CpuFacts(self.plan.cpus, used, pressure)

    def look_at_memory(self):
        taken = [self.plan.worker_bytes if slot.jobs else 0 for slot in self._live()]
        return MemoryFacts(self.plan.memory, self.plan.memory - sum(taken), tuple(taken))

    def log(self, line):
        if " -> " in line:
            self.result.changes.append((self.now, line))

    def _live(self):
        return [slot for slot in self.dispatcher.slots if slot.state is not SlotState.EMPTY]

    # The host

    def _speed(self):
        """Return how fast each running job gets on: what others leave, they share."""
        demand = len(self._running) * self.plan.demand
        left = max(self.plan.cpus - self._others, 0.2 * self.plan.cpus)
        return 1.0 if demand <= left else left / demand

    def _pass_time(self, until):
        seconds, speed = until - self.now, self._speed()
        demand = len(self._running) * self.plan.demand
        self._busy += seconds * min(demand * speed + self._others, self.plan.cpus)
        # A core or two more than there are tasks: the scheduler places them without anybody waiting for long.
        self._contended += seconds * (demand + self._others > self.plan.cpus)
        self._done += seconds * speed
        self.result.worker_seconds += seconds * self.dispatcher.staff.live
        self.now = until

    def run(self):
        """Live through the day and a little more, until everything is done; return what it has come to."""
        arrivals, place, dispatcher = self._arrivals, 0, self.dispatcher
        self._turn()
        while place < len(arrivals) or dispatcher.unfinished:
            ends_at = self.now + (self._running[0][0] - self._done) / self._speed() if self._running else NEVER
            self._pass_time(
                min(
                    arrivals[place].at if place < len(arrivals) else NEVER,
                    max(ends_at, self.now),
                    self._starting[0][0] if self._starting else NEVER,
                    max(dispatcher.next_deadline(self.now), self.now),
                    (self.now // 300 + 1) * 300.0,
                )
            )
            if self.now % 300.0 == 0.0:
                self._others = self.plan.others_at(self.now)
            while place < len(arrivals) and arrivals[place].at <= self.now:
                self._submit(arrivals[place], place)
                place += 1
            self._turn()
        return self.result

    def _submit(self, arrival, number):
        job = Job(number.to_bytes(16, "big"), self._kind, self._generation, None, b"", None)
        self._submitted[job] = arrival
        self.dispatcher.submit(job, self.now)

    def _turn(self):
        self.result.wakes += 1
        while self._starting and self._starting[0][0] <= self.now:
            self.dispatcher.staff.on_ready(self.dispatcher.slots[heapq.heappop(self._starting)[1]], 0, self.now)
        while self._running and self._running[0][0] <= self._done + 1e-9:
            _, number, job = heapq.heappop(self._running)
            answer = Finished(job.id, Outcome.RETURNED, 0, 1, self._submitted[job].work, 0, b"")
            self.dispatcher.on_finished(self.dispatcher.slots[number], answer, b"", None, self.now)
        self.dispatcher.advance(self.now)
        self.dispatcher.assign(self.now)
        ending, self._ending = self._ending, []
        for number in ending:
            self.dispatcher.on_exit(self.dispatcher.slots[number], (None, 0), (), self.now)
        size = self.dispatcher.staff.live
        if not self.result.sizes or self.result.sizes[-1][1] != size:
            self.result.sizes.append((self.now, size))


HOSTS = (
    HostPlan("videos: 8 CPUs, jobs of 15 s", 8, 0.2, 15.0, batch_jobs=20, others=0.15),
    HostPlan("pages: 8 CPUs, jobs of 1.5 s", 8, 1.5, 1.5, batch_jobs=200, others=0.1, seed=2),
    HostPlan("crawling: 4 CPUs, jobs of 15 s that mostly wait", 4, 0.8, 15.0, demand=0.1, batch_jobs=40, others=0.2, seed=3),
)
SIZES = {"videos": ((1, 8), 2, 4, 8), "pages": ((1, 8), 2, 4, 8), "crawling": ((2, 32), 4, 16, 32)}


def live_through(plan, workers):
    """Return a day's result with a pool of that size: a number or (least, most)."""
    bounds = workers if isinstance(workers, tuple) else (workers, workers)
    return Day(plan, bounds).run()
