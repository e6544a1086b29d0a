"""Every exception that procjobs raises: the caller's faults, the job's, the host's.

An exception raised by a job arrives as itself; the classes here are for everything that the pool itself has to say. But
those that would cancel or end the caller (CancelledError, KeyboardInterrupt, SystemExit, ...) arrive as the cause of a
JobError, and StopIteration as that of a RuntimeError.
"""

from __future__ import annotations

import concurrent.futures
import math
import signal as _signal
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class ProcjobsError(Exception):
    """Base of everything that procjobs raises on its own account."""


# The caller's doing ----------------------------------------------------------------------------------


class ConfigurationError(ProcjobsError, ValueError):
    """A setting or option is out of range, unknown, or contradicts another one."""


class UnsupportedPlatform(ProcjobsError, OSError):
    """This operating system lacks functions that the supervisor needs."""


class UnknownJob(ProcjobsError, LookupError):
    """No job of that id is known: it never reached the supervisor, or its record was evicted."""


class UnknownSchedule(ProcjobsError, LookupError):
    """The pool has no schedule of that name."""


class PoolClosed(ProcjobsError, RuntimeError):
    """The pool was shut down, or is stopping, and takes no more jobs."""


class WaitRefused(ProcjobsError, RuntimeError):
    """A job waits for another job of its pool, and would do so for ever; the message says why.

    Each of the two waits for the other, or they share a limit that lets only one of them run, or all workers, with the spare
    ones, have jobs that wait. `job_id` is the job that waits, `awaited_id` the one that it waits for, which stays as it is.
    """

    def __init__(self, message: str, *, job_id: str | None = None, awaited_id: str | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.awaited_id = awaited_id


class QueueFull(ProcjobsError, RuntimeError):
    """The pool has `max_queued` jobs waiting, or no room to record another one.

    `queued` is the number of jobs waiting, `max_queued` the bound (None if there was no room for a record). `retry_after` is
    about how many seconds the waiting jobs will take, from recent run times, at least 1: a web view can answer 503 with it
    as Retry-After.
    """

    def __init__(
        self,
        message: str,
        *,
        queued: int | None = None,
        max_queued: int | None = None,
        estimated_wait: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.queued = queued
        self.max_queued = max_queued
        self.retry_after = max(math.ceil(estimated_wait), 1)


class RetryRefused(ProcjobsError, RuntimeError):
    """The job cannot be repeated: it has succeeded or not ended, or its call is not kept any more. The message says it."""


class PayloadError(ProcjobsError):
    """A function, argument, result or exception could not be pickled or unpickled; the message names which."""


class TuningFailed(ProcjobsError, RuntimeError):
    """Most jobs that were to find a pool's size fail, or the pool cannot run any; the message says why."""


class OutsideJob(ProcjobsError, RuntimeError):
    """A function for the code of jobs was called, and no job is running in this process."""


# The job's doing -------------------------------------------------------------------------------------


class Attempt(NamedTuple):
    """An attempt of a job. Times are Unix times in seconds, None where it had not begun, or has not ended.

    `reason` is as in `procjobs.JobStatus`, None of one that succeeded or still runs; `error` is one or more lines; `signal`
    or `exit_code` say how its worker ended, if it did; `stderr` is the end of the text that the job had written to standard
    error. `worker` is the slot of its worker, `worker_pid` the process. `traceback` is there where `Pool.attempts` has
    returned this: at most 16 KiB of text; for an attempt that was stopped its stack, None where there is none.
    """

    attempt: int
    reason: str | None
    error: str
    started_at: float | None
    ended_at: float | None
    signal: int | None
    exit_code: int | None
    last_progress: str | None
    stderr: str
    worker: int | None = None
    worker_pid: int | None = None
    traceback: str | None = None


class JobError(ProcjobsError):
    """Base of the ways in which a single job ends without a result of its own.

    JobError itself stands for an exception that the caller could take for its own affair, such as SystemExit; that one is
    its `__cause__`.

    `job_id` is the id of that job (None if it is not known), `attempt` the attempt it ended in (from 1), `last_progress` its
    last report, as text; `stack` its stack when the pool last asked for it (see `Pool.stack`); `history` has an account of
    each attempt that failed, the last ten of them.
    """

    def __init__(
        self,
        message: str,
        *,
        job_id: str | None = None,
        attempt: int | None = None,
        last_progress: str | None = None,
        stack: str | None = None,
        history: tuple[Attempt, ...] = (),
    ) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.attempt = attempt
        self.last_progress = last_progress
        self.stack = stack
        self.history = history

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the attributes when the error is pickled."""
        return _rebuild, (type(self), str(self), self.__dict__)


def _rebuild(kind: type[JobError], message: str, attributes: dict[str, Any]) -> JobError:
    error = kind(message)
    error.__dict__.update(attributes)
    return error


class JobTimeout(JobError, TimeoutError):
    """The job ran longer than its timeout, and was stopped with all processes it had started.

    Raised inside the job first, so that it can clean up; also where it runs longer than its `soft_timeout`.
    """


class JobStalled(JobError):
    """The job neither reported progress nor used CPU time for its `stall_timeout`, and was stopped.

    Raised inside the job first, so that it can clean up.
    """


class JobExpired(JobError):
    """The job had not started by its `expires`, and never will."""


class JobCancelled(JobError, concurrent.futures.CancelledError):
    """The job was cancelled, while it waited or while it ran.

    Raised inside a running job first, so that it can clean up; also where its pool ends.
    """


class MemoryLimitExceeded(JobError):
    """The job and the processes it had started used more than its `max_rss`; they were killed.

    `used_bytes` is their memory when that was noticed, `max_rss` the limit, both in bytes.
    """

    def __init__(self, message: str, *, used_bytes: int = 0, max_rss: int = 0, **attributes: Any) -> None:
        super().__init__(message, **attributes)
        self.used_bytes = used_bytes
        self.max_rss = max_rss


class WorkerCrashed(JobError):
    """The worker process died while it ran this job.

    `signal` is the number of the signal that killed it, or None; `exit_code` its exit status, or None; `stderr` the end
    of the job's text on standard error, with Python's stack where it was a fault such as SIGSEGV.
    """

    def __init__(
        self,
        message: str,
        *,
        signal: int | None = None,
        exit_code: int | None = None,
        stderr: str = "",
        **attributes: Any,
    ) -> None:
        super().__init__(message, **attributes)
        self.signal = signal
        self.exit_code = exit_code
        self.stderr = stderr


class JobQuarantined(WorkerCrashed):
    """The job has killed `max_crashes` workers and is not started again, in spite of its retries; see its `history`."""


class CommitFailed(JobError):
    """The job returned, but the transaction around it could not be committed (see `procjobs.sql`); its changes are lost.

    The message has the database's error. `in_doubt` says that the connection broke during the commit: then the changes may
    be there.
    """

    def __init__(self, message: str, *, in_doubt: bool = False, **attributes: Any) -> None:
        super().__init__(message, **attributes)
        self.in_doubt = in_doubt


# The host's doing ------------------------------------------------------------------------------------


class SupervisorError(ProcjobsError):
    """Base of failures to start, reach or keep the pool's supervisor."""


class PoolNotRunning(SupervisorError):
    """There is no such pool, or its supervisor was killed; a call that only looks at a pool starts nothing.

    Nor does a pool that was made with `start=False`: nothing has served it for `start_timeout` seconds.
    """


class SupervisorLost(SupervisorError):
    """The supervisor went away before its answer; it is not known whether the job ran to its end.

    A job that the supervisor had not acknowledged is sent to its successor, unless it may have begun. If there is no
    successor, because the pool was shut down or no supervisor can be started, this error has the reason as its cause, and
    the job has not run.
    """


class StoreUnavailable(SupervisorError):
    """The pool's database cannot be written, and no more jobs can wait for it; or it cannot be used at all.

    The job was not taken and will not run. `stats().store` says since when, and why.
    """


class ReloadFailed(SupervisorError):
    """The code could not be loaded anew: the pool goes on with the old code. The message has the traceback."""


class SupervisorRefused(SupervisorError):
    """The supervisor answered, and said why it will not serve this process.

    `supervisor` is what it said of itself: its `version`, its `pid`; empty where it is an older release than 0.2.
    """

    def __init__(self, message: str, supervisor: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__(message)
        self.supervisor = supervisor


class SubmitTimeout(SupervisorError, TimeoutError):
    """The supervisor did not take the bytes of a submission within `submit_timeout`; the job will not run."""


class RemoteTraceback(Exception):
    """The traceback of an exception as it was formatted in the worker; set as the exception's cause."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class PoolDegraded(UserWarning):
    """The pool cannot run jobs at the moment, or starts its workers slowly; the message says why, and what to do.

    Jobs stay queued until it can. It is slow where a module of the preload starts threads, and workers import it themselves.
    """


class SettingsDiffer(UserWarning):
    """A running pool was attached to with explicit settings that differ from those it was started with."""


class CodeDiffers(UserWarning):
    """Jobs run with other code, or in another environment, than this process has; the message says what to do."""


def describe_signal(number: int) -> str:
    """Return a signal's name with its number, such as `SIGKILL (9)`; a bare number where it has no name."""
    try:
        return f"{_signal.Signals(number).name} ({number})"
    except ValueError:
        return f"signal {number}"
