"""Every exception that procjobs raises, by who is at fault.

An exception raised by a job arrives as itself; the classes here are what the pool itself has to say.
"""

from __future__ import annotations

import concurrent.futures
import signal as _signal


class ProcjobsError(Exception):
    """Base of everything that procjobs raises on its own account."""


# The caller's doing ----------------------------------------------------------------------------------


class ConfigurationError(ProcjobsError, ValueError):
    """A setting or option is out of range, unknown, or contradicts another one."""


class UnsupportedPlatform(ProcjobsError, OSError):
    """This operating system lacks what the supervisor is built on."""


class UnknownJob(ProcjobsError, LookupError):
    """No job of that id is known: it never reached the supervisor, or its record was evicted."""


class PoolClosed(ProcjobsError, RuntimeError):
    """The pool was shut down, or is stopping, and takes no more jobs."""


class QueueFull(ProcjobsError, RuntimeError):
    """The pool has `max_queued` jobs waiting, or no room to record another one.

    `queued` is the number of jobs waiting, `max_queued` the bound; None where the refusal was about room.
    """

    def __init__(self, message: str, *, queued: int | None = None, max_queued: int | None = None) -> None:
        super().__init__(message)
        self.queued = queued
        self.max_queued = max_queued


class PayloadError(ProcjobsError):
    """A function, argument, result or exception could not be pickled or unpickled; the message names which."""


# The job's doing -------------------------------------------------------------------------------------


class JobError(ProcjobsError):
    """Base of the ways in which a single job ends without a result of its own.

    `job_id` is the id of that job (None where it is not known), `attempt` the attempt it ended in (from 1).
    """

    def __init__(self, message: str, *, job_id: str | None = None, attempt: int | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.attempt = attempt


class JobTimeout(JobError, TimeoutError):
    """The job ran longer than its timeout and was stopped with everything it had started."""


class JobExpired(JobError):
    """The job had not started when its `expires` came; it never will."""


class JobCancelled(JobError, concurrent.futures.CancelledError):
    """The job was cancelled, while it waited or while it ran."""


class WorkerCrashed(JobError):
    """The worker process died while it ran this job.

    `signal` is the number of the signal that killed it, or None; `exit_code` its exit status, or None;
    `last_progress` what the job had last reported, as text, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        job_id: str | None = None,
        attempt: int | None = None,
        signal: int | None = None,
        exit_code: int | None = None,
        last_progress: str | None = None,
    ) -> None:
        super().__init__(message, job_id=job_id, attempt=attempt)
        self.signal = signal
        self.exit_code = exit_code
        self.last_progress = last_progress


# The host's doing ------------------------------------------------------------------------------------


class SupervisorError(ProcjobsError):
    """Base of failures to start, reach or keep the pool's supervisor."""


class SupervisorLost(SupervisorError):
    """The supervisor went away while the answer was awaited; whether the job ran to its end is not known.

    A job that the supervisor had not acknowledged is sent to its successor, unless it may have begun. If that cannot be
    done either, because the pool was shut down or no supervisor can be started, this error has the reason as its cause,
    and the job has not run.
    """


class SupervisorRefused(SupervisorError):
    """The supervisor answered, and said why it will not serve this process."""


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
    """The pool cannot run jobs at the moment; the message says why. Jobs stay queued until it can."""


class SettingsDiffer(UserWarning):
    """A running pool was attached to with explicit settings that differ from those it was started with."""


def describe_signal(number: int) -> str:
    """Return a signal's name with its number, such as `SIGKILL (9)`; a bare number where it has no name."""
    try:
        return f"{_signal.Signals(number).name} ({number})"
    except ValueError:
        return f"signal {number}"
