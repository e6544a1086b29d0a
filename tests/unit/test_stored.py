"""What a recorder says about single jobs, twice or late: its predecessor was killed before the commit was told."""

from __future__ import annotations

import json
from types import SimpleNamespace

from procjobs.dispatch.model import Generation
from procjobs.shared import wire
from procjobs.shared.config import JobOptions
from procjobs.shared.ids import new_id
from procjobs.shared.recorder_wire import LOADED, Cancel, RecorderFrame
from procjobs.shared.states import JobState
from procjobs.supervisor.durable.stored_jobs import StoredJobs
from procjobs.supervisor.job import DurableState, SupervisedJob, SupervisedKind

KIND = SupervisedKind(1, b"work", JobOptions(), function=b"", description=b"{}")


class World:
    """Stands for the registry and the loop, and remembers what they were told."""

    def __init__(self, *known):
        self.jobs = {job.id: job for job in known}
        self.asked, self.answered, self.watched = [], [], []
        self.stored = StoredJobs(self, self, self.asked.append)
        self.now = 0.0

    def finish(self, job, _reason, frame, _fd, _error, _now):
        self.answered.append((job, frame))

    def watch(self, client, job):
        self.watched.append((client, job))

    def say(self, kind, body):
        data = wire.HEADER.pack(wire.HEADER.size + len(body), kind, False, 0) + body
        ((kind, raw, _),) = wire.FrameReader().feed(data)
        return self.stored.take(kind, raw, None)


def submitted():
    """Return a job that waits for its commit."""
    job = SupervisedJob(new_id(), KIND, Generation(1, ""), SimpleNamespace(closed=False), b"", None)
    job.durable = DurableState()
    return job


def test_answer_to_a_question_counts_once():
    world, told, job_id = World(), [], new_id()
    world.stored.cancel(job_id, told.append)
    assert [Cancel(job_id, world.asked[0].token)] == world.asked
    answer = json.dumps({"token": world.asked[0].token, "known": False, "cancelled": False}).encode()
    world.say(RecorderFrame.TOLD, answer)
    world.say(RecorderFrame.TOLD, answer)
    assert 1 == len(told)


def test_job_that_is_loaded_between_its_cancellation_and_the_answer_is_cancelled():
    world, first, second = World(), new_id(), new_id()
    world.stored.cancel(first, lambda _told: None)

    def is_cancelled(job_id):
        head = LOADED.pack(job_id, 0, 0, 0, 0.0, 0.0, 0.0, b"", 0, 0, 0, 0, 2, 0)
        (loaded,) = world.say(RecorderFrame.LOADED, head + b"{}")
        return loaded.is_cancelled

    assert [True, False] == [is_cancelled(first), is_cancelled(second)]
    answer = {"token": world.asked[0].token, "known": True, "cancelled": False}
    world.say(RecorderFrame.TOLD, json.dumps(answer).encode())
    assert not is_cancelled(first)


def test_submission_is_refused_once():
    job = submitted()
    world = World(job)
    world.say(RecorderFrame.REFUSED, job.id + b"no")
    world.say(RecorderFrame.REFUSED, job.id + b"no")
    assert [job] == [answered for answered, _ in world.answered]
    del world.jobs[job.id]  # its answer was not kept
    world.say(RecorderFrame.REFUSED, job.id + b"no")


def test_attempts_of_a_job_that_is_loaded_and_sent_again_at_the_same_time_count():
    job = submitted()
    world = World(job)
    head = LOADED.pack(job.id, 3, 2, 1, 0.0, 0.0, 0.0, b"", 0, 0, 0, 0, 2, 0)
    assert [] == world.say(RecorderFrame.LOADED, head + b"{}")
    assert (3, 2, 1) == (job.attempt, job.interrupted, job.crashes)
    job.durable.is_committed = True
    job.attempt = 4
    world.say(RecorderFrame.LOADED, head + b"{}")
    assert 4 == job.attempt


def test_job_that_is_sent_again_while_it_is_looked_for_is_not_unknown():
    job, client = submitted(), SimpleNamespace(closed=False)
    world = World()
    world.stored.find(job.id, client)
    world.jobs[job.id] = job
    text = json.dumps({"state": None}).encode()
    world.say(RecorderFrame.FOUND, job.id + wire.U32.pack(len(text)) + text)
    assert [(client, job)] == world.watched
    assert JobState.QUEUED is job.state
