"""The reading half of a pool: it looks into the shared table, and asks the store for jobs that are not there any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from procjobs.client.link import Linked
from procjobs.clock import boottime
from procjobs.errors import ConfigurationError, UnknownJob
from procjobs.host import observe
from procjobs.shared.config import check_count
from procjobs.shared.durations import check_moment
from procjobs.shared.ids import from_text, to_text
from procjobs.shared.meta import pack_meta
from procjobs.shared.records import JobRecord, JobStatus, KindInfo, PoolStats, Progress, WorkerInfo
from procjobs.shared.states import JobState
from procjobs.shared.suggestions import suggest
from procjobs.shared.table.layout import SLOT_STATES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

STATE_TEXTS: Final = [state.text for state in JobState]


class Monitor(Linked):
    """The reading half of a pool. Nothing here blocks, and it works while the supervisor is busy, stopped or dead."""

    def status(self, job_id: str) -> JobStatus:
        """Return what is known about a job. From any process, without blocking; source: the shared table.

        With a store, what is not in the table (any more) is looked up there, which blocks, and raises StoreUnavailable if
        it cannot be read. Raise UnknownJob if its supervisor has not received it yet, or its record was evicted.
        """
        wanted = from_text(job_id)
        table = self._link.read_table()
        try:
            return table.status(wanted, job_id)
        except UnknownJob:
            table = self._link.renew_table(table)
            if table.store() is None:
                return table.status(wanted, job_id)
        try:
            return table.status(wanted, job_id)
        except UnknownJob:
            return self._recall(job_id)

    def _recall(self, job_id: str) -> JobStatus:
        """Return what the store knows of a job; raise as `status` does."""
        url: str = self._link.connect().welcome["settings"]["store"]
        from procjobs.store.reading import find_status  # with SQLAlchemy, which takes longer to load than all the rest

        return find_status(url, job_id)

    def progress(self, job_id: str) -> Progress | None:
        """Return what a job has last reported, None if nothing; otherwise as `status`."""
        return self.status(job_id).progress

    def history(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        since: float | datetime | None = None,
        meta: Mapping[str, Any] | None = None,
        limit: int = 100,
    ) -> list[JobRecord]:
        """Return what the store knows of up to `limit` jobs, the newest first, each with all of its attempts. Blocks.

        Those in `state`, called `name` (a `%` in it stands for any text), submitted at `since` or later (a Unix time or a
        datetime), whose `meta` has all of these values for these keys, if given. Reads the database in this process. Raise
        ConfigurationError if the pool has no store, or there is no such state; StoreUnavailable if it cannot be read.
        """
        check_count("limit", limit, minimum=1)
        if state is not None and state not in STATE_TEXTS:
            raise ConfigurationError(f"unknown state{suggest([state], STATE_TEXTS)}")
        moment = check_moment("since", since)
        pack_meta({} if meta is None else dict(meta))
        welcome = self._link.connect().welcome
        url = welcome["settings"].get("store")
        if url is None:
            raise ConfigurationError(f"{self!r} keeps no history: it was started without store=...")
        from procjobs.store.reading import find_history  # see _recall

        return find_history(url, welcome["store_name"], state=state, name=name, since=moment, meta=meta, limit=limit)

    def jobs(self, state: str | None = None, limit: int = 100) -> list[JobStatus]:
        """Return up to `limit` jobs, the newest first, those in `state` if given. Reads the shared table."""
        known = [status for status in self._link.read_present_table().jobs() if state is None or status.state == state]
        known.sort(key=lambda status: status.id, reverse=True)
        return known[:limit]

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
