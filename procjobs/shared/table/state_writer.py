"""The supervisor's side of the shared table: the states of jobs, the slots of workers, the pool's counters.

One `TableWriter` for each table. Bytes and protocol are in `layout`.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from typing import Any, Final, NamedTuple

from procjobs.shared import private_files
from procjobs.shared.config import MAX_SLOTS
from procjobs.shared.states import JobState
from procjobs.shared.table import layout
from procjobs.shared.table.annex import NO_EXTRAS, AnnexWriter, Extras
from procjobs.shared.table.layout import (
    BUCKETS_OFFSET,
    PROGRESS,
    PROGRESS_OFFSET,
    ROW_BYTES,
    SLOT_BYTES,
    SLOTS_OFFSET,
    STATE,
    Counters,
    Scaling,
    SlotRecord,
    bucket_of,
    clip,
    data_file,
    try_read_part,
    write_part,
)

SEGMENT_ROWS = 2048
"""Rows get memory one mebibyte at a time, as they are first used."""

MAX_KEPT = 32_768
"""The most answered jobs that a pool keeps, each in its row."""

_MASK = 0xFFFF_FFFF
_ZEROS_BYTES = 64 * 1024


class TableFull(Exception):
    """No row is free and the file system has no room for more, or the table is at its size."""


class LastReport(NamedTuple):
    """When a job was begun (Unix time), its last report, as text for people; the slot and the process of its worker."""

    started_at: float | None = None
    progress: str | None = None
    worker: int | None = None
    worker_pid: int | None = None


NO_REPORT: Final = LastReport()


def count_rows(max_queued: int) -> int:
    """Return how many jobs the table of a pool has room for: those that wait, run, or are kept."""
    return max_queued + MAX_SLOTS * 16 + MAX_KEPT


def file_bytes(rows: int) -> tuple[int, int]:
    """Return the size of the file of a table, most of which takes no memory, and how much it takes at first."""
    begin = BUCKETS_OFFSET + 4 * _count_buckets(rows)
    return begin + rows * ROW_BYTES, begin + min(SEGMENT_ROWS, rows) * ROW_BYTES


def _count_buckets(rows: int) -> int:
    return max(1024, 1 << rows.bit_length() - 1)


def give_memory(fd: int, offset: int, size: int) -> None:
    """Give memory to a part of a file that was never written; OSError where there is no room."""
    try:
        os.posix_fallocate(fd, offset, size)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}:
            raise
        zeros = bytes(_ZEROS_BYTES)  # refused by a filter, or not known to the file system
        for position in range(offset, offset + size, _ZEROS_BYTES):
            os.pwrite(fd, zeros[: offset + size - position], position)


class TableWriter:
    """The supervisor's side: states, slots and counters. One per table."""

    def __init__(self, path: str, *, rows: int, started_at: float) -> None:
        """Create the table with room for `rows` jobs; OSError where there is no room for its first segment."""
        self._buckets = _count_buckets(rows)
        self.rows_offset = self._rows_offset = BUCKETS_OFFSET + 4 * self._buckets
        self._max_rows = rows
        self._rows_with_memory = 0
        self.rows_used = 0
        self._free: list[int] = []
        self._count = 0
        self.tickets = 0.0  # how many were given out
        self._directory = os.path.dirname(path)
        self.annex = AnnexWriter(self._directory)
        self.fd = private_files.create(path)
        os.ftruncate(self.fd, self._rows_offset + rows * ROW_BYTES)
        give_memory(self.fd, 0, self._rows_offset)
        self._grow()
        self._map = mmap.mmap(self.fd, 0)
        self._heads = memoryview(self._map)[BUCKETS_OFFSET : self._rows_offset].cast("I")
        identity = layout.MAGIC, 1, os.getpid(), self._buckets, rows, self._rows_offset, started_at
        self._write(0, layout.IDENTITY.pack(*identity))

    @property
    def directory(self) -> str:
        """The directory of the table, and of everything beside it."""
        return self._directory

    def _grow(self) -> None:
        """Give memory to one more segment now, so that a full file system is an error here and no SIGBUS later."""
        rows = min(SEGMENT_ROWS, self._max_rows - self._rows_with_memory)
        offset = self._rows_offset + self._rows_with_memory * ROW_BYTES
        give_memory(self.fd, offset, rows * ROW_BYTES)
        self._rows_with_memory += rows

    def _write(self, offset: int, body: bytes) -> None:
        self._count = count = (self._count + 1) & _MASK
        write_part(self._map, offset, count, body)

    def _row_offset(self, row: int) -> int:
        return self._rows_offset + (row - 1) * ROW_BYTES

    def allocate(self, job_id: bytes) -> int:
        """Return a free row for this job; raise TableFull when there is none. It is found once its state is written."""
        if self._free:
            return self._free.pop()
        if self.rows_used == self._rows_with_memory:
            if self._rows_with_memory == self._max_rows:
                raise TableFull(f"all {self._max_rows} rows of the table are in use")
            try:
                self._grow()
            except OSError as error:
                raise TableFull(f"no room for more rows in {self._directory}: {error.strerror}") from None
        self.rows_used += 1
        return self.rows_used

    def publish(
        self, row: int, job_id: bytes, state: JobState, attempt: int, submitted_at: float, name: bytes,
        extras: Extras = NO_EXTRAS, *, is_in_line: bool = False,
    ) -> None:  # fmt: skip
        """Write the first state of a job and make its row findable by the job's id; `is_in_line`: it gets the next ticket.

        Raise TableFull where there is no room for its extras; the row is free again then.
        """
        flags = 0 if extras is NO_EXTRAS else self._write_extras(row, job_id, extras)
        bucket = bucket_of(job_id, self._buckets)
        following = self._heads[bucket]
        ticket = 0.0
        if is_in_line:
            ticket = self.tickets = self.tickets + 1.0
        fields = job_id, following, state, 0, attempt, flags, submitted_at, ticket, 0.0, name, b""
        self._write(self._row_offset(row), STATE.pack(*fields))
        self._heads[bucket] = row

    def _write_extras(self, row: int, job_id: bytes, extras: Extras) -> int:
        try:
            self.annex.write(row, job_id, extras)
        except OSError as error:
            self._free.append(row)
            raise TableFull(f"no room for the meta of a job in {self._directory}: {error.strerror or error}") from None
        return layout.HAS_EXTRAS

    def add_failure(self, row: int, job_id: bytes, extras: Extras, attempt: dict[str, Any]) -> Extras:
        """Note a failed attempt of a published job; return its extras. Where there is no room, they stay as they were."""
        try:
            extras = extras._replace(failure=self.annex.add_failure(job_id, extras.failure, attempt))
            self.annex.write(row, job_id, extras)
        except OSError:
            return extras
        offset = self._row_offset(row)
        body = bytearray(self._map[offset + 8 : offset + 8 + STATE.size])
        if not body[layout.STATE_FLAGS_OFFSET]:
            body[layout.STATE_FLAGS_OFFSET] = layout.HAS_EXTRAS
            self._write(offset, bytes(body))
        return extras

    def write_state(
        self, row: int, state: JobState, reason: int, attempt: int, finished_at: float, error: str
    ) -> None:
        """Write the changes of a published job: its state, and when and why it ended."""
        offset = self._row_offset(row)
        old = self._map[offset + 8 : offset + 8 + STATE.size]
        line = clip(error, 155) if error else b""
        fields = old[:20], state, reason, attempt, old[24:44], finished_at, old[52:116], line
        self._write(offset, layout.STATE_CHANGED.pack(*fields))

    def release(self, row: int) -> None:
        """Take a row out of its chain and give it back; its job is unknown from here on."""
        offset = self._row_offset(row)
        job_id, following = layout.STATE_HEAD.unpack_from(self._map, offset + 8)
        bucket = bucket_of(job_id, self._buckets)
        previous = self._heads[bucket]
        if previous == row:
            self._heads[bucket] = following
        else:
            previous = self._predecessor(previous, row)
            start = self._row_offset(previous)
            body = self._map[start + 8 : start + 8 + STATE.size]
            self._write(start, body[:16] + following.to_bytes(4, "little") + body[20:])
        if self._map[offset + layout.PROGRESS_FLAGS_OFFSET] & layout.MAY_HAVE_FILE:
            path = data_file(self._directory, job_id)
            for name in (path, path + ".new"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)
        self._free.append(row)

    def _predecessor(self, first: int, row: int) -> int:
        """Return the row before `row` in the chain that begins with `first`."""
        previous = first
        for _ in range(self.rows_used):
            if not 0 < previous <= self.rows_used:
                break
            following: int = STATE.unpack_from(self._map, self._row_offset(previous) + 8)[1]
            if following == row:
                return previous
            previous = following
        # A job that writes where it should not can do this: workers have all of the table mapped. Nothing in it can be
        # trusted any more, and the next supervisor begins with a fresh table.
        raise RuntimeError(f"somebody has overwritten the table in {self._directory}: row {row} is in no chain")

    def progress_count(self, row: int) -> int:
        """Return a number that changes whenever the job in this row reports."""
        count: int = layout.PART_HEAD.unpack_from(self._map, self._row_offset(row) + PROGRESS_OFFSET)[1]
        return count

    def submitted_at(self, row: int) -> float:
        """Return when the job in this row was submitted (Unix time)."""
        submitted_at: float = STATE.unpack_from(self._map, self._row_offset(row) + 8)[5]
        return submitted_at

    def ticket(self, row: int) -> float:
        """Return the ticket of the job in this row, 0.0 if it has none."""
        ticket: float = layout.TICKET.unpack_from(self._map, self._row_offset(row) + 8 + layout.TICKET_OFFSET)[0]
        return ticket

    def last_report(self, row: int, job_id: bytes) -> LastReport:
        """Return what the worker of the job in this row has last written."""
        body = try_read_part(self._map, self._row_offset(row) + PROGRESS_OFFSET, PROGRESS.size)
        if body is None:
            return NO_REPORT
        tag, _, flags, pid, started_at, value, total, _, message, *_ = PROGRESS.unpack(body)
        if tag != job_id[8:]:
            return NO_REPORT
        report = LastReport(started_at, None, flags >> layout.WORKER_SHIFT, pid)
        if not flags & layout.REPORTED:
            return report
        text = f"{value:g} of {total:g}" if flags & layout.HAS_TOTAL else f"{value:g}"
        inline = flags & layout.HAS_MESSAGE and not flags & layout.IN_FILE
        return report._replace(progress=f"{text}, {message.decode(errors='replace')}" if inline else text)

    def has_begun(self, row: int, job_id: bytes, attempt: int) -> bool:
        """Return whether a worker has marked that it began this attempt of the job.

        A part whose checksum does not fit was being written when the worker was killed, so the worker had begun something.
        """
        offset = self._row_offset(row) + PROGRESS_OFFSET
        body = try_read_part(self._map, offset, PROGRESS.size)
        if body is None:
            return any(self._map[offset : offset + layout.PART_HEAD.size])
        tag, began = PROGRESS.unpack(body)[:2]
        return bool(tag == job_id[8:] and began == attempt)

    def write_slot(self, slot: int, record: SlotRecord) -> None:
        """Write the state of a worker."""
        self._write(SLOTS_OFFSET + slot * SLOT_BYTES, layout.SLOT.pack(*record))

    def was_taken(self, slot: int, job_id: bytes, attempt: int) -> bool:
        """Return whether the interruption of this attempt has arrived in the job."""
        offset = SLOTS_OFFSET + slot * SLOT_BYTES + layout.TAKEN_OFFSET
        return bool(self._map[offset : offset + layout.TAKEN.size] == layout.TAKEN.pack(job_id[10:], attempt))

    def write_counters(self, counters: Counters) -> None:
        """Write the pool's counters."""
        self._write(layout.COUNTERS_OFFSET, layout.COUNTERS.pack(*counters))

    def write_problem(self, problem: str) -> None:
        """Write why the pool cannot run jobs; empty when it can."""
        self._write(layout.PROBLEM_OFFSET, layout.PROBLEM.pack(clip(problem, 254)))

    def write_store(self, state: str) -> None:
        """Write the state of the pool's store."""
        self._write(layout.STORE_OFFSET, layout.STORE.pack(clip(state, 254)))

    def write_oldest(self, since: float, ticket: float) -> None:
        """Write since when (monotonic) the first job waits that could run, 0.0 if none does, and its ticket."""
        self._write(layout.OLDEST_OFFSET, layout.OLDEST.pack(since, ticket))

    def write_scaling(self, scaling: Scaling) -> None:
        """Write the pool's size and its bounds."""
        body = layout.SCALING.pack(*scaling[:4], clip(scaling.change, 254))
        self._write(layout.SCALING_OFFSET, body)

    def was_replaced(self, path: str) -> bool:
        """Return whether another supervisor's table is at `path` now."""
        try:
            return not os.path.samestat(os.fstat(self.fd), os.stat(path))
        except OSError:  # it was removed, and no other one was made
            return False

    def close(self) -> None:
        """Unmap and close. The owner of the directory removes the file."""
        self._heads.release()
        self._map.close()
        self.annex.close()
        os.close(self.fd)
