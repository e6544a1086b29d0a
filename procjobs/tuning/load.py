"""The closed loop: keeps enough jobs queued that no worker ever waits for one."""

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

_MAX_BACKLOG_SECONDS: Final = 0.25
"""The queue holds at most this much work, or one job for each worker if that is more."""
_MAX_BACKLOG: Final = 2_000
_POLL_INTERVAL: Final = 0.05


class Load:
    """Submits calls to a pool in turn, and a new one for each job that ends.

    `runs` has the ended jobs in the order of their ends; `failures` counts the failed ones by reason.

    One thread uses this object. The pool's receiver thread only notes the time at which a job ends.
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
        """Fill the queue, wait up to `seconds` for a job to end, and collect the jobs that have ended."""
        while self._outstanding < self._workers + self._backlog():
            self._submit()
        self._something_ended.wait(seconds)
        self._something_ended.clear()
        self._collect()

    def finish(self) -> None:
        """Let the running jobs end, and then stop the pool. Queued jobs never start."""
        self._pool.pause()  # after this call no further job starts
        while self._pool.stats().busy:
            self._something_ended.wait(_POLL_INTERVAL)
            self._something_ended.clear()
        self._collect()  # before the pool stops, because the status of a job is read from its table
        self._pool.stop()

    def _backlog(self) -> int:
        """Return how many jobs should be queued: one for each worker, more if jobs are so short that the queue empties."""
        spent = perf_counter() - self._begun_at
        limit = min(math.ceil(_MAX_BACKLOG_SECONDS * len(self.runs) / spent), _MAX_BACKLOG)
        return max(self._workers, min(self._wanted, limit))

    def _submit(self) -> None:
        call = next(self._calls)
        job = self._pool.submit(self._function, *call.args, **call.kwargs)
        self._outstanding += 1
        job.add_done_callback(self._note)

    def _note(self, job: Any) -> None:
        """Note the end of a job. This runs in the receiver thread, so it must not delay the next answer."""
        self._ended.append((perf_counter(), job))
        self._something_ended.set()

    def _collect(self) -> None:
        if 2 * len(self._ended) >= self._outstanding:
            self._wanted = min(2 * self._wanted, _MAX_BACKLOG)
        while self._ended:
            ended_at, job = self._ended.popleft()
            self._outstanding -= 1
            run = _run_of(job, ended_at)
            self.runs.append(run)
            if run.failure is not None:
                self.failures[run.failure] += 1


def _run_of(job: Job[Any], ended_at: float) -> Run:
    """Return the run of a job. Its result is not unpickled, because that would disturb the measurement."""
    try:
        status = job.status()
    except UnknownJob:  # the job's record was evicted by later jobs, or has gone with its supervisor
        error = job.exception()
        return Run(ended_at, 0.0, None if error is None else type(error).__name__)
    seconds = 0.0
    if status.started_at is not None and status.finished_at is not None:
        seconds = max(status.finished_at - status.started_at, 0.0)
    if status.state == "succeeded":
        return Run(ended_at, seconds)
    if status.reason is None:  # the supervisor went down before it wrote the end of the job
        return Run(ended_at, seconds, type(job.exception()).__name__)
    return Run(ended_at, seconds, _reason(status.reason, status.error))


def _reason(reason: str, error: str | None) -> str:
    """Return the reason of a failure: the last line of the job's exception, or the reason of its status."""
    return error.strip().splitlines()[-1][:100] if reason == "raised" and error else reason
