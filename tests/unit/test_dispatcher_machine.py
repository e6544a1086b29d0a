"""The scheduling core against everything that can happen, in any order.

The world below stands for sockets and processes: a worker is a queue of unread messages, the job it is in, answers on
their way, and whether it still lives. Hypothesis chooses what happens; after each thing the loop turns once, as the
supervisor's does, and the laws at the top of the dispatcher are checked. In the end everything is run to completion.
"""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from procjobs.clock import NEVER
from procjobs.dispatch import limiters
from procjobs.dispatch import queue as dispatch_queue
from procjobs.dispatch.assigner import TINY_SECONDS
from procjobs.dispatch.dispatcher import Dispatcher
from procjobs.dispatch.limiters import Turn
from procjobs.dispatch.limits import Sample, Stop
from procjobs.dispatch.model import Generation, Job, Kind, SlotState
from procjobs.dispatch.ports import Account, CpuFacts, MemoryFacts
from procjobs.shared.config import JobOptions, PoolSettings
from procjobs.shared.queues import Queue, parse_rate
from procjobs.shared.states import FINAL, JobState, Reason
from procjobs.shared.wire import Finished, Outcome

QUEUES = {
    "limited": Queue(limit=2),
    "rated": Queue(rate="3/s"),
    "both": Queue(limit=1, rate="2/s", key_limit=None),
    "keyed": Queue(key_limit=2, key_rate="2/m"),
}
CAPACITY = 6
"""How many unread messages a worker's socket holds."""


@pytest.fixture(autouse=True)
def _queues_drop_what_they_hold_in_vain_as_early_as_they_can(monkeypatch):
    monkeypatch.setattr(dispatch_queue, "_MAX_LEFT_OVER", 0)
    monkeypatch.setattr(limiters, "_MAX_STALE", 0)


class FakeWorker:
    """The other side of a slot's sockets."""

    def __init__(self, slot, serial):
        self.slot = slot
        self.serial = serial
        self.ready = self.dead = self.at_end = self.interrupted = self.terminated = self.killed = False
        self.unread = deque()
        self.running = None
        self.begun = False
        self.answers = deque()

    @property
    def lives(self):
        return not self.dead


class WorkersOfWorld:
    """The port for workers."""

    def __init__(self, world):
        self.world = world

    def spawn(self, slot):
        world = self.world
        waiting = len(world.dispatcher.waits)
        assert slot.number < world.dispatcher.worker_slots.max + waiting
        assert len(world.workers) < world.dispatcher.worker_slots.size + waiting
        assert slot.number not in world.workers
        assert slot.generation.ready
        if not world.has_pipes:
            raise OSError(24, "Too many open files")
        if world.can_spawn:
            world.spawned += 1
            world.workers[slot.number] = FakeWorker(slot, world.spawned)
        return world.can_spawn

    def send(self, slot, job):
        world, dispatcher, worker = self.world, self.world.dispatcher, self.world.workers[slot.number]
        assert worker.ready
        assert slot.stop is Stop.NONE
        assert slot.generation is job.generation
        assert not dispatcher.paused
        assert not dispatcher.stopping
        waiting = [j for j in world.jobs.values() if j.state is JobState.QUEUED and j.generation is job.generation]
        waiting = [j for j in waiting if world.has_room_for(j)]
        assert job in waiting
        assert job.effective_priority == max(j.effective_priority for j in waiting)
        slots = dispatcher.worker_slots
        if slots.live > slots.size and not slot.jobs:
            assert sum(bool(s.jobs) for s in slots.slots) - len(dispatcher.waits) < slots.size
        assert job.attempt <= 1 + job.kind.options.retries
        if len(worker.unread) >= CAPACITY:
            return False
        worker.unread.append(job.id)
        world.sent_at[job.id] = world.now
        world.starts.append((world.now, job, job.attempt))
        return True

    def reclaim(self, slot):
        world, worker, reclaimed = self.world, self.world.workers[slot.number], []
        while worker.unread:
            reclaimed.append(worker.unread.popleft())
            if world.races and world.races.pop() and worker.lives:
                world.finish(worker, Outcome.RETURNED)
                world.read(worker)
        return reclaimed

    def has_begun(self, job):
        return (job.id, job.attempt) in self.world.begun

    def dump_stack(self, slot):
        self.world.asked.append((slot, slot.current))

    def interrupt(self, slot):
        assert slot.jobs
        if slot.stop is not Stop.NONE:
            self.world.workers[slot.number].interrupted = True
        if slot.stop is Stop.TIMEOUT:
            job = slot.jobs[0]
            assert self.world.sent_at[job.id] + job.kind.options.timeout <= self.world.now

    def terminate_children(self, slot):
        assert self.world.workers[slot.number].interrupted
        assert slot.jobs

    def measure(self, slot):
        return self.world.samples.pop() if self.world.samples else Sample(0, 0.0, 1, 0)

    def terminate(self, slot):
        assert not slot.jobs
        self.world.workers[slot.number].terminated = True

    def kill(self, slot):
        self.world.workers[slot.number].killed = True

    def retire(self, slot):
        self.world.workers[slot.number].at_end = True


class OutcomesOfWorld:
    """The port for the events of jobs."""

    def __init__(self, world):
        self.world = world

    def started(self, job, slot):
        assert job.state is JobState.RUNNING
        assert job.slot is slot
        assert (self.world.now, job, job.attempt) == self.world.starts[-1]
        self.world.told_starts += 1

    def queued(self, job):
        assert job.state is JobState.QUEUED
        assert self.world.due.pop(job.id, 0.0) <= self.world.now

    def retrying(self, job, reason, error, details, due_at):
        assert job.state is JobState.RETRYING
        assert due_at >= self.world.now
        assert bool(details) == (reason is Reason.RAISED)
        self.world.due[job.id] = due_at

    def finished(self, job, reason, frame, fd, error):
        assert job.state in FINAL
        self.world.answers[job.id] += 1
        self.world.reasons[job.id] = reason
        assert 1 == self.world.answers[job.id]

    def account(self, job):
        return Account(None, self.world.now, None, "")

    def log(self, line):
        assert "was not given" not in line


class HostOfWorld:
    """The port for the host."""

    def __init__(self, world):
        self.world = world

    def begin_look(self):
        assert not self.world.dispatcher.paused

    def cpus(self):
        assert self.world.dispatcher.queued
        return self.world.cpus

    def memory(self, slots):
        return self.world.memory


class World:
    """Everything around the dispatcher, which it knows through three ports only."""

    def __init__(self, settings):
        self.now = 1000.0
        ports = WorkersOfWorld(self), OutcomesOfWorld(self), HostOfWorld(self)
        self.dispatcher = Dispatcher(*ports, settings, jitter=lambda: 0.25)
        self.workers = {}
        self.jobs = {}
        self.answers = Counter()
        self.reasons = {}
        self.begun = set()
        self.sent_at = {}
        self.starts = []
        self.told_starts = 0
        self.due = {}
        self.cancelled = set()
        self.races = []
        self.can_spawn = self.has_pipes = True
        self.spawned = self.refusals = 0
        self.asked = []
        self.tells_stacks = True
        self.samples = []
        self.cpus = CpuFacts(4, 0.2)
        self.memory = MemoryFacts(2**34, 2**33, ())

    def started(self):
        """Return the starts that were not taken back, with their times."""
        last = {(job, attempt): when for when, job, attempt in self.starts}
        return [
            (when, job)
            for (job, attempt), when in last.items()
            if (job.id, attempt) in self.begun or (job.state is JobState.RUNNING and job.attempt == attempt)
        ]

    def shares(self, job):
        """Return the limits that a job shares with others: (limit, rate, the jobs that share it)."""
        name, others = job.kind.options.queue, list(self.jobs.values())
        queue = QUEUES.get(name, Queue())
        of_queue = [j for j in others if j.kind.options.queue == name]
        if name is not None:
            yield queue.limit, parse_rate(queue.rate), of_queue
        if job.key:
            yield queue.key_limit, parse_rate(queue.key_rate), [j for j in of_queue if j.key == job.key]

    def has_room_for(self, job):
        for limit, rate, others in self.shares(job):
            if limit is not None and sum(j.state is JobState.RUNNING for j in others) >= limit:
                return False
            if rate is not None:
                recent = [when for when, j in self.started() if j in others and when + rate.period > self.now]
                if len(recent) >= rate.starts:
                    return False
        return True

    # Workers

    def read(self, worker):
        if worker.running is None and worker.unread:
            worker.running = worker.unread.popleft()
            worker.begun = False

    def begin(self, worker):
        if worker.running is not None and not worker.begun:
            job = self.jobs[worker.running]
            assert job.slot is worker.slot
            mark = (job.id, job.attempt)
            assert mark not in self.begun
            assert 1 <= job.attempt <= 1 + job.kind.options.retries
            self.begun.add(mark)
            worker.begun = True

    def finish(self, worker, outcome):
        if worker.running is not None:
            self.begin(worker)
            job = self.jobs[worker.running]
            worker.answers.append((job.id, outcome, job.attempt))
            worker.running = None

    def deliver(self, worker):
        while worker.answers:
            job_id, outcome, attempt = worker.answers.popleft()
            seconds = 0.000_1 if self.jobs[job_id].kind.name == b"tiny" else 0.1
            answer = Finished(job_id, outcome, 0, attempt, seconds, 0, b'{"type": "Error", "message": "no"}')
            assert self.dispatcher.on_finished(worker.slot, answer, b"", None, self.now) is None

    def waits(self, worker):
        """Return whether the worker is in a job that waits for others."""
        job = self.jobs.get(worker.running)
        return job is not None and job in self.dispatcher.waits.of

    def hear_refusals(self):
        refused = self.dispatcher.nesting.refused
        while refused:
            _, _, awaited, why = refused.pop()
            assert awaited
            assert "would wait for ever" in why
            self.refusals += 1

    def reap(self, worker):
        self.deliver(worker)
        self.dispatcher.on_exit(worker.slot, (9, None), worker.unread, self.now)
        del self.workers[worker.slot.number]

    # The loop

    def turn(self):
        self.dispatcher.advance(self.now)
        self.tell_stacks()
        self.dispatcher.assign(self.now)
        for generation in self.dispatcher.generations[:-1]:
            if not generation.clients and not generation.unfinished:
                self.dispatcher.retire_generation(generation, self.now)
                if not generation.slots:
                    self.dispatcher.generations.remove(generation)

    def sleep(self, seconds):
        """Wake at each deadline and at no other time."""
        end, wakes = self.now + seconds, 0
        while (deadline := self.dispatcher.next_deadline(self.now)) <= end:
            self.now = max(self.now, deadline)
            self.turn()
            wakes += 1
            assert wakes < 100 + 5 * len(self.jobs) + len(self.workers) * seconds, "a busy loop"
        self.now = end

    def tell_stacks(self):
        """Tell the stacks that workers were asked for, unless they are too busy for that."""
        asked, self.asked = self.asked, []
        for slot, job in asked if self.tells_stacks else ():
            self.dispatcher.on_stack_dumped(slot, job, "its stack", self.now)

    def stop(self):
        self.dispatcher.close_queue("the test stops it")
        self.dispatcher.stop_running(self.now)

    def work_on(self):
        """Let every worker do what it can; return whether anything happened."""
        before = self.snapshot()
        for worker in list(self.workers.values()):
            if worker.lives and not worker.ready and worker.slot.stop is Stop.NONE:
                worker.ready = True
                self.dispatcher.on_ready(worker.slot, 0, self.now)
            if worker.lives and worker.ready:
                self.read(worker)
                self.hear_refusals()
                if not self.waits(worker):
                    self.finish(worker, Outcome.RETURNED)
                self.deliver(worker)
            if worker.killed or worker.dead:
                worker.dead = True
                self.reap(worker)
        self.turn()
        return before != self.snapshot()

    def snapshot(self):
        return (
            [(w.serial, w.ready, len(w.unread), w.running, w.slot.state) for w in self.workers.values()],
            [job.state for job in self.jobs.values()],
        )

    def run_until(self, condition):
        for _ in range(2000):
            if condition():
                return
            if not self.work_on():
                deadline = self.dispatcher.next_deadline(self.now)
                assert deadline < NEVER, f"nothing is going to happen any more: {self.snapshot()}"
                self.now = max(self.now, deadline)
        raise AssertionError(f"no end: {self.snapshot()}")


FREQUENT_OPTIONS = st.builds(
    JobOptions,
    timeout=st.sampled_from([None, None, 0.5, 3.0]),
    retries=st.integers(0, 2),
    backoff=st.sampled_from([0.0, 1.0]),
    priority=st.integers(-1, 1),
    grace_period=st.sampled_from([0.0, 2.0]),
    soft_timeout=st.sampled_from([None, None, 0.2]),
    stall_timeout=st.sampled_from([None, None, 1.0]),
    slow_after=st.sampled_from([None, None, 0.1]),
    max_rss=st.sampled_from([None, None, 2**20]),
    max_crashes=st.sampled_from([1, 3]),
    queue=st.sampled_from([None, None, None, *QUEUES]),
)
PICK = st.integers(0, 1_000)


class DispatcherMachine(RuleBasedStateMachine):
    """Everything that can happen."""

    @initialize(
        least=st.integers(1, 3),
        more=st.integers(0, 2),
        jobs_per_worker=st.sampled_from([None, None, 2]),
        idle=st.sampled_from([0.0, 1.0, 10.0]),
    )
    def begin_world(self, least, more, jobs_per_worker, idle):
        pool = PoolSettings((least, least + more), max_jobs_per_worker=jobs_per_worker, worker_idle=idle, queues=QUEUES)
        self.world = World(pool)
        self.dispatcher = self.world.dispatcher
        self.generations = []
        self.kinds = {}
        self.add_generation()
        self.generations[0].ready = True
        self.world.turn()

    def add_generation(self):
        generation = Generation(len(self.generations) + 1, "")
        generation.clients = 1
        self.generations.append(generation)
        self.dispatcher.generations.append(generation)

    def pick_worker(self, pick, condition):
        workers = [w for w in self.world.workers.values() if condition(w)]
        return workers[pick % len(workers)] if workers else None

    # Clients

    @precondition(lambda self: not self.dispatcher.stopping)
    @rule(
        options=FREQUENT_OPTIONS,
        tiny=st.booleans(),
        delay=st.sampled_from([0.0, 0.0, 0.0, 1.0]),
        expires=st.sampled_from([0.0, 0.0, 0.001, 1.5]),
        pick=PICK,
        count=st.sampled_from([1, 1, 2, 5]),
        key=st.sampled_from([b"", b"", b"a", b"b"]),
    )
    def submit(self, options, tiny, delay, expires, pick, count, key):
        alive = [g for g in self.dispatcher.generations if g.clients]
        self._submit(options, tiny, alive[pick % len(alive)], delay, expires, key, count)

    def _submit(self, options, tiny, generation, delay, expires, key, count):
        kind = self.kinds.get((options, tiny))
        if kind is None:
            kind = Kind(len(self.kinds), b"tiny" if tiny else b"long", options)
            self.kinds[options, tiny] = kind
            if tiny:
                kind.observe(TINY_SECONDS / 2, 0.0)
        for _ in range(count):
            job = Job(len(self.world.jobs).to_bytes(16, "big"), kind, generation)
            job.key = key
            self.world.jobs[job.id] = job
            self.dispatcher.submit(job, self.world.now, delay=delay, expires=expires)
        self.world.turn()

    @precondition(lambda self: self.world.jobs)
    @rule(pick=PICK)
    def cancel(self, pick):
        self._cancel(list(self.world.jobs.values())[pick % len(self.world.jobs)])

    @rule(pick=PICK, place=PICK)
    def cancel_one_of_a_worker(self, pick, place):
        worker = self.pick_worker(pick, lambda w: w.slot.jobs)
        if worker is not None:
            self._cancel(worker.slot.jobs[place % len(worker.slot.jobs)])

    def _cancel(self, job):
        was_final = job.state in FINAL
        if self.dispatcher.cancel(job, self.world.now):
            assert not was_final
            self.world.cancelled.add(job.id)
        elif not was_final and job.state not in FINAL:
            answers = self.world.workers[job.slot.number].answers
            assert job.id in {job_id for job_id, _, _ in answers}, "only an answered job cannot be cancelled"
        self.world.turn()

    @rule(least=st.integers(1, 3), more=st.integers(0, 2))
    def resize(self, least, more):
        self.dispatcher.resize(least, least + more, self.world.now)
        self.world.turn()

    @rule(used=st.sampled_from([None, 0.0, 0.7, 1.0]), free=st.sampled_from([0, 2**30, 2**33]))
    def host_gets_busy_or_idle(self, used, free):
        self.world.cpus = CpuFacts(4, used)
        self.world.memory = MemoryFacts(2**34, free, ())

    @rule()
    def pause_or_resume(self):
        if self.dispatcher.paused:
            self.dispatcher.resume()
        else:
            self.dispatcher.pause(self.world.now)
        self.world.turn()

    @precondition(lambda self: len(self.generations) < 3)
    @rule()
    def begin_new_generation(self):
        self.add_generation()
        self.world.turn()

    @rule(pick=PICK)
    def client_of_old_generation_leaves(self, pick):
        self.generations[pick % len(self.generations)].clients = self.generations[-1].clients = 0
        self.generations[-1].clients = 1
        self.world.turn()

    # Templates

    @precondition(lambda self: len(self.generations) < 4)
    @rule(pick=PICK)
    def code_is_loaded_anew(self, pick):
        alive = [g for g in self.dispatcher.generations if g.clients and g.successor is None]
        old = alive[pick % len(alive)]
        self.add_generation()
        new = self.generations[-1]
        new.ready = True
        new.clients, old.clients = old.clients, 0
        self.dispatcher.supersede(old, new, self.world.now)
        self.world.turn()

    @rule(pick=PICK)
    def template_gets_ready(self, pick):
        self.generations[pick % len(self.generations)].ready = True
        self.world.turn()

    @rule(pick=PICK)
    def template_ends(self, pick):
        generation = self.generations[pick % len(self.generations)]
        generation.ready = False
        for worker in list(self.world.workers.values()):
            if worker.slot.generation is generation and not worker.ready:
                del self.world.workers[worker.slot.number]
                self.dispatcher.on_spawn_failed(worker.slot, "the template ended", self.world.now)
        if generation in self.dispatcher.generations:
            self.dispatcher.add_start_failure(generation, "it was lost", self.world.now)
        self.world.turn()

    @rule()
    def descriptors_run_out_or_are_there_again(self):
        self.world.has_pipes = not self.world.has_pipes
        self.world.turn()

    @rule()
    def spawning_fails_or_works_again(self):
        self.world.can_spawn = not self.world.can_spawn
        self.world.turn()

    # Workers

    @rule(pick=PICK)
    def worker_gets_ready(self, pick):
        worker = self.pick_worker(pick, lambda w: w.lives and not w.ready)
        if worker is not None:
            worker.ready = True
            self.dispatcher.on_ready(worker.slot, 0, self.world.now)
        self.world.turn()

    @rule(pick=PICK, begins=st.booleans())
    def worker_reads(self, pick, begins):
        worker = self.pick_worker(pick, lambda w: w.lives and w.unread and w.running is None)
        if worker is not None:
            self.world.read(worker)
            if begins:
                self.world.begin(worker)

    @rule(
        pick=PICK,
        outcomes=st.lists(st.sampled_from([Outcome.RETURNED, Outcome.RAISED, Outcome.UNPICKLABLE]), min_size=1, max_size=4),
        is_heard=st.booleans(),
    )
    def worker_finishes(self, pick, outcomes, is_heard):
        worker = self.pick_worker(pick, lambda w: w.lives and (w.running is not None or w.unread))
        if worker is None:
            return
        for outcome in outcomes:
            self.world.read(worker)
            self.world.finish(worker, outcome)
        self.world.read(worker)
        if is_heard:
            self.world.deliver(worker)
            self.world.turn()

    @rule(pick=PICK, others=st.lists(PICK, min_size=1, max_size=3), is_new=st.booleans(), number=st.integers(1, 2))
    def job_waits_for_others(self, pick, others, is_new, number):
        worker = self.pick_busy_worker(pick)
        if worker is None:
            return
        waiter, jobs = self.world.jobs[worker.running], list(self.world.jobs.values())
        awaited = [jobs[-1 - place % min(len(jobs), 3) if is_new else place % len(jobs)] for place in others]
        self.dispatcher.begin_wait(waiter, awaited, owner=worker, number=number, now=self.world.now)
        self.world.turn()
        self.world.hear_refusals()

    def pick_busy_worker(self, pick):
        """Return a worker that is in a job, as most are: the ready ones read and begin before."""
        for worker in self.world.workers.values():
            if worker.lives and not worker.ready and worker.slot.stop is Stop.NONE:
                worker.ready = True
                self.dispatcher.on_ready(worker.slot, 0, self.world.now)
        self.world.turn()
        for worker in self.world.workers.values():
            if worker.lives and worker.ready and not worker.answers:
                self.world.read(worker)
                self.world.begin(worker)
        return self.pick_worker(pick, lambda w: w.lives and w.running is not None and not w.answers)

    @precondition(lambda self: not self.dispatcher.stopping)
    @rule(pick=PICK, options=FREQUENT_OPTIONS, key=st.sampled_from([b"", b"", b"a", b"b"]), count=st.integers(1, 3))
    def job_submits_others_and_waits_for_them(self, pick, options, key, count):
        worker = self.pick_busy_worker(pick)
        if worker is None:
            return
        waiter = self.world.jobs[worker.running]
        before = len(self.world.jobs)
        self._submit(options, False, waiter.generation.newest(), 0.0, 0.0, key, count)
        if worker.running != waiter.id or worker.dead:
            return
        awaited = list(self.world.jobs.values())[before:]
        self.dispatcher.begin_wait(waiter, awaited, owner=worker, number=3, now=self.world.now)
        self.world.turn()
        self.world.hear_refusals()

    @rule(pick=PICK, number=st.integers(1, 3))
    def wait_is_given_up(self, pick, number):
        worker = self.pick_worker(pick, self.world.waits)
        if worker is not None:
            self.dispatcher.waits.end(worker, number)
            self.world.turn()

    @rule(pick=PICK)
    def answers_arrive(self, pick):
        worker = self.pick_worker(pick, lambda w: w.answers)
        if worker is not None:
            self.world.deliver(worker)
            self.world.turn()

    @rule(pick=PICK, is_reaped=st.booleans())
    def worker_dies(self, pick, is_reaped):
        worker = self.pick_worker(pick, lambda w: w.lives)
        if worker is not None:
            worker.dead = True
            if is_reaped:
                self.world.reap(worker)
                self.world.turn()

    @rule(pick=PICK)
    def dead_worker_is_reaped(self, pick):
        worker = self.pick_worker(pick, lambda w: w.dead)
        if worker is not None:
            self.world.reap(worker)
            self.world.turn()

    @rule(pick=PICK)
    def worker_that_was_asked_to_end_does(self, pick):
        worker = self.pick_worker(
            pick, lambda w: w.killed or w.terminated or (w.at_end and w.running is None and not w.unread)
        )
        if worker is not None:
            self.world.reap(worker)
            self.world.turn()

    @rule(races=st.lists(st.booleans(), max_size=4))
    def workers_will_read_while_jobs_are_taken_back(self, races):
        self.world.races = races

    # Time

    @rule(rss=st.sampled_from([0, 2**19, 2**30]), cpu=st.integers(0, 3), count=st.integers(1, 5))
    def jobs_use_memory_and_time(self, rss, cpu, count):
        self.world.samples = [Sample(0, float(cpu), 1, rss)] * count

    @rule()
    def workers_tell_their_stacks_or_not(self):
        self.world.tells_stacks = not self.world.tells_stacks

    @rule(seconds=st.sampled_from([0.000_5, 0.002, 0.1, 1.0, 3.0, 12.0]))
    def time_passes(self, seconds):
        self.world.sleep(seconds)

    @rule(seconds=st.sampled_from([0.5, 5.0]))
    def supervisor_is_away(self, seconds):
        self.world.now += seconds
        self.dispatcher.extend_deadlines(seconds, self.world.now)
        self.world.turn()

    @precondition(lambda self: not self.dispatcher.stopping and len(self.world.jobs) > 5)
    @rule(sure=st.integers(0, 5))
    def stop(self, sure):
        if not sure:
            self.world.stop()
            self.world.turn()

    # Laws

    @invariant()
    def each_job_is_answered_once_and_in_one_place(self):
        world = self.world
        held = Counter(job.id for slot in self.dispatcher.slots for job in slot.jobs)
        delayed = Counter(job.id for _, _, job in self.dispatcher._pending._delayed._heap)
        queued = Counter(
            job.id for g in self.dispatcher.generations for level in g.queue._levels.values() for job in level
        )
        for job in world.jobs.values():
            state = job.state
            waits = state in {JobState.SCHEDULED, JobState.RETRYING}
            assert (state in FINAL) == world.answers[job.id]
            assert (state is JobState.RUNNING) == held[job.id]
            assert (job.slot is not None) == (state is JobState.RUNNING)
            assert job.slot is None or job in job.slot.jobs
            if state not in FINAL:  # these are left in place until their turn comes
                member = self.limiters._members.get(job)
                assert job.shares_limits == (member is not None)
                turn = Turn.NONE if member is None else member.turn
                assert (state is JobState.QUEUED) == queued[job.id] + (turn is Turn.THROTTLED)
                is_limited = job.key or job.kind.options.queue is not None
                assert (turn is Turn.RUNNING) == (state is JobState.RUNNING and bool(is_limited))
                assert waits == delayed[job.id]
            assert job.attempt <= 1 + job.kind.options.retries

    @invariant()
    def shared_limits_hold(self):
        world, is_assigning = self.world, not self.dispatcher.paused and not self.dispatcher.stopping
        members = [(job, member) for job, member in self.limiters._members.items() if job.state not in FINAL]
        assert len(members) == len(self.limiters._members), "jobs that have ended are no members any more"
        throttled = [member for _, member in members if member.turn is Turn.THROTTLED]
        assert set(throttled) == self.limiters._throttled
        assert len(throttled) == sum(limiter.throttled for limiter in self.all_limiters())
        for member in throttled if is_assigning else ():
            limiter, woken = member.limiter, member.limiter.woken.get(member.job.generation, Counter())
            assert limiter.capacity(world.now) <= woken.total(), "a throttled job is woken when there is capacity"
        woken = [job for job, member in members if member.turn is Turn.WOKEN]
        counted = Counter((job.generation, job.effective_priority) for job in woken)
        told = Counter()
        for generation, priorities in ((g, p) for limiter in self.all_limiters() for g, p in limiter.woken.items()):
            told.update({(generation, priority): number for priority, number in priorities.items()})
        assert counted == told
        started = world.started()
        for job in {(j.kind.options.queue, j.key): j for j in world.jobs.values()}.values():
            for limit, rate, others in world.shares(job):
                assert limit is None or sum(j.state is JobState.RUNNING for j in others) <= limit
                times = sorted(when for when, j in started if rate is not None and j in others)
                for first, last in zip(times, times[rate.starts if rate is not None else 0 :], strict=False):
                    assert last - first >= rate.period * 0.999, "too many starts in one period"

    @property
    def limiters(self):
        return self.dispatcher._pending.limiters

    def all_limiters(self):
        return {*self.limiters._of_queue.values(), *self.limiters._of_key.values()}

    @invariant()
    def counters_tell_the_truth(self):
        dispatcher = self.dispatcher
        states = Counter(job.state for job in self.world.jobs.values())
        assert states[JobState.QUEUED] == dispatcher.queued
        assert states[JobState.SCHEDULED] + states[JobState.RETRYING] == dispatcher.scheduled
        assert sum(self.world.answers.values()) == dispatcher.finished
        assert states[JobState.FAILED] == dispatcher.failed
        assert len(self.world.starts) == self.world.told_starts
        delayed = {job.id: when for when, _, job in dispatcher._pending._delayed._heap if job.state is JobState.RETRYING}
        assert delayed == {job_id: due for job_id, due in self.world.due.items() if job_id in delayed}
        for generation in self.generations:
            slots = [s for s in dispatcher.slots if s.generation is generation]
            assert len(slots) == generation.slots
            own = [job for job in self.world.jobs.values() if job.generation is generation]
            assert sum(job.state not in FINAL for job in own) == generation.unfinished
            idle = [s for s in slots if s.state is SlotState.IDLE]
            assert sorted(s.number for s in idle) == sorted(s.number for s in generation.idle)

    @invariant()
    def slots_are_what_they_say(self):
        for slot in self.dispatcher.slots:
            assert (slot.state is SlotState.EMPTY) == (slot.number not in self.world.workers)
            assert (slot.state is SlotState.EMPTY) == (slot.generation is None)
            if slot.state in {SlotState.EMPTY, SlotState.STARTING, SlotState.IDLE}:
                assert not slot.jobs
                assert slot.stop is Stop.NONE
            if slot.state in {SlotState.BUSY, SlotState.WAITING}:
                assert slot.jobs
                assert (slot.state is SlotState.WAITING) == any(job in self.dispatcher.waits.of for job in slot.jobs)
                assert slot.stop in {Stop.NONE, Stop.RETIRE}
            if slot.state is SlotState.STOPPING:
                assert slot.climb_at < NEVER

    @invariant()
    def waits_are_of_running_jobs_for_unfinished_ones(self):
        waits = self.dispatcher.waits
        assert all(job.state is JobState.RUNNING for job in waits.of)
        assert all(job.state not in FINAL for job in waits.awaited)
        told = {wait for own in waits.of.values() for wait in own}
        assert told == {wait for own in waits.awaited.values() for wait in own} == set(waits.newest_first())
        assert all(wait.awaited for wait in told)

    @invariant()
    def size_is_within_its_bounds(self):
        slots = self.dispatcher.worker_slots
        assert slots.min <= slots.size <= slots.max
        assert slots.live == sum(slot.state is not SlotState.EMPTY for slot in slots.slots)

    @invariant()
    def no_worker_is_idle_while_a_job_waits(self):
        if not self.dispatcher.paused and not self.dispatcher.stopping:
            for generation in self.dispatcher.generations:
                slots = self.dispatcher.worker_slots
                is_full = slots.live > slots.size and slots.places() <= 0
                assert is_full or not (generation.idle and generation.queue)

    @invariant()
    def loop_would_sleep(self):
        world = self.world
        for _ in range(3):
            if world.dispatcher.next_deadline(world.now) > world.now:
                return
            world.turn()
        assert world.dispatcher.next_deadline(world.now) > world.now

    def teardown(self):
        if not hasattr(self, "world"):
            return
        world, dispatcher = self.world, self.dispatcher
        world.can_spawn, world.has_pipes, world.races = True, True, []
        dispatcher.resume()
        for generation in self.generations:
            generation.ready = True
        world.turn()
        world.run_until(lambda: not dispatcher.unfinished)
        if not dispatcher.stopping:
            world.stop()
        world.run_until(lambda: not world.workers)
        assert all(slot.state is SlotState.EMPTY for slot in dispatcher.slots)
        assert dict.fromkeys(world.jobs, 1) == dict(world.answers)
        cancelled = {job.id for job in world.jobs.values() if job.state is JobState.CANCELLED}
        assert world.cancelled == cancelled
        expired = {job.id for job in world.jobs.values() if job.state is JobState.EXPIRED}
        assert not expired & {job_id for job_id, _ in world.begun}
        assert all((world.reasons[i] is Reason.CANCELLED) == (i in cancelled) for i in world.jobs)


TestDispatcher = DispatcherMachine.TestCase
TestDispatcher.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
