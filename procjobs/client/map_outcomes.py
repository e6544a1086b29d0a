"""What `Pool.map` yields for its jobs: results, or with `return_exceptions` the exceptions in their places too."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from procjobs.client.job import Job
from procjobs.errors import JobCancelled, JobTimeout, PayloadError, RemoteTraceback
from procjobs.host import payload
from procjobs.shared.coroutines import is_coroutine_function
from procjobs.worker.exceptions import OWN_FILES, format_line, format_traceback

_OF_THE_JOB: Final = (JobCancelled, JobTimeout)
"""These interrupt the job with all its items, so they are not the affair of one."""


OWN_FILES.add(__file__)


class Results:
    """Takes the results of jobs; the exception of one is raised."""

    def call_of(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return what is called with each item of a chunk."""
        return fn

    def note(self, job: Job[Any], _count: int, *, is_timed: bool = False) -> Job[Any]:
        """Take note of a job with several items, and return it."""
        return job

    def wait(self, job: Job[Any], timeout: float | None) -> None:
        """Wait for the end of a job; raise TimeoutError, or how it ended."""
        job.result(timeout)

    def take(self, job: Job[Any]) -> Any:
        """Return what a job that has ended has given."""
        return job.result()


class Outcomes(Results):
    """Takes the results of jobs, and their exceptions.

    Of a chunk each item has an outcome of its own. Where the job failed as a whole, as when its worker crashed, all of its
    items have the exception of the job.
    """

    def __init__(self) -> None:
        self._counts: dict[Job[Any], tuple[int, bool]] = {}

    def call_of(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call that returns the exceptions of the function."""
        return functools.partial(_await_caught if is_coroutine_function(fn) else _call_caught, fn)

    def note(self, job: Job[Any], count: int, *, is_timed: bool = False) -> Job[Any]:
        """Remember how many items a job has, and whether it returns (seconds, results)."""
        self._counts[job] = count, is_timed
        return job

    def wait(self, job: Job[Any], timeout: float | None) -> None:
        """Wait for the end of a job; raise nothing but TimeoutError."""
        if not job.done():
            _exception_of(job, timeout)

    def take(self, job: Job[Any]) -> Any:
        """Return the result of a job or its exception; of one with several items a list, with (seconds, list) if timed."""
        error = _exception_of(job, None)
        count, is_timed = self._counts.pop(job, (None, False))
        if count is None:
            return job.result() if error is None else error
        seconds, values = (math.inf, [error] * count) if error is not None else _split(job.result(), is_timed)
        values = [_restore(value) if type(value) is _Raised else value for value in values]
        return (seconds, values) if is_timed else values


def _split(result: Any, is_timed: bool) -> tuple[float, list[Any]]:
    return result if is_timed else (0.0, result)


def _exception_of(job: Job[Any], timeout: float | None) -> BaseException | None:
    try:
        return job.exception(timeout)
    except JobCancelled as error:
        return error


class _Raised(NamedTuple):
    """An exception on its way: pickled by itself, so that one that cannot be takes no results along; empty then."""

    pickled: bytes
    line: str
    traceback: str


def _call_caught(fn: Callable[..., Any], *args: Any) -> Any:
    try:
        return fn(*args)
    except _OF_THE_JOB:
        raise
    except Exception as error:  # noqa: BLE001 - it is what the caller wants
        return _describe(error)


async def _await_caught(fn: Callable[..., Any], *args: Any) -> Any:
    try:
        return await fn(*args)
    except _OF_THE_JOB:
        raise
    except Exception as error:  # noqa: BLE001 - it is what the caller wants
        return _describe(error)


def _describe(error: Exception) -> _Raised:
    try:
        pickled = payload.dump_inline(error)
    except Exception:  # noqa: BLE001 - the user's exception may do anything when it is pickled
        pickled = b""
    return _Raised(pickled, format_line(error), format_traceback(error))


def _restore(raised: _Raised) -> BaseException:
    """Return the exception, with the remote traceback as its cause; a PayloadError for one that cannot be had."""
    error: object = None
    try:
        error = payload.loads(raised.pickled) if raised.pickled else None
    except Exception:  # noqa: BLE001 - the user's exception may do anything when it is unpickled
        error = None
    if not isinstance(error, BaseException):
        error = PayloadError(f"an item raised {raised.line}; the exception itself could not be pickled, or unpickled here")
    error.__cause__ = RemoteTraceback(raised.traceback)
    return error
