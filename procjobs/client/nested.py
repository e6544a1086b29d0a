"""Waits inside a job for other jobs of its pool: the supervisor is told of each, and has another worker work meanwhile.

Outside a job nothing is told to anybody. In one, a wait that is about to block costs two small frames, which nobody answers;
one that can never end ends the handles of the jobs waited for with WaitRefused (procjobs.dispatch.nesting).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from procjobs.client.connection.interruptible import News
from procjobs.clock import monotonic
from procjobs.worker.context import current_job

MAX_NAMED: Final = 64
"""The most jobs of a wait that the supervisor is told of at once: a wait for more tells of others when these have ended."""


class WaitRoute(Protocol):
    """The way over which the answer of a job comes: a connection."""

    def begin_wait(self, waiter: str, job_ids: list[bytes]) -> int:
        """Tell the supervisor that a job (the hexadecimal id) waits for any of these; return the number of the wait."""

    def end_wait(self, number: int) -> None:
        """Tell the supervisor that this wait is over."""


class Awaited(Protocol):
    """A job that somebody waits for."""

    raw_id: bytes

    def done(self) -> bool:
        """Return whether it has ended."""

    def way(self) -> WaitRoute | None:
        """Return the connection over which its answer comes, None if none is to come in this process."""


def begin_wait(jobs: Iterable[Awaited]) -> list[tuple[WaitRoute, int]]:
    """Tell of the wait of the job that this thread belongs to, if it is in one; return what is to be ended."""
    here = current_job()
    if here is None:
        return []
    by_route: dict[WaitRoute, list[bytes]] = {}
    for job in jobs:
        route = job.way()
        if route is not None:
            by_route.setdefault(route, []).append(job.raw_id)
    waiter = here.id.replace("-", "")
    return [(route, route.begin_wait(waiter, job_ids)) for route, job_ids in by_route.items()]


@contextlib.contextmanager
def waiting_for(jobs: Iterable[Awaited]) -> Iterator[None]:
    """Let the supervisor know, while the body waits for any of these jobs, of the first of them that have not ended."""
    first = list(itertools.islice((job for job in jobs if not job.done()), MAX_NAMED))
    begun = begin_wait(first)
    try:
        yield
    finally:
        if not all(job.done() for job in first):  # otherwise the supervisor knows
            for route, number in begun:
                route.end_wait(number)


def wait_for_several(jobs: list[Awaited], news: News, has_come: Callable[[], bool], timeout: float | None) -> bool:
    """Wait inside a job as `news.wait_for(has_come, timeout)` does, for something that the ends of these jobs bring."""
    deadline = None if timeout is None else monotonic() + timeout
    while not has_come():
        pending = list(itertools.islice((job for job in jobs if not job.done()), MAX_NAMED))
        rest = None if deadline is None else max(deadline - monotonic(), 0.0)
        if not pending or rest == 0.0:
            return news.wait_for(has_come, rest)
        with waiting_for(pending):
            news.wait_for(_either(has_come, pending), rest)
    return True


def _either(has_come: Callable[[], bool], pending: list[Awaited]) -> Callable[[], bool]:
    return lambda: has_come() or all(job.done() for job in pending)
