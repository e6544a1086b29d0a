"""Tails of output, whose they are, what is kept of them, and the text of stacks."""

from __future__ import annotations

import os
import weakref

import pytest

from procjobs.dispatch.model import Generation, Slot
from procjobs.host.loop import Loop
from procjobs.shared.config import JobOptions, PoolSettings
from procjobs.shared.ids import to_text
from procjobs.shared.states import Event, Reason
from procjobs.shared.table.counts import CountsWriter
from procjobs.shared.table.state_writer import TableWriter
from procjobs.supervisor.failure_log import FailureLog
from procjobs.supervisor.job import NO_CLIENT, SupervisedJob, SupervisedKind
from procjobs.supervisor.kept_calls import KeptCalls
from procjobs.supervisor.kind_counters import KindCounters
from procjobs.supervisor.pending_hooks import PendingHooks
from procjobs.supervisor.registry import Kinds, Registry
from procjobs.supervisor.results import KeptTranscripts, ResultStore
from procjobs.supervisor.stack_text import MAX_STACK_BYTES, for_readers
from procjobs.supervisor.transcripts import Tail
from procjobs.supervisor.workers.console import put
from procjobs.supervisor.workers.output import Outputs, OutputSource


def test_tail_keeps_the_end_from_a_whole_line_on():
    tail = Tail(20)
    for n in range(10):
        tail.append(b"line %d\n" % n)
    assert ("line 8\nline 9\n", 14) == (tail.text(), len(tail))


def test_tail_of_one_long_line_is_its_end():
    tail = Tail(20)
    tail.append(b"x" * 100 + b"the end")
    assert "x" * 13 + "the end" == tail.text()


def test_tail_is_never_longer_than_it_may_be():
    tail = Tail(1000)
    for n in range(500):
        tail.append(b"\n" * (n % 7) + b"y" * (n % 13))
        assert len(tail) <= 1000


def test_tail_replaces_what_is_no_text():
    tail = Tail(100)
    tail.append(b"a\xffb")
    assert "a\ufffdb" == tail.text()


class Lines:
    """A log that keeps what was written to it."""

    def __init__(self):
        self.written = []

    def write_output(self, label, lines):
        self.written.append((label, lines))

    def write(self, text):
        raise AssertionError(f"nothing but output is expected here: {text}")

    write_warning = write


class World:
    """One worker with a pipe; `job` is the one that it is in. It stands for the registry too: nothing has begun."""

    def __init__(self):
        self.loop, self.log, self.slot = Loop(), Lines(), Slot(3)
        self.outputs = Outputs(self.loop, self.log, None, self)
        read, self.write_fd = os.pipe()
        os.set_blocking(read, False)
        self.source = OutputSource(self.slot, read, 1)
        self.loop.add(read, self.source)

    @property
    def job(self):
        return self.slot.jobs[0]

    @job.setter
    def job(self, job):
        self.slot.jobs.clear()
        self.slot.jobs.append(job)

    def has_begun(self, job):
        return False

    def new_job(self, number):
        kind = SupervisedKind(1, b"kind", JobOptions(), function=b"", description=b"")
        return SupervisedJob(bytes([number]) * 16, kind, Generation(1, "key"), NO_CLIENT, b"", None)

    def say(self, data):
        os.write(self.write_fd, data)
        self.outputs.read(self.source)

    def close(self):
        os.close(self.write_fd)
        os.close(self.source.fd)
        self.loop.close()


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()


def test_output_is_the_jobs_that_the_worker_is_in_and_a_line_of_the_one_before_is_ended(world):
    world.say(b"idle\n")
    first = world.job = world.new_job(1)
    world.say(b"one\nwithout end")
    second = world.job = world.new_job(2)
    world.say(b"two\n")
    one, two = [f"{to_text(job.id)} kind" for job in (first, second)]
    assert [("worker 3", b"idle"), (one, b"one"), (one, b"without end"), (two, b"two")] == world.log.written
    assert ("one\nwithout end", "two\n") == (first.transcript.everything.text(), second.transcript.everything.text())
    assert first.kind.prints


def test_line_that_never_ends_is_logged_in_parts(world):
    world.job = world.new_job(1)
    world.say(b"x" * 3000)
    assert [] == world.log.written
    world.say(b"x" * 3000)
    assert [6000] == [len(lines) for _, lines in world.log.written]


def test_flooded_stream_is_read_again_after_a_pause(world):
    world.say(b"x" * 65536)
    assert (True, world.loop.now + 0.004) == (world.source.paused, world.outputs.next_deadline())
    world.outputs.advance(world.loop.now + 0.003)
    assert world.source.paused
    world.outputs.advance(world.loop.now + 0.004)
    assert (False, float("inf")) == (world.source.paused, world.outputs.next_deadline())


def test_end_of_a_worker_in_a_flood_is_read_to_its_end(world):
    world.job = world.new_job(1)
    world.say(b"x\n" * 32768)
    os.write(world.write_fd, b"last words")
    world.outputs.finish([world.source])
    assert world.job.transcript.everything.text().endswith("x\nlast words")
    assert b"last words" == world.log.written[-1][1]
    assert float("inf") == world.outputs.next_deadline()


def test_worker_with_several_jobs_is_in_the_last_one_that_it_has_begun(world, monkeypatch):
    jobs = [world.new_job(n) for n in range(3)]
    world.slot.jobs.extend(jobs)
    monkeypatch.setattr(world, "has_begun", lambda job: job in jobs[:2])
    world.say(b"hello\n")
    assert [None, "hello\n", None] == [job.transcript and job.transcript.everything.text() for job in jobs]


def test_tails_of_finished_jobs_are_bounded_together(world):
    kept = KeptTranscripts(max_bytes=2500)  # each counts with 512 bytes for its objects
    jobs = [world.new_job(n) for n in range(10)]
    for job in jobs:
        world.job = job
        world.say(b"x" * 300)
        kept.keep(job)
    assert [False] * 7 + [True] * 3 == [job.transcript is not None for job in jobs]


@pytest.fixture
def registry(tmp_path):
    settings = PoolSettings(workers=(1, 1), result_ttl=1.0)
    kinds = Kinds("pool", settings, KindCounters(CountsWriter(str(tmp_path / "counts"), [])), are_recorded=False)
    table = TableWriter(str(tmp_path / "table"), rows=100, started_at=1.0)
    results, calls = ResultStore(str(tmp_path), settings, max_fds=16), KeptCalls(str(tmp_path), max_bytes=0, max_fds=0)
    registry = Registry(table, results, kinds, FailureLog(Lines()), calls, PendingHooks((), Lines()))
    yield registry
    registry.close()


def test_job_that_printed_is_given_back_when_its_answer_is(world, registry):
    job = world.job = world.new_job(1)
    registry.jobs[job.id] = job
    kind = weakref.ref(job.kind)
    world.say(b"hello\n")
    world.slot.jobs.clear()
    job.advance(Event.START)
    job.advance(Event.RETURN)
    registry.release_payload(job)
    registry.finish(job, Reason.NONE, b"frame", None, "", now=1.0)
    del job
    registry.advance(2.0)
    assert kind() is None
    assert (0, {}) == (len(registry._transcripts), registry.jobs)


def test_console_keeps_what_a_pipe_that_does_not_block_does_not_take():
    read, write = os.pipe2(os.O_NONBLOCK)
    assert 65536 == os.write(write, bytes(65536))
    assert 0 == put(write, b"more")
    os.close(read)
    assert 4 == put(write, b"more")  # nobody will ever read it
    os.close(write)


# Stacks ---------------------------------------------------------------------------------------------------------

OWN = """  File "/lib/procjobs/worker/worker.py", line 200 in _call
  File "/lib/procjobs/worker/worker.py", line 150 in run
  File "/lib/procjobs/template/template.py", line 90 in child
  File "<string>", line 1 in <module>
"""


def test_stack_is_told_without_the_frames_of_the_worker():
    text = f'Current thread 0x01 (most recent call first):\n  File "/app/jobs.py", line 3 in work\n{OWN}'
    expected = 'Current thread 0x01 (most recent call first):\n  File "/app/jobs.py", line 3 in work'
    assert expected == for_readers(text.encode())


def test_stack_without_a_frame_of_its_own_says_why():
    other = 'Thread 0x01 (most recent call first):\n  File "/app/a.py", line 1 in b\n\n'
    text = f"{other}Current thread 0x02 (most recent call first):\n{OWN}"
    lines = for_readers(text.encode()).splitlines()
    assert ["Current thread 0x02 (most recent call first):", "  (in a function that is not written in Python)"] == lines[-2:]


def test_long_stack_is_cut_and_garbage_replaced():
    text = for_readers(b"\xff" + b"  File x\n" * 10_000)
    assert len(text.encode()) <= MAX_STACK_BYTES
