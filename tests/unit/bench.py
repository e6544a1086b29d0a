"""A dispatcher over three ports that only take notes, for tests of one rule at a time at made-up times."""

from __future__ import annotations

import json

from procjobs.dispatch.dispatcher import Dispatcher
from procjobs.dispatch.limits import Sample
from procjobs.dispatch.model import Generation, Job, Kind, SlotState
from procjobs.dispatch.ports import Account, CpuFacts, MemoryFacts
from procjobs.shared import wire
from procjobs.shared.config import JobOptions, PoolSettings
from procjobs.shared.states import JobState
from procjobs.shared.wire import Finished, Outcome

DETAILS = b'{"type": "ValueError", "message": "no\\nmore"}'


class NotedWorkers:
    """Takes notes of commands; `unread` and `unbegun` are jobs that a worker has not read, or not begun."""

    def __init__(self):
        self.notes = []
        self.sent = []
        self.unread = set()
        self.unbegun = set()
        self.can_send = True
        self.has_pipes = True
        self.asked = []
        self.sample = Sample(0, 0.0, 1, 0)

    def spawn(self, slot):
        if not self.has_pipes:
            raise OSError(24, "Too many open files")
        self.notes.append(("spawn", slot.number))
        return True

    def send(self, slot, job):
        if self.can_send:
            self.sent.append((slot.number, job))
        return self.can_send

    def reclaim(self, slot):
        reclaimed = [job.id for job in slot.jobs if job in self.unread]
        self.unread -= set(slot.jobs)
        return reclaimed

    def has_begun(self, job):
        return job not in self.unbegun

    def dump_stack(self, slot):
        self.asked.append(slot)

    def interrupt(self, slot):
        self.notes.append(("interrupt", slot.number))

    def measure(self, slot):
        return self.sample

    def terminate(self, slot):
        self.notes.append(("terminate", slot.number))

    def terminate_children(self, slot):
        self.notes.append(("terminate children", slot.number))

    def kill(self, slot):
        self.notes.append(("kill", slot.number))

    def retire(self, slot):
        self.notes.append(("retire", slot.number))


class NotedOutcomes:
    """Keeps the events of jobs: `answers` by job, `failure` with the contents of the last one that the core wrote."""

    def __init__(self):
        self.started_jobs = []
        self.queued_jobs = []
        self.retries = []
        self.answers = {}
        self.failure = {}
        self.lines = []

    def started(self, job, slot):
        assert (JobState.RUNNING, slot) == (job.state, job.slot)
        self.started_jobs.append(job)

    def queued(self, job):
        assert JobState.QUEUED is job.state
        self.queued_jobs.append(job)

    def retrying(self, job, reason, error, details, due_at):
        assert JobState.RETRYING is job.state
        self.retries.append((job, reason, error, details, due_at))

    def finished(self, job, reason, frame, fd, error):
        assert job not in self.answers
        self.answers[job] = (job.state, reason, error)
        if frame:
            self.failure = json.loads(wire.parse_finished(frame).details)

    def account(self, job):
        return Account(1.0, 2.0, "4 of 9", "its last words")

    def log(self, line):
        self.lines.append(line)


class NotedHost:
    """A host with made-up facts; `looks` counts how often it was read."""

    def __init__(self):
        self.cpu_facts = CpuFacts(8, 0.1)
        self.memory_facts = MemoryFacts(2**34, 2**33, ())
        self.looks = 0

    def begin_look(self):
        self.looks += 1

    def cpus(self):
        self.looks += 1
        return self.cpu_facts

    def memory(self, slots):
        return self.memory_facts


class Bench:
    """A dispatcher, and the ports that take notes for it."""

    def __init__(self, workers=(1, 1), *, ready=True, jitter=0.0, **settings):
        self.workers, self.outcomes, self.host = NotedWorkers(), NotedOutcomes(), NotedHost()
        pool = PoolSettings(workers, job_defaults=JobOptions(grace_period=2.0), **settings)
        self.dispatcher = Dispatcher(self.workers, self.outcomes, self.host, pool, jitter=lambda: jitter)
        self.now = 100.0
        self.jobs = 0
        self.generation = self.add_generation()
        self.turn()
        if ready:
            self.start_workers()

    @property
    def slots(self):
        return self.dispatcher.slots

    def turn(self, seconds=0.0):
        self.now += seconds
        self.dispatcher.advance(self.now)
        while self.workers.asked:
            slot = self.workers.asked.pop()
            self.dispatcher.on_stack_dumped(slot, slot.current, "its stack", self.now)
        self.dispatcher.assign(self.now)

    def take_notes(self):
        notes, self.workers.notes = self.workers.notes, []
        return notes

    def add_generation(self):
        generation = Generation(len(self.dispatcher.generations) + 1, "")
        generation.ready = True
        self.dispatcher.generations.append(generation)
        return generation

    def start_workers(self):
        for slot in self.slots:
            if slot.state is SlotState.STARTING:
                self.dispatcher.on_ready(slot, 0, self.now)
        self.turn()
        self.take_notes()

    def submit(self, *, tiny=False, generation=None, delay=0.0, expires=0.0, key=b"", **options):
        self.jobs += 1
        kind = Kind(self.jobs, b"work", JobOptions(**options))
        if tiny:
            kind.observe(0.000_01, 0.0)
        job = Job(self.jobs.to_bytes(16, "big"), kind, generation or self.generation)
        job.key = key
        self.dispatcher.submit(job, self.now, delay=delay, expires=expires)
        self.turn()
        return job

    def submit_unread(self, count, **options):
        jobs = [self.submit(tiny=True, **options) for _ in range(count)]
        self.workers.unread |= set(jobs)
        return jobs

    def finish(self, job, outcome=Outcome.RETURNED, *, seconds=0.1, fd=None, slot=None, rss_bytes=0):
        answer = Finished(job.id, outcome, 0, job.attempt, seconds, rss_bytes, DETAILS)
        unwanted = self.dispatcher.on_finished(slot or job.slot, answer, b"", fd, self.now)
        self.turn()
        return unwanted

    def finish_all(self):
        for slot in self.slots:
            for job in list(slot.jobs):
                self.finish(job)

    def end(self, slot, *, signal=9, unread=()):
        self.dispatcher.on_exit(slot, (signal, None), [job.id for job in unread], self.now)
        self.turn()

    def started(self):
        return [job for _, job in self.workers.sent]
