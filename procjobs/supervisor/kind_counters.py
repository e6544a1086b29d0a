"""How the jobs of each kind have fared: counted for each job, and written for readers some times a second.

The kinds go by name. The 200 most used have a row of their own in the file `counts`; all others share one. A kind that
overtakes the least used of them takes its row: that one's numbers are added to the others, and the new one begins at zero.
So no number ever falls, except where a row begins anew under another name.

A job costs two appended numbers; they are sorted into buckets when they are written.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final
from weakref import WeakValueDictionary

from procjobs.clock import NEVER
from procjobs.shared.states import JobState
from procjobs.shared.table.counts import BOUNDS, MAX_KINDS, OTHERS, CountsWriter, KindRow

_PERIOD: Final = 0.2
_COUNTERS: Final = {JobState.SUCCEEDED: 0, JobState.FAILED: 1, JobState.CANCELLED: 2, JobState.EXPIRED: 3}
_RETRIED: Final = 4
_OTHERS: Final = OTHERS.encode()


class Tally:
    """The jobs of one name that were not written yet: how many ended how, and (seconds, seconds waited) of each run."""

    __slots__ = ("__weakref__", "_touched", "counters", "name", "runs", "use")

    def __init__(self, name: bytes, touched: list[Tally]) -> None:
        """`touched` gets this tally when it has something to be written."""
        self.name = name
        self.counters = [0] * 5
        self.runs: list[float] = []
        self.use = 0
        self._touched = touched

    def mark_changed(self) -> None:
        """Have this written soon."""
        self._touched.append(self)

    def count_end(self, state: JobState) -> None:
        """Count a job that has ended."""
        self._touched.append(self)
        self.counters[_COUNTERS[state]] += 1

    def count_success(self) -> None:
        """Count a job that has succeeded."""
        counters = self.counters
        if not counters[0]:
            self._touched.append(self)
        counters[0] += 1

    def count_retry(self) -> None:
        """Count an attempt that is followed by another one."""
        self._touched.append(self)
        self.counters[_RETRIED] += 1


class KindCounters:
    """The tallies by name, and the rows that have been written."""

    def __init__(self, writer: CountsWriter) -> None:
        self._writer = writer
        self._tallies: WeakValueDictionary[bytes, Tally] = WeakValueDictionary()
        self._touched: list[Tally] = []
        self._others = KindRow(0, _OTHERS)
        self._rows: dict[bytes, KindRow] = {}
        self._written_at = 0.0

    def of(self, name: bytes) -> Tally:
        """Return the tally of the kinds with this name."""
        tally = self._tallies.get(name)
        if tally is None:
            tally = self._tallies[name] = Tally(name, self._touched)
        return tally

    def next_deadline(self) -> float:
        """Return when the counters are to be written."""
        return self._written_at + _PERIOD if self._touched else NEVER

    def advance(self, now: float) -> None:
        """Write the counters that have changed, if it is time."""
        if self._touched and now >= self._written_at + _PERIOD:
            self._written_at = now
            self._write()

    def _write(self) -> None:
        touched = dict.fromkeys(self._touched)
        self._touched.clear()
        changed = {}
        for tally in touched:
            row = self._row_of(tally)
            _add(row, tally)
            changed[row.number] = row
        for row in changed.values():
            self._writer.write_kind(row)

    def _row_of(self, tally: Tally) -> KindRow:
        row = self._rows.get(tally.name)
        if row is not None:
            return row
        if len(self._rows) < MAX_KINDS:
            row = self._rows[tally.name] = KindRow(len(self._rows) + 1, tally.name)
            return row
        least = min(self._rows.values(), key=lambda row: row.use)
        if tally.use <= least.use:
            return self._others
        self._others.absorb(least)
        self._writer.write_kind(self._others)
        del self._rows[least.name]
        least.begin(tally.name)
        least.use = tally.use
        self._rows[tally.name] = least
        return least

    def write_queue(self, name: str, since: float) -> None:
        """Write since when (monotonic) the first job of a queue waits, 0.0 if none does."""
        self._writer.write_queue(name, since)

    def close(self) -> None:
        """Write the last ones, and unmap the file."""
        self._write()
        self._writer.close()


def _add(row: KindRow, tally: Tally) -> None:
    """Move the numbers of a tally into a row."""
    ends = sum(tally.counters[:_RETRIED])
    tally.use += ends
    row.use += ends
    for index, count in enumerate(tally.counters):
        row.counters[index] += count
    tally.counters[:] = [0] * 5
    if tally.runs:
        seconds, waits = tally.runs[::2], tally.runs[1::2]
        tally.runs.clear()  # the kinds hold this very list
        row.run_sum += sum(seconds)
        row.wait_sum += max(sum(waits), 0.0)
        for index, count in _distribute(seconds):
            row.run_counts[index] += count
        for index, count in _distribute(waits):
            row.wait_counts[index] += count


def _distribute(values: list[float]) -> Iterator[tuple[int, int]]:
    """Yield (bucket, number of values in it). Within 0.2 s, most values of one kind are in the same two or three."""
    lowest, highest = bisect_left(BOUNDS, min(values)), bisect_left(BOUNDS, max(values))
    for index in range(lowest, highest):
        bound = BOUNDS[index]
        above = [value for value in values if value > bound]
        yield index, len(values) - len(above)
        values = above
    yield highest, len(values)
