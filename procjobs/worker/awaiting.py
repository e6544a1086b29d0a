"""Jobs that are coroutine functions. Each has an event loop of its own, which is closed with it.

1. Tasks and asynchronous generators that a job leaves in its loop are cancelled and closed before the job is answered.
2. An interruption (soft timeout, timeout, cancel) is raised in the job's coroutine: where it runs, or where it awaits. It
   is never raised in the loop's own code, nor in another task: while another task computes, it waits until that task awaits.
3. Wrappers around the coroutine are entered and left within the loop, and no interruption comes then.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import base_events, runners
from collections.abc import Awaitable, Callable, Generator, Sequence
from types import FrameType
from typing import Any, ClassVar, Final, TypeVar

from procjobs.errors import JobCancelled, JobError, JobStalled, JobTimeout
from procjobs.worker.context import current_job
from procjobs.worker.wrappers import AsyncWrapper

T = TypeVar("T")

FILES: Final = frozenset({__file__, runners.__file__, base_events.__file__})
"""The files whose frames stand in a traceback before the job's own."""


class _ToAwait(type):
    """Takes those bases out of a class that the libraries which a coroutine awaits take for failures of their own."""

    def mro(cls) -> list[type]:
        return [base for base in super().mro() if base not in {TimeoutError, OSError, Exception}]


class _Interruption(asyncio.CancelledError, metaclass=_ToAwait):
    """The form in which an interruption is raised inside a coroutine: to libraries that do not know it, a cancellation.

    It is raised in the middle of the library that the job awaits. For a CancelledError a task group ends its tasks, and a
    driver its statement, before they pass it on. But JobTimeout is an OSError as well: psycopg would take that for a lost
    connection, and a loop around `asyncio.wait_for` would try again. Python: `type.mro`, "can be overridden by a metaclass".
    """

    plain: ClassVar[type[JobError]] = JobError

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel in its plain form: other processes need no asyncio to unpickle it."""
        return _plain(self).__reduce__()


class SoftTimeout(JobTimeout, _Interruption):
    """JobTimeout inside a coroutine."""

    plain = JobTimeout
    __reduce__ = _Interruption.__reduce__  # not that of JobError, which comes first


class _Cancelled(JobCancelled, _Interruption):
    """JobCancelled inside a coroutine."""

    plain = JobCancelled
    __reduce__ = _Interruption.__reduce__  # not that of JobError, which comes first


class _Stalled(JobStalled, _Interruption):
    """JobStalled inside a coroutine."""

    plain = JobStalled
    __reduce__ = _Interruption.__reduce__  # not that of JobError, which comes first


_FORMS: Final[dict[type[JobError], type[_Interruption]]] = {
    form.plain: form for form in (SoftTimeout, _Cancelled, _Stalled)
}


def _plain(error: Any) -> JobError:
    """Return an interruption in its plain form."""
    plain: type[JobError] = error.plain
    return plain(str(error), job_id=error.job_id, attempt=error.attempt)


def _only_interruption(group: BaseExceptionGroup[Any]) -> _Interruption | None:
    """Return the interruption if a group has nothing else: before Python 3.13, a TaskGroup wraps exceptions of its body."""
    found: Any
    found, others = group.split(_Interruption)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if others is None else None


class AwaitedJob:
    """One attempt of a job that is a coroutine function."""

    def __init__(self, call: Callable[[], Awaitable[Any]]) -> None:
        self._call = call
        self._task: asyncio.Task[Any] | None = None
        self._due: BaseException | None = None
        self._is_running = False
        self._is_woken = False
        self._has_ended = False

    def run(self, conclude: Callable[[Any], T], wrappers: Sequence[AsyncWrapper]) -> T:
        """Run the coroutine and return `conclude(its result)`, which is called inside the wrappers too."""
        return asyncio.run(self._run(conclude, wrappers), debug=False)

    async def _run(self, conclude: Callable[[Any], T], wrappers: Sequence[AsyncWrapper]) -> T:
        job = current_job()
        if not wrappers or job is None:
            return await self._perform(conclude)
        stack: contextlib.AsyncExitStack[bool] = contextlib.AsyncExitStack()
        async with stack:
            for wrapper in wrappers:
                manager: Any = wrapper(job)
                await stack.enter_async_context(manager)
            return await self._perform(conclude)
        return conclude(None)  # a wrapper has swallowed the job's exception

    async def _perform(self, conclude: Callable[[Any], T]) -> T:
        self._task = asyncio.current_task()
        try:
            result = await _Stepped(self)
            self._is_running = True  # the result's own __reduce__ is the job's code
            return conclude(result)
        except _Interruption as error:
            raise _plain(error).with_traceback(error.__traceback__) from None
        except BaseExceptionGroup as group:
            interruption = _only_interruption(group)
            if interruption is None:
                raise
            raise _plain(interruption).with_traceback(interruption.__traceback__) from None
        finally:
            self._is_running, self._has_ended = False, True

    def interrupt(self, error: JobError, frame: FrameType | None) -> None:
        """Raise the error in the coroutine: now if the coroutine runs, else where it awaits. For the signal handler."""
        if self._has_ended:
            return
        form: Any = _FORMS[type(error)]
        interruption = form(str(error), job_id=error.job_id, attempt=error.attempt)
        if self._is_running and (frame is None or frame.f_code not in _OWN_CODE):
            raise interruption
        self._due = interruption
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._due is not None and self._task is not None and not self._has_ended:
            self._is_woken = self._task.cancel()

    def steps(self) -> Generator[Any, Any, Any]:
        """Advance the coroutine as `await` does; a cancellation that stands for an interruption becomes that."""
        coroutine = _await(self._call)
        step: Callable[[Any], Any] = coroutine.send
        argument: Any = None
        while True:
            interruption, self._due = self._due, None
            if interruption is not None:
                self._forget_waking()
                step, argument = coroutine.throw, interruption
            try:
                self._is_running = True
                awaited = step(argument)
            except StopIteration as end:
                return end.value
            finally:
                self._is_running = False
            try:
                step, argument = coroutine.send, (yield awaited)
            except BaseException as error:  # noqa: BLE001 - any exception here is for the coroutine
                step, argument = coroutine.throw, error

    def _forget_waking(self) -> None:
        """Take the cancellation back: the job may catch the interruption and go on, and has not been cancelled."""
        if self._is_woken and self._task is not None:
            self._is_woken = False
            self._task.uncancel()


async def _await(call: Callable[[], Awaitable[T]]) -> T:
    return await call()


class _Stepped:
    """The one thing that a job's own task awaits."""

    def __init__(self, job: AwaitedJob) -> None:
        self._job = job

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._job.steps()


_OWN_CODE: Final = frozenset({AwaitedJob.steps.__code__, AwaitedJob._perform.__code__})  # noqa: SLF001 - of this module
