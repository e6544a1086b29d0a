"""One watcher for all streams of an event loop: it looks at the jobs that somebody watches, and encodes each change once.

1. Five times a second it reads the watched jobs from shared memory, and only those: 500 pages with one job cost one look.
   If a look takes long, because there are many jobs, the next one is later: looking takes a fifth of the time at most.
2. A job that shared memory does not have is asked for, beside the looks, which do not wait for it: a job that was evicted
   is in the store, one whose supervisor was killed is at the successor. While nobody can tell, the streams stay silent.
3. A stream has at most one event of each job that it has not sent yet. A page that reads slowly loses events in between,
   never the last one, and memory is bounded.
4. While nobody watches there is no task and no timer.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from procjobs.errors import ProcjobsError
from procjobs.web.documents import job_document, mark
from procjobs.web.http import encode_json
from procjobs.web.seeing import Found

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from procjobs import JobStatus
    from procjobs.web.pools import AnyPool, Pools

LOOK_INTERVAL: Final = 0.2
_SHARE: Final = 5
"""Looking takes a part of the time that is one in so many, at most."""
_FIRST_PAUSE: Final = 1.0
_MAX_PAUSE: Final = 5.0
"""Between two attempts to find jobs that nobody could tell of."""
_log = logging.getLogger(__package__)


@dataclass(eq=False)
class Watched:
    """A job that at least one stream watches. `event` is the last event of it, None as long as there was none."""

    key: str
    pool: AnyPool | None = None
    version: int = 0
    """That of the job as its streams were told of it; 0 while its remaining time was told, which ends without a report."""
    mark: str = ""
    event: bytes | None = None
    is_final: bool = False
    streams: set[Subscription] = field(default_factory=set)


class Subscription:
    """What one stream has still to send. It belongs to the event loop of its watcher."""

    def __init__(self, watcher: Watcher, jobs: list[Watched], pending: dict[str, bytes]) -> None:
        self._watcher = watcher
        self._jobs = jobs
        self._pending = pending
        self._news = asyncio.Event()
        if pending or self._has_ended():
            self._news.set()

    async def next_events(self) -> bytes | None:
        """Return the events of all jobs that have changed since the last call; None once all jobs have ended."""
        await self._news.wait()
        events = b"".join(self._pending.values())
        self._pending.clear()
        if not self._has_ended():
            self._news.clear()
        return events or None

    def push(self, key: str, event: bytes) -> None:
        """Have an event sent, instead of an older one of the same job that was not sent yet."""
        self._pending[key] = event
        self._news.set()

    def drop(self, keys: Collection[str]) -> None:
        """Watch these jobs no more; what they were is still sent."""
        dropped = [job for job in self._jobs if job.key in keys]
        self._jobs = [job for job in self._jobs if job.key not in keys]
        self._watcher.release(self, dropped)
        if self._has_ended():
            self._news.set()

    def close(self) -> None:
        """Watch nothing more."""
        self._watcher.release(self, self._jobs)

    def _has_ended(self) -> bool:
        return all(job.is_final for job in self._jobs)


class Watcher:
    """Watches the jobs of a site for the streams of one event loop."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._jobs: dict[str, Watched] = {}
        self._task: asyncio.Task[None] | None = None
        self._finding: asyncio.Task[None] | None = None
        self._found_again_at = 0.0
        self._pause = _FIRST_PAUSE

    def subscribe(
        self, seen: Mapping[str, Found | None], lost: Iterable[str], skipped: str, said: Mapping[str, bytes]
    ) -> Subscription:
        """Return a subscription to the jobs in `seen`, which were just looked at (None: nobody knows it), and in `lost`.

        Those in `lost` could not be found, and are looked for. `skipped` is the id of an event, see `event_id`, that the
        page has seen already: it is not sent again. `said` are events of further jobs, which are sent once.
        """
        pending = dict(said)
        jobs = [self._watch(key) for key in [*seen, *lost]]
        for key, found in seen.items():
            job = self._jobs[key]
            if job.event is None:  # else the next look tells all of its streams: each new one would wake all others
                job.pool = None if found is None else found.pool
                self._tell(job, None if found is None else found.status)
        for job in jobs:
            if job.event is not None and event_id(job.key, job.mark) != skipped:
                pending[job.key] = job.event
        subscription = Subscription(self, jobs, pending)
        for job in jobs:
            job.streams.add(subscription)
        if self._task is None and jobs:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="procjobs-web-watcher")
        return subscription

    def release(self, subscription: Subscription, jobs: Iterable[Watched]) -> None:
        """Forget jobs that no stream watches any more; with the last one, looking ends."""
        for job in jobs:
            job.streams.discard(subscription)
            if not job.streams:
                self._jobs.pop(job.key, None)
        if not self._jobs:
            for task in (self._task, self._finding):
                if task is not None:
                    task.cancel()
            self._task = self._finding = None

    def _watch(self, key: str) -> Watched:
        return self._jobs.setdefault(key, Watched(key))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                self._look(began)
            except Exception:  # noqa: BLE001 - the edge around one look: streams of other jobs go on
                _log.exception("A look at the watched jobs failed; the next one is in a second")
                await asyncio.sleep(1.0)
            await asyncio.sleep(max(LOOK_INTERVAL, (loop.time() - began) * (_SHARE - 1)))

    def _look(self, now: float) -> None:
        by_pool: dict[int, tuple[AnyPool, list[Watched]]] = {}
        lost = []
        for job in self._jobs.values():
            if job.pool is not None and not job.is_final:
                by_pool.setdefault(id(job.pool), (job.pool, []))[1].append(job)
            elif not job.is_final:
                lost.append(job)
        for pool, jobs in by_pool.values():
            for key, status in _glance(pool, jobs).items():
                if status is None:
                    lost.append(self._jobs[key])
                else:
                    self._tell(self._jobs[key], status)
        if lost and self._finding is None and now >= self._found_again_at:
            self._finding = asyncio.get_running_loop().create_task(self._find(lost), name="procjobs-web-finder")

    async def _find(self, lost: list[Watched]) -> None:
        """Look for jobs that shared memory does not have; those of which nobody could tell are looked for again later."""
        keys = {job.key for job in lost}
        found: dict[str, Found] = {}
        trouble: ProcjobsError | None = None
        try:
            for pool in self._pools.all().values():
                missing = list(keys - found.keys())
                try:
                    statuses = await pool.aglance(missing) if missing else {}
                except ProcjobsError as error:
                    trouble = error
                else:
                    found |= {key: Found(pool, status) for key, status in statuses.items() if status is not None}
            self._tell_found(keys, found, is_sure=trouble is None)
        except Exception:  # noqa: BLE001 - as in `_run`
            _log.exception("Looking for jobs failed")
            trouble = ProcjobsError()
        self._pause = _FIRST_PAUSE if trouble is None else min(2 * self._pause, _MAX_PAUSE)
        self._found_again_at = asyncio.get_running_loop().time() + self._pause
        self._finding = None

    def _tell_found(self, keys: set[str], found: Mapping[str, Found], *, is_sure: bool) -> None:
        for key in keys & self._jobs.keys():
            job = self._jobs[key]
            if key in found:
                job.pool, status = found[key]
                self._tell(job, status)
            elif is_sure:
                self._tell(job, None)

    def _tell(self, job: Watched, status: JobStatus | None) -> None:
        """Take note of how a job is, and have its streams send it if that is new."""
        has_eta = status is not None and status.progress is not None and status.progress.eta() is not None
        job.version = 0 if status is None or has_eta else status.version
        now = mark(status)
        if now == job.mark:
            return
        job.mark, job.is_final = now, status is None or status.done
        job.event = encode_event(job.key, now, job_document(job.key, status))
        for stream in job.streams:
            stream.push(job.key, job.event)


def _glance(pool: AnyPool, jobs: list[Watched]) -> dict[str, JobStatus | None]:
    try:
        return dict(pool.glance([job.key for job in jobs], {job.key: job.version for job in jobs}))
    except ProcjobsError:  # the pool was shut down, in this process or altogether
        return dict.fromkeys([job.key for job in jobs])


def event_id(key: str, mark_of_it: str) -> str:
    """Return the id of an event, one line: which job it is about, and how that was."""
    return f"{quote(key)}:{mark_of_it}"


def encode_event(key: str, mark_of_it: str, document: Mapping[str, object]) -> bytes:
    """Return the bytes of an event."""
    head = f"event: status\nid: {event_id(key, mark_of_it)}\ndata: ".encode()
    return head + encode_json(document) + b"\n\n"
