"""The handle of one job: a concurrent.futures.Future whose result is unpickled by the thread that asks for it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from typing import Any, Final, Generic, Protocol, TypeVar

from procjobs.client.answers import OUTCOME_AT, RETURNED, decode
from procjobs.clock import monotonic, sleep, wall
from procjobs.errors import JobCancelled, PoolClosed, ProcjobsError, SupervisorLost, UnknownJob
from procjobs.host.payload import Received
from procjobs.shared.ids import to_text
from procjobs.shared.records import JobStatus, Progress
from procjobs.shared.wire import Outcome, parse_finished, parse_json

T = TypeVar("T")

_DONE: Final = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})


class StatusSource(Protocol):
    """Where a handle asks for the status of its job: a pool."""

    def status(self, job_id: str) -> JobStatus:
        """Return what is known about a job; raise UnknownJob, or PoolClosed once nothing can be asked any more."""


class Route(Protocol):
    """The way over which a job went and its answer comes: a connection."""

    @property
    def pid(self) -> int:
        """The process whose way it is; one that it forked cannot use it."""

    def cancel_job(self, job_id: bytes) -> None:
        """Have a job cancelled; nothing is waited for."""

    def wait_accepted(self, sequence: int, timeout: float | None) -> bool:
        """Wait until the supervisor has taken that many submissions; return False if it never will.

        Raise TimeoutError if that takes longer than `timeout` seconds.
        """


class _Undecoded(Exception):
    """Stands in the Future for a failure whose exception has not been unpickled."""


_births = threading.RLock()
"""Held while a job gets its condition, and while a job that has none is finished. Under it there are only assignments: what
allocates or calls may run a finalizer or a signal handler, and that may ask for another job's condition."""


def _renew_births() -> None:
    global _births
    _births = threading.RLock()


os.register_at_fork(after_in_child=_renew_births)  # another thread may hold it while this process forks


class Job(concurrent.futures.Future[T], Generic[T]):
    """A submitted job. Everything a Future can do, an `id` for other processes, and `await`.

    `result()` and `exception()` unpickle what has arrived in the thread that calls them. They raise what the job raised,
    or a `JobError` that says how it ended, or `PayloadError` if the answer cannot be unpickled here.

    The condition, through which a Future is waited for, called back and cancelled, is made when it is first asked for: of
    many jobs submitted together, most have their answer by the time somebody looks. That saves 3 us a job, and three of five
    objects that the garbage collector would look at.
    """

    def __init__(self, source: StatusSource, job_id: bytes, name: str) -> None:
        # As Future.__init__, without the condition and the two lists that it guards.
        self._born_condition: threading.Condition | None = None
        self._state = PENDING
        self._result = self._exception = None
        self.raw_id = job_id
        self._source = source
        self._name = name
        self._submitted_at = wall()
        self.holder: bytes | None = None
        self._route: tuple[Route, int] | None = None
        self._answer: tuple[bytes, Received | None] | None = None
        self._decoded: tuple[Any, BaseException | None] | None = None

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        condition = self._born_condition
        if condition is not None:
            return condition
        born = threading.Condition()
        waiters: list[Any] = []
        callbacks: list[Callable[[Any], Any]] = []
        with _births:
            condition = self._born_condition
            if condition is None:
                self._waiters, self._done_callbacks = waiters, callbacks
                condition = self._born_condition = born
        return condition

    @property
    def id(self) -> str:
        """The job's id, a UUID as text; any process of this user on this host can ask the pool about it."""
        return to_text(self.raw_id)

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
        value, error = self._decoded or self._await_answer(timeout)
        if error is None:
            return value  # type: ignore[no-any-return]
        try:
            raise error
        finally:
            error = None  # a traceback that holds this frame must not hold the exception in turn

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait up to `timeout` seconds and return how the job failed, None if it succeeded.

        Raise JobCancelled if it was cancelled, TimeoutError if it has not ended by then.
        """
        return (self._decoded or self._await_answer(timeout))[1]

    def _await_answer(self, timeout: float | None) -> tuple[Any, BaseException | None]:
        """Wait for the answer and unpickle it; return (result, None) or (None, exception)."""
        if self._state != FINISHED or self._exception is not None:
            try:
                error = super().exception(timeout)
            except concurrent.futures.CancelledError:
                raise JobCancelled(f"job {self.id} {self._name} was cancelled", job_id=self.id) from None
            if error is not None and not isinstance(error, _Undecoded):
                return None, error
        answer = self._answer
        if self._decoded is None and answer is not None:
            self._decoded = decode(*answer, self._name)
            self._answer = None
        while self._decoded is None:  # another thread is between the two lines above
            sleep(0)
        return self._decoded

    def done(self) -> bool:
        """Return whether the job has ended: its answer is here, or it was cancelled. Does not block."""
        return self._state in _DONE

    def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
        """Return (done, cancelled, result, exception), which newer versions of asyncio ask for."""
        if not self.done() or self.cancelled():
            return self.done(), self.cancelled(), None, None
        return True, False, *self._await_answer(0)

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
            return self._source.status(self.id)
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
            route[0].cancel_job(self.raw_id)
        return True

    def wait_accepted(self, timeout: float | None = None) -> None:
        """Return when the supervisor has the job: from then on it runs, whatever becomes of this process.

        (A private pool ends with its process all the same.) With a store, return when the database has it: from then on
        it runs, whatever becomes of the host. Raise TimeoutError if that takes longer than `timeout`,
        SupervisorLost if the supervisor has gone and the job could not be sent to a successor, PoolClosed if the pool was
        stopped.
        """
        deadline = None if timeout is None else monotonic() + timeout
        route = self._route
        while route is not None and not self.done():
            way, sequence = route
            if way.wait_accepted(sequence, None if deadline is None else max(deadline - monotonic(), 0.0)):
                return
            if isinstance(self._exception, PoolClosed):
                raise PoolClosed(str(self._exception))
            if self._route is route or isinstance(self._exception, SupervisorLost):
                raise SupervisorLost("the supervisor went away before it acknowledged the job")
            route = self._route  # it was sent again over another connection

    # Asyncio ------------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio  # not at the top: it is more than half of what `import procjobs` would take

        return asyncio.wrap_future(self).__await__()

    async def updates(self, interval: float = 0.1) -> AsyncIterator[JobStatus]:
        """Yield the job's status each time it has changed, looking every `interval` seconds; the last is a final one."""
        import asyncio

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

    def settle(self, raw: bytes, received: Received | None) -> None:
        """Take the answer that has arrived, a FINISHED frame; runs no code of the job's."""
        if raw[OUTCOME_AT] == RETURNED:
            answer = raw, received
            with _births:
                if self._born_condition is None:  # nobody has waited for it, wants to be called back, or cancels it
                    self._answer = answer
                    self._state = FINISHED
        if not self.done():
            self._settle_before_others(raw, received)
        self._route = None

    def _settle_before_others(self, raw: bytes, received: Received | None) -> None:
        finished = parse_finished(raw)
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled in this very moment
            if finished.outcome == Outcome.VERDICT and parse_json(finished.details)["error"] == "JobCancelled":
                self._mark_cancelled()
                return
            self._answer = raw, received
            if finished.outcome == Outcome.RETURNED:
                self.set_result(None)  # type: ignore[arg-type]
            else:
                self.set_exception(_Undecoded())

    def abandon(self, error: ProcjobsError) -> None:
        """End without an answer."""
        self._route = None
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self.set_exception(error)

    def refer_to(self, holder: bytes) -> None:
        """Take note that there is no such job, since the one with this id has its key."""
        self.holder = holder

    def sent_over(self, route: Route, sequence: int) -> None:
        """Take note of the way over which the answer will come, and of the submission's number there (0: watched)."""
        self._route = route, sequence

    def is_awaited_from(self, route: Route) -> bool:
        """Return whether the answer is to come over this way."""
        present = self._route
        return present is not None and present[0] is route
