"""Jobs that wait: for a worker, for a time, or for the end of another one with the same key. Pure.

A job that waits is in one place: the queue of its generation, the timetable, or the line of its key.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from procjobs.shared.states import FINAL, Event, JobState
from procjobs.supervisor.queue import KeyLines, Timetable

if TYPE_CHECKING:
    from procjobs.supervisor.jobs import Generation, Job

_NEVER: Final = float("inf")


class Waiting:
    """Everything that waits in one pool; `scheduled` counts what waits for a time."""

    def __init__(self, generations: list[Generation]) -> None:
        self._generations = generations
        self._delayed = Timetable()
        self._expiring = Timetable()
        self.keys = KeyLines()
        self.scheduled = 0

    @property
    def queued(self) -> int:
        """How many jobs could run now, but for their key, and wait for a worker."""
        return sum(len(generation.queue) for generation in self._generations) + self.keys.waiting

    # Coming -----------------------------------------------------------------------------------------------------

    def add(self, job: Job, now: float, *, delay: float, expires: float) -> None:
        """Take a new job: into the queue, or with a delay into the timetable."""
        if expires:
            job.expires_at = now + expires
            self._expiring.add(job.expires_at, job)
        if delay > 0:
            job.state = JobState.SCHEDULED
            self.add_until(now + delay, job)
        else:
            job.queued_at = now
            job.generation.queue.push(job)

    def add_until(self, when: float, job: Job) -> None:
        """Let a job wait for a time."""
        self._delayed.add(when, job)
        self.scheduled += 1

    def add_again(self, job: Job) -> None:
        """Return a job that was not started after all to the front of its queue, on the newest code of its clients."""
        follow(job)
        job.generation.queue.push_front(job)
        if job.expires_at and not job.attempt:
            self._expiring.add(job.expires_at, job)  # its turn may have come while it lay before a worker

    def hand_over(self, old: Generation, new: Generation) -> None:
        """Let what waits for a generation run on its successor."""
        waiting = list(_drain(old))
        elsewhere = [job for job in (*self.keys.jobs(), *self._delayed.jobs()) if job.generation is old]
        for job in waiting:
            new.queue.push(job)
        for job in waiting + elsewhere:
            follow(job)

    # Time -------------------------------------------------------------------------------------------------------

    def next_time(self) -> float:
        """Return when a job is to be queued, or expires."""
        return min(self._delayed.next_time(), self._expiring.next_time())

    def queue_due(self, now: float) -> Iterable[Job]:
        """Queue the jobs whose time has come, and yield them."""
        while (job := self._delayed.pop_due(now)) is not None:
            if job.state in {JobState.SCHEDULED, JobState.RETRYING}:
                self.scheduled -= 1
                job.advance(Event.DUE)
                job.queued_at = now
                job.generation.queue.push(job)
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
        elif not self.keys.holds(job):
            job.generation.queue.forget()

    def release_key(self, job: Job) -> None:
        """Let the next job of the same key have its turn."""
        if job.key:
            called = self.keys.release(job)
            if called is not None:
                called.generation.queue.push_front(called)

    def drain(self) -> list[Job]:
        """Take out everything."""
        waiting = [job for generation in self._generations for job in _drain(generation)]
        waiting += self.keys.drain()
        while (delayed := self._delayed.pop_due(_NEVER)) is not None:
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
