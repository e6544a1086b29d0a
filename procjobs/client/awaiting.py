"""The calls of a pool to await: `await pool.astatus(id)`. Each is a call of the pool with an `a` before its name.

They run in the event loop's default threads, so that the loop goes on whatever the supervisor or a database does. What the
shared table shows is read at once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    import asyncio

    from procjobs.client.finding import JobFinder
    from procjobs.shared.records import JobStatus

S = TypeVar("S")
P = ParamSpec("P")
T = TypeVar("T")

_MAX_TOGETHER: Final = 500


async def in_thread(call: Callable[[], T]) -> T:
    """Return what a call returns that blocks, while the event loop goes on. A call that nobody awaits any more goes on."""
    import asyncio  # see procjobs.client.job

    return await asyncio.get_running_loop().run_in_executor(None, call)


def awaitable(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Return a coroutine function that does what a method does, in a thread; a class may have its own of that name."""
    name = method.__name__

    async def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        own: Callable[P, T] = getattr(self, name)
        return await in_thread(partial(own, *args, **kwargs))

    call.__name__, call.__qualname__ = f"a{name}", f"{method.__qualname__.rpartition('.')[0]}.a{name}"
    call.__doc__ = f"Do what `{name}` does, to be awaited: the event loop goes on meanwhile."
    call.__wrapped__ = method  # type: ignore[attr-defined]  # for its signature
    return call


class _Wanted:
    """The jobs that the tasks of one event loop look for."""

    def __init__(self) -> None:
        self.waiting: list[tuple[bytes, str, asyncio.Future[JobStatus]]] = []
        self.task: asyncio.Task[None] | None = None


class AwaitedFinder:
    """Finds jobs for event loops: one thread at a time for each, and together what is wanted meanwhile."""

    def __init__(self, finder: JobFinder) -> None:
        self._finder = finder
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Wanted] = weakref.WeakKeyDictionary()

    async def find(self, job_id: bytes, text: str) -> JobStatus:
        """Return the status of a job that the table does not have; raise as `JobFinder.find`."""
        import asyncio

        loop = asyncio.get_running_loop()
        wanted = self._by_loop.setdefault(loop, _Wanted())
        future: asyncio.Future[JobStatus] = loop.create_future()
        wanted.waiting.append((job_id, text, future))
        if wanted.task is None or wanted.task.done():
            wanted.task = loop.create_task(self._find_all(wanted))
        return await future

    async def _find_all(self, wanted: _Wanted) -> None:
        while wanted.waiting:
            now, wanted.waiting = wanted.waiting[:_MAX_TOGETHER], wanted.waiting[_MAX_TOGETHER:]
            ids = [(job_id, text) for job_id, text, _ in now]
            outcomes = await in_thread(partial(self._finder.find_all, ids))
            for (_, _, future), outcome in zip(now, outcomes, strict=True):
                if future.done():  # nobody awaits it any more
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
