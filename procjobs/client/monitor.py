"""What a pool can tell without asking its supervisor: it is read from the shared table."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from procjobs.clock import wall
from procjobs.errors import PoolClosed, UnknownJob
from procjobs.host import observe, payload
from procjobs.shared.ids import from_text, to_text
from procjobs.shared.records import JobStatus, PoolStats, Progress, WorkerInfo
from procjobs.shared.table import SLOT_STATES, ProgressTable

if TYPE_CHECKING:
    import threading

    from procjobs.host.rundir import RunDir


class Monitor:
    """The reading half of a pool. Nothing here blocks, and it works while the supervisor is busy, stopped or dead."""

    _table: ProgressTable | None
    _closed: bool
    _lock: threading.RLock
    _directory: RunDir

    def _read_table(self) -> ProgressTable:
        table = self._table
        if self._closed or table is None:
            raise PoolClosed(f"{self!r} was shut down; make a new Pool")
        return table

    def status(self, job_id: str) -> JobStatus:
        """Return what is known about a job. From any process, without blocking; source: the shared table.

        Raise UnknownJob if its supervisor has not received it yet, or its record was evicted.
        """
        wanted = from_text(job_id)
        table = self._read_table()
        try:
            return table.status(wanted, job_id)
        except UnknownJob:
            return self._renewed_table(table).status(wanted, job_id)

    def progress(self, job_id: str) -> Progress | None:
        """Return what a job has last reported, None if nothing; otherwise as `status`."""
        return self.status(job_id).progress

    def _renewed_table(self, table: ProgressTable) -> ProgressTable:
        """Return the table of the supervisor that runs now, where another one has begun since `table` was mapped."""
        with self._lock:
            if self._table_was_replaced(table):
                self._table = ProgressTable(self._directory.table, loads=payload.loads)
            return self._read_table()

    def _table_was_replaced(self, table: ProgressTable) -> bool:
        try:
            return table is self._table and table.file_id != os.stat(self._directory.table).st_ino
        except FileNotFoundError:
            return False

    def jobs(self, state: str | None = None, limit: int = 100) -> list[JobStatus]:
        """Return up to `limit` jobs, the newest first, those in `state` if given. Reads the shared table."""
        known = [status for status in self._read_table().jobs() if state is None or status.state == state]
        known.sort(key=lambda status: status.id, reverse=True)
        return known[:limit]

    def stats(self) -> PoolStats:
        """Return the pool's counters as of its supervisor's last turn. Reads the shared table; asks nobody."""
        table = self._read_table()
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
            uptime=wall() - table.started_at,
            store=None,
            problem=table.problem(),
            estimated_wait=counters.estimated_wait,
            paused=bool(counters.accepting & 2),
            draining=not counters.accepting & 1,
            least=scaling.least,
            most=scaling.most,
            scaling=scaling.change or None,
            scaled_at=scaling.changed_at or None,
        )

    def workers(self) -> list[WorkerInfo]:
        """Return the pool's workers. Reads the shared table, and memory and CPU time from the host."""
        infos = []
        for slot, record in self._read_table().slots():
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
