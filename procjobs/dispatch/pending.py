"""Jobs that wait: for a worker, for a time, or for a limit that they share with others. Pure.

A job that waits is in one place: the queue of its generation, the queue of delayed jobs, or a limiter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from procjobs.clock import NEVER
from procjobs.dispatch.arrivals import Arrivals
from procjobs.dispatch.limiters import Limiters
from procjobs.dispatch.model import Generation, Job
from procjobs.dispatch.queue import DelayQueue
from procjobs.shared.queues import Queue
from procjobs.shared.states import FINAL, Event, JobState


class PendingJobs:
    """All jobs of a pool that wait; `scheduled` counts those that wait for a time, `wakes` those that limiters woke."""

    def __init__(self, generations: list[Generation], queues: Mapping[str, Queue]) -> None:
        self._generations = generations
        self._delayed: DelayQueue[Job] = DelayQueue(_is_delayed)
        self._expiring: DelayQueue[Job] = DelayQueue(_is_unfinished)
        self.limiters = Limiters(queues)
        self.arrivals = Arrivals(queues)
        self.scheduled = self.wakes = 0

    @property
    def queued(self) -> int:
        """How many jobs wait for a worker, or are throttled."""
        return sum(len(generation.queue) for generation in self._generations) + self.limiters.throttled

    # In ---------------------------------------------------------------------------------------------------------

    def add(self, job: Job, now: float, *, delay: float, expires: float) -> None:
        """Take a new job: into the queue or a limiter, or with a delay into the queue of delayed jobs."""
        if job.key or job.kind.options.queue is not None:
            self.limiters.join(job)
        if expires:
            job.expires_at = now + expires
            self._expiring.add(job.expires_at, job)
        if delay > 0:
            job.advance(Event.DELAY)
            self.add_delayed(now + delay, job)
        else:
            self._queue(job, now)

    def _queue(self, job: Job, now: float) -> None:
        job.queued_at = now
        if job.shares_limits:
            self.arrivals.add(job)
        limiter = self.limiters.full_for_newcomer(job, now) if job.shares_limits else None
        if limiter is None:
            job.generation.queue.push(job)
        else:
            self.limiters.throttle(job, limiter)

    def add_delayed(self, when: float, job: Job) -> None:
        """Let a job wait for a time."""
        self._delayed.add(when, job)
        self.scheduled += 1

    def requeue(self, job: Job) -> None:
        """Return a job that was not started after all to where it was before, on the newest code of its clients."""
        move_to_successor(job)
        if job.shares_limits:
            self.limiters.requeue(job)
            self.arrivals.put_back(job)
        else:
            job.generation.queue.push_front(job)
        if job.expires_at and not job.attempt:
            self._expiring.add(job.expires_at, job)  # its time may have come while it lay before a worker

    def hasten(self, job: Job, priority: float) -> None:
        """Let a job that waits for a worker be the next, one of this priority at least: another one waits for it.

        The priority of one that shares limits stays: its limiters count by that.
        """
        if job.state is JobState.QUEUED and not self.limiters.is_throttled(job):
            job.generation.queue.move_to_front(job, job.effective_priority if job.shares_limits else priority)

    def hand_over(self, old: Generation, new: Generation) -> None:
        """Let the jobs that wait for a generation run on its successor."""
        for job in list(_drain(old)):
            move_to_successor(job)
            if job.shares_limits:
                self.limiters.release(job)
            new.queue.push(job)
        for job in self._delayed.jobs():
            if job.generation is old:
                move_to_successor(job)
        for job in self.limiters.jobs():
            if job.generation is old:
                move_to_successor(job)
                self.limiters.move(job)

    def oldest(self) -> float:
        """Return since when (monotonic) the job waits that could have been started first, infinity where none waits."""
        oldest = NEVER
        for generation in self._generations:  # in every turn of the loop: a generator would take twice as long
            if generation.queue:
                oldest = min(oldest, generation.queue.oldest())
        return oldest

    def front(self) -> Job | None:
        """Return the job that is to be started next, None where those that wait are not all in one line; after `oldest`."""
        queues = [generation.queue for generation in self._generations if generation.queue]
        return queues[0].front() if len(queues) == 1 else None

    # Time -------------------------------------------------------------------------------------------------------

    def next_time(self) -> float:
        """Return when a job is to be queued, or expires, or a rate lets others start."""
        return min(self._delayed.next_time(), self._expiring.next_time(), self.limiters.next_time())

    def reschedule(self, time_of: Callable[[Job], float | None]) -> None:
        """Let delayed jobs wait for other times, where `time_of(job)` returns one."""
        self._delayed.reschedule(time_of)

    def queue_due(self, now: float) -> Iterable[Job]:
        """Queue the jobs whose time has come, and yield them."""
        while (job := self._delayed.pop_due(now)) is not None:
            if _is_delayed(job):
                self.scheduled -= 1
                job.advance(Event.DUE)
                self._queue(job, now)
                yield job

    def take_expired(self, now: float) -> Iterable[Job]:
        """Take out the jobs that were to be started by now and never were."""
        while (job := self._expiring.pop_due(now)) is not None:
            if job.state not in FINAL and job.state is not JobState.RUNNING and not job.attempt:
                self.remove(job)
                yield job

    # Out --------------------------------------------------------------------------------------------------------

    def remove(self, job: Job) -> None:
        """Count out a job that is about to end while it waits; a queue drops it in time."""
        if job.state is not JobState.QUEUED:
            self.scheduled -= 1
            self._delayed.forget()
        elif not self.limiters.is_throttled(job):
            job.generation.queue.forget()

    def settle(self, job: Job) -> None:
        """Forget a job that has ended, in its limiters and among those that may expire."""
        if job.shares_limits:
            self.limiters.leave(job)
        if job.expires_at:
            self._expiring.forget()

    def wake_throttled(self, now: float) -> None:
        """Put the throttled jobs that may be started to the front of their queues."""
        for job in self.limiters.wake(now):
            job.generation.queue.push_front(job)
            self.wakes += 1

    def waiting(self) -> list[tuple[Job, float]]:
        """Return all jobs, in the order in which they may start, each with the time (monotonic) before which it may not."""
        jobs = [(job, 0.0) for generation in self._generations for job in generation.queue.jobs()]
        jobs += [(job, 0.0) for job in self.limiters.jobs()]
        return jobs + [(job, when) for when, job in self._delayed.entries() if _is_delayed(job)]

    def drain(self) -> list[Job]:
        """Take out all jobs."""
        jobs = [job for generation in self._generations for job in _drain(generation)]
        jobs += self.limiters.drain()
        while (delayed := self._delayed.pop_due(NEVER)) is not None:
            if _is_delayed(delayed):
                self.scheduled -= 1
                delayed.advance(Event.DUE)
                jobs.append(delayed)
        return jobs


def _is_delayed(job: Job) -> bool:
    return job.state in {JobState.SCHEDULED, JobState.RETRYING}


def _is_unfinished(job: Job) -> bool:
    return job.state not in FINAL


def move_to_successor(job: Job) -> None:
    """Have a job that does not run continue on the newest code of its clients."""
    newest = job.generation.newest()
    if newest is not job.generation and job.state not in FINAL:
        job.generation.unfinished -= 1
        newest.unfinished += 1
        job.generation = newest


def _drain(generation: Generation) -> Iterable[Job]:
    while (job := generation.queue.first()) is not None:
        generation.queue.drop_first()
        yield job
