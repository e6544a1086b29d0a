"""Frames that no honest peer sends, on every socket of a pool: whoever sends them may lose by it, and nobody else.

In the normal suite for a few seconds. PROCJOBS_FUZZ_FRAMES=1000000 sends at least so many to the supervisor.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import socket
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import procjobs
from procjobs.client.connection.caller import Caller
from procjobs.client.connection.connection import Connection
from procjobs.client.connection.failover import NO_TABLE
from procjobs.client.connection.handshake import say_hello
from procjobs.client.connection.submission import Terms, submission_of
from procjobs.client.job import Job
from procjobs.host import payload, rundir
from procjobs.shared import wire
from procjobs.shared.config import JobOptions
from procjobs.shared.wire import Frame, Outcome
from tests.process import jobs

from ..conftest import wait_until

NIGHTLY = int(os.environ.get("PROCJOBS_FUZZ_FRAMES", "0"))
HELLO = wire.MAGIC + wire.WIRE_VERSION.to_bytes(2, "little")
SPEC = b'{"sys_path": [], "cwd": "/", "preload": [], "initializer": null}'
ARGUMENTS = pickle.dumps(((1, 2), {}), 5)
FUNCTION = pickle.dumps(jobs.add, 5)
KINDS = [
    {"name": "add", "options": {}},
    {"name": "x" * 300 + "\udc80\0", "options": {"timeout": 1e300, "retries": 65_000, "backoff": 0}},
    {"name": "add", "options": {"priority": -5, "grace_period": 0.0, "name": "\n"}},
    {"name": "add", "options": {"timeout": 1e400}},
    {"name": ["add"], "options": {}},
    {"name": "add", "options": {"retries": 10**30}},
    {"name": "add", "options": {"no such": 1}},
    {"options": []},
]
REQUESTS = [
    {"call": "cancel_queued"},
    {"call": "divert"},
    {"call": "divert", "file": "output-none"},
    {"call": "divert", "file": "output-/../lock"},
    {"call": "divert", "file": "output-\0"},
    {"call": "divert", "file": 7},
    {"call": "mark_output", "file": []},
    {"call": "restore"},
    {"call": "restore", "file": "output-none"},
    {"call": "cancel", "id": "00" * 16},
    {"call": "cancel", "id": "xyz"},
    {"call": "cancel", "id": []},
    {"call": "cancel"},
    {"call": ["cancel"]},
    {"call": "resize", "workers": [1e400, 2]},
    {"call": "resize", "workers": [0, 0]},
    {"call": "resize", "workers": [float("nan"), 10**300]},
    {"call": "resize", "workers": "three"},
    {"call": "none such"},
    {},
]
DETAILS = [None, {}, {"type": "T", "message": "m", "traceback": "t"}, {"error": [], "message": {}}]
EXECUTABLES = ["/bin/false", "", "\0", "\ud800", "/none/such", "/", "x" * 5000, "/dev/null"]


class Cabinet:
    """Descriptors of every kind, by name; as many as a frame may bring of each."""

    def __init__(self, directory):
        reads, writes = os.pipe()
        left, right = socket.socketpair()
        seqpacket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.fds = {
            "spec": os.memfd_create("spec"),
            "payload": os.memfd_create("payload"),
            "empty": os.memfd_create("empty"),
            "sparse": os.memfd_create("sparse"),
            "table": os.open(f"{directory}/table", os.O_RDONLY),
            "directory": os.open("/", os.O_RDONLY),
            "path": os.open(sys.executable, os.O_PATH),
            "zero": os.open("/dev/zero", os.O_RDWR),
            "null": os.open("/dev/null", os.O_RDWR),
            "event": os.eventfd(0),
            "pid": os.pidfd_open(os.getpid()),
            "reads": reads,
            "writes": writes,
            "stream": left.detach(),
            "other end": right.detach(),
            "seqpacket": seqpacket.detach(),
            "its other end": other.detach(),
        }
        os.write(self.fds["spec"], SPEC)
        os.write(self.fds["payload"], ARGUMENTS)
        os.truncate(self.fds["sparse"], 2**40)
        self.names = sorted(self.fds)

    def close(self):
        for fd in self.fds.values():
            os.close(fd)


@pytest.fixture
def cabinet(crowd):
    cabinet = Cabinet(crowd.directory.path)
    yield cabinet
    cabinet.close()


class Crowd:
    """A pool with an honest client, and what must not change whatever the others do."""

    def __init__(self, pool):
        self.pool = pool
        self.again = pool.options(retries=3, backoff=0.01)  # for those who meet a worker whose pipe cannot be read any more
        self.directory = rundir.RunDir(rundir.find_base(), pool.name)
        self.pid = pool.stats().supervisor_pid
        self.restart()

    def restart(self):
        """Take the count of descriptors anew, with both workers there."""
        wait_until(lambda: [w.state for w in self.pool.workers()] == ["idle", "idle"])
        self.descriptors = self.count_descriptors()

    def count_descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def check_nobody_noticed(self):
        assert 3 == self.again.submit(jobs.add, 1, 2).result(30)
        assert self.pid == self.pool.stats().supervisor_pid
        for path in (self.directory.log, self.directory.log + ".1"):
            with contextlib.suppress(FileNotFoundError), open(path) as log:
                assert [] == [line for line in log if "bug" in line]

    def check_nothing_is_kept(self, *, generations=0):
        """Check that only the specification of the last generation remains, where there was more than the pool's."""
        for status in [*self.pool.jobs("scheduled", 10**9), *self.pool.jobs("queued", 10**9)]:
            self.pool.cancel(status.id)
        wait_until(lambda: self.count_descriptors() <= self.descriptors + generations, dump=self._dump)

    def _dump(self):
        links = [os.readlink(f"/proc/{self.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{self.pid}/fd")]
        with open(self.directory.log) as log:
            return f"{self.descriptors} were, now {sorted(links)}\n{log.read()[-3000:]}"


@pytest.fixture
def crowd(pool_name):
    pool = procjobs.Pool(pool_name, workers=2, result_ttl=0.2, max_queued=2_000_000, result_memory_bytes=20_000)
    try:
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        yield Crowd(pool)
    finally:
        pool.stop()  # not awaited: what a test that failed has left would never end


# What is sent -------------------------------------------------------------------------------------------


def mutated(rnd, data):
    """Return `data` with a few bytes changed, or cut, doubled, or lengthened."""
    data = bytearray(data)
    for _ in range(rnd.randrange(1, 4)):
        what, at = rnd.randrange(6), rnd.randrange(len(data) + 1)
        if what == 0 and data:
            data[at - 1] = rnd.choice([0, 1, 0x7F, 0x80, 0xFF, rnd.randrange(256)])
        elif what == 1:
            del data[at : at + rnd.randrange(1, 9)]
        elif what == 2:
            data[at:at] = bytes(rnd.randrange(256) for _ in range(rnd.randrange(1, 9)))
        elif what == 3:
            data[at : at + 4] = rnd.choice([0, 7, 8, 2**31, 2**32 - 1, wire.MAX_FRAME_BYTES]).to_bytes(4, "little")
        elif what == 4:
            data += data[at:]
        else:
            del data[at:]
    return bytes(data)


def hello_frame(rnd, key):
    text = {"pid": 1, "generation": key, "executable": "/bin/false"}
    if not rnd.randrange(40):
        text["executable"] = rnd.choice(EXECUTABLES)
        text["generation"] = rnd.choice(["", "other", "\ud800"])
    if not rnd.randrange(40):
        text[rnd.choice(sorted(text))] = rnd.choice([None, -1, [], {}, 1e400])
    body = HELLO + json.dumps(text).encode()
    if not rnd.randrange(20):
        body = rnd.choice([HELLO + b"[]", HELLO + b"{", b"procjobs\xff\xff{}", b"procjobs", b"", HELLO + b"[" * 20_000])
    return wire.frame(Frame.HELLO, body, descriptors=1)


def body_frame(rnd):
    """Return one frame as a client may send it after HELLO, more or less, and whether a descriptor belongs to it."""
    usual = [Frame.KIND, Frame.SUBMIT, Frame.SUBMIT, Frame.SUBMIT, Frame.WATCH, Frame.REQUEST, Frame.FORGET]
    kind = rnd.choice([*usual, Frame.STAGE, Frame.SUBMIT_MANY])
    descriptors = 0
    if kind == Frame.KIND:
        text = json.dumps(rnd.choice(KINDS[:3]) if rnd.randrange(4) else rnd.choice(KINDS)).encode()
        body = wire.KIND.pack(rnd.randrange(3), len(text)) + text + FUNCTION
    elif kind == Frame.SUBMIT:
        job_id = rnd.choice([bytes(16), b"\xff" * 16, rnd.randbytes(16)])
        delay = rnd.choice([0.0, 0.0, 5e-324, 1e6, 1e308, float("inf"), -1.0, float("nan")][: rnd.choice([5, 5, 8])])
        expires = rnd.choice([0.0, 0.001, 0.02])
        descriptors = not rnd.randrange(4)
        inline = len(ARGUMENTS).to_bytes(8, "little") if descriptors else ARGUMENTS
        number = rnd.randrange(3) if rnd.randrange(8) else rnd.randrange(2**32)
        body = wire.SUBMIT.pack(job_id, number, delay, expires, rnd.choice([0, 0, 0, 2, 5000]), 0) + inline
    elif kind in {Frame.STAGE, Frame.SUBMIT_MANY}:
        descriptors = bool(rnd.randrange(4))
        body = wire.U64.pack(rnd.randrange(2)) + (wire.U32.pack(rnd.choice([0, 1, 2**32 - 1])) if rnd.randrange(4) else b"")
    elif kind == Frame.WATCH:
        body = rnd.choice([bytes(16), b"\xff" * 16, b"", b"x", bytes(100_000)][: rnd.choice([2, 5])])
    elif kind == Frame.REQUEST:
        body = rnd.randbytes(4) + json.dumps(rnd.choice(REQUESTS[:2] if rnd.randrange(3) else REQUESTS)).encode()
    else:
        body = b""
    return wire.frame(kind, body, descriptors=descriptors), descriptors


def conversation(rnd, key, names):
    """Return what one connection sends: [(bytes, names of the descriptors that go with them)]."""
    parts = [(hello_frame(rnd, key), ["spec"])] if rnd.randrange(20) else []
    parts += [
        (wire.frame(Frame.KIND, wire.KIND.pack(n, len(text)) + text + FUNCTION), [])
        for n, text in enumerate(json.dumps(kind).encode() for kind in KINDS[:3])
    ]
    for _ in range(rnd.randrange(14)):
        data, descriptors = body_frame(rnd)
        parts.append((data, ["payload"] * descriptors))
    what = rnd.randrange(12)
    at = rnd.randrange(len(parts))
    data, fds = parts[at]
    if what < 3:
        parts[at] = mutated(rnd, data), fds
    elif what == 3:
        parts[at] = data, [rnd.choice(names) for _ in range(rnd.choice([0, 1, 1, 1, 2, 7, 253]))]
    elif what == 4:
        parts[at] = data, [*fds, *fds]
    elif what == 5:
        rnd.shuffle(parts)
    elif what == 6:
        parts.append((rnd.randbytes(rnd.choice([1, 7, 8, 100, 5000])), []))
    elif what == 7:
        size = rnd.choice([1, 70_000, wire.MAX_FRAME_BYTES - 8, wire.MAX_FRAME_BYTES, 10**6])
        body = rnd.choice([b"", b"\x01\0\0\0", HELLO]) + bytes(size)
        parts.append((wire.HEADER.pack(8 + len(body), rnd.randrange(16), 0, 0) + body, []))
    elif what == 8:
        parts.append((wire.frame(rnd.choice(list(Frame)), rnd.randbytes(rnd.randrange(60)), descriptors=rnd.randrange(2)),
                      rnd.choice([[], ["payload"]])))
    elif what == 9:
        parts[-1] = parts[-1][0][: rnd.randrange(len(parts[-1][0]))], parts[-1][1]
    return parts


def converse(path, parts, fds, *, rude):
    """Send all of it without waiting, read what comes, and return how many parts went before the other side had enough.

    A rude one leaves without reading anything.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.settimeout(30)
        sent = 0
        try:
            for data, names in parts:
                _send_with(sock, data, [sock.fileno() if name == "itself" else fds[name] for name in names])
                sent += 1
            if not rude:
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1 << 20):
                    pass
        except (BrokenPipeError, ConnectionResetError):
            pass
        return sent


def _send_with(sock, data, fds):
    if fds and data:
        data = data[socket.send_fds(sock, [data], fds) :]
    sock.sendall(data)


# To the supervisor ---------------------------------------------------------------------------------------


@settings(max_examples=1000 if NIGHTLY else 80, deadline=None, database=None)
@given(st.data())
def _send_examples(crowd, cabinet, data):
    rnd = data.draw(st.randoms(use_true_random=False))
    names = [*cabinet.names, "itself"]
    for _ in range(data.draw(st.integers(1, 5))):
        parts = conversation(rnd, crowd.pool._link.code.key, names)
        converse(crowd.directory.socket, parts, cabinet.fds, rude=not rnd.randrange(4))
    crowd.check_nobody_noticed()


def test_whatever_a_client_sends_nobody_else_notices(crowd, cabinet):
    _send_examples(crowd, cabinet)
    crowd.check_nothing_is_kept(generations=1)


@pytest.mark.timeout(3600 if NIGHTLY else 120)
def test_supervisor_outlives_very_many_frames(crowd, cabinet):
    wanted = NIGHTLY or 5_000
    seed, sent, began = random.SystemRandom().randrange(2**32), 0, time.monotonic()
    rnd, names = random.Random(seed), [*cabinet.names, "itself"]
    print(f"seed {seed}")  # what pytest shows when the test fails
    while sent < wanted:
        for _ in range(200):
            parts = conversation(rnd, crowd.pool._link.code.key, names)
            sent += converse(crowd.directory.socket, parts, cabinet.fds, rude=not rnd.randrange(4))
        crowd.check_nobody_noticed()
    crowd.check_nothing_is_kept(generations=1)
    print(f"{sent} frames in {time.monotonic() - began:.0f} s")


def greet(crowd, fd, **hello):
    stranger = socket.socket(socket.AF_UNIX)
    stranger.settimeout(30)
    stranger.connect(crowd.directory.socket)
    text = json.dumps({"pid": 1, "generation": crowd.pool._link.code.key, "executable": sys.executable, **hello}).encode()
    socket.send_fds(stranger, [wire.frame(Frame.HELLO, HELLO + text, descriptors=1)], [fd])
    return stranger


def await_end(stranger):
    with contextlib.suppress(ConnectionResetError):
        while stranger.recv(1 << 20):
            pass


@pytest.mark.parametrize("body", [b"[]", b"{", b"{}", b'{"pid": "1"}'])
def test_descriptor_of_a_hello_that_makes_no_sense_is_closed(crowd, cabinet, body):
    for _ in range(5):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(crowd.directory.socket)
            hello = wire.frame(Frame.HELLO, HELLO + body, descriptors=1)
            socket.send_fds(stranger, [hello], [cabinet.fds["spec"]])
            await_end(stranger)
    crowd.check_nobody_noticed()
    crowd.check_nothing_is_kept()


def test_descriptor_of_a_request_that_is_too_short_is_closed_once(crowd, cabinet):
    with greet(crowd, cabinet.fds["spec"]) as stranger:
        socket.send_fds(stranger, [wire.frame(Frame.REQUEST, b"\x01", descriptors=1)], [cabinet.fds["payload"]])
        await_end(stranger)
    crowd.check_nobody_noticed()
    crowd.check_nothing_is_kept()


def test_infinitely_many_workers_are_refused(crowd, cabinet):
    with greet(crowd, cabinet.fds["spec"]) as stranger:
        stranger.sendall(wire.frame(Frame.REQUEST, wire.U32.pack(1) + b'{"call": "resize", "workers": [1e400, 2]}'))
        await_end(stranger)
    crowd.check_nobody_noticed()


@pytest.mark.parametrize("executable", EXECUTABLES, ids=lambda path: repr(path[:20]))
def test_executable_that_cannot_be_started_is_the_problem_of_its_own_generation(crowd, cabinet, executable):
    with greet(crowd, cabinet.fds["spec"], generation="other", executable=executable) as stranger:
        assert stranger.recv(10_000)
        crowd.check_nobody_noticed()


@pytest.mark.parametrize("kind", ["directory", "zero", "reads", "stream", "event", "pid"])
def test_descriptor_that_is_no_file_ends_its_connection(crowd, cabinet, kind):
    with greet(crowd, cabinet.fds[kind], generation="other") as stranger:
        assert b"" == stranger.recv(10_000)
    crowd.check_nobody_noticed()
    crowd.check_nothing_is_kept()


@pytest.mark.parametrize("content", [b"", b"\xff\0", b"[]", b"{}", b'{"sys_path": 5, "cwd": "/", "preload": [5]}'])
def test_specification_that_makes_no_sense_is_the_problem_of_its_own_generation(crowd, content):
    spec = os.memfd_create("spec")
    os.write(spec, content)
    with greet(crowd, spec, generation="other") as stranger:
        os.close(spec)
        received = b""
        while b"template was lost" not in received:
            received += stranger.recv(10_000)
        crowd.check_nobody_noticed()


def test_descriptors_that_no_frame_claims_end_their_connection(crowd, cabinet):
    with greet(crowd, cabinet.fds["spec"]) as stranger:
        assert stranger.recv(10_000)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(3):
                socket.send_fds(stranger, [wire.frame(Frame.FORGET, b"")], [cabinet.fds["payload"]] * 200)
        crowd.check_nobody_noticed()
        wait_until(lambda: crowd.count_descriptors() <= crowd.descriptors)


def test_process_that_sends_its_own_end_and_goes_is_let_go(crowd, cabinet):
    for _ in range(5):
        with greet(crowd, cabinet.fds["spec"]) as stranger:
            socket.send_fds(stranger, [wire.frame(Frame.FORGET, b"")], [stranger.fileno()])
    crowd.check_nobody_noticed()
    crowd.check_nothing_is_kept()


def test_pool_that_only_a_client_uses_that_takes_no_answers_ends(pool_name):
    with procjobs.Pool(pool_name, workers=2, linger=0.1) as pool:
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        crowd = Crowd(pool)
        file = payload.open_memory_file(crowd.directory.path)
        with greet(crowd, file.fileno()) as stranger:
            assert stranger.recv(1 << 16)
            pool.shutdown()
            stranger.shutdown(socket.SHUT_RD)  # the supervisor learns that nobody is there when it answers, and only then
            stranger.sendall(wire.json_frame(Frame.REQUEST, {"call": "resume"}, prefix=wire.U32.pack(1)))
            wait_until(lambda: not os.path.exists(crowd.directory.lock))


# From a worker -------------------------------------------------------------------------------------------

ITSELF = b"the guilty job's"  # in place of the id that the job has to be given first
assert len(ITSELF) == 16


def say(frames, fd_path, then):
    """Write frames on the worker's own socket to the supervisor, as a job can that looks for it."""
    import gc

    from procjobs.worker.worker import Worker

    (worker,) = [found for found in gc.get_objects() if type(found) is Worker]
    job_id = bytes.fromhex(procjobs.current_job().id.replace("-", ""))
    for data, descriptors in frames:
        fds = [os.open(fd_path, os.O_RDWR) for _ in range(descriptors)]
        for fd in fds:
            socket.send_fds(worker._side, [b"x"], [fd])
        os.write(worker._answers, data.replace(ITSELF, job_id))
        for fd in fds:
            os.close(fd)
    if then == "leave":
        os._exit(7)
    if then == "wait":
        time.sleep(600)  # job
    return "said"


def answer_frame(rnd):
    """Return a frame as a worker may send it, more or less, and how many descriptors go with it."""
    what = rnd.randrange(6)
    if what == 0:
        return wire.frame(rnd.choice([Frame.READY, Frame.INIT_FAILED]), rnd.randbytes(rnd.randrange(3))), 0
    if what == 1:
        descriptors = rnd.randrange(3)
        return wire.frame(rnd.choice(list(Frame)), rnd.randbytes(40), descriptors=rnd.randrange(2)), descriptors
    details = rnd.choice([*DETAILS, {"error": "JobCancelled", "message": ""}, {"type": 1, "message": [], "traceback": None}])
    seconds = rnd.choice([0.1, 0.0, -1.0, 1e308, float("inf"), float("nan")][: rnd.choice([2, 6])])
    job_id = ITSELF if rnd.randrange(4) else bytes(16)
    descriptors = not rnd.randrange(4)
    payloads = [pickle.dumps(5), b"", b"\x08" + bytes(7), rnd.randbytes(30)]
    data = wire.finished_frame(
        job_id, rnd.choice([1, 2, 3, 4, 0, 255][: rnd.choice([3, 6])]), rnd.choice([0, 1, 255]),
        rnd.choice([1, 2, 65535]), seconds, details, rnd.choice(payloads), descriptors=descriptors,
    )
    return (mutated(rnd, data) if what == 2 else data), int(descriptors)


def outcome(job):
    """Return how a job ended; everything but a result, an exception of its own or of procjobs fails the test."""
    try:
        error = job.exception(30)
    except procjobs.JobCancelled as cancelled:
        error = cancelled
    assert error is None or isinstance(error, procjobs.ProcjobsError), repr(error)
    return error


@settings(max_examples=400 if NIGHTLY else 15, deadline=None, database=None)
@given(st.data())
def _let_jobs_say(crowd, fd_path, data):
    rnd = data.draw(st.randoms(use_true_random=False))
    frames = [answer_frame(rnd) for _ in range(data.draw(st.integers(1, 3)))]
    then = data.draw(st.sampled_from(["return", "leave", "leave"]))
    innocent = crowd.again.submit(jobs.add, 20, 22)
    guilty = crowd.pool.options(timeout=0.5, grace_period=0).submit(say, frames, fd_path, then)
    outcome(guilty)
    assert 42 == innocent.result(30)
    crowd.check_nobody_noticed()


def test_whatever_a_job_writes_on_the_socket_of_its_worker_nobody_else_notices(crowd, tmp_path):
    (tmp_path / "file").write_bytes(ARGUMENTS)
    bystander = crowd.pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "undisturbed")
    wait_until(bystander.running)
    _let_jobs_say(crowd, str(tmp_path / "file"))
    (tmp_path / "go").touch()
    assert "undisturbed" == bystander.result(30)
    wait_until(lambda: [w.state for w in crowd.pool.workers()] == ["idle", "idle"])
    crowd.check_nothing_is_kept()


FORGED = {
    "a verdict": wire.finished_frame(ITSELF, Outcome.VERDICT, 0, 1, 0.1, {"error": "JobCancelled", "message": ""}),
    "a verdict without an error": wire.finished_frame(ITSELF, Outcome.VERDICT, 0, 1, 0.1, {"x": 1}),
    "an exception without a type": wire.finished_frame(ITSELF, Outcome.RAISED, 0, 1, 0.1, {"x": 1}),
    "an exception of no text": wire.finished_frame(
        ITSELF, Outcome.RAISED, 0, 1, 0.1, {"type": 1, "message": 2, "traceback": 3}
    ),
    "no JSON": wire.frame(Frame.FINISHED, wire.FINISHED.pack(ITSELF, 2, 0, 1, 0.1, 0, 2) + b"[]"),
    "an unknown outcome": wire.frame(Frame.FINISHED, wire.FINISHED.pack(ITSELF, 200, 0, 1, 0.1, 0, 0)),
    "no number of seconds": wire.frame(Frame.FINISHED, wire.FINISHED.pack(ITSELF, 1, 0, 1, float("nan"), 0, 0)),
    "too little": wire.frame(Frame.FINISHED, b"x"),
    "an impossible length": wire.HEADER.pack(5, 1, 0, 0),
}


@pytest.mark.parametrize("what", FORGED)
def test_job_that_forges_an_answer_of_nonsense_is_a_crash(crowd, what):
    job = crowd.pool.submit(say, [(FORGED[what], 0)], None, "wait")
    assert procjobs.WorkerCrashed is type(job.exception(30))
    crowd.check_nobody_noticed()


@pytest.mark.parametrize("kind", [Frame.READY, Frame.INIT_FAILED, Frame.FINISHED, Frame.HELLO])
def test_descriptor_that_a_worker_sends_with_a_frame_that_has_none_is_closed(crowd, tmp_path, kind):
    (tmp_path / "file").touch()
    frame = wire.frame(kind, b"x", descriptors=1)
    for _ in range(3):
        job = crowd.pool.submit(say, [(frame, 1)], str(tmp_path / "file"), "wait")
        assert procjobs.WorkerCrashed is type(job.exception(30))
    wait_until(lambda: [w.state for w in crowd.pool.workers()] == ["idle", "idle"])
    crowd.check_nobody_noticed()
    crowd.check_nothing_is_kept()


@pytest.mark.parametrize("pause", [0.0, 0.2])
def test_answer_of_a_later_job_is_not_swallowed_by_half_a_frame(crowd, pause):
    """The job answers for itself, and begins a frame that everything later would seem to belong to."""
    own = wire.finished_frame(ITSELF, Outcome.RETURNED, 0, 1, 0.1, None, pickle.dumps(5))
    half = wire.HEADER.pack(wire.MAX_FRAME_BYTES, Frame.FINISHED, 0, 0)
    forging = [crowd.pool.submit(say_in_two_parts, own, half, pause) for _ in range(2)]
    later = [crowd.again.submit(jobs.add, n, 1) for n in range(4)]
    for job in forging:
        outcome(job)
    assert [1, 2, 3, 4] == [job.result(30) for job in later]
    crowd.check_nobody_noticed()


def say_in_two_parts(first, second, pause):
    say([(first, 0)], None, "return")
    time.sleep(pause)  # job
    return say([(second, 0)], None, "return")


def test_job_that_calls_its_worker_unfit_is_not_believed(crowd):
    frame = wire.frame(Frame.INIT_FAILED, b"\x01" * 200_000)
    assert "said" == crowd.pool.submit(say, [(frame, 0)], None, "return").result(30)
    assert None is crowd.pool.stats().problem
    crowd.check_nobody_noticed()


def test_reason_of_an_unfit_worker_is_told_however_long_it_is(pool_name):
    def initialize():
        import gc

        (answers,) = [s for s in gc.get_objects() if type(s) is socket.socket and s.type == socket.SOCK_STREAM]
        answers.sendall(wire.frame(Frame.INIT_FAILED, b"\x01" * 200_000))
        os._exit(1)

    with pytest.warns(procjobs.PoolDegraded):
        pool = procjobs.Pool(pool_name, workers=1, initializer=initialize)
        job = pool.submit(jobs.add, 1, 2)
        wait_until(lambda: pool.stats().problem)
        with pytest.raises(TimeoutError):
            job.result(0.5)
    pool.stop()
    assert procjobs.PoolClosed is type(job.exception(30))


# To a client ---------------------------------------------------------------------------------------------

WELCOME = {"pid": 1, "settings": {"max_queued": 100, "result_ttl": 60.0}, "problem": ""}


def refuse(_waiting, _kept):
    raise procjobs.SupervisorError("no successor")


class Peer:
    """The other end of a client's connection, and the client's end once it has been welcomed."""

    def __init__(self, tmp_path):
        ours, theirs = socket.socketpair()
        self.sock = theirs
        self._ours, self._directory = ours, str(tmp_path)
        self.connection = None

    def welcome(self):
        self.sock.sendall(wire.json_frame(Frame.WELCOME, WELCOME))
        self.say_hello()

    def say_hello(self):
        spec = os.memfd_create("spec")
        try:
            greeting = say_hello(self._ours, "key", spec, sys.executable)
        finally:
            os.close(spec)
        self.connection = Connection(
            self._ours, greeting, NO_TABLE, self._directory, submit_timeout=2.0, caller=Caller(()),
            on_lost=refuse, on_notice=lambda *_: None,
        )  # fmt: skip

    def submit(self):
        job = Job(None, os.urandom(16), "add")
        options = JobOptions()
        kind = self.connection.register(jobs.add, options)
        self.connection.submit(submission_of(job, kind, options, (jobs.add, (1, 2), {}), Terms()))
        return job

    def end(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close(self):
        self.sock.close()
        if self.connection is None:
            self._ours.close()
        else:
            self.connection.close()


@pytest.fixture
def thread_failures(monkeypatch):
    failures = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: failures.append(repr(failure.exc_value)))
    return failures


@contextlib.contextmanager
def connected(tmp_path):
    peer = Peer(tmp_path)
    try:
        yield peer
    finally:
        peer.close()


def supervisor_frame(rnd, job_id):
    """Return a frame as a supervisor may send it, more or less, and how many descriptors go with it."""
    kind = rnd.choice([Frame.ACCEPTED, Frame.REPLY, Frame.NOTICE, Frame.FINISHED, Frame.FINISHED, Frame.WELCOME])
    descriptors = 0
    if kind == Frame.ACCEPTED:
        data = wire.frame(kind, rnd.choice([wire.U64.pack(1), b"", b"\xff" * 9]))
    elif kind == Frame.REPLY:
        bodies = [b"\1\0\0\0{}", b"\1\0\0\0[]", b"\1\0\0\0{", b"\1\0\0", b""]
        data = wire.frame(kind, rnd.choice(bodies))
    elif kind in {Frame.NOTICE, Frame.WELCOME}:
        data = wire.json_frame(kind, rnd.choice([WELCOME, {"problem": ""}, {"problem": None}, {}, [], 5]))
    else:
        details = rnd.choice([*DETAILS, {"error": "JobTimeout", "message": ""}, {"error": "none such", "message": ""}])
        descriptors = not rnd.randrange(3)
        data = wire.finished_frame(
            rnd.choice([job_id, job_id, bytes(16)]), rnd.choice([1, 2, 3, 4, 0, 255]), 0, 1,
            rnd.choice([0.1, float("nan")]), details, rnd.choice([pickle.dumps(5), b"", b"\x08" + bytes(7), bytes(9)]),
            descriptors=descriptors,
        )
    if not rnd.randrange(3):
        data = mutated(rnd, data)
    return data, (int(descriptors) if rnd.randrange(4) else rnd.randrange(3))


@settings(max_examples=5000 if NIGHTLY else 100, deadline=None, database=None)
@given(st.data())
def _send_to_client(tmp_path, fds, data):
    rnd = data.draw(st.randoms(use_true_random=False))
    with connected(tmp_path) as peer:
        hello = wire.json_frame(Frame.WELCOME, WELCOME)
        if data.draw(st.booleans()):
            peer.sock.sendall(mutated(rnd, hello))
            peer.end()
            with contextlib.suppress(procjobs.ProcjobsError):
                peer.say_hello()
            return
        peer.welcome()
        job = peer.submit()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(data.draw(st.integers(1, 6))):
                frame, descriptors = supervisor_frame(rnd, job.raw_id)
                _send_with(peer.sock, frame, [rnd.choice(fds) for _ in range(descriptors)])
        peer.end()
        outcome(job)
        peer.connection.close()
        with pytest.raises(procjobs.ProcjobsError):
            peer.submit()


def test_whatever_a_supervisor_sends_a_client_has_an_error_of_procjobs(tmp_path, thread_failures):
    fds = [os.memfd_create("empty"), os.open("/", os.O_RDONLY), os.open("/dev/zero", os.O_RDWR), os.memfd_create("full")]
    os.write(fds[3], ARGUMENTS)
    _send_to_client(tmp_path, fds)
    for fd in fds:
        os.close(fd)
    assert [] == thread_failures


@pytest.mark.parametrize(
    "frame",
    [
        wire.json_frame(Frame.WELCOME, {}),
        wire.json_frame(Frame.WELCOME, {"pid": 1}),
        wire.json_frame(Frame.WELCOME, {**WELCOME, "settings": 5}),
        wire.json_frame(Frame.WELCOME, []),
        wire.json_frame(Frame.REFUSED, []),
        wire.frame(Frame.FINISHED, b""),
        b"\xff" * 100,
        b"",
    ],
)
def test_welcome_of_nonsense_is_a_lost_supervisor(tmp_path, frame):
    with connected(tmp_path) as peer:
        peer.sock.sendall(frame)
        peer.end()
        with pytest.raises(procjobs.SupervisorLost):
            peer.say_hello()


def test_notice_that_comes_with_the_welcome_does_not_take_its_place(tmp_path):
    with connected(tmp_path) as peer:
        notice = wire.json_frame(Frame.NOTICE, {"problem": "no template"})
        peer.sock.sendall(wire.json_frame(Frame.WELCOME, WELCOME) + notice)
        peer.say_hello()
        assert WELCOME == peer.connection.welcome


@pytest.mark.parametrize("claimed", [True, False])
def test_answer_without_its_descriptor_is_a_lost_supervisor(tmp_path, thread_failures, claimed):
    with connected(tmp_path) as peer:
        peer.welcome()
        job = peer.submit()
        answer = wire.finished_frame(
            job.raw_id, Outcome.RETURNED if claimed else Outcome.VERDICT, 0, 1, 0.1, None, bytes(8), descriptors=claimed
        )
        peer.sock.sendall(answer)
        assert procjobs.SupervisorLost is type(job.exception(30))
    assert [] == thread_failures
