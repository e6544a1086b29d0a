"""A pool keeps nothing of the program that starts it: no lock, no port, no pipe, and gives its jobs the program's limits."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys

import psutil
import pytest

import procjobs
from tests.waiting import wait_until

STARTER = "import procjobs, sys; print(procjobs.Pool(sys.argv[1], workers=1).submit(abs, -1).result(30))"


@pytest.fixture
def inheritable(tmp_path):
    """Three open files that a program started with `pass_fds` has: a locked one, a listening socket, the end of a pipe."""
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    read, write = os.pipe()
    place = tmp_path / "lock", server.getsockname(), read
    fds = [lock, server.detach(), write]
    for fd in fds:
        os.set_inheritable(fd, True)
    yield place, fds
    os.close(read)
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def check_free(place, fds):
    """Check that nobody else has these files open, once they are closed here."""
    path, address, read = place
    for fd in fds:
        os.close(fd)
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with socket.socket() as other:
        other.bind(address)
    os.set_blocking(read, False)
    assert b"" == os.read(read, 1)


def test_named_pool_keeps_no_descriptor_of_its_starter(pool_name, inheritable):
    place, fds = inheritable
    subprocess.run([sys.executable, "-c", STARTER, pool_name], pass_fds=fds, check=True, timeout=60)
    check_free(place, fds)
    with procjobs.Pool(pool_name) as pool:
        assert 3 == pool.submit(abs, -3).result(30)
        pool.stop()


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_program_that_started_a_pool_can_be_waited_for_by_its_pipes(pool_name, stream):
    """As `$(...)` and `ssh host command` do."""
    with subprocess.Popen([sys.executable, "-c", STARTER, pool_name], **{stream: subprocess.PIPE}) as starter:
        pipe = getattr(starter, stream)
        if stream == "stdin":
            starter.wait(60)
            with pytest.raises(BrokenPipeError):
                os.write(pipe.fileno(), b"text")
        else:
            pipe.read()  # ends when nobody has the other end any more
    with procjobs.Pool(pool_name) as pool:
        pool.stop()


def test_private_pool_keeps_no_descriptor_of_its_owner(inheritable):
    place, fds = inheritable
    with procjobs.Pool(workers=1) as pool:
        assert 3 == pool.submit(abs, -3).result(30)
        check_free(place, fds)
        assert 3 == pool.submit(abs, -3).result(30)


def test_pool_in_the_foreground_keeps_standard_streams_alone(pool_name, inheritable):
    place, fds = inheritable
    program = [sys.executable, "-m", "procjobs", "serve", pool_name, "--workers", "1"]
    with subprocess.Popen(program, pass_fds=fds, stderr=subprocess.PIPE) as server:
        wait_until(lambda: b"is ready" in server.stderr.readline())
        check_free(place, fds)
        server.send_signal(signal.SIGTERM)
        server.stderr.read()
        assert 0 == server.wait(30)


@contextlib.contextmanager
def soft_limit(number):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def read_limits():
    program = subprocess.run(["sh", "-c", "ulimit -Sn"], capture_output=True, text=True, check=True)
    return resource.getrlimit(resource.RLIMIT_NOFILE), int(program.stdout)


@pytest.mark.parametrize("is_named", [True, False], ids=["named", "private"])
def test_jobs_and_their_programs_have_the_limit_of_open_files_that_the_user_had(pool_name, is_named):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with soft_limit(600), procjobs.Pool(pool_name if is_named else None, workers=1) as pool:
        assert ((600, hard), 600) == pool.submit(read_limits).result(30)
        supervisor = psutil.Process(pool.stats().supervisor_pid)
        assert (hard, hard) == supervisor.rlimit(psutil.RLIMIT_NOFILE)
        pool.stop()
