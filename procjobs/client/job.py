"""The handle of one job: a concurrent.futures.Future whose result is unpickled by the thread that asks for it."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Generator
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from typing import Any, Final, Generic, NoReturn, Protocol, TypeVar

from procjobs.client.answers import OUTCOME_AT, RETURNED, decode
from procjobs.client.connection.interruptible import Exclusive
from procjobs.client.listeners import FuturesWaiters, Listeners
from procjobs.client.nested import WaitRoute, begin_wait, waiting_for
from procjobs.client.updates import Updates
from procjobs.clock import monotonic, wall
from procjobs.errors import JobCancelled, PoolClosed, ProcjobsError, SupervisorLost, UnknownJob
from procjobs.host.payload import Received
from procjobs.shared.durations import Seconds, check_required, wait_seconds
from procjobs.shared.ids import JobId, to_text
from procjobs.shared.meta import unpack_meta
from procjobs.shared.records import JobStatus, Progress
from procjobs.shared.wire import verdict_of
from procjobs.worker.context import current_job

T = TypeVar("T")


class StatusSource(Protocol):
    """Where a handle asks for the status of its job: a pool."""

    def shown_status(self, job_id: bytes, *, may_be_unread: bool) -> JobStatus:
        """Return what is known about a job; raise UnknownJob, or PoolClosed once nothing can be asked any more.

        The supervisor is not asked. A job that `may_be_unread` was perhaps not taken by it yet.
        """

    def logs(self, job_id: JobId) -> str:
        """Return the end of what a job has printed; raise as `Pool.logs`."""

    def stack(self, job_id: JobId) -> str | None:
        """Return where a job is; raise as `Pool.stack`."""


class Route(WaitRoute, Protocol):
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


class _Mark:
    """Stands for an end without an answer that is kept."""


_ASYNCIO: Final = "asyncio.futures"
_CANCELLED: Final = _Mark()
_DECODED: Final = _Mark()
_listening = Exclusive(nests=True)
"""Held while a job gets its listeners. A finalizer or a signal handler may ask for those of another job meanwhile."""


def _renew_listening() -> None:
    global _listening
    _listening = Exclusive(nests=True)


os.register_at_fork(after_in_child=_renew_listening)  # another thread may hold it while this process forks


class Job(concurrent.futures.Future[T], Generic[T]):
    """A submitted job. Everything a Future can do, an `id` for other processes, and `await`.

    `result()` and `exception()` unpickle what has arrived in the thread that calls them. They raise what the job raised,
    or a `JobError` that says how it ended, or `PayloadError` if the answer cannot be unpickled here.

    Unlike a Future, a job has no lock: the first of its `_ends` is how it ended, whoever added it. So no thread that was
    interrupted can keep another one from ending it. Nor has it listeners before somebody asks for them: of many jobs
    submitted together, most have their answer by the time somebody looks.
    """

    def __init__(self, source: StatusSource, job_id: bytes, name: str, meta: bytes = b"") -> None:  # not that of Future
        self._ends: list[tuple[bytes, Received | None] | ProcjobsError | _Mark] = []
        self._listeners: Listeners | None = None
        self.raw_id = job_id
        self._source = source
        self._name = name
        self._submitted_at = wall()
        self._meta = meta
        self.holder: bytes | None = None
        self._route: tuple[Route, int] | None = None
        self._decoded: tuple[Any, BaseException | None] | None = None

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

    def result(self, timeout: Seconds | None = None) -> T:
        """Wait up to `timeout` (None: for ever) and return what the job returned, or raise how it ended.

        Raise TimeoutError if it has not ended by then; the job goes on.
        """
        value, error = self._decoded or self._await_answer(timeout)
        if error is None:
            return value  # type: ignore[no-any-return]
        try:
            raise error
        finally:
            error = None  # a traceback that holds this frame must not hold the exception in turn

    def exception(self, timeout: Seconds | None = None) -> BaseException | None:
        """Wait up to `timeout` and return how the job failed, None if it succeeded.

        Raise JobCancelled if it was cancelled, TimeoutError if it has not ended by then.
        """
        return (self._decoded or self._await_answer(timeout))[1]

    def _await_answer(self, timeout: Seconds | None) -> tuple[Any, BaseException | None]:
        """Wait for the answer and unpickle it; return (result, None) or (None, exception)."""
        if not self._ends and not self._wait(wait_seconds(timeout)):
            raise TimeoutError
        end = self._ends[0]
        if end is _CANCELLED:
            raise JobCancelled(f"job {self.id} {self._name} was cancelled", job_id=self.id)
        if isinstance(end, tuple):
            self._decoded = self._decoded or decode(*end, self._name)
            self._ends[0] = _DECODED  # the frame is not needed any more
        elif isinstance(end, ProcjobsError):
            return None, end
        assert self._decoded is not None, "it is set before the mark"
        return self._decoded

    def _wait(self, timeout: float | None) -> bool:
        """Wait for the end; return False if it has not come within `timeout` seconds."""
        news = self._listen().news
        if current_job() is None or (timeout is not None and timeout <= 0):
            return news.wait_for(self.done, timeout)
        with waiting_for([self]):
            return news.wait_for(self.done, timeout)

    def way(self) -> Route | None:
        """Return the connection over which the answer comes, None if none is to come in this process."""
        route = self._route
        return None if route is None or route[0].pid != os.getpid() else route[0]

    def _listen(self) -> Listeners:
        return self._listeners or _listening.run(self._make_listeners, Listeners())

    def _make_listeners(self, new: Listeners) -> Listeners:
        if self._listeners is None:
            self._listeners = new
        return self._listeners

    def _futures_waiters(self) -> FuturesWaiters:
        return self._listen().futures or _listening.run(self._make_futures_waiters, FuturesWaiters(self))

    def _make_futures_waiters(self, new: FuturesWaiters) -> FuturesWaiters:
        listeners = self._listen()
        if listeners.futures is None:
            listeners.futures = new
        return listeners.futures

    def done(self) -> bool:
        """Return whether the job has ended: its answer is here, or it was cancelled. Does not block."""
        return bool(self._ends)

    def cancelled(self) -> bool:
        """Return whether the job was cancelled. Does not block."""
        return bool(self._ends) and self._ends[0] is _CANCELLED

    def has_failed(self) -> bool:
        """Return whether it is known without unpickling that the job did not return. Does not block."""
        end = self._ends[0] if self._ends else _CANCELLED
        return isinstance(end, ProcjobsError) or (isinstance(end, tuple) and end[0][OUTCOME_AT] != RETURNED)

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Have `fn` called with this job when it has ended, at once if it has; what it raises is logged.

        It runs in the thread that receives the answers of the pool, and holds them all up as long as it takes.
        """
        self._listen().callbacks.append(fn)
        if self._ends:
            self._tell()
        elif getattr(fn, "__module__", None) == _ASYNCIO:  # the event loop of a job awaits this one
            begin_wait([self])

    def _tell(self) -> None:
        if self._listeners is not None:
            self._listeners.tell(self)

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
            return self._source.shown_status(self.raw_id, may_be_unread=not self.done())
        except UnknownJob:
            if self.done():
                raise
            return JobStatus(
                self.id, self._name, "queued", None, 0, None, self._submitted_at, None, None, None, None,
                unpack_meta(self._meta), None, None,
            )

    @property
    def state(self) -> str:
        """The state of the job, as in `JobStatus.state`; final as soon as the answer is here. Does not block."""
        return self._final_state() if self._ends else self.status().state

    def _final_state(self) -> str:
        end = self._ends[0]
        if end is _CANCELLED:
            return "cancelled"
        if isinstance(end, tuple):
            verdict = "" if end[0][OUTCOME_AT] == RETURNED else verdict_of(end[0]) or "failed"
        else:
            error = end if isinstance(end, ProcjobsError) else (self._decoded or (None, None))[1]
            verdict = "" if error is None else type(error).__name__
        return "expired" if verdict == "JobExpired" else "failed" if verdict else "succeeded"

    def logs(self) -> str:
        """Return the end of what the job has printed and logged; as `Pool.logs`."""
        return self._source.logs(self)

    def stack(self) -> str | None:
        """Return where the job is right now, or was when it was last examined; as `Pool.stack`."""
        return self._source.stack(self)

    def wait(self, timeout: Seconds | None = None) -> bool:
        """Wait until the job has ended, up to `timeout` (None: for ever); return whether it has. Raise nothing."""
        return self.done() or self._wait(wait_seconds(timeout))

    def progress(self) -> Progress | None:
        """Return what the job has last reported, None if nothing. Does not block."""
        return self.status().progress

    def cancel(self) -> bool:
        """Cancel the job, waiting or running; return False if it had ended. Does not block.

        JobCancelled is raised in a running job; after the grace period it is killed. Waiters see it at once. Should
        the supervisor end before it has read this, this process tells its successor; `Pool.cancel(id)` of a pool with a
        store returns when that is recorded, and holds whatever becomes of this process.
        """
        if not self._ends:
            self._ends.append(_CANCELLED)
        if self._ends[0] is not _CANCELLED:
            return False
        self._tell()
        route = self._route  # read after the mark was set: whoever sends the job again looks at the mark after writing it
        if route is not None and route[0].pid == os.getpid():
            route[0].cancel_job(self.raw_id)
        return True

    def wait_accepted(self, timeout: Seconds | None = None) -> None:
        """Return when the supervisor has the job: from then on it runs, whatever becomes of this process.

        (A private pool ends with its process all the same.) With a store, return when the database has it: from then on
        it runs, whatever becomes of the host. Raise TimeoutError if that takes longer than `timeout`,
        SupervisorLost if the supervisor has gone and the job could not be sent to a successor, PoolClosed if the pool was
        stopped.
        """
        seconds = wait_seconds(timeout)
        deadline = None if seconds is None else monotonic() + seconds
        route = self._route
        while route is not None and not self.done():
            way, sequence = route
            if way.wait_accepted(sequence, None if deadline is None else max(deadline - monotonic(), 0.0)):
                return
            end = self._ends[0] if self._ends else None
            if isinstance(end, PoolClosed):
                raise PoolClosed(str(end))
            if self._route is route or isinstance(end, SupervisorLost):
                raise SupervisorLost("the supervisor went away before it acknowledged the job")
            route = self._route  # it was sent again over another connection

    # Asyncio ------------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio  # not at the top: it is more than half of what `import procjobs` would take

        return asyncio.wrap_future(self).__await__()

    def updates(self, interval: Seconds = 0.1) -> Updates:
        """Return the job's statuses, each time it has changed, for `for` or `async for`; the last is a final one.

        The job is looked at every `interval`. `for` waits in between, `async for` lets the event loop go on.
        """
        return Updates(self, check_required("interval", interval))

    # What concurrent.futures and asyncio ask for --------------------------------------------------------------

    def present_state(self) -> str:
        """Return the state in the words of concurrent.futures."""
        if not self._ends:
            return PENDING
        return CANCELLED_AND_NOTIFIED if self._ends[0] is _CANCELLED else FINISHED

    @property
    def _state(self) -> str:  # type: ignore[override]
        futures = None if self._listeners is None else self._listeners.futures
        return (None if futures is None else futures.seen_state()) or self.present_state()

    @property
    def _condition(self) -> FuturesWaiters:  # type: ignore[override]
        return self._futures_waiters()

    @property
    def _waiters(self) -> FuturesWaiters:  # type: ignore[override]
        return self._futures_waiters()

    def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
        if not self.done() or self.cancelled():
            return self.done(), self.cancelled(), None, None
        return True, False, *self._await_answer(0)

    def set_running_or_notify_cancel(self) -> NoReturn:
        """Raise InvalidStateError: the pool alone says what becomes of a job."""
        raise concurrent.futures.InvalidStateError(f"the pool says what becomes of {self!r}, and nobody else")

    def set_result(self, result: T) -> NoReturn:
        """Raise InvalidStateError, as `set_running_or_notify_cancel` does."""
        self.set_running_or_notify_cancel()

    def set_exception(self, exception: BaseException | None) -> NoReturn:
        """Raise InvalidStateError, as `set_running_or_notify_cancel` does."""
        self.set_running_or_notify_cancel()

    # What the connection calls ------------------------------------------------------------------------------

    def settle(self, raw: bytes, received: Received | None) -> None:
        """Take the answer that has arrived, a FINISHED frame; runs no code of the job's."""
        was_cancelled = raw[OUTCOME_AT] != RETURNED and verdict_of(raw) == "JobCancelled"
        self._ends.append(_CANCELLED if was_cancelled else (raw, received))
        if self._listeners is not None:
            self._listeners.tell(self)
        self._route = None

    def abandon(self, error: ProcjobsError) -> None:
        """End without an answer."""
        self._ends.append(error)
        self._tell()
        self._route = None

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
