"""Kernels that lack something: what they refuse is refused here by a filter of system calls."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIPE2 = {"x86_64": 293, "aarch64": 59}

# seccomp(2): a filter is an array of (code, jump if true, jump if false, operand) over the number and the arguments.
PROGRAM = """
import ctypes, errno, os, struct
LOAD, EQUAL, ANY_BIT, ANSWER = 0x20, 0x15, 0x45, 0x06
NUMBER, SECOND_ARGUMENT = 0, 24
filter = b"".join(struct.pack("HBBI", *step) for step in [
    (LOAD, 0, 0, NUMBER), (EQUAL, 0, 3, {pipe2}),
    (LOAD, 0, 0, SECOND_ARGUMENT), (ANY_BIT, 0, 1, {flag}),
    (ANSWER, 0, 0, 0x0005_0000 | {error}), (ANSWER, 0, 0, 0x7FFF_0000),
])
steps = ctypes.create_string_buffer(filter)
program = ctypes.create_string_buffer(struct.pack("HP", len(filter) // 8, ctypes.addressof(steps)))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
assert 0 == libc.prctl(38, 1, 0, 0, 0) == libc.prctl(22, 2, ctypes.addressof(program), 0, 0), ctypes.get_errno()
try:
    os.pipe2({flag} | os.O_CLOEXEC)
except OSError as error:
    assert {error} == error.errno
else:
    raise AssertionError("the filter does not work")
{body}
"""

needs_filter = pytest.mark.skipif(platform.machine() not in PIPE2, reason="the filter is written for x86-64 and ARM")


def run_without(flag, error, body):
    """Run a program whose pipe2() is refused with this flag, for its supervisor and its workers too."""
    text = PROGRAM.format(pipe2=PIPE2[platform.machine()], flag=flag, error=error, body=body)
    return subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=80, check=False
    )


@needs_filter
def test_pool_works_without_pipes_of_packets():
    body = """if True:
        import procjobs
        from tests.process import jobs
        with procjobs.Pool(workers=2) as pool:
            assert list(range(2000)) == list(pool.map(jobs.add, range(2000)))
            large = b"x" * 300_000
            assert large == pool.submit(jobs.echo, large).result(30)
            pool.pause()  # what is before the workers is taken back
            waiting = [pool.submit(jobs.add, n) for n in range(500)]
            pool.resume()
            assert list(range(500)) == [job.result(30) for job in waiting]
            sleeping = pool.submit(jobs.sleep, 60)
            assert [1] * 300 == [pool.submit(jobs.add, 1).result(30) for _ in range(300)]
            assert sleeping.cancel()
    """
    done = run_without(os.O_DIRECT, 22, body)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


@needs_filter
def test_pool_that_can_open_no_pipes_says_so():
    body = """if True:
        import procjobs, time, warnings
        warnings.simplefilter("ignore")
        pool = procjobs.Pool(workers=2)
        job = pool.submit(abs, -3)
        while not pool.stats().problem:
            time.sleep(0.01)  # job
        print(pool.stats().problem)
        pool.stop()
    """
    done = run_without(os.O_DIRECT, 24, body)
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith("a worker could not be started: a process may open no more than ")
