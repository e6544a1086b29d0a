"""The reading half of a pool: it looks into the shared table, and asks the store for jobs that are not there any more."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from procjobs.client.awaiting import AwaitedFinder, awaitable, in_thread
from procjobs.client.facts import Facts
from procjobs.client.finding import JobFinder, is_young
from procjobs.client.glancing import Glances
from procjobs.client.job_list import check_before, check_state, list_jobs
from procjobs.clock import boottime
from procjobs.errors import Attempt, ConfigurationError, UnknownJob
from procjobs.host import observe
from procjobs.shared.config import check_count
from procjobs.shared.durations import check_moment
from procjobs.shared.ids import parse, to_text
from procjobs.shared.meta import pack_meta
from procjobs.shared.records import JobRecord, JobStatus, KindInfo, PoolStats, Progress, WorkerInfo
from procjobs.shared.table.layout import SLOT_STATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from procjobs.client.link import Link
    from procjobs.shared.ids import JobId

_NONE_KNOWN: Final[Mapping[str, int]] = {}


class Monitor(Facts):
    """The reading half of a pool. It works while the supervisor is busy, stopped or dead."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self._finder = JobFinder(link)
        self._awaited = AwaitedFinder(self._finder)
        self._glances = Glances(link)

    def status(self, job_id: JobId) -> JobStatus:
        """Return what is known about a job. From any process, without blocking; source: the shared table.

        `job_id` is text (upper case and without dashes, too), a UUID or a handle. What the table does not have is asked for,
        which blocks: an id that is at most 10 seconds old of the supervisor, which answers when it has read all that was
        sent before, or 5 seconds later (0.1 where an event loop runs) counts as not knowing it; and any id of the store, if
        the pool has one. On the thread of an event loop the store is not read: `await pool.astatus(id)` does that.

        Raise UnknownJob if there is no such job, or its record was evicted; StoreUnavailable if the store cannot be read.
        After the pool was let go of, return what was known then; of other jobs raise PoolClosed.
        """
        raw, text = parse(job_id)
        try:
            return self._link.read_last_table().status(raw, text)
        except UnknownJob:
            return self._finder.find(raw, text)

    async def astatus(self, job_id: JobId) -> JobStatus:
        """Return what `status` returns, or raise what it raises; what the table has is read at once."""
        raw, text = parse(job_id)
        if self._link.table is None:  # not connected yet
            return await in_thread(partial(self.status, job_id))
        try:
            return self._link.read_last_table().status(raw, text)
        except UnknownJob:
            return await self._awaited.find(raw, text)

    async def aprogress(self, job_id: JobId) -> Progress | None:
        """Return what `progress` returns; as `astatus`."""
        return (await self.astatus(job_id)).progress

    def glance(self, job_ids: Iterable[JobId], known: Mapping[str, int] = _NONE_KNOWN) -> dict[str, JobStatus | None]:
        """Return what the shared table has of these jobs, by id as given: for programs that show many jobs again and again.

        None stands for a job that is not in the table, or runs no more because the supervisor was killed: `look_up` finds
        out. Jobs whose `version` is still that in `known` are left out. Nothing is unpickled: the `data` of reports is
        None. Asks nobody and waits for nothing, but for the pool if this process has not connected yet. Raise PoolClosed.
        """
        return self._glances.read(job_ids, known)

    def look_up(self, job_ids: Iterable[JobId], known: Mapping[str, int] = _NONE_KNOWN) -> dict[str, JobStatus | None]:
        """Return what `glance` returns; jobs that it does not show are looked for together, as `status` does. May block.

        None stands for a job that nobody knows. If the supervisor was killed, its successor is asked, and started if need
        be. Raise StoreUnavailable if the store cannot be read, SupervisorError if no supervisor can be reached, PoolClosed.
        """
        return self._glances.find(job_ids, known)

    async def aglance(self, job_ids: Iterable[JobId], known: Mapping[str, int] = _NONE_KNOWN) -> dict[str, JobStatus | None]:
        """Return what `look_up` returns, or raise what it raises, to be awaited; what the table has is read at once."""
        return await self._glances.afind(job_ids, known)

    def shown_status(self, job_id: bytes, *, may_be_unread: bool) -> JobStatus:
        """Return the status of a job whose handle this process has; raise as `status` does.

        The supervisor is not asked; nor is the store, if the job `may_be_unread` and only just submitted.
        """
        text = to_text(job_id)
        try:
            return self._link.read_last_table().status(job_id, text)
        except UnknownJob:
            if may_be_unread and is_young(job_id):
                shown = self._finder.find_shown(job_id, text)
                if shown is None:
                    raise
                return shown
            return self._finder.find_stored(job_id, text)

    def progress(self, job_id: JobId) -> Progress | None:
        """Return what a job has last reported, None if nothing; otherwise as `status`."""
        return self.status(job_id).progress

    def attempts(self, job_id: JobId) -> tuple[Attempt, ...]:
        """Return the attempts of a job, in their order: their times, workers and errors, with tracebacks.

        Reads the shared memory, which has up to ten of a job, as long as the job is in the table and failed attempts of the
        pool have not filled 16 MiB since. What is not there is looked up in the store, if there is one. Raise as `status`.
        """
        raw, text = parse(job_id)
        status = self._glances.find_one(raw, text)
        table = self._link.read_present_table()
        try:
            known = table.attempts(raw)
        except UnknownJob:
            known = ()
        if len(known) >= status.attempt or table.store() is None:
            return known
        url: str = self._link.connect().welcome["settings"]["store"]
        from procjobs.store.reading import find_attempts  # see _recall

        numbers = {one.attempt for one in known}
        stored = [one for one in find_attempts(url, status.id) if one.attempt not in numbers]
        return tuple(sorted([*stored, *known], key=lambda one: one.attempt))

    def history(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        since: float | datetime | None = None,
        meta: Mapping[str, Any] | None = None,
        limit: int = 100,
        search: str | None = None,
        before: JobId | None = None,
    ) -> list[JobRecord]:
        """Return what the store knows of up to `limit` jobs, the newest first, each with all of its attempts. Blocks.

        Those in `state`, called `name` (a `%` in it stands for any text), submitted at `since` or later (a Unix time or a
        datetime), whose `meta` has all of these values for these keys, if given; `search` and `before` as in `jobs`. Reads
        the database in this process. Raise ConfigurationError if the pool has no store, or there is no such state;
        StoreUnavailable if it cannot be read.
        """
        check_count("limit", limit, minimum=1)
        check_state(state)
        older_than = check_before(before)
        moment = check_moment("since", since)
        pack_meta({} if meta is None else dict(meta))
        welcome = self._link.connect().welcome
        url = welcome["settings"].get("store")
        if url is None:
            raise ConfigurationError(f"{self!r} keeps no history: it was started without store=...")
        from procjobs.store.reading import find_history  # see _recall

        return find_history(
            url, welcome["store_name"], state=state, name=name, since=moment, meta=meta, limit=limit, search=search,
            before=None if older_than is None else to_text(older_than),
        )  # fmt: skip

    def jobs(
        self,
        state: str | None = None,
        limit: int = 100,
        *,
        search: str | None = None,
        before: JobId | None = None,
        data: bool = True,
    ) -> list[JobStatus]:
        """Return up to `limit` jobs, the newest first, those in `state` if given. Reads the shared table.

        `search` is a part of the id, name, queue or key, in upper or lower case. `before` is the last id of the page before
        this one: jobs are listed that were submitted before that one. Without `data`, nothing is unpickled: the `data` of
        reports is None. Takes about a second where there are 100,000 jobs.
        """
        table = self._link.read_present_table()
        return list_jobs(table, check_state(state), limit, search, check_before(before), data=data)

    def stats(self) -> PoolStats:
        """Return the pool's counters as of its supervisor's last turn. Reads the shared table; asks nobody."""
        table = self._link.read_present_table()
        counters, scaling = table.counters(), table.scaling()
        return PoolStats(
            supervisor_pid=table.supervisor_pid,
            workers=counters.workers,
            busy=counters.busy,
            idle=counters.idle,
            queued=counters.queued,
            scheduled=counters.scheduled,
            finished=counters.finished,
            failed=counters.failed,
            crashed=counters.crashed,
            restarts=counters.restarts,
            rss=observe.tree_rss(table.supervisor_pid),
            uptime=boottime() - table.started_at,
            store=table.store(),
            problem=table.problem(),
            estimated_wait=counters.estimated_wait,
            paused=bool(counters.accepting & 2),
            draining=not counters.accepting & 1,
            least=scaling.least,
            most=scaling.most,
            scaling=scaling.change or None,
            scaled_at=scaling.changed_at or None,
            oldest_waiting=table.oldest_waiting(),
            waits=table.queue_waits(),
            waiting_workers=sum(SLOT_STATES[record.state] == "waiting" for _, record in table.slots()),
        )

    def kinds(self) -> list[KindInfo]:
        """Return how the jobs of each name have fared since the pool was started, the most used first.

        Reads shared memory, which is at most a fifth of a second old; asks nobody.
        """
        return self._link.read_present_table().kinds()

    def workers(self) -> list[WorkerInfo]:
        """Return the pool's workers. Reads the shared table, and memory and CPU time from the host."""
        infos = []
        for slot, record in self._link.read_present_table().slots():
            rss, cpu_percent = observe.usage(record.pid)
            job_id = to_text(record.job_id) if any(record.job_id) else None
            infos.append(
                WorkerInfo(
                    slot,
                    record.pid,
                    record.generation,
                    SLOT_STATES[record.state],
                    job_id,
                    record.jobs_done,
                    rss,
                    cpu_percent,
                    record.started_at,
                )
            )
        return infos

    # To await ---------------------------------------------------------------------------------------------------

    aattempts = awaitable(attempts)
    ahistory = awaitable(history)
    ajobs = awaitable(jobs)
    akinds = awaitable(kinds)
    astats = awaitable(stats)
    aworkers = awaitable(workers)
