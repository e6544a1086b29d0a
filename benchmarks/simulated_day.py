"""A day of load on a made-up host, in seconds: the real dispatcher with its scaling, over ports that are arithmetic.

Jobs come as they do to web applications (few at night, most in the afternoon, a batch now and then), each needs some CPU
time, and other programs on the host need CPUs too. Running jobs share the CPUs that are left. Nothing sleeps: time goes
from one event to the next.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field
from typing import NamedTuple

from procjobs.clock import NEVER
from procjobs.dispatch.dispatcher import Dispatcher
from procjobs.dispatch.model import Generation, Job, Kind, SlotState
from procjobs.dispatch.ports import CpuFacts, MemoryFacts
from procjobs.shared.config import JobOptions, PoolSettings
from procjobs.shared.wire import Finished, Outcome

DAY = 86_400.0
START_SECONDS = 0.05
"""From the decision for a worker to its being ready."""


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
    """The figures of one day."""

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


class DayWorkers:
    """Workers that are arithmetic: they start after START_SECONDS, and a job ends when its work is done."""

    def __init__(self, day):
        self._day = day
        self.running: list[tuple[float, int, Job]] = []  # by the work that is to be done when they end
        self.starting: list[tuple[float, int]] = []
        self.ending: list[int] = []

    def spawn(self, slot):
        heapq.heappush(self.starting, (self._day.now + START_SECONDS, slot.number))
        return True

    def send(self, slot, job):
        arrival = self._day.submitted[job]
        self._day.result.waits.append(self._day.now - arrival.at)
        heapq.heappush(self.running, (self._day.done + arrival.work, slot.number, job))
        return True

    def retire(self, slot):
        self.ending.append(slot.number)

    def has_begun(self, job):
        return True


class DayOutcomes:
    """Notes how long jobs took, and how often the size of the pool changed."""

    def __init__(self, day):
        self._day = day

    def started(self, job, slot):
        """Nothing: `send` has noted it."""

    def finished(self, job, reason, frame, fd, error):
        self._day.result.turnarounds.append(self._day.now - self._day.submitted.pop(job).at)

    def log(self, line):
        if " -> " in line:
            self._day.result.changes.append((self._day.now, line))


class DayHost:
    """The made-up host's CPUs and memory, from one look to the next."""

    def __init__(self, day):
        self._day = day
        self.busy = self.contended = self._since = 0.0

    def begin_look(self):
        self._day.result.looks += 1
        self.busy, self.contended, self._since = 0.0, 0.0, self._day.now

    def cpus(self):
        seconds, cpus = self._day.now - self._since, self._day.plan.cpus
        used, pressure = self.busy / (seconds * cpus), self.contended / seconds
        self.begin_look()
        return CpuFacts(cpus, used, pressure)

    def memory(self, slots):
        plan = self._day.plan
        taken = [plan.worker_bytes if slot.jobs else 0 for slot in slots if slot.state is not SlotState.EMPTY]
        return MemoryFacts(plan.memory, plan.memory - sum(taken), tuple(taken))


class Day:
    """All that happens to a dispatcher in a day. `done` of the running jobs grows alike for all of them."""

    def __init__(self, plan: HostPlan, workers: tuple[int, int], *, worker_idle: float = 10.0) -> None:
        self.plan = plan
        self.now = 0.0
        self.result = Result()
        self.done = 0.0
        self.submitted: dict[Job, Arrival] = {}
        self._arrivals = plan.arrivals()
        self._others = plan.others_at(0.0)
        self._kind = Kind(1, b"job", JobOptions())
        self._workers, self._host = DayWorkers(self), DayHost(self)
        settings = PoolSettings(workers, worker_idle=worker_idle)
        self.dispatcher = Dispatcher(self._workers, DayOutcomes(self), self._host, settings, jitter=lambda: 0.0)
        self._generation = Generation(1, "")
        self._generation.ready = True
        self.dispatcher.generations.append(self._generation)

    # The host

    def _speed(self):
        """Return how fast each running job gets on: they share the CPUs that others leave."""
        demand = len(self._workers.running) * self.plan.demand
        left = max(self.plan.cpus - self._others, 0.2 * self.plan.cpus)
        return 1.0 if demand <= left else left / demand

    def _pass_time(self, until):
        seconds, speed = until - self.now, self._speed()
        demand = len(self._workers.running) * self.plan.demand
        self._host.busy += seconds * min(demand * speed + self._others, self.plan.cpus)
        # A core or two more than there are tasks: the scheduler places them without anybody waiting for long.
        self._host.contended += seconds * (demand + self._others > self.plan.cpus)
        self.done += seconds * speed
        self.result.worker_seconds += seconds * self.dispatcher.worker_slots.live
        self.now = until

    def run(self):
        """Live through the day and a little more, until everything is done; return its figures."""
        arrivals, place, dispatcher = self._arrivals, 0, self.dispatcher
        running, starting = self._workers.running, self._workers.starting
        self._turn()
        while place < len(arrivals) or dispatcher.unfinished:
            ends_at = self.now + (running[0][0] - self.done) / self._speed() if running else NEVER
            self._pass_time(
                min(
                    arrivals[place].at if place < len(arrivals) else NEVER,
                    max(ends_at, self.now),
                    starting[0][0] if starting else NEVER,
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
        job = Job(number.to_bytes(16, "big"), self._kind, self._generation)
        self.submitted[job] = arrival
        self.dispatcher.submit(job, self.now)

    def _turn(self):
        self.result.wakes += 1
        running, starting = self._workers.running, self._workers.starting
        while starting and starting[0][0] <= self.now:
            self.dispatcher.on_ready(self.dispatcher.slots[heapq.heappop(starting)[1]], 0, self.now)
        while running and running[0][0] <= self.done + 1e-9:
            _, number, job = heapq.heappop(running)
            answer = Finished(job.id, Outcome.RETURNED, 0, 1, self.submitted[job].work, 0, b"")
            self.dispatcher.on_finished(self.dispatcher.slots[number], answer, b"", None, self.now)
        self.dispatcher.advance(self.now)
        self.dispatcher.assign(self.now)
        ending, self._workers.ending = self._workers.ending, []
        for number in ending:
            self.dispatcher.on_exit(self.dispatcher.slots[number], (None, 0), (), self.now)
        size = self.dispatcher.worker_slots.live
        if not self.result.sizes or self.result.sizes[-1][1] != size:
            self.result.sizes.append((self.now, size))


HOSTS = (
    HostPlan("videos: 8 CPUs, jobs of 15 s", 8, 0.2, 15.0, batch_jobs=20, others=0.15),
    HostPlan("pages: 8 CPUs, jobs of 1.5 s", 8, 1.5, 1.5, batch_jobs=200, others=0.1, seed=2),
    HostPlan("crawling: 4 CPUs, jobs of 15 s that mostly wait", 4, 0.8, 15.0, demand=0.1, batch_jobs=40, others=0.2, seed=3),
)
SIZES = {"videos": ((1, 8), 2, 4, 8), "pages": ((1, 8), 2, 4, 8), "crawling": ((2, 32), 4, 16, 32)}


def live_through(plan, workers):
    """Return a day's result with a pool of that size: a number or (min, max)."""
    bounds = workers if isinstance(workers, tuple) else (workers, workers)
    return Day(plan, bounds).run()
