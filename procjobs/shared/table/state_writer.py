"""The shared table: where any process of the host reads what a job, a worker or the pool is doing.

`TableWriter` is the supervisor's side, `ProgressWriter` the side of the worker that runs a job, `ProgressTable` the
readers'. Bytes and protocol are in `layout`. A reader needs no supervisor: the table can be read while the supervisor is
busy, stopped or dead.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from zlib import crc32

from procjobs.clock import wall
from procjobs.errors import PayloadError, UnknownJob
from procjobs.shared.ids import to_text
from procjobs.shared.records import JobStatus, Progress
from procjobs.shared.states import JobState, Reason
from procjobs.shared.table.layout import (
    BUCKETS_OFFSET,
    PROGRESS,
    PROGRESS_OFFSET,
    ROW_BYTES,
    SLOT_BYTES,
    SLOTS_OFFSET,
    STATE,
    clip,
    try_read_part,
    write_part,
)
from procjobs.shared.table.state_writer import layout

SEGMENT_ROWS = 2048
"""Rows are given memory one mebibyte at a time, as they are first used."""

_MASK = 0xFFFF_FFFF
_RUNNING = int(JobState.RUNNING)


class TableFull(Exception):
    """No row is free and the file system has no room for more, or the table is at its size."""


def bucket_of(job_id: bytes, buckets: int) -> int:
    """Return the bucket of a job id; its last bytes are random."""
    return int.from_bytes(job_id[12:], "little") & (buckets - 1)


def data_file(directory: str, job_id: bytes) -> str:
    """Return the path of the file with a job's message and data when they are too big for its row."""
    return f"{directory}/data-{job_id.hex()}"


class Counters(NamedTuple):
    """The pool's counters as they stand in the table."""

    workers: int = 0
    busy: int = 0
    idle: int = 0
    queued: int = 0
    scheduled: int = 0
    finished: int = 0
    failed: int = 0
    crashed: int = 0
    restarts: int = 0
    rows_used: int = 0
    accepting: int = 1
    estimated_wait: float = 0.0


class Scaling(NamedTuple):
    """The pool's size and its bounds as they stand in the table; `change` says what became of it last, at a Unix time."""

    least: int = 0
    most: int = 0
    size: int = 0
    changed_at: float = 0.0
    change: str = ""


class SlotRecord(NamedTuple):
    """One worker as it stands in the table; `state` indexes SLOT_STATES."""

    pid: int
    generation: int
    state: int
    job_id: bytes
    jobs_done: int
    started_at: float


SLOT_STATES = ("empty", "starting", "idle", "busy", "stopping")


class TableWriter:
    """The supervisor's side: states, slots and counters. One per table."""

    def __init__(self, path: str, *, rows: int, started_at: float) -> None:
        """Create the table with room for `rows` jobs; OSError where there is no room for its first segment."""
        self._buckets = max(1024, 1 << rows.bit_length() - 1)
        self.rows_offset = self._rows_offset = BUCKETS_OFFSET + 4 * self._buckets
        self._max_rows = rows
        self._rows_with_memory = 0
        self.rows_used = 0
        self._free: list[int] = []
        self._count = 0
        self._directory = os.path.dirname(path)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(self.fd, self._rows_offset + rows * ROW_BYTES)
        os.posix_fallocate(self.fd, 0, self._rows_offset)
        self._grow()
        self._map = mmap.mmap(self.fd, 0)
        self._heads = memoryview(self._map)[BUCKETS_OFFSET : self._rows_offset].cast("I")
        identity = layout.MAGIC, 1, os.getpid(), self._buckets, rows, self._rows_offset, started_at
        self._write(0, layout.IDENTITY.pack(*identity))

    def _grow(self) -> None:
        """Give memory to one more segment now, so that a full file system is an error here and no SIGBUS later."""
        rows = min(SEGMENT_ROWS, self._max_rows - self._rows_with_memory)
        offset = self._rows_offset + self._rows_with_memory * ROW_BYTES
        os.posix_fallocate(self.fd, offset, rows * ROW_BYTES)
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

    def publish(self, row: int, job_id: bytes, state: JobState, attempt: int, submitted_at: float, name: bytes) -> None:
        """Write the first state of a job and make its row findable by the job's id."""
        bucket = bucket_of(job_id, self._buckets)
        following = self._heads[bucket]
        fields = job_id, following, state, 0, attempt, submitted_at, 0.0, 0.0, name, b""
        self._write(self._row_offset(row), STATE.pack(*fields))
        self._heads[bucket] = row

    def write_state(
        self, row: int, state: JobState, reason: int, attempt: int, finished_at: float, error: str
    ) -> None:
        """Write what has changed in a published job: its state, and when and why it ended."""
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
        # relied on any more, and the next supervisor begins with a fresh one.
        raise RuntimeError(f"somebody has overwritten the table in {self._directory}: row {row} is in no chain")

    def progress_count(self, row: int) -> int:
        """Return a number that changes whenever the job in this row reports."""
        count: int = layout.PART_HEAD.unpack_from(self._map, self._row_offset(row) + PROGRESS_OFFSET)[1]
        return count

    def last_report(self, row: int, job_id: bytes) -> tuple[float | None, str | None]:
        """Return when the job in this row was begun (Unix time), and what it last reported, as text for people."""
        body = try_read_part(self._map, self._row_offset(row) + PROGRESS_OFFSET, PROGRESS.size)
        if body is None:
            return None, None
        tag, _, flags, _, started_at, value, total, _, message, _ = PROGRESS.unpack(body)
        if tag != job_id[8:]:
            return None, None
        if not flags & layout.REPORTED:
            return started_at, None
        text = f"{value:g} of {total:g}" if flags & layout.HAS_TOTAL else f"{value:g}"
        inline = flags & layout.HAS_MESSAGE and not flags & layout.IN_FILE
        return started_at, f"{text}, {message.decode(errors='replace')}" if inline else text

    def has_begun(self, row: int, job_id: bytes, attempt: int) -> bool:
        """Return whether a worker has marked that it began this attempt of the job.

        A part that does not check was being written when the worker was killed, so it had begun something.
        """
        offset = self._row_offset(row) + PROGRESS_OFFSET
        body = try_read_part(self._map, offset, PROGRESS.size)
        if body is None:
            return any(self._map[offset : offset + layout.PART_HEAD.size])
        tag, began = PROGRESS.unpack(body)[:2]
        return bool(tag == job_id[8:] and began == attempt)

    def write_slot(self, slot: int, record: SlotRecord) -> None:
        """Write what a worker is doing."""
        self._write(SLOTS_OFFSET + slot * SLOT_BYTES, layout.SLOT.pack(*record))

    def write_counters(self, counters: Counters) -> None:
        """Write the pool's counters."""
        self._write(layout.COUNTERS_OFFSET, layout.COUNTERS.pack(*counters))

    def write_problem(self, problem: str) -> None:
        """Write why the pool cannot run jobs; empty when it can."""
        self._write(layout.PROBLEM_OFFSET, layout.PROBLEM.pack(clip(problem, 254)))

    def write_store(self, state: str) -> None:
        """Write what is the matter with the pool's store."""
        self._write(layout.STORE_OFFSET, layout.STORE.pack(clip(state, 254)))

    def write_scaling(self, scaling: Scaling) -> None:
        """Write the pool's size and its bounds."""
        body = layout.SCALING.pack(*scaling[:4], clip(scaling.change, 254))
        self._write(layout.SCALING_OFFSET, body)

    def was_replaced(self, path: str) -> bool:
        """Return whether another supervisor's table is at `path` now."""
        try:
            return not os.path.samestat(os.fstat(self.fd), os.stat(path))
        except OSError:  # it was removed; nobody has made another one
            return False

    def close(self) -> None:
        """Unmap and close. The file is the owner of the directory's to remove."""
        self._heads.release()
        self._map.close()
        os.close(self.fd)


class ProgressWriter:
    """A worker's side: it marks in a job's row that it has begun it, and writes what the job reports."""

    def __init__(self, fd: int, rows_offset: int, directory: str) -> None:
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
        self._sticky = 0

    def begin(self, row: int, job_id: bytes, attempt: int) -> None:
        """Mark that this process has begun the job. Everything written until the next `begin` is about this job."""
        self._offset = self._rows_offset + (row - 1) * ROW_BYTES + PROGRESS_OFFSET
        self._stop = self._offset + 8 + PROGRESS.size
        self._tag = job_id[8:]
        self._attempt = attempt
        self._sticky = layout.MAY_HAVE_FILE if attempt > 1 else 0
        self._started_at = now = wall()
        self._pid = self._pid or os.getpid()
        self._write(0, 0.0, 0.0, now, b"", b"")

    def _write(self, flags: int, value: float, total: float, now: float, message: bytes, data: bytes) -> None:
        self._count = count = (self._count + 1) & _MASK
        body = PROGRESS.pack(
            self._tag, self._attempt, flags | self._sticky, self._pid, self._started_at, value, total, now, message, data
        )
        self._map[self._offset : self._stop] = layout.PART_HEAD.pack(crc32(body, count), count) + body

    def is_stopping(self, slot: int) -> bool:
        """Return whether the supervisor is stopping the worker of this slot."""
        body = try_read_part(self._map, SLOTS_OFFSET + slot * SLOT_BYTES, layout.SLOT.size)
        return body is not None and SLOT_STATES[layout.SLOT.unpack(body)[2]] == "stopping"

    def report(self, value: float, total: float | None) -> None:
        """Write a value without message and data."""
        if total is None:
            self._write(1, value, 0.0, wall(), b"", b"")
        else:
            self._write(3, value, total, wall(), b"", b"")

    def report_more(self, value: float, total: float | None, message: str | None, data: bytes | None) -> None:
        """Write a value with message and pickled data; what is too long for the row goes into a file beside it."""
        flags = layout.REPORTED
        flags |= layout.HAS_TOTAL if total is not None else 0
        flags |= layout.HAS_MESSAGE if message is not None else 0
        flags |= layout.HAS_DATA if data is not None else 0
        text = (message or "").encode(errors="replace")
        data = data or b""
        if len(text) > layout.INLINE_MESSAGE_BYTES or len(data) > layout.INLINE_DATA_BYTES:
            if not self._sticky:  # said before the file is there, so that it is removed whenever this process dies
                self._sticky = layout.MAY_HAVE_FILE
                self._write(0, 0.0, 0.0, wall(), b"", b"")
            self._write_file(text, data)
            flags |= layout.IN_FILE
            text = clip(text.decode(errors="replace"), layout.INLINE_MESSAGE_BYTES)
            data = b""
        self._write(flags, value, total or 0.0, wall(), text, data)

    def _write_file(self, text: bytes, data: bytes) -> None:
        path = data_file(self._directory, self._job_id())
        fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(len(text).to_bytes(4, "little") + text + data)
        os.replace(path + ".new", path)

    def _job_id(self) -> bytes:
        state = self._offset - PROGRESS_OFFSET + 8
        return self._map[state : state + 16]


class ProgressTable:
    """Any process's view of the table. Nothing here blocks, locks, or asks the supervisor."""

    def __init__(self, path: str, *, loads: Callable[[bytes], Any]) -> None:
        """Map the table at `path` (OSError if it is not there); `loads` unpickles what jobs report as data."""
        self._directory = os.path.dirname(path)
        self._loads = loads
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
            self.file_id = os.fstat(fd).st_ino
        finally:
            os.close(fd)
        identity = try_read_part(self._map, 0, layout.IDENTITY.size)
        fields = layout.IDENTITY.unpack(identity) if identity else (b"",)
        if fields[0] != layout.MAGIC:
            raise OSError(f"{path} is not a table of this version of procjobs")
        _, _, self.supervisor_pid, self._buckets, _, self._rows_offset, self.started_at = fields
        self._heads = memoryview(self._map)[BUCKETS_OFFSET : self._rows_offset].cast("I")

    def close(self) -> None:
        """Unmap the table."""
        self._heads.release()
        self._map.close()

    def _state_at(self, row: int) -> bytes | None:
        return try_read_part(self._map, self._rows_offset + (row - 1) * ROW_BYTES, STATE.size)

    def _find(self, job_id: bytes) -> tuple[int, bytes] | None:
        """Return the row of a job and its state part.

        While a chain is walked, its rows may be released and used again in another chain. A row that does not belong to
        the bucket gives that away, and the walk begins again.
        """
        bucket = bucket_of(job_id, self._buckets)
        for _ in range(100):
            row = self._heads[bucket]
            while row:
                body = self._state_at(row)
                if body is None or bucket_of(body[:16], self._buckets) != bucket:
                    break
                if body[:16] == job_id:
                    return row, body
                row = int.from_bytes(body[16:20], "little")
            else:
                return None
        return None

    def status(self, job_id: bytes, text: str = "") -> JobStatus:
        """Return what is known about a job, `text` being its id as text; raise UnknownJob if it has no row."""
        found = self._find(job_id)
        if found is None:
            raise UnknownJob(
                f"job {to_text(job_id)} is not known to this pool: its supervisor has not received it yet, it was "
                "evicted some time after it finished, or it belongs to another pool or an earlier supervisor"
            )
        return self._status(*found, text)

    def progress(self, job_id: bytes) -> Progress | None:
        """Return what a job has last reported, None if nothing; raise UnknownJob if it has no row."""
        return self.status(job_id).progress

    def _status(self, row: int, body: bytes, text: str = "") -> JobStatus:
        job_id, _, state, reason, attempt, submitted, _, finished, name, error = STATE.unpack(body)
        offset = self._rows_offset + (row - 1) * ROW_BYTES + PROGRESS_OFFSET
        report = try_read_part(self._map, offset, PROGRESS.size)
        progress = started_at = pid = None
        if report is not None and report[:8] == job_id[8:]:
            fields = PROGRESS.unpack(report)
            began, flags, pid, started_at = fields[1:5]
            if began > attempt:
                state, reason, attempt, error = _RUNNING, 0, began, b""
            if flags & layout.REPORTED:
                progress = self._decode(job_id, fields)
        return JobStatus(
            text or to_text(job_id),
            name.decode(errors="replace"),
            _STATE_TEXT[state],
            _REASON_TEXT[reason],
            attempt,
            progress,
            submitted,
            started_at,
            finished or None,
            pid,
            error.decode(errors="replace") or None,
        )

    def _decode(self, job_id: bytes, fields: tuple[Any, ...]) -> Progress:
        _, _, flags, _, started_at, value, total, updated_at, text, data = fields
        if flags & layout.IN_FILE:
            try:
                with open(data_file(self._directory, job_id), "rb") as file:
                    content = file.read()
                length = int.from_bytes(content[:4], "little")
                text, data = content[4 : 4 + length], content[4 + length :]
            except OSError:  # the pool has stopped, or the row was evicted: the clipped message is left
                flags &= ~layout.HAS_DATA
        return Progress(
            value,
            total if flags & layout.HAS_TOTAL else None,
            text.decode(errors="replace") if flags & layout.HAS_MESSAGE else None,
            self._load(job_id, data) if flags & layout.HAS_DATA else None,
            updated_at,
            started_at,
        )

    def _load(self, job_id: bytes, data: bytes) -> Any:
        try:
            return self._loads(data)
        except Exception as error:  # noqa: BLE001 - the edge around the user's unpickling: the rest can be told all the same
            what = f"what job {to_text(job_id)} reported as data could not be unpickled here"
            return PayloadError(f"{what}: {type(error).__name__}: {error}")

    def jobs(self) -> Iterator[JobStatus]:
        """Yield every job that has a row, in no particular order."""
        for row in range(1, self.counters().rows_used + 1):
            body = self._state_at(row)
            if body is not None and (found := self._find(body[:16])) is not None and found[0] == row:
                yield self._status(row, found[1])

    def counters(self) -> Counters:
        """Return the pool's counters as of the supervisor's last turn."""
        body = try_read_part(self._map, layout.COUNTERS_OFFSET, layout.COUNTERS.size)
        return Counters._make(layout.COUNTERS.unpack(body)) if body else Counters()

    def problem(self) -> str | None:
        """Return why the pool cannot run jobs, None when it can."""
        body = try_read_part(self._map, layout.PROBLEM_OFFSET, layout.PROBLEM.size)
        text: bytes = layout.PROBLEM.unpack(body)[0] if body else b""
        return text.decode(errors="replace") or None

    def store(self) -> str | None:
        """Return what is the matter with the pool's store, None where it has none."""
        body = try_read_part(self._map, layout.STORE_OFFSET, layout.STORE.size)
        text: bytes = layout.STORE.unpack(body)[0] if body else b""
        return text.decode(errors="replace") or None

    def scaling(self) -> Scaling:
        """Return the pool's size and its bounds."""
        body = try_read_part(self._map, layout.SCALING_OFFSET, layout.SCALING.size)
        if body is None:
            return Scaling()
        least, most, size, changed_at, change = layout.SCALING.unpack(body)
        return Scaling(least, most, size, changed_at, change.decode(errors="replace"))

    def slots(self) -> Iterator[tuple[int, SlotRecord]]:
        """Yield (number, record) of every slot that has a worker."""
        for slot in range((BUCKETS_OFFSET - SLOTS_OFFSET) // SLOT_BYTES):
            body = try_read_part(self._map, SLOTS_OFFSET + slot * SLOT_BYTES, layout.SLOT.size)
            if body is not None:
                record = SlotRecord._make(layout.SLOT.unpack(body))
                if record.state:
                    yield slot, record


_STATE_TEXT = {int(state): state.text for state in JobState}
_REASON_TEXT = {int(reason): reason.text for reason in Reason}
