"""The readers' side of the shared table: any process of the host, without a lock and without asking the supervisor.

The table can be read while the supervisor is busy, stopped or dead. Bytes and protocol are in `layout`.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any, Self
from zlib import crc32

from procjobs.clock import monotonic
from procjobs.errors import Attempt, PayloadError, UnknownJob
from procjobs.shared import private_files
from procjobs.shared.fact_records import TrendPoint
from procjobs.shared.ids import to_text
from procjobs.shared.job_keys import key_text
from procjobs.shared.meta import unpack_meta
from procjobs.shared.records import JobStatus, KindInfo, Pace, Progress
from procjobs.shared.scheduled import name_of, seconds_of
from procjobs.shared.states import JobState, Reason
from procjobs.shared.table import arguments, counts, layout, trend
from procjobs.shared.table.annex import NO_EXTRAS, AnnexReader, AnnexSnapshot, Extras
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
    data_file,
    try_read_part,
)

_TRIES = 20
_FLAGS_AT = layout.STATE_FLAGS_OFFSET
_CHANGING = slice(layout.STATE_HEAD.size, layout.TICKET_OFFSET + 16)
_REPORTED = slice(8, 56)
"""The numbers of STATE and of PROGRESS. No text changes without them: each report has its time, each end as well."""
_QUEUED = int(JobState.QUEUED)
_RUNNING = int(JobState.RUNNING)
_SUCCEEDED = int(JobState.SUCCEEDED)
_STATE_TEXT = {int(state): state.text for state in JobState}
_REASON_TEXT = {int(reason): reason.text for reason in Reason}


def _check_owner(info: os.stat_result, path: str) -> None:
    if info.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"it belongs to user {info.st_uid}, not to {os.geteuid()}", path)


def _version_of(state: bytes, report: bytes | None, ahead: int | None) -> int:
    """Return a number that is another one once anything of a job has changed that its status shows; at most 53 bits."""
    crc = crc32(state[_CHANGING]) if report is None else crc32(report[_REPORTED], crc32(state[_CHANGING]))
    return (crc << 20 | (0 if ahead is None else ahead + 1) & 0xF_FFFF) + 1


class ProgressTable:
    """Any process's view of the table. Nothing here blocks, locks, or asks the supervisor."""

    def __init__(self, path: str, *, loads: Callable[[bytes], Any]) -> None:
        """Map the table at `path`; `loads` unpickles the data of reports.

        Raise OSError if it is not there, or belongs to another user; FileNotFoundError also while it is being made.
        """
        self._directory = os.path.dirname(path)
        self._loads = loads
        with private_files.FileToMap(path) as file:
            info = os.fstat(file.fileno())
            _check_owner(info, path)
            if not info.st_size:
                raise FileNotFoundError(errno.ENOENT, "it is being made", path)
            self._map: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.file_id = info.st_ino
        identity = try_read_part(self._map, 0, layout.IDENTITY.size)
        if not any(self._map[: layout.PART_HEAD.size + layout.IDENTITY.size]):
            raise FileNotFoundError(errno.ENOENT, "it is being made", path)
        fields = layout.IDENTITY.unpack(identity) if identity else (b"",)
        if fields[0] != layout.MAGIC:
            raise OSError(f"{path} is not a table of this version of procjobs")
        _, _, self.supervisor_pid, self._buckets, _, self._rows_offset, self.started_at = fields
        self._heads = memoryview(self._map)[BUCKETS_OFFSET : self._rows_offset].cast("I")
        self._annex: AnnexReader = AnnexReader(self._directory)

    @property
    def is_whole(self) -> bool:
        """Whether the file is as long as it was: to read what somebody has cut off ends this process (SIGBUS)."""
        return not isinstance(self._map, mmap.mmap) or self._map.size() == len(self._map)

    def snapshot(self) -> Self | None:
        """Return a copy of the table as it is now, for when the pool has gone: not mapped, and no file any more.

        None if somebody has emptied the file, whose pages would be SIGBUS.
        """
        if not isinstance(self._map, mmap.mmap):
            return self
        if not self.is_whole:
            return None
        used = self.counters().rows_used
        flagged = [(row, body[:16]) for row in range(1, used + 1) if (body := self._state_at(row)) and body[_FLAGS_AT]]
        table = self._map[: self._rows_offset + used * ROW_BYTES]
        heads = memoryview(table)[BUCKETS_OFFSET : self._rows_offset].cast("I")
        copied = copy.copy(self)
        vars(copied).update(_map=table, _heads=heads, _annex=AnnexSnapshot(self._annex, flagged))
        return copied

    def close(self) -> None:
        """Unmap the table."""
        self._heads.release()
        self._map.close()
        self._annex.close()

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

    def status(self, job_id: bytes, text: str = "", *, data: bool = True) -> JobStatus:
        """Return the status of a job, `text` being its id as text; raise UnknownJob if it has no row.

        Without `data`, nothing is unpickled: the data of its last report is None.
        """
        for _ in range(_TRIES):
            found = self._find(job_id)
            if found is None:
                raise UnknownJob(
                    f"job {to_text(job_id)} is not known to this pool: its supervisor has not received it yet, it was "
                    "evicted some time after it finished, or it belongs to another pool or an earlier supervisor"
                )
            status = self._status(*found, text, data=data)
            if status is not None:
                return status
        raise UnknownJob(f"the meta of job {to_text(job_id)} cannot be read: something has written over its file")

    def progress(self, job_id: bytes) -> Progress | None:
        """Return the last report of a job, None if there is none; raise UnknownJob if it has no row."""
        return self.status(job_id).progress

    def _status(self, row: int, body: bytes, text: str = "", *, data: bool = True) -> JobStatus | None:
        """Return the status of the job in a row; None if the row is another job's by now."""
        job_id, _, state, reason, attempt, flags, submitted, ticket, finished, name, error = STATE.unpack(body)
        extras = NO_EXTRAS if not flags else self._annex.read(row, job_id)
        if extras is None:
            return None
        offset = self._rows_offset + (row - 1) * ROW_BYTES + PROGRESS_OFFSET
        report = try_read_part(self._map, offset, PROGRESS.size)
        progress = started_at = pid = None
        if report is not None and report[:8] == job_id[8:]:
            fields = PROGRESS.unpack(report)
            began, reported, pid, started_at = fields[1:5]
            if began > attempt:
                state, reason, attempt, error = _RUNNING, 0, began, b""
            if reported & layout.REPORTED:
                progress = self._decode(job_id, fields, state, data=data)
        ahead = self._find_ahead(ticket) if state == _QUEUED and ticket and not attempt else None
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
            unpack_meta(extras.meta),
            to_text(extras.retry_of) if extras.is_retry else None,
            self._find_details(job_id, attempt, extras) if error and extras.failure[0] else None,
            ahead,
            name_of(extras.schedule),
            seconds_of(extras.scheduled_for),
            version=_version_of(body, report, ahead),
            queue=extras.queue.decode(errors="replace") or None,
            key=key_text(extras.key),
        )

    def running_in(self, job_id: bytes) -> int | None:
        """Return the pid of the worker that runs a job, None if none does."""
        found = self._find(job_id)
        if found is None:
            return None
        offset = self._rows_offset + (found[0] - 1) * ROW_BYTES + PROGRESS_OFFSET
        report = try_read_part(self._map, offset, PROGRESS.size)
        if report is None or report[:8] != job_id[8:]:
            return None
        _, began, _, pid, *_ = PROGRESS.unpack(report)
        _, _, state, _, attempt, *_ = STATE.unpack(found[1])
        return pid if state == _RUNNING or began > attempt else None

    def arguments(self, job_id: bytes) -> str | None:
        """Return the arguments of a job as a text; None if they were not recorded, or the pool has stopped."""
        found = self._find(job_id)
        return None if found is None else arguments.read(self._directory, found[0], job_id)

    def _find_ahead(self, ticket: float) -> int | None:
        """Return about how many jobs are to start before the one that waits with this ticket, None if nobody knows."""
        body = try_read_part(self._map, layout.OLDEST_OFFSET, layout.OLDEST.size)
        since, first = layout.OLDEST.unpack(body) if body else (0.0, 0.0)
        if not since:  # none waits in the pool: this one lies before a worker
            return 0
        return max(int(ticket - first), 0) if first else None

    def attempts(self, job_id: bytes) -> tuple[Attempt, ...]:
        """Return the attempts of a job that are known here, in their order; raise as `status`."""
        status = self.status(job_id, data=False)
        found = self._find(job_id)
        if found is None:
            return self.attempts(job_id)
        extras = self._annex.read(found[0], job_id) or NO_EXTRAS
        known = [Attempt(**values) for values in reversed(self._annex.attempts(job_id, extras))]
        if status.started_at is not None and status.attempt > (known[-1].attempt if known else 0):
            known.append(self._last_attempt(found[0], status))
        return tuple(known)

    def _last_attempt(self, row: int, status: JobStatus) -> Attempt:
        """Return the attempt that a job is in, or has succeeded in, or of which no more is known."""
        report = try_read_part(self._map, self._rows_offset + (row - 1) * ROW_BYTES + PROGRESS_OFFSET, PROGRESS.size)
        slot = PROGRESS.unpack(report)[2] >> layout.WORKER_SHIFT if report is not None else None
        return Attempt(
            status.attempt, status.reason, status.error or "", status.started_at, status.finished_at, None, None, None, "",
            slot, status.worker_pid,
        )  # fmt: skip

    def _find_details(self, job_id: bytes, attempt: int, extras: Extras) -> str | None:
        """Return the traceback of an attempt that has failed, if it is still kept."""
        last = next(iter(self._annex.attempts(job_id, extras, 1)), None)
        return last.get("traceback") if last is not None and last.get("attempt") == attempt else None

    def _decode(self, job_id: bytes, fields: tuple[Any, ...], state: int, *, data: bool) -> Progress:
        _, _, flags, _, started_at, value, total, updated_at, text, packed, pace = fields
        first_value, first_after, pause = layout.PACE.unpack(pace)
        if flags & layout.IN_FILE:
            try:
                with open(data_file(self._directory, job_id), "rb") as file:
                    _check_owner(os.fstat(file.fileno()), file.name)  # it is about to be unpickled
                    content = file.read()
                length = int.from_bytes(content[:4], "little")
                text, packed = content[4 : 4 + length], content[4 + length :]
            except OSError:  # the pool has stopped, or the row was evicted: the clipped message is left
                flags &= ~layout.HAS_DATA
        return Progress(
            value,
            total if flags & layout.HAS_TOTAL else None,
            text.decode(errors="replace") if flags & layout.HAS_MESSAGE else None,
            self._load(job_id, packed) if data and flags & layout.HAS_DATA else None,
            updated_at,
            started_at,
            Pace(first_value, started_at + first_after, pause),
            state == _RUNNING,
            state == _SUCCEEDED,
        )

    def _load(self, job_id: bytes, packed: bytes) -> Any:
        try:
            return self._loads(packed)
        except Exception as error:  # noqa: BLE001 - the edge around the user's unpickling: the rest of the status can be had
            what = f"what job {to_text(job_id)} reported as data could not be unpickled here"
            return PayloadError(f"{what}: {type(error).__name__}: {error}")

    def rows(self) -> Iterator[tuple[int, bytes]]:
        """Yield (number, body) of every row that has a job, in no particular order."""
        for row in range(1, self.counters().rows_used + 1):
            body = self._state_at(row)
            if body is not None and (found := self._find(body[:16])) is not None and found[0] == row:
                yield found

    def status_in(self, row: int, body: bytes, *, data: bool = True) -> JobStatus | None:
        """Return the status of the job in one of `rows`; None if the row is another job's by now."""
        return self._status(row, body, data=data)

    def jobs(self) -> Iterator[JobStatus]:
        """Yield every job that has a row, in no particular order."""
        for row, body in self.rows():
            status = self._status(row, body)
            if status is not None:
                yield status

    def counters(self) -> Counters:
        """Return the pool's counters as of the supervisor's last turn."""
        body = try_read_part(self._map, layout.COUNTERS_OFFSET, layout.COUNTERS.size)
        return Counters._make(layout.COUNTERS.unpack(body)) if body else Counters()

    def oldest_waiting(self) -> float:
        """Return for how many seconds the first job waits that could run, 0.0 where none does."""
        body = try_read_part(self._map, layout.OLDEST_OFFSET, layout.OLDEST.size)
        since: float = layout.OLDEST.unpack(body)[0] if body else 0.0
        return max(monotonic() - since, 0.0) if since else 0.0

    def kinds(self) -> list[KindInfo]:
        """Return how jobs of each kind have fared, the most used kind first; nothing once the pool has stopped."""
        with contextlib.suppress(FileNotFoundError):
            return counts.read_kinds(f"{self._directory}/counts")
        return []

    def queue_waits(self) -> dict[str, float]:
        """Return for how many seconds the first job of each queue has waited; nothing once the pool has stopped."""
        with contextlib.suppress(FileNotFoundError):
            return counts.read_waits(f"{self._directory}/counts")
        return {}

    def trend(self) -> list[TrendPoint]:
        """Return how busy the pool was, the oldest point first; nothing once the pool has stopped."""
        with contextlib.suppress(FileNotFoundError):
            return trend.read_points(self._directory)
        return []

    def problem(self) -> str | None:
        """Return why the pool cannot run jobs, None when it can."""
        body = try_read_part(self._map, layout.PROBLEM_OFFSET, layout.PROBLEM.size)
        text: bytes = layout.PROBLEM.unpack(body)[0] if body else b""
        return text.decode(errors="replace") or None

    def store(self) -> str | None:
        """Return the state of the pool's store, None if the pool has none."""
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
