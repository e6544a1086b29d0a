"""Jobs that are coroutine functions. Each has an event loop of its own, which is closed with it.

1. What the job has left in its loop, tasks and asynchronous generators, is cancelled and closed before the job is answered.
2. A soft timeout is raised in the job's coroutine: where it runs, or where it awaits. It is never raised in the loop's own
   code, nor in another task: one that computes has it come when it awaits.
3. What surrounds the coroutine is entered and left within the loop, and no soft timeout comes then.
"""

from __future__ import annotations

import asyncio
from asyncio import base_events, runners
from collections.abc import Awaitable, Callable, Generator
from types import FrameType
from typing import Any, Final, TypeVar

from procjobs.errors import JobTimeout
from procjobs.worker.context import AsyncSurroundings

T = TypeVar("T")

FILES: Final = frozenset({__file__, runners.__file__, base_events.__file__})
"""What a traceback passes through on its way to the job's own lines."""


class _ToAwait(type):
    """Leaves out of a class what the libraries that a coroutine awaits take for a failure of their own."""

    def mro(cls) -> list[type]:
        return [base for base in super().mro() if base not in {TimeoutError, OSError, Exception}]


class SoftTimeout(JobTimeout, asyncio.CancelledError, metaclass=_ToAwait):
    """The JobTimeout that is raised inside a coroutine: for whoever does not know that, a cancellation and nothing else.

    It is raised in the middle of what the job awaits. A task group ends its tasks for a CancelledError before it passes that
    on, and a driver its statement. An OSError, which JobTimeout is as well, psycopg takes for a lost connection, and a loop
    around `asyncio.wait_for` for one to be tried again. Python: `type.mro`, "can be overridden by a metaclass".
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as what it is outside the loop: others need no asyncio to unpickle it."""
        return _plain(self).__reduce__()


def _plain(error: JobTimeout) -> JobTimeout:
    return JobTimeout(str(error), job_id=error.job_id, attempt=error.attempt)


def _only_timeout(group: BaseExceptionGroup[Any]) -> SoftTimeout | None:
    """Return the timeout that is all there is in a group: before Python 3.13, a TaskGroup wraps what leaves its body."""
    found: Any
    found, others = group.split(SoftTimeout)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if others is None else None


class AwaitedJob:
    """One attempt of such a job."""

    def __init__(self, call: Callable[[], Awaitable[Any]]) -> None:
        self._call = call
        self._task: asyncio.Task[Any] | None = None
        self._timeout: SoftTimeout | None = None
        self._is_running = False
        self._is_woken = False
        self._has_ended = False

    def run(self, conclude: Callable[[Any], T], surroundings: AsyncSurroundings | None) -> T:
        """Return what `conclude` makes of the coroutine's result, still within the surroundings."""
        return asyncio.run(self._run(conclude, surroundings), debug=False)

    async def _run(self, conclude: Callable[[Any], T], surroundings: AsyncSurroundings | None) -> T:
        if surroundings is None:
            return await self._perform(conclude)
        async with surroundings():
            return await self._perform(conclude)

    async def _perform(self, conclude: Callable[[Any], T]) -> T:
        self._task = asyncio.current_task()
        try:
            result = await _Stepped(self)
            self._is_running = True  # what the result's own __reduce__ does is the job's
            return conclude(result)
        except SoftTimeout as error:
            raise _plain(error).with_traceback(error.__traceback__) from None
        except BaseExceptionGroup as group:
            timeout = _only_timeout(group)
            if timeout is None:
                raise
            raise _plain(timeout).with_traceback(timeout.__traceback__) from None
        finally:
            self._is_running, self._has_ended = False, True

    def interrupt(self, error: JobTimeout, frame: FrameType | None) -> None:
        """Raise the error in the coroutine: now if it is what runs, else where it awaits. For the signal handler."""
        if self._has_ended:
            return
        timeout = SoftTimeout(str(error), job_id=error.job_id, attempt=error.attempt)
        if self._is_running and (frame is None or frame.f_code not in _OWN_CODE):
            raise timeout
        self._timeout = timeout
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._timeout is not None and self._task is not None and not self._has_ended:
            self._is_woken = self._task.cancel()

    def steps(self) -> Generator[Any, Any, Any]:
        """Advance the coroutine as `await` does, but for the cancellation that stands for a timeout."""
        coroutine = _await(self._call)
        step: Callable[[Any], Any] = coroutine.send
        argument: Any = None
        while True:
            timeout, self._timeout = self._timeout, None
            if timeout is not None:
                self._forget_waking()
                step, argument = coroutine.throw, timeout
            try:
                self._is_running = True
                awaited = step(argument)
            except StopIteration as end:
                return end.value
            finally:
                self._is_running = False
            try:
                step, argument = coroutine.send, (yield awaited)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is for the coroutine
                step, argument = coroutine.throw, error

    def _forget_waking(self) -> None:
        """Take the cancellation back: the job may catch the timeout and go on, and has not been cancelled."""
        if self._is_woken and self._task is not None:
            self._is_woken = False
            self._task.uncancel()


async def _await(call: Callable[[], Awaitable[T]]) -> T:
    return await call()


class _Stepped:
    """What a job's own task awaits."""

    def __init__(self, job: AwaitedJob) -> None:
        self._job = job

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._job.steps()


_OWN_CODE: Final = frozenset({AwaitedJob.steps.__code__, AwaitedJob._perform.__code__})  # noqa: SLF001 - of this module
