"""An exception from outside (Ctrl-C, a signal handler, a debugger) at every line of every call of a client.

A tracer raises once, at the n-th line that the library runs in the calling thread, for n = 1, 2, 3, ... until a call comes
through. A line in a loop counts the first times only: some loops are over all modules of this process. After each the pool
must be whole: what was accepted has an answer, nothing hangs, no descriptor is lost or closed.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import functools
import gc
import os
import random
import signal
import sys
import threading
import time

import numpy as np
import pytest

import procjobs
from tests.process import jobs

from ..conftest import wait_until

PACKAGE = os.path.dirname(procjobs.__file__)
LARGE = b"x" * 300_000


class Interruption(KeyboardInterrupt):
    """Raised by the tracer."""


TIMES = 2
"""How often a line counts in one call."""


class Tracer:
    """Raises at the n-th line of the library, once."""

    def __init__(self, lines):
        self.left = lines
        self._times = collections.Counter()

    def __call__(self, frame, event, _argument):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        line = frame.f_code, frame.f_lineno
        if event == "line" and self._times[line] < TIMES:
            self._times[line] += 1
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise Interruption(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        return self


def interrupted_at(lines, call):
    """Run a call, interrupted at that line; return whether it was.

    In a thread of its own: what a tracer raises in a handler of exceptions stays the exception that its thread handles.
    """
    outcome = []

    def run():
        sys.settrace(Tracer(lines))
        try:
            call()
        except Interruption:
            outcome.append(True)
        except BaseException as error:  # noqa: BLE001 - it is raised below
            outcome.append(error)
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(120)
    assert not thread.is_alive(), f"line {lines} hangs"
    if outcome and outcome[0] is not True:
        raise outcome[0]
    return bool(outcome)


def open_descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def check(pool):
    """The pool is whole, for this thread and for another one."""
    assert 3 == pool.submit(jobs.add, 1, 2).result(20)
    others = []
    thread = threading.Thread(target=lambda: others.append(pool.submit(len, LARGE).result(20)))
    thread.start()
    thread.join(30)
    assert [len(LARGE)] == others


def interrupt_everywhere(pool, call, *, step=1):
    before = open_descriptors()
    lines = 1
    while interrupted_at(lines, call):
        check(pool)
        lines += step
    assert lines > 10
    wait_until(lambda: open_descriptors() <= before)


def submit_and_wait(pool, function, *args):
    assert pool.submit(function, *args).result(20) is not None


def submit_closure(pool, number):
    pool.submit(lambda: number)


def submit_many_and_wait(pool):
    calls = [(jobs.add, 1, 2), procjobs.Call(jobs.echo, b"x" * 100_000).options(retries=1), (jobs.add, 3, 4)]
    assert [3, b"x" * 100_000, 7] == [job.result(20) for job in pool.submit_many(calls)]


CALLS = {
    "submit many": submit_many_and_wait,
    "submit": lambda pool: pool.submit(jobs.add, 1, 2),
    "submit a closure": lambda pool: submit_closure(pool, time.monotonic_ns()),
    "submit large bytes": lambda pool: pool.submit(len, LARGE),
    "submit an array": lambda pool: pool.submit(len, np.zeros(100_000)),
    "submit with options": lambda pool: pool.options(priority=time.monotonic_ns() % 1000, key="k").submit(jobs.add, 1),
    "submit a unique job": lambda pool: pool.options(key=str(time.monotonic_ns()), unique=True).submit(jobs.add, 1),
    "result": lambda pool: submit_and_wait(pool, jobs.add, 1, 2),
    "exception": lambda pool: pool.submit(jobs.fail, "no").exception(20),
    "cancel": lambda pool: pool.submit(time.sleep, 0.01).cancel(),
    "cancel by id": lambda pool: pool.cancel(pool.submit(jobs.add, 1).id) if pool.stats() else None,
    "wait_accepted": lambda pool: pool.submit(jobs.add, 1).wait_accepted(20),
    "map": lambda pool: list(pool.map(jobs.add, range(5), range(5))),
    "map in chunks": lambda pool: list(pool.map(jobs.add, range(50), range(50), chunksize="auto")),
    "map unordered": lambda pool: list(pool.map(jobs.add, range(5), range(5), ordered=False)),
    "run": lambda pool: asyncio.run(pool.run(jobs.add, 1, 2)),
    "wait": lambda pool: concurrent.futures.wait([pool.submit(jobs.add, n) for n in range(3)], 20),
    "as_completed": lambda pool: list(concurrent.futures.as_completed([pool.submit(jobs.add, n) for n in range(3)], 20)),
    "pause and resume": lambda pool: (pool.pause(), pool.resume()),
    "logs": lambda pool: [pool.logs(job.id) for job in [pool.submit(jobs.add, 1)] if job.result(20)],
    "queues": lambda pool: pool.queues(),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CALLS)
def test_every_line_of_a_call_can_be_interrupted(pool_name, name):
    with contextlib.ExitStack() as stack:
        pool = procjobs.Pool(pool_name, workers=2)
        stack.callback(pool.stop)
        check(pool)

        def call():
            try:
                CALLS[name](pool)
            except procjobs.UnknownJob:  # asked for before the supervisor had read the submission
                pass
            finally:
                if name.startswith("pause"):
                    sys.settrace(None)
                    pool.resume()

        interrupt_everywhere(pool, call)


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a socket is closed with its last reference
def test_every_line_of_the_first_call_can_be_interrupted(pool_name):
    """It makes the pool: starts the supervisor, says hello, maps the table."""
    lines, first = 1, []
    while interrupted_at(lines, lambda: first.append(procjobs.Pool(pool_name, workers=1))):
        lines += 7  # each may start a supervisor anew
        if lines % 5 == 0:
            with procjobs.Pool(pool_name, workers=1) as pool:
                check(pool)
    check(first[0])
    first[0].stop()
    assert lines > 100


@pytest.mark.timeout(900)
def test_pool_can_be_let_go_of_after_an_interrupted_submission(pool_name):
    lines, is_interrupted = 1, True
    with procjobs.Pool(pool_name, workers=1) as owner:
        while is_interrupted:
            with procjobs.Pool(pool_name) as pool:
                pool.submit(jobs.add, 1, 2).result(20)
                is_interrupted = interrupted_at(lines, functools.partial(pool.submit, jobs.add, 1, 2))
            lines += 1
        owner.stop()
    assert lines > 20


@pytest.mark.timeout(900)
def test_job_that_was_submitted_after_an_interruption_is_not_lost_with_the_supervisor(pool_name, tmp_path):
    """If acknowledgements were counted wrongly from then on, one of the jobs would be forgotten before its time."""
    lines, is_interrupted = 1, True
    with procjobs.Pool(pool_name, workers=1) as pool:
        while is_interrupted:
            check(pool)
            supervisor = pool.stats().supervisor_pid
            os.kill(supervisor, signal.SIGSTOP)
            is_interrupted = interrupted_at(lines, functools.partial(pool.submit, len, LARGE))
            trace = tmp_path / str(lines)
            handles = [pool.submit(jobs.append_line, str(trace), n, LARGE if n % 2 else b"") for n in range(4)]
            os.kill(supervisor, signal.SIGKILL)
            assert [0, 1, 2, 3] == [job.result(30) for job in handles]
            assert ["0", "1", "2", "3"] == trace.read_text().split()
            lines += 3
        pool.stop()
    assert lines > 20


class Alarm(Exception):
    """Raised by the handler of a signal, as applications do."""


@pytest.mark.timeout(300)
def test_pool_survives_signal_handlers_that_raise_at_any_time(pool_name, monkeypatch):
    chance = random.Random(5)
    names = [name for name in CALLS if not name.startswith(("pause", "run", "cancel by", "logs"))]

    def ring(*_):
        raise chance.choice([KeyboardInterrupt, Alarm])

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with procjobs.Pool(pool_name, workers=2) as pool:
            check(pool)
            descriptors, others = open_descriptors(), [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
            rung = 0
            while rung < 300:
                try:
                    signal.setitimer(signal.ITIMER_REAL, chance.random() ** 2 * 0.01 + 1e-6)
                    CALLS[chance.choice(names)](pool)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except (KeyboardInterrupt, Alarm):
                    rung += 1
                finally:
                    with contextlib.suppress(KeyboardInterrupt, Alarm):
                        signal.setitimer(signal.ITIMER_REAL, 0)
                if rung % 20 == 0:
                    check(pool)
            for fd in others:
                os.close(fd)  # raises if the library has closed one of them
            wait_until(lambda: open_descriptors() <= descriptors)
            pool.stop()
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.timeout(300)
def test_soft_timeout_passes_through_the_calls_of_a_job_that_submits(pool, pool_name):
    with procjobs.Pool(f"{pool_name}-inner", workers=2) as inner:
        check(inner)
        sizes = [100, 500_000, 3_000_000]
        for n in range(15):
            limited = pool.options(soft_timeout=0.2 + n * 0.007, timeout=30)
            error = limited.submit(jobs.submit_for_ever, inner.name, sizes[n % 3]).exception(60)
            assert isinstance(error, procjobs.JobTimeout), error
        inner.stop()
