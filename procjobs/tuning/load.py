"""The closed loop: as many jobs are kept waiting as the workers need never to wait for one."""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from procjobs.clock import perf_counter
from procjobs.errors import UnknownJob
from procjobs.tuning.plan import Call
from procjobs.tuning.window import Run

if TYPE_CHECKING:
    from procjobs.client.job import Job
    from procjobs.client.pool import Pool

_AHEAD_SECONDS: Final = 0.25
"""The most work that waits beyond one job for each worker."""
_MAX_AHEAD: Final = 2_000
_LOOK_SECONDS: Final = 0.05


class Load:
    """Submits calls to a pool in turn, and another one for each that has ended; `runs` are those that have, in order.

    `failures` counts those of them that failed, by their reason.

    Used by one thread; the pool's receiver thread only says that a job has ended, and when.
    """

    def __init__(self, pool: Pool, function: Callable[..., Any], calls: Sequence[Call], workers: int) -> None:
        self._pool = pool
        self._function = function
        self._calls = itertools.cycle(calls)
        self._workers = workers
        self._begun_at = perf_counter()
        self._outstanding = 0
        self._wanted = workers
        self._ended: deque[tuple[float, Job[Any]]] = deque()
        self._something_ended = threading.Event()
        self.runs: list[Run] = []
        self.failures: Counter[str] = Counter()

    def turn(self, seconds: float) -> None:
        """Submit what is missing, wait for a job to end, at most so long, and take note of those that have."""
        while self._outstanding < self._workers + self._ahead():
            self._submit()
        self._something_ended.wait(seconds)
        self._something_ended.clear()
        self._collect()

    def finish(self) -> None:
        """Let the running jobs end, and then the pool; those that have not begun never do."""
        self._pool.pause()  # returns when no further one is started
        while self._pool.stats().busy:
            self._something_ended.wait(_LOOK_SECONDS)
            self._something_ended.clear()
        self._collect()  # before the end of the pool: how they went is read from its table
        self._pool.stop()

    def _ahead(self) -> int:
        """Return how many jobs are to wait: one for each worker, and more where so small ones end that they run out."""
        spent = perf_counter() - self._begun_at
        most = min(math.ceil(_AHEAD_SECONDS * len(self.runs) / spent), _MAX_AHEAD)
        return max(self._workers, min(self._wanted, most))

    def _submit(self) -> None:
        call = next(self._calls)
        job = self._pool.submit(self._function, *call.args, **call.kwargs)
        self._outstanding += 1
        job.add_done_callback(self._note)

    def _note(self, job: Any) -> None:
        """In the receiver thread: nothing but the time, so that the next answer is not kept waiting."""
        self._ended.append((perf_counter(), job))
        self._something_ended.set()

    def _collect(self) -> None:
        if 2 * len(self._ended) >= self._outstanding:
            self._wanted = min(2 * self._wanted, _MAX_AHEAD)
        while self._ended:
            ended_at, job = self._ended.popleft()
            self._outstanding -= 1
            run = _run_of(job, ended_at)
            self.runs.append(run)
            if run.failure is not None:
                self.failures[run.failure] += 1


def _run_of(job: Job[Any], ended_at: float) -> Run:
    """Return how a job went; its result is not unpickled, which is not what is measured."""
    try:
        status = job.status()
    except UnknownJob:  # its record was evicted by later ones, or has gone with its supervisor
        error = job.exception()
        return Run(ended_at, 0.0, None if error is None else type(error).__name__)
    seconds = 0.0
    if status.started_at is not None and status.finished_at is not None:
        seconds = max(status.finished_at - status.started_at, 0.0)
    if status.state == "succeeded":
        return Run(ended_at, seconds)
    if status.reason is None:  # what its supervisor, which has gone, has left of it
        return Run(ended_at, seconds, type(job.exception()).__name__)
    return Run(ended_at, seconds, _reason(status.reason, status.error))


def _reason(reason: str, error: str | None) -> str:
    """Return why a job failed, the same text for the same cause: what it raised, or how it ended."""
    return error.strip().splitlines()[-1][:100] if reason == "raised" and error else reason
