"""The jobs of memory.py, and the mix in which they are submitted: a kind of job for each thing that a pool keeps."""

from __future__ import annotations

import contextlib
import random
import sys
import uuid

import procjobs

QUEUES = {"limited": procjobs.Queue(key_limit=2), "rated": procjobs.Queue(key_rate="100/s", key_limit=None)}


def nothing(number):
    return number


def print_line(number):
    print("job", number, "has something to say")
    return number


def complain(number):
    print("job", number, "complains", file=sys.stderr)
    return number


def report(number):
    """Report more than a row of the shared table holds."""
    procjobs.progress(1, 2, f"half of {number}")
    procjobs.progress(2, 2, "all of it", {"number": number, "text": "x" * 1000})
    return number


def fail(number):
    print("about to fail", file=sys.stderr)
    raise ValueError(f"job {number} fails, and says so at some length: {'x' * 200}")


async def pause(number):
    return number


def make(size):
    return bytes(size)


class Mix:
    """Submits jobs of all kinds in turn. What is random is repeatable."""

    def __init__(self, pool):
        self._pool = pool
        self._random = random.Random(1)
        self._kinds = [kind for name, kind in vars(Mix).items() if name.startswith("submit_")]
        self._count = 0

    def submit(self):
        """Submit the next job; return its handle."""
        self._count += 1
        return self._kinds[self._count % len(self._kinds)](self, self._count)

    def _unique_text(self):
        return uuid.UUID(int=self._random.getrandbits(128)).hex

    def submit_nothing(self, n):
        return self._pool.submit(nothing, n)

    def submit_print(self, n):
        return self._pool.submit(print_line, n)

    def submit_print_with_a_name(self, n):
        return self._pool.options(name=f"report {self._unique_text()}").submit(print_line, n)

    def submit_complaint(self, n):
        return self._pool.submit(complain, n)

    def submit_closure(self, n):
        captured = self._unique_text() * 20
        return self._pool.submit(lambda: print(len(captured)))

    def submit_report(self, n):
        return self._pool.submit(report, n)

    def submit_failure(self, n):
        return self._pool.submit(fail, n)

    def submit_failure_with_retries(self, n):
        return self._pool.options(retries=1, backoff=0.001).submit(fail, n)

    def submit_coroutine(self, n):
        return self._pool.submit(pause, n)

    def submit_key(self, n):
        return self._pool.options(key=self._unique_text()).submit(nothing, n)

    def submit_key_of_a_queue(self, n):
        return self._pool.options(queue="limited", key=self._unique_text()).submit(print_line, n)

    def submit_key_with_a_rate(self, n):
        return self._pool.options(queue="rated", key=self._unique_text()).submit(nothing, n)

    def submit_unique(self, n):
        """Submit most jobs of a time, now and then one that has none: each of these waits for an answer."""
        if n % 10:
            return self._pool.submit(nothing, n)
        return self._pool.options(key=self._unique_text(), unique=[True, 0.5][n % 20 == 0]).submit(nothing, n)

    def submit_with_own_options(self, n):
        return self._pool.options(timeout=5 + self._random.random(), slow_after=30).submit(print_line, n)

    def submit_delayed(self, n):
        return self._pool.options(delay=0.001, expires=60).submit(nothing, n)

    def submit_cancelled(self, n):
        job = self._pool.options(delay=60).submit(nothing, n)
        job.cancel()
        return job

    def submit_result_of_some_kilobytes(self, n):
        return self._pool.submit(make, self._random.randrange(1, 9) * 1000)

    def submit_large_payload(self, n):
        """Submit arguments and a result too large for a frame, once in a while."""
        return self._pool.submit(make, 300_000) if n % 10 == 0 else self._pool.submit(len, bytes(5000))


def fetch(jobs):
    """Wait for the ends of jobs, and take what they return or raise."""
    for job in jobs:
        with contextlib.suppress(ValueError, procjobs.JobCancelled):
            job.result(60)
