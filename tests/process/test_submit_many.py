"""Calls that are submitted together: all or none of them, whatever is wrong with one and whatever is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import struct

import numpy as np
import pytest

import procjobs
from procjobs import Call
from procjobs.client.connection import unacknowledged
from procjobs.client.connection.batches import Batch
from procjobs.client.connection.sender import FrameSender
from procjobs.client.producer import Producer
from procjobs.host import payload
from procjobs.shared import wire
from procjobs.shared.wire import Frame
from tests.process import coroutine_jobs, jobs

from ..conftest import wait_until
from .test_resend import ends, kill, lines, started, stop_supervisor, swallow

LARGE = b"x" * 200_000


def test_handles_are_in_the_order_of_the_calls(pool):
    calls = [Call(jobs.add, 1, b=2), (jobs.add, 3, 4), (coroutine_jobs.add, 5), Call(lambda n: n * 2, 21), (jobs.pid,)]
    handles = pool.submit_many(iter(calls))
    assert [3, 7, 5, 42] == [job.result(30) for job in handles[:4]]
    assert os.getpid() != handles[4].result(30)
    assert [] == pool.submit_many([])
    assert list(range(3000)) == [job.result(30) for job in pool.submit_many((jobs.add, n) for n in range(3000))]


def test_options_are_for_all_and_for_each(pool):
    through = pool.options(name="all", retries=1, meta={"user": 7})
    both = through.submit_many([(jobs.add, 1), Call(jobs.add, 2).options(name="own").options(meta={"user": 8}, delay=0.01)])
    assert [1, 2] == [job.result(30) for job in both]
    seen = [pool.status(job.id) for job in both]
    assert [("all", {"user": 7}), ("own", {"user": 8})] == [(status.name, dict(status.meta)) for status in seen]


def test_jobs_of_the_same_key_run_one_at_a_time(pool, tmp_path):
    trace = str(tmp_path / "trace")
    handles = pool.options(key="a").submit_many([(jobs.append_line, trace, n) for n in range(20)])
    assert list(range(20)) == [job.result(30) for job in handles]
    assert list(map(str, range(20))) == lines(tmp_path / "trace")


def test_large_arguments_go_along(pool):
    array = np.arange(100_000)
    calls = [(jobs.echo, LARGE), (jobs.add, 1), (jobs.echo, array), (jobs.echo, b"y" * 3_000_000), (jobs.add, 2)]
    large, one, same, larger, two = [job.result(30) for job in pool.submit_many(calls)]
    assert (LARGE, 1, b"y" * 3_000_000, 2) == (large, one, larger, two)
    assert (array == same).all()
    wait_until(lambda: not unacknowledged._retained)


BAD = [
    (5, TypeError, r"call 2 of 3: 5 is no call: expected procjobs.Call\(function"),
    ((), TypeError, "is no call"),
    (("add", 1), TypeError, "is no call"),
    ((jobs.add, (n for n in ())), procjobs.PayloadError, "call 2 of 3: argument 0 of .*; none was submitted"),
    (Call(jobs.add).options(dealy=5), procjobs.ConfigurationError, r"call 2 of 3: unknown job option 'dealy' \(did you"),
    (Call(jobs.add).options(timeout=-1), procjobs.ConfigurationError, "call 2 of 3: timeout=-1: expected more than zero"),
    (Call(jobs.add).options(queue="mail"), procjobs.ConfigurationError, "has no queue 'mail'"),
    (Call(jobs.add).options(key="a", unique=True), procjobs.ConfigurationError, "unique= is nothing for submit_many"),
]


@pytest.mark.parametrize(("call", "error", "said"), BAD)
def test_one_bad_call_keeps_all_from_being_submitted(pool, call, error, said):
    calls = [(jobs.add, 1), call, (jobs.echo, LARGE)]
    pool.submit(jobs.add, 1).result(30)
    with pytest.raises(error, match=said):
        pool.submit_many(calls)
    assert 2 == pool.submit(jobs.add, 2).result(30)
    assert 2 == len(pool.jobs())
    assert set() == unacknowledged._retained


def test_what_is_no_function_is_refused_where_the_call_is_made():
    with pytest.raises(TypeError, match="5 cannot be called"):
        Call(5)


@pytest.mark.parametrize("pool_settings", [{"max_queued": 5, "workers": 1}])
@pytest.mark.parametrize("is_known_here", [True, False])
def test_batch_finds_room_whole_or_not_at_all(pool, monkeypatch, is_known_here):
    pool.pause()
    waiting = pool.submit(jobs.add, 1)
    waiting.wait_accepted(30)
    if is_known_here:
        with pytest.raises(procjobs.QueueFull, match=r"has 1 jobs waiting, and max_queued=5 has no room for 5 more; none"):
            pool.submit_many([(jobs.add, n) for n in range(5)])
    else:  # another process has taken the room meanwhile
        monkeypatch.setattr(Producer, "check_room", lambda *_: None)
        handles = pool.submit_many([(jobs.echo, LARGE), *[(jobs.add, n) for n in range(4)]])
        assert [procjobs.QueueFull] * 5 == ends(handles)
        assert "no room for 5 more" in str(handles[4].exception())
    assert 1 == pool.stats().queued
    four = pool.submit_many([(jobs.add, n) for n in range(4)])
    pool.resume()
    assert [1, 0, 1, 2, 3] == [job.result(30) for job in [waiting, *four]]


def test_batch_that_is_too_large_is_refused_with_what_to_do(pool, monkeypatch):
    monkeypatch.setattr("procjobs.client.connection.batches.MAX_BATCH_BYTES", 5000)
    with pytest.raises(procjobs.ConfigurationError, match=r"these 100 calls take \d+ bytes, and 5000 may go together"):
        pool.submit_many([(jobs.echo, b"x" * 100)] * 100)
    monkeypatch.setattr("procjobs.client.connection.batches.MAX_STAGED", 1)
    with pytest.raises(procjobs.ConfigurationError, match="more than 1 of these 2 calls have arguments of more than 64 KiB"):
        pool.submit_many([(jobs.echo, LARGE)] * 2)
    assert [] == pool.jobs()


def test_kinds_that_are_forgotten_meanwhile_are_described_again(pool, monkeypatch):
    monkeypatch.setattr("procjobs.client.connection.kinds.MAX_KINDS", 4)
    for _ in range(3):
        handles = pool.submit_many([Call(jobs.add, n).options(name=f"n{n % 3}") for n in range(30)])
        assert list(range(30)) == [job.result(30) for job in handles]
        pool.options(name=os.urandom(4).hex()).submit(jobs.add, 1).result(30)
    with pytest.raises(procjobs.ConfigurationError, match="too many different functions and options: submit them"):
        pool.submit_many([Call(jobs.add, n).options(name=f"n{n}") for n in range(30)])


# Kills --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["before", "staged", "after"])
def test_client_that_is_killed_in_the_middle_has_submitted_all_or_nothing(pool_name, tmp_path, point):
    trace = tmp_path / "trace"
    with started(pool_name, workers=1) as pool:
        pool.submit(jobs.add, 1).result(30)
        child = os.fork()
        if child == 0:
            push = FrameSender._push

            def die(sender, outgoing):
                if point == "after" or (point == "staged" and not isinstance(outgoing, Batch)):
                    push(sender, outgoing)
                if isinstance(outgoing, Batch):
                    os.kill(os.getpid(), signal.SIGKILL)

            FrameSender._push = die
            pool.submit_many([(jobs.append_line, str(trace), n, LARGE) for n in range(10)])
            os._exit(1)
        assert signal.SIGKILL == os.WTERMSIG(os.waitpid(child, 0)[1])
        if point == "after":
            wait_until(lambda: len(lines(trace)) == 10)
        else:
            pool.submit_many([(jobs.add, 1)] * 3)[-1].result(30)
            assert [] == lines(trace)


def test_batch_that_a_killed_supervisor_had_not_taken_runs_once_and_in_order_under_the_next(tmp_path, monkeypatch):
    trace, sizes, submit_many = tmp_path / "trace", [], FrameSender.submit_many
    monkeypatch.setattr(
        FrameSender,
        "submit_many",
        lambda self, batch, route: (sizes.append(len(batch.submissions)), submit_many(self, batch, route)),
    )
    with started(None, workers=1) as pool:
        pool.submit(jobs.add, 1).result(30)
        supervisor = stop_supervisor(pool)
        first = pool.submit(jobs.append_line, str(trace), "first")
        calls = [(jobs.append_line, str(trace), n, LARGE if n % 10 == 0 else b"") for n in range(100)]
        handles = pool.submit_many(calls)
        last = pool.submit(jobs.append_line, str(trace), "last")
        cancelled = handles[50]
        assert cancelled.cancel()
        kill(supervisor)
        assert ["first", "last"] == ends([first, last])
        expected = [n for n in range(100) if n != 50]
        assert expected == ends([job for job in handles if job is not cancelled])
        assert ["first", *map(str, expected), "last"] == lines(trace)
        assert [100, 99] == sizes
        assert 0 == pool._link.connection.unaccepted()
        wait_until(lambda: not unacknowledged._retained)


def test_batch_that_was_taken_without_an_acknowledgement_runs_once(tmp_path):
    trace, go = tmp_path / "trace", tmp_path / "go"
    with started(None, workers=1) as pool:
        running = pool.submit(jobs.wait_for_file, str(go))
        wait_until(running.running)
        swallow(pool._link.connection, Frame.ACCEPTED, Frame.FINISHED)
        handles = pool.submit_many([(jobs.append_line, str(trace), n) for n in range(50)])
        wait_until(lambda: pool.stats().queued == 50)
        kill(pool._link.connection.welcome["pid"])
        assert list(range(50)) == ends(handles)
        assert list(map(str, range(50))) == lines(trace)
        go.touch()


def test_batch_whose_large_arguments_are_not_kept_is_not_sent_again_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(unacknowledged, "_MAX_RETAINED", 2)
    trace = tmp_path / "trace"
    with started(None, workers=1) as pool:
        pool.submit(jobs.add, 1).result(30)
        supervisor = stop_supervisor(pool)
        handles = pool.submit_many([(jobs.append_line, str(trace), n, LARGE) for n in range(4)])
        kill(supervisor)
        assert [procjobs.SupervisorLost] * 4 == ends(handles)
        assert [] == lines(trace)


# Nonsense -----------------------------------------------------------------------------------------------------------


def submit_frame(kind=1, *, has_descriptor=0, length=0, job_id=None):
    inline = payload.dump_inline(((1,), {}))
    return wire.SUBMIT_FRAME.pack(
        length or wire.SUBMIT_FRAME.size + len(inline), Frame.SUBMIT, has_descriptor, 0, job_id or os.urandom(16), kind, 0.0,
        0.0, 0, 0,
    ) + inline  # fmt: skip


def count_memory_files(pid):
    targets = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            targets.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return sum(target.startswith("/memfd:") for target in targets)


SAME = os.urandom(16)
NONSENSE = {
    "no frames": (b"", 1), "no jobs": (submit_frame(), 0), "fewer": (submit_frame(), 2), "more": (submit_frame() * 2, 1),
    "rubbish": (b"\xff" * 500, 3), "too long": (submit_frame(length=60_000), 1), "too short": (submit_frame(length=8), 1),
    "unknown kind": (submit_frame() + submit_frame(99), 2), "unstaged": (submit_frame(has_descriptor=1), 1),
    "twice": (submit_frame(job_id=SAME) * 2, 2), "another frame": (wire.frame(Frame.FORGET, b"x" * 100), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", NONSENSE)
@pytest.mark.parametrize("is_staged", [False, True])
def test_batch_that_makes_no_sense_costs_its_client_the_connection_and_nobody_else_anything(pool_name, name, is_staged):
    content, count = NONSENSE[name]
    with started(pool_name, workers=1) as pool, procjobs.Pool(pool_name, workers=1) as other:
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        pid = pool.stats().supervisor_pid
        before = count_memory_files(pid)
        assert 3 == other.submit(jobs.add, 1, 2).result(30)
        sender, number = other._link.connection.sender, 5
        file = payload.memory_file(content, "/tmp")
        staged = payload.memory_file(LARGE, "/tmp")
        if is_staged and name != "unstaged":
            sender.exclusive.run(sender._send, wire.frame(Frame.STAGE, wire.U64.pack(number), descriptors=1), staged)
        frame = wire.frame(Frame.SUBMIT_MANY, wire.BATCH.pack(number, count), descriptors=1)
        sender.exclusive.run(sender._send, frame, file)
        wait_until(lambda: other._link.connection is None or other._link.connection.lost)
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        assert pid == pool.stats().supervisor_pid
        wait_until(lambda: count_memory_files(pid) == before)
        file.close()
        staged.close()


def test_frames_of_batches_without_their_descriptor_or_their_bytes_are_refused(pool_name):
    with started(pool_name, workers=1) as pool, procjobs.Pool(pool_name, workers=1) as other:
        for kind, body in ((Frame.STAGE, wire.U64.pack(1)), (Frame.SUBMIT_MANY, wire.BATCH.pack(1, 1)), (Frame.STAGE, b"")):
            assert 3 == other.submit(jobs.add, 1, 2).result(30)
            connection = other._link.connection
            connection.sender.post(wire.frame(kind, body))
            wait_until(lambda connection=connection: connection.lost)
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)


def test_struct_of_a_batch_is_what_the_description_says():
    assert 12 == wire.BATCH.size == struct.calcsize("<QI")
