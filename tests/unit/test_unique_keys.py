"""Which job holds a key, and how many keys are kept that nobody holds any more."""

from __future__ import annotations

import pytest

from procjobs.dispatch.model import Generation
from procjobs.shared.config import JobOptions
from procjobs.shared.states import Event
from procjobs.supervisor.clients import unique_keys
from procjobs.supervisor.clients.unique_keys import UniqueKeys
from procjobs.supervisor.job import NO_CLIENT, SupervisedJob, SupervisedKind

KIND = SupervisedKind(1, b"kind", JobOptions(), function=b"", description=b"")


class World:
    """It stands for the registry: `jobs` by id."""

    def __init__(self):
        self.jobs = {}
        self.keys = UniqueKeys(self)

    def give(self, number, seconds=0.0):
        job = SupervisedJob(number.to_bytes(16), KIND, Generation(1, "key"), NO_CLIENT, b"", None)
        job.key = b"key-%d" % number
        self.jobs[job.id] = job
        self.keys.give(job, seconds, unique_keys.wall())
        return job

    def end(self, job):
        job.advance(Event.START)
        job.advance(Event.RETURN)
        del self.jobs[job.id]


@pytest.fixture
def world():
    return World()


def test_key_is_held_until_its_job_has_ended(world):
    job = world.give(1)
    assert job.id == world.keys.holder(b"key-1")
    world.end(job)
    assert (None, 0) == (world.keys.holder(b"key-1"), len(world.keys))


def test_key_is_held_for_its_time_although_its_job_has_ended(world, monkeypatch):
    moment = unique_keys.wall()
    job = world.give(1, seconds=10.0)
    world.end(job)
    assert job.id == world.keys.holder(b"key-1")
    monkeypatch.setattr(unique_keys, "wall", lambda: moment + 11.0)
    assert world.keys.holder(b"key-1") is None


def test_keys_of_jobs_that_have_ended_are_forgotten(world):
    for number in range(10_000):
        world.end(world.give(number))
        assert len(world.keys) <= 1000


def test_keys_that_are_held_are_not_looked_through_for_each_new_one(world, monkeypatch):
    sweeps = []
    sweep = UniqueKeys._sweep
    monkeypatch.setattr(UniqueKeys, "_sweep", lambda keys: (sweeps.append(len(keys)), sweep(keys)))
    for number in range(20_000):
        world.give(number)
    assert [1000, 2000, 4000, 8000, 16000] == sweeps
    assert 20_000 == len(world.keys)
