"""The handle of one job: a concurrent.futures.Future whose result is unpickled by whoever asks for it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from procjobs import errors
from procjobs.clock import monotonic, sleep, wall
from procjobs.errors import (
    JobCancelled,
    JobError,
    PayloadError,
    PoolClosed,
    ProcjobsError,
    RemoteTraceback,
    SupervisorLost,
    UnknownJob,
)
from procjobs.host.payload import Received
from procjobs.shared.ids import to_text
from procjobs.shared.records import Attempt, JobStatus, Progress
from procjobs.shared.wire import Finished, Outcome, parse_json

if TYPE_CHECKING:
    from procjobs.client.connection import Connection
    from procjobs.client.pool import Pool
    from procjobs.client.unacknowledged import Unacknowledged

T = TypeVar("T")


class _Undecoded(Exception):
    """Stands in the Future for a failure whose exception has not been unpickled."""


class Job(concurrent.futures.Future[T], Generic[T]):
    """A submitted job. Everything a Future can do, an `id` for other processes, and `await`.

    `result()` and `exception()` unpickle what has arrived in the thread that calls them. They raise what the job raised,
    or a `JobError` that says how it ended, or `PayloadError` if the answer cannot be unpickled here.
    """

    def __init__(self, pool: Pool, job_id: bytes, name: str) -> None:
        super().__init__()
        self._pool = pool
        self._job_id = job_id
        self._name = name
        self._submitted_at = wall()
        self._route: tuple[Connection, int] | None = None
        self._answer: tuple[Finished, Received] | None = None
        self._decoded: tuple[Any, BaseException | None] | None = None

    @property
    def id(self) -> str:
        """The job's id, a UUID as text; any process of this user on this host can ask the pool about it."""
        return to_text(self._job_id)

    @property
    def name(self) -> str:
        """The name of the job: that of its function, or the one given with `options(name=...)`."""
        return self._name

    def __repr__(self) -> str:
        return f"<Job {self.id} {self._name} {'done' if self.done() else 'pending'}>"

    # Asking -------------------------------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> T:
        """Wait up to `timeout` seconds (None: for ever) and return what the job returned, or raise how it ended.

        Raise TimeoutError if it has not ended by then; the job goes on.
        """
        error = self.exception(timeout)
        if error is not None:
            try:
                raise error
            finally:
                error = None  # a traceback that holds this frame must not hold the exception in turn
        assert self._decoded is not None
        return self._decoded[0]  # type: ignore[no-any-return]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait up to `timeout` seconds and return how the job failed, None if it succeeded.

        Raise JobCancelled if it was cancelled, TimeoutError if it has not ended by then.
        """
        try:
            error = super().exception(timeout)
        except concurrent.futures.CancelledError:
            raise JobCancelled(f"job {self.id} {self._name} was cancelled", job_id=self.id) from None
        if error is not None and not isinstance(error, _Undecoded):
            return error
        answer = self._answer
        if self._decoded is None and answer is not None:
            self._decoded = _decode(*answer, self._name)
            self._answer = None
        while self._decoded is None:  # another thread is between the two lines above
            sleep(0)
        return self._decoded[1]

    def running(self) -> bool:
        """Return whether a worker runs the job now, as the shared table shows it. Does not block."""
        try:
            return not self.done() and self.status().state == "running"
        except PoolClosed:  # let go of with shutdown(wait=False): nothing can be seen of it any more
            return False

    def status(self) -> JobStatus:
        """Return what the shared table shows of the job. Does not block.

        As long as the supervisor has not taken it, it is shown as queued; UnknownJob once its record was evicted.
        """
        try:
            return self._pool.status(self.id)
        except UnknownJob:
            if self.done():
                raise
            return JobStatus(
                self.id, self._name, "queued", None, 0, None, self._submitted_at, None, None, None, None
            )

    def progress(self) -> Progress | None:
        """Return what the job has last reported, None if nothing. Does not block."""
        return self.status().progress

    def cancel(self) -> bool:
        """Cancel the job, waiting or running; return False if it had ended. Does not block.

        A running job's processes get SIGTERM, and after the grace period SIGKILL. Waiters see JobCancelled at once.
        """
        if self.cancelled():
            return True
        if not self._mark_cancelled():
            return False
        route = self._route  # read after the mark was set: whoever sends the job again looks at the mark after writing it
        if route is not None and route[0].pid == os.getpid():
            route[0].drop_job(self)
        return True

    def wait_accepted(self, timeout: float | None = None) -> None:
        """Return when the supervisor has the job: from then on it runs, whatever becomes of this process.

        (A private pool ends with its process all the same.) Raise TimeoutError if that takes longer than `timeout`,
        SupervisorLost if the supervisor has gone and the job could not be sent to a successor.
        """
        deadline = None if timeout is None else monotonic() + timeout
        route = self._route
        while route is not None and not self.done():
            connection, sequence = route
            if connection.wait_accepted(sequence, None if deadline is None else max(deadline - monotonic(), 0.0)):
                return
            if self._route is route or isinstance(self._exception, SupervisorLost | PoolClosed):
                raise SupervisorLost("the supervisor went away before it acknowledged the job")
            route = self._route  # it was sent again over another connection

    # Asyncio ------------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self).__await__()

    async def updates(self, interval: float = 0.1) -> AsyncIterator[JobStatus]:
        """Yield the job's status each time it has changed, looking every `interval` seconds; the last is a final one."""
        last: JobStatus | None = None
        while True:
            ended = self.done()
            with contextlib.suppress(UnknownJob):
                status = self.status()
                if status != last:
                    last = status
                    yield status
            if ended or (last is not None and last.done):
                return
            await asyncio.sleep(interval)

    def _mark_cancelled(self) -> bool:
        with self._condition:  # the receiver and a caller may do this at the same time
            if self.done():
                return self.cancelled()
            super().cancel()
            return not self.set_running_or_notify_cancel()

    # What the connection calls ------------------------------------------------------------------------------

    def settle(self, finished: Finished, received: Received) -> None:
        """Take the answer that has arrived; runs no code of the job's."""
        self._route = None
        if self.done():
            return
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled in this very moment
            if finished.outcome == Outcome.RETURNED:
                self._answer = (finished, received)
                self.set_result(None)  # type: ignore[arg-type]
            elif finished.outcome == Outcome.VERDICT and parse_json(finished.details)["error"] == "JobCancelled":
                self._mark_cancelled()
            else:
                self._answer = (finished, received)
                self.set_exception(_Undecoded())

    def abandon(self, error: ProcjobsError) -> None:
        """End without an answer."""
        self._route = None
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self.set_exception(error)

    def sent_over(self, connection: Connection, sequence: int) -> None:
        """Note where the submission went."""
        self._route = connection, sequence

    def is_awaited_from(self, connection: Connection) -> bool:
        """Return whether the answer is to come over this connection."""
        route = self._route
        return route is not None and route[0] is connection

    def send_again(self, waiting: Unacknowledged) -> None:
        """Let the pool send submissions, this one first, to the supervisor it has now."""
        self._pool.send_again(waiting)


def _decode(finished: Finished, received: Received, name: str) -> tuple[Any, BaseException | None]:
    """Return (result, None) or (None, exception); runs whatever code the unpickling runs."""
    job_id = to_text(finished.job_id)
    if finished.outcome == Outcome.RETURNED:
        try:
            return received.load(), None
        except Exception as error:  # noqa: BLE001 - the edge around the user's unpickling
            text = f"the result of job {job_id} {name} could not be unpickled here: {type(error).__name__}: {error}"
            return None, _with_cause(PayloadError(text), error)
    details = parse_json(finished.details)
    if finished.outcome == Outcome.VERDICT:
        return None, _verdict(details, job_id, finished.attempt)
    trace = RemoteTraceback(details.get("traceback", ""))
    if finished.outcome == Outcome.UNPICKLABLE:
        return None, _with_cause(PayloadError(f"job {job_id}: {details['message']}"), trace)
    return None, _with_cause(_raised(details, received, f"job {job_id} {name}"), trace)


def _raised(details: dict[str, Any], received: Received, who: str) -> BaseException:
    """Return the exception that a job raised, or a PayloadError that describes it."""
    described = f"{who} raised {details['type']}: {details['message']}; the exception itself could not be"
    if "unpicklable" in details:
        return PayloadError(f"{described} pickled: {details['unpicklable']}")
    try:
        error = received.load()
    except Exception as problem:  # noqa: BLE001 - the edge around the user's unpickling
        return PayloadError(f"{described} unpickled here: {problem!r}")
    if not isinstance(error, BaseException):
        return PayloadError(f"{described} unpickled here: it became {type(error).__name__}")
    return error


def _with_cause(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def _verdict(details: dict[str, Any], job_id: str, attempt: int) -> ProcjobsError:
    kind: type[ProcjobsError] = getattr(errors, str(details.pop("error", None)), ProcjobsError)
    message = str(details.pop("message", None))
    stack, history = details.pop("stack", None), tuple(Attempt(**entry) for entry in details.pop("history", ()))
    if issubclass(kind, JobError):
        return kind(message, job_id=job_id, attempt=attempt, stack=stack, history=history, **details)
    return kind(message, **details)
