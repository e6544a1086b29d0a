"""Jobs that wait: for a worker, for a time, or for their turn among those that share a limit. Pure.

A job that waits is in one place: the queue of its generation, the timetable, or a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from procjobs.clock import NEVER
from procjobs.dispatch.limiters import Lines
from procjobs.dispatch.queue import Timetable
from procjobs.shared.states import FINAL, Event, JobState

if TYPE_CHECKING:
    from procjobs.dispatch.model import Generation, Job
    from procjobs.shared.queues import Queue



class Waiting:
    """Everything that waits in one pool; `scheduled` counts what waits for a time, `calls` those called from lines."""

    def __init__(self, generations: list[Generation], queues: Mapping[str, Queue]) -> None:
        self._generations = generations
        self._delayed = Timetable()
        self._expiring = Timetable()
        self.lines = Lines(queues)
        self.scheduled = self.calls = 0

    @property
    def queued(self) -> int:
        """How many jobs could run now, but for the limits that they share with others, and wait for a worker."""
        return sum(len(generation.queue) for generation in self._generations) + self.lines.held

    # Coming -----------------------------------------------------------------------------------------------------

    def add(self, job: Job, now: float, *, delay: float, expires: float) -> None:
        """Take a new job: into the queue or a line, or with a delay into the timetable."""
        if job.key or job.kind.options.queue is not None:
            self.lines.enter(job)
        if expires:
            job.expires_at = now + expires
            self._expiring.add(job.expires_at, job)
        if delay > 0:
            job.state = JobState.SCHEDULED
            self.add_until(now + delay, job)
        else:
            self._queue(job, now)

    def _queue(self, job: Job, now: float) -> None:
        job.queued_at = now
        line = None if job.place is None else self.lines.closed_to_newcomer(job, now)
        if line is None:
            job.generation.queue.push(job)
        else:
            self.lines.park(job, line)

    def add_until(self, when: float, job: Job) -> None:
        """Let a job wait for a time."""
        self._delayed.add(when, job)
        self.scheduled += 1

    def add_again(self, job: Job) -> None:
        """Return a job that was not started after all to where it was before, on the newest code of its clients."""
        follow(job)
        if job.place is None:
            job.generation.queue.push_front(job)
        else:
            self.lines.join_again(job)
        if job.expires_at and not job.attempt:
            self._expiring.add(job.expires_at, job)  # its turn may have come while it lay before a worker

    def hand_over(self, old: Generation, new: Generation) -> None:
        """Let what waits for a generation run on its successor."""
        for job in list(_drain(old)):
            follow(job)
            self.lines.release(job)
            new.queue.push(job)
        for job in self._delayed.jobs():
            if job.generation is old:
                follow(job)
        for job in self.lines.jobs():
            if job.generation is old and job.place is not None and job.place.line is not None:
                line = job.place.line
                self.lines.release(job)
                follow(job)
                self.lines.park(job, line)

    # Time -------------------------------------------------------------------------------------------------------

    def next_time(self) -> float:
        """Return when a job is to be queued, or expires, or a rate lets others start."""
        return min(self._delayed.next_time(), self._expiring.next_time(), self.lines.next_time())

    def queue_due(self, now: float) -> Iterable[Job]:
        """Queue the jobs whose time has come, and yield them."""
        while (job := self._delayed.pop_due(now)) is not None:
            if job.state in {JobState.SCHEDULED, JobState.RETRYING}:
                self.scheduled -= 1
                job.advance(Event.DUE)
                self._queue(job, now)
                yield job

    def take_expired(self, now: float) -> Iterable[Job]:
        """Take out the jobs that were to be started by now and never were."""
        while (job := self._expiring.pop_due(now)) is not None:
            if job.state not in FINAL and job.state is not JobState.RUNNING and not job.attempt:
                self.count_out(job)
                yield job

    # Going ------------------------------------------------------------------------------------------------------

    def count_out(self, job: Job) -> None:
        """Count out a job that waits in the queue or in the timetable; it is dropped when its turn comes."""
        if job.state is not JobState.QUEUED:
            self.scheduled -= 1
        elif not self.lines.holds(job):
            job.generation.queue.forget()

    def call_held(self, now: float) -> None:
        """Put those whose turn has come to the front of their queues."""
        for job in self.lines.call(now):
            job.generation.queue.push_front(job)
            self.calls += 1

    def drain(self) -> list[Job]:
        """Take out everything."""
        waiting = [job for generation in self._generations for job in _drain(generation)]
        waiting += self.lines.drain()
        while (delayed := self._delayed.pop_due(NEVER)) is not None:
            if delayed.state in {JobState.SCHEDULED, JobState.RETRYING}:
                self.scheduled -= 1
                delayed.advance(Event.DUE)
                waiting.append(delayed)
        return waiting


def follow(job: Job) -> None:
    """Have a job that waits run on the newest code of its clients."""
    if job.state in FINAL:
        return
    while (successor := job.generation.successor) is not None:
        job.generation.unfinished -= 1
        successor.unfinished += 1
        job.generation = successor


def _drain(generation: Generation) -> Iterable[Job]:
    while (job := generation.queue.first()) is not None:
        generation.queue.drop_first()
        yield job
