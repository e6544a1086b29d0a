"""A client checks whom it talks to, at each connection: nothing of another user is sent to, read or unpickled."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile

import pytest

import procjobs
from procjobs.client.running_pool import RunningPool, find_pool
from procjobs.host.rundir import RunDir
from tests.process import jobs

from ..conftest import wait_until

STRANGER = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture
def base():
    path = tempfile.mkdtemp(prefix="test-procjobs-", dir="/dev/shm")
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def listener_of_a_stranger(path):
    """A process of another user that listens there; yields a pipe with every byte that it was sent."""
    read, write = os.pipe()
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    os.chmod(path, 0o666)
    child = os.fork()
    if child == 0:
        os.setuid(STRANGER)
        server.listen()
        os.write(write, b"listens.")
        connection, _ = server.accept()
        os.write(write, connection.recv(100_000) or b"nothing")
        os._exit(0)
    os.close(write)
    assert b"listens." == os.read(read, 8)
    try:
        yield read
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        server.close()


def lay_ground(base):
    os.mkdir(base + "/d", 0o700)
    return RunDir(base, "d")


@needs_root
def test_nothing_is_sent_to_a_supervisor_of_another_user(base):
    with listener_of_a_stranger(lay_ground(base).socket) as received:
        with pytest.raises(procjobs.SupervisorError, match=f"listens there is of user {STRANGER}, not of 0"):
            procjobs.Pool("d", directory=base).connect()
        assert b"nothing" == os.read(received, 100)


@needs_root
@pytest.mark.parametrize("theirs", ["", "/d"])
def test_directory_of_another_user_is_refused_at_the_next_connection(base, theirs):
    """As after a rename: what was of this user when it connected first is of another one now."""
    pool = procjobs.Pool("d", directory=base, workers=1)
    pool.connect()
    running = RunningPool(find_pool("d", base))
    supervisor = pool.stats().supervisor_pid
    assert 3 == pool.submit(jobs.add, 1, 2).result(30)
    os.chown(base + theirs, STRANGER, STRANGER)
    try:
        message = f"another user may be behind it: {base}{theirs}: it belongs to user {STRANGER}.*Set XDG_RUNTIME_DIR"
        pool._link.connection.close()
        for ask in (running.queues, lambda: procjobs.Pool("d", directory=base).connect(), pool.queues):
            with pytest.raises(procjobs.SupervisorError, match=f"{message}|/d: it belongs|: it belongs"):
                ask()
        with pytest.raises(procjobs.SupervisorError, match=message):
            RunningPool(RunDir(base, "d"))
    finally:
        os.chown(base + theirs, 0, 0)
    running.close()
    pool.stop()
    wait_until(lambda: not os.path.exists(f"/proc/{supervisor}"))


def test_directory_that_others_may_replace_by_now_is_refused_at_the_next_connection(base):
    directory = base + "/mine"
    pool = procjobs.Pool("d", directory=directory, workers=1)
    pool.connect()
    running = RunningPool(find_pool("d", directory))
    supervisor = pool.stats().supervisor_pid
    os.chmod(base, 0o777)
    with pytest.raises(procjobs.SupervisorError, match=rf"other users may replace it: {base} has mode 777 .chmod go-w"):
        running.queues()
    pool._link.connection.close()
    with pytest.raises(procjobs.SupervisorError, match=rf"other users may replace it: {base} has mode 777 .chmod go-w"):
        pool.queues()
    os.chmod(base, 0o1777)
    assert [] == running.queues() == pool.queues()
    running.close()
    pool.stop()
    wait_until(lambda: not os.path.exists(f"/proc/{supervisor}"))


@needs_root
def test_report_in_a_file_of_another_user_is_not_unpickled(base, tmp_path):
    with procjobs.Pool("d", directory=base, workers=1) as pool:
        job = pool.submit(jobs.report_and_wait, str(tmp_path / "go"), 1, 2, "m" * 500, b"d" * 500)
        wait_until(job.progress)
        assert b"d" * 500 == job.progress().data
        (path,) = [f"{base}/d/{name}" for name in os.listdir(base + "/d") if name.startswith("data-")]
        os.chown(path, STRANGER, STRANGER)
        seen = job.progress()
        (tmp_path / "go").touch()
        assert ("m" * 10, None) == (seen.message[:10], seen.data)
        assert 1 == job.result(30)
        pool.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_error_in_this_process_is_not_told_as_the_end_of_the_supervisor(pool, monkeypatch, tmp_path):
    job = pool.submit(jobs.wait_for_file, str(tmp_path / "go"))
    job.wait_accepted(30)

    def fail(*_):
        raise AttributeError("module 'select' has no attribute 'poll'")

    monkeypatch.setattr("procjobs.client.connection.connection.Connection._take_answer", fail)
    (tmp_path / "go").touch()
    with pytest.raises(procjobs.SupervisorLost, match=r"could not read on .AttributeError: module 'select' has") as caught:
        job.result(30)
    assert "went away" not in str(caught.value)
    assert isinstance(caught.value.__cause__, AttributeError)
