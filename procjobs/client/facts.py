"""The reading half of a pool, the part about the host: what its processes are, and what they use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from procjobs.client.awaiting import awaitable
from procjobs.client.link import Linked
from procjobs.clock import monotonic, wall
from procjobs.host import observe
from procjobs.shared.config import PoolSettings
from procjobs.shared.fact_records import PoolUsage, TrendPoint
from procjobs.shared.ids import parse

if TYPE_CHECKING:
    from procjobs.shared.fact_records import ProcessInfo, SettingInfo
    from procjobs.shared.ids import JobId

_TREND_SECONDS: Final = 3600.0


class Facts(Linked):
    """What can be seen of a pool on its host."""

    def processes(self, job_id: JobId) -> list[ProcessInfo]:
        """Return the processes of a running job: its worker first, then all that it has started; [] if it does not run.

        Reads the shared table and the host, which takes some milliseconds; asks nobody. Also [] for a job that the table
        does not have, and where the host does not tell of processes.
        """
        from procjobs.host import process_list  # here, as below: most processes never look at the host

        raw, _ = parse(job_id)
        table = self._link.read_present_table()
        worker_pid = table.running_in(raw)
        if worker_pid is None:
            return []
        found = process_list.ProcessList().of_job(worker_pid, table.supervisor_pid)
        if table.running_in(raw) != worker_pid:  # it has ended meanwhile: these may be another job's
            return []
        return [process_list.describe(entry) for entry in found]

    def usage(self, *, pss: bool = True) -> PoolUsage:
        """Return what the processes of the pool use, and what they may use. Reads the host; asks nobody.

        Takes some milliseconds. The PSS takes about 1 ms more for each 100 MB; without `pss` it is left out. All is 0 where
        the pool does not run, or the host does not tell of processes.
        """
        from procjobs.host import hostinfo, process_list

        supervisor_pid = self._link.read_present_table().supervisor_pid
        entries = process_list.ProcessList().tree(supervisor_pid)
        at = monotonic()
        seconds, rss, shared_out = process_list.usage_of(entries, pss=pss)
        pid = supervisor_pid if entries else 0
        cpus = hostinfo.allowed_cpus(hostinfo.read_cpu_facts(pid=pid))
        limit = hostinfo.read_memory_facts(pid=pid).cgroup_limit_bytes
        return PoolUsage(seconds, rss, shared_out, len(entries), cpus, limit, at)

    def trend(self) -> list[TrendPoint]:
        """Return how busy the pool was in the last hour: about one point in 5 seconds, the oldest first, the last of now.

        A pool that sleeps writes no points. Each state holds until the next point. Reads shared memory; asks nobody. After
        the pool has stopped, []; after its supervisor was killed, the points that it has left.
        """
        table = self._link.read_present_table()
        now = wall()
        points = [point for point in table.trend() if point.at >= now - _TREND_SECONDS]
        if observe.start_ticks(table.supervisor_pid) is not None:
            state = table.counters()
            points.append(
                TrendPoint(
                    now, state.finished, state.failed, state.queued, state.busy, state.workers, table.oldest_waiting()
                )
            )
        return points

    def settings(self) -> list[SettingInfo]:
        """Return the settings that the pool runs with, the defaults of its jobs among them, and where each comes from.

        They are what the process that started the pool had; the place that it took a value from is in `source`. What each
        process sets for itself (preload, wrappers, submit_timeout, ...) is not among them: `procjobs check --all` lists it.
        Connects, if this process has not yet; raise as `connect` does.
        """
        from procjobs.settings.shown import describe_running

        running = PoolSettings.from_json(self._link.connect().welcome["settings"])
        scaling = self._link.read_present_table().scaling()
        return describe_running(running, (scaling.least, scaling.most) if scaling.most else None)

    def arguments(self, job_id: JobId) -> str | None:
        """Return the arguments of a job as they would stand in its call, of at most 2 KiB. Reads shared memory; asks nobody.

        None if the pool does not record them (`record_arguments`), the job has not begun, or is not in the table any more.
        """
        raw, _ = parse(job_id)
        return self._link.read_present_table().arguments(raw)

    # To await ---------------------------------------------------------------------------------------------------

    aprocesses = awaitable(processes)
    ausage = awaitable(usage)
    aarguments = awaitable(arguments)
    atrend = awaitable(trend)
    asettings = awaitable(settings)
