"""The memory and CPU time of workers: samples for the core, and peaks that are remembered for the next run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from procjobs.dispatch.limits import Sample
from procjobs.host import observe
from procjobs.supervisor.job import supervised

if TYPE_CHECKING:
    from procjobs.dispatch.model import Job, Slot
    from procjobs.shared.table.state_writer import TableWriter

_TICK: Final = 0.02
"""The kernel knows the starts of processes in ticks of 10 ms."""


class Usage:
    """Measures workers with everything that their jobs have started. `peaks` are those of the workers that have ended."""

    def __init__(self, table: TableWriter) -> None:
        self.peaks = observe.WorkerPeaks()
        self._table = table
        self._tree = observe.ProcessTree()
        self._sent: dict[int, tuple[Job, int, float]] = {}  # by slot: job, attempt, when it was sent
        self._own_peaks: dict[int, int] = {}  # by pid

    def measure(self, slot: Slot, now: float) -> Sample:
        """Return the usage of a worker and its descendants; it is the subreaper of all that its jobs start.

        Processes that were there before the job do not count: children kept for an earlier one, another pool that one has
        started. Forks share most of their memory, which the resident size of each one counts again: it is looked at closely
        only where the sum of those is over the limit.
        """
        if slot.current is None:
            return Sample(0, 0.0, 0, 0)
        job = supervised(slot.current)
        members = self._tree.members(slot.pid, self._sent_at(slot, job, now) - _TICK)
        usage = observe.usage_of(members)
        rss, max_rss = usage.rss_bytes, job.kind.options.max_rss
        if max_rss is not None and len(members) > 1 and rss - slot.baseline_bytes > max_rss:
            private, shared = observe.private_and_shared(members)
            rss = min(rss, max(shared, slot.baseline_bytes) + private)
        return Sample(self._table.progress_count(job.row), usage.cpu_seconds, usage.processes, rss)

    def _sent_at(self, slot: Slot, job: Job, now: float) -> float:
        """Return when a worker was sent the job that it is in, on the clock of the start times of processes.

        It is the monotonic one, but goes on while the host is suspended; so it is read at the first sample.
        """
        known_job, attempt, sent_at = self._sent.get(slot.number, (None, 0, 0.0))
        if known_job is not job or attempt != job.attempt:
            began_at = slot.limits.began_at if slot.limits is not None else now
            sent_at = observe.process_clock() - (now - began_at)
            self._sent[slot.number] = job, job.attempt, sent_at
        return sent_at

    def programs(self, slot: Slot, seconds: float) -> list[int]:
        """Return the pids of the programs that a worker has started in these last seconds, the outermost first."""
        return observe.programs_of(slot.pid, observe.process_clock() - seconds - _TICK)

    def note_peak(self, slot: Slot) -> None:
        """Note the memory that a worker took; once it has ended, its own peak is not told from those of its children."""
        if slot.pid and slot.jobs_done:
            # Where there is a store, the worker has the kernel forget its peak before each job.
            self._own_peaks[slot.pid] = max(observe.peak_rss(slot.pid), self._own_peaks.get(slot.pid, 0))

    def note_exit(self, slot: Slot, pid: int, peak_bytes: int) -> None:
        """Count the peaks of a worker that has ended."""
        own_peak_bytes = self._own_peaks.pop(pid, 0)
        if slot.baseline_bytes and (slot.jobs_done or slot.jobs):
            self.peaks.add(slot.baseline_bytes, peak_bytes, slot.used_bytes, own_peak_bytes)

    def forget(self, slot: Slot) -> None:
        """Forget the job of a worker that has gone."""
        self._sent.pop(slot.number, None)
