"""The shared table of a supervisor that was killed: the traces of its jobs and of its workers.

No process writes it any more, so nothing is read twice. A part that was being written at the moment of the kill has a
checksum that never fits (`layout`, rule 3), and counts as the worst that it could have been.
"""

from __future__ import annotations

from typing import NamedTuple

from procjobs.shared.config import MAX_SLOTS
from procjobs.shared.ids import to_text
from procjobs.shared.states import FINAL, JobState
from procjobs.shared.table import layout
from procjobs.shared.table.layout import (
    PROGRESS,
    PROGRESS_OFFSET,
    ROW_BYTES,
    SLOT_BYTES,
    SLOTS_OFFSET,
    STATE,
    SlotRecord,
    bucket_of,
    try_read_part,
)
from procjobs.shared.table.reader import ProgressTable

_WAITING = {int(JobState.QUEUED), int(JobState.SCHEDULED)}
_ENDED = {int(state) for state in FINAL}


class JobTrace(NamedTuple):
    """The trace of a job: whether the supervisor took it, and whether a worker may have begun it or its end was decided."""

    has_row: bool
    may_have_begun: bool


class PostMortemTable(ProgressTable):
    """A view of the table for the time after the death of its supervisor."""

    def look_back(self, job_id: bytes) -> JobTrace:
        """Return the trace of a job; to be sure that it has not begun, wait for the end of the workers first."""
        row = self._heads[bucket_of(job_id, self._buckets)]
        while row:
            body = self._state_at(row)
            if body is None:
                return JobTrace(has_row=True, may_have_begun=True)
            if body[:16] == job_id:
                waits = STATE.unpack(body)[2] in _WAITING
                return JobTrace(has_row=True, may_have_begun=not waits or self._bears_mark(row, job_id))
            row = int.from_bytes(body[16:20], "little")
        return JobTrace(has_row=False, may_have_begun=False)

    def _bears_mark(self, row: int, job_id: bytes) -> bool:
        offset = self._rows_offset + (row - 1) * ROW_BYTES + PROGRESS_OFFSET
        report = try_read_part(self._map, offset, PROGRESS.size)
        if report is None:
            return any(self._map[offset : offset + layout.PART_HEAD.size + PROGRESS.size])
        return report[:8] == job_id[8:]

    def begun_attempts(self) -> dict[str, int]:
        """Return, by job id, the attempts that workers had begun and whose end the supervisor had not seen."""
        begun = {}
        for row in range(1, self.counters().rows_used + 1):
            body = self._state_at(row)
            offset = self._rows_offset + (row - 1) * ROW_BYTES + PROGRESS_OFFSET
            report = try_read_part(self._map, offset, PROGRESS.size) if body is not None else None
            if body is not None and report is not None and report[:8] == body[8:16] and STATE.unpack(body)[2] not in _ENDED:
                begun[to_text(body[:16])] = int(PROGRESS.unpack(report)[1])
        return begun

    def worker_pids(self) -> list[int]:
        """Return the pids of the last workers, 0 for one that was being forked or whose record was being written."""
        pids = []
        for slot in range(MAX_SLOTS):
            offset = SLOTS_OFFSET + slot * SLOT_BYTES
            body = try_read_part(self._map, offset, layout.SLOT.size)
            if body is not None:
                record = SlotRecord._make(layout.SLOT.unpack(body))
                pids += [record.pid] if record.state else []
            elif any(self._map[offset : offset + SLOT_BYTES]):
                pids.append(0)
        return pids
