"""A worker's side of the shared table: the reports of the job that it runs."""

from __future__ import annotations

import math
import mmap
import os
from typing import Final
from zlib import crc32

from procjobs.clock import wall
from procjobs.errors import JobTimeout
from procjobs.shared import private_files
from procjobs.shared.table import layout
from procjobs.shared.table.annex import NO_EXTRAS, AnnexReader, Extras
from procjobs.shared.table.layout import (
    PROGRESS,
    PROGRESS_OFFSET,
    ROW_BYTES,
    SLOT_BYTES,
    SLOTS_OFFSET,
    Order,
    clip,
    data_file,
    try_read_part,
)

_MASK = 0xFFFF_FFFF
_MAX_FLOAT: Final = 3.4e38
_NO_PACE: Final = layout.PACE.pack(0.0, 0.0, 0.0)


class ProgressWriter:
    """Marks in a job's row that the worker has begun it, and writes the reports of the job."""

    def __init__(self, fd: int, rows_offset: int, directory: str, slot: int = 0) -> None:
        self._map = mmap.mmap(fd, 0)
        self._rows_offset = rows_offset
        self._directory = directory
        self._pid = 0
        self._count = 0
        self._offset = 0
        self._stop = 0
        self._tag = b""
        self._attempt = 0
        self._started_at = 0.0
        self._sticky = self._of_worker = slot << layout.WORKER_SHIFT
        self._last_at = self._last_value = self._longest_pause = 0.0
        self._pace = _NO_PACE

    def begin(self, row: int, job_id: bytes, attempt: int) -> None:
        """Mark that this process has begun the job. Everything written until the next `begin` is about this job."""
        self._offset = self._rows_offset + (row - 1) * ROW_BYTES + PROGRESS_OFFSET
        self._stop = self._offset + 8 + PROGRESS.size
        self._tag = job_id[8:]
        self._attempt = attempt
        self._sticky = self._of_worker | (layout.MAY_HAVE_FILE if attempt > 1 else 0)
        self._started_at = now = wall()
        self._pid = self._pid or os.getpid()
        self._last_at, self._last_value = now, math.inf
        self._longest_pause, self._pace = 0.0, _NO_PACE
        self._write(0, 0.0, 0.0, now, b"", b"")

    def _write(self, flags: int, value: float, total: float, now: float, message: bytes, data: bytes) -> None:
        self._count = count = (self._count + 1) & _MASK
        body = PROGRESS.pack(
            self._tag, self._attempt, flags | self._sticky, self._pid, self._started_at, value, total, now, message, data,
            self._pace
        )  # fmt: skip
        self._map[self._offset : self._stop] = layout.PART_HEAD.pack(crc32(body, count), count) + body

    def _keep_pace(self, value: float, now: float) -> None:
        """Note the pace up to a report. One of less than the report before begins anew: so do jobs with several phases."""
        first, after, _ = layout.PACE.unpack(self._pace)
        if value < self._last_value:
            first, after = max(-_MAX_FLOAT, min(value, _MAX_FLOAT)), now - self._started_at
        self._longest_pause = max(self._longest_pause, now - self._last_at)
        self._pace = layout.PACE.pack(first, after, self._longest_pause)

    def read_order(self, slot: int) -> Order:
        """Return why the supervisor wants the job that was begun last to end; NONE as long as it does not."""
        body = try_read_part(self._map, SLOTS_OFFSET + slot * SLOT_BYTES, layout.SLOT.size)
        if body is None:
            return Order.NONE
        _, _, _, order, attempt, job_id, _, _ = layout.SLOT.unpack(body)
        return Order(order) if (job_id[8:], attempt) == (self._tag, self._attempt) else Order.NONE

    def mark_taken(self, slot: int) -> None:
        """Mark that the interruption of the job that was begun last has arrived in it."""
        offset = SLOTS_OFFSET + slot * SLOT_BYTES + layout.TAKEN_OFFSET
        self._map[offset : offset + layout.TAKEN.size] = layout.TAKEN.pack(self._tag[2:], self._attempt)

    def report(self, value: float, total: float | None) -> None:
        """Write a value without message and data."""
        now = wall()
        if value < self._last_value or now - self._last_at > self._longest_pause:
            self._keep_pace(value, now)
        self._last_at, self._last_value = now, value
        if total is None:
            self._write(1, value, 0.0, now, b"", b"")
        else:
            self._write(3, value, total, now, b"", b"")

    def report_more(self, value: float, total: float | None, message: str | None, data: bytes | None) -> None:
        """Write a value with message and pickled data; texts too long for the row go into a file beside the table.

        Where the file cannot be written, as on a full file system, the report has no data and a clipped message: a job
        must not fail because of its report.
        """
        now = wall()
        self._keep_pace(value, now)
        self._last_at, self._last_value = now, value
        flags = layout.REPORTED
        flags |= layout.HAS_TOTAL if total is not None else 0
        flags |= layout.HAS_MESSAGE if message is not None else 0
        flags |= layout.HAS_DATA if data is not None else 0
        text = (message or "").encode(errors="replace")
        data = data or b""
        if len(text) > layout.INLINE_MESSAGE_BYTES or len(data) > layout.INLINE_DATA_BYTES:
            if not self._sticky & layout.MAY_HAVE_FILE:  # marked before there is a file: it goes whenever this process dies
                self._sticky |= layout.MAY_HAVE_FILE
                self._write(0, 0.0, 0.0, wall(), b"", b"")
            flags |= layout.IN_FILE if self._try_write_file(text, data) else 0
            text = clip(text.decode(errors="replace"), layout.INLINE_MESSAGE_BYTES)
            if not flags & layout.IN_FILE:
                flags &= ~layout.HAS_DATA
            data = b""
        self._write(flags, value, total or 0.0, now, text, data)

    def _try_write_file(self, text: bytes, data: bytes) -> bool:
        path = data_file(self._directory, self._job_id())
        try:
            with private_files.replacing(path) as part, open(private_files.create(part, replace=True), "wb") as file:
                file.write(len(text).to_bytes(4, "little") + text + data)
        except JobTimeout:  # an OSError as well: that of the job that reports, and not of the file
            raise
        except OSError:
            return False
        return True

    def read_extras(self, job_id: bytes) -> Extras | None:
        """Return what the annex has of the job that runs; None if it is not this one, or cannot be read."""
        state = self._offset - PROGRESS_OFFSET + layout.PART_HEAD.size
        if self._job_id() != job_id:
            return None
        if not self._map[state + layout.STATE_FLAGS_OFFSET] & layout.HAS_EXTRAS:
            return NO_EXTRAS
        annex = AnnexReader(self._directory)
        try:
            return annex.read((self._offset - self._rows_offset) // ROW_BYTES + 1, job_id)
        finally:
            annex.close()

    def _job_id(self) -> bytes:
        state = self._offset - PROGRESS_OFFSET + 8
        return self._map[state : state + 16]
