"""The statuses of a job, one after the other as they change: for `for` and for `async for`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Protocol, Self

from procjobs.client.awaiting import in_thread
from procjobs.errors import UnknownJob

if TYPE_CHECKING:
    from procjobs.shared.records import JobStatus


class Watched(Protocol):
    """A job, as its updates see it."""

    def done(self) -> bool:
        """Return whether it has ended."""

    def wait(self, timeout: float) -> bool:
        """Wait for its end, up to `timeout` seconds."""

    def status(self) -> JobStatus:
        """Return its status; raise UnknownJob if there is none any more."""


class Updates:
    """The statuses of a job. Iterate over it once, in a thread or in an event loop; the last status is a final one."""

    def __init__(self, job: Watched, interval: float) -> None:
        """The job is looked at every `interval` seconds."""
        self._job = job
        self._interval = interval
        self._statuses: Iterator[JobStatus] = self._follow()
        self._awaited: AsyncIterator[JobStatus] = self._follow_in_loop()
        self._last: JobStatus | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> JobStatus:
        return next(self._statuses)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobStatus:
        return await anext(self._awaited)

    def _follow(self) -> Iterator[JobStatus]:
        ended = False
        while not ended and not self._has_last:
            ended = self._job.done()
            try:
                status = self._job.status()
            except UnknownJob:
                status = None
            if self._is_news(status):
                yield self._last  # type: ignore[misc]  # it was just set
            if not ended and not self._has_last:
                self._job.wait(self._interval)

    async def _follow_in_loop(self) -> AsyncIterator[JobStatus]:
        import asyncio  # see procjobs.client.job

        ended = False
        while not ended and not self._has_last:
            ended = self._job.done()
            if self._is_news(await self._try_status(ended)):
                yield self._last  # type: ignore[misc]  # it was just set
            if not ended and not self._has_last:
                await asyncio.sleep(self._interval)

    async def _try_status(self, ended: bool) -> JobStatus | None:
        """Return the status; of a job that has ended, perhaps from the store, for which the loop does not wait."""
        try:
            return self._job.status()
        except UnknownJob:
            if not ended:
                return None
        try:
            return await in_thread(self._job.status)
        except UnknownJob:
            return None

    @property
    def _has_last(self) -> bool:
        return self._last is not None and self._last.done

    def _is_news(self, status: JobStatus | None) -> bool:
        if status is None or status == self._last:
            return False
        self._last = status
        return True
