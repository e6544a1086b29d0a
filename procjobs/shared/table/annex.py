"""What a row of the shared table has no room for, of the jobs that have it: a file beside the table.

Nothing of it is mapped: a full file system is an error for the one process that writes, the supervisor, and SIGBUS for none.
What was never written takes no memory, so it costs nothing where no job has any of it.

    ANNEX
    OFFSET           SIZE            PART
    0                RING_BYTES      FAILURE records, one after the other, the oldest overwritten
    RING_BYTES       3136 x rows     SLOT of each row of the table

    SLOT    crc-32 of what follows, id of the job, id of the job that it repeats (zero: none), position and length of its
            last FAILURE (0: none), the moment for which its schedule has made it (0: none), length of its meta, of the name
            of its schedule, of the name of its queue and of its key; then these, JSON and text
    FAILURE crc-32 of what follows, id of the job, position and length of the one before; then JSON, the fields of an
            `Attempt` (procjobs.errors)

Whoever reads trusts only what has the job's id and a checksum that fits. A slot without these is another job's by now; a
record without them was overwritten, and those before it as well.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import struct
from collections.abc import Iterable
from typing import Any, Final, NamedTuple
from zlib import crc32

from procjobs.shared import private_files
from procjobs.shared.job_keys import MAX_KEY_BYTES
from procjobs.shared.meta import MAX_META_BYTES
from procjobs.shared.queues import MAX_NAME_BYTES as MAX_QUEUE_BYTES
from procjobs.shared.scheduled import MAX_NAME_BYTES

NAME: Final = "annex"
RING_BYTES: Final = 16 * 2**20
"""The bytes of failed attempts, of all jobs of the pool together."""
MAX_ATTEMPTS: Final = 10
"""The most attempts of one job that are read."""
_NO_ID: Final = bytes(16)
_CRC: Final = struct.Struct("<I")
_SLOT: Final = struct.Struct("<16s16sIIqHHHH")
_FAILURE: Final = struct.Struct("<16sII")
_SLOT_BYTES: Final = 3136
_TRIES: Final = 20

assert _CRC.size + _SLOT.size + MAX_META_BYTES + MAX_NAME_BYTES + MAX_QUEUE_BYTES + MAX_KEY_BYTES <= _SLOT_BYTES


class Extras(NamedTuple):
    """What few jobs have. `failure` is the place (position, length) of the last failed attempt in the file.

    `schedule` is the name of the schedule that has made the job, in UTF-8, and `scheduled_for` the moment for which, in
    microseconds. `queue` is the name of its queue, in UTF-8, and `key` its key, as it travels.

    Not in the file: `is_unique`, the job was submitted to be the only one of its key; `has_checkpoint`, it may have one.
    """

    meta: bytes = b""
    retry_of: bytes = _NO_ID
    failure: tuple[int, int] = (0, 0)
    schedule: bytes = b""
    scheduled_for: int = 0
    queue: bytes = b""
    key: bytes = b""
    is_unique: bool = False
    has_checkpoint: bool = False

    @property
    def is_retry(self) -> bool:
        """Whether the job repeats another one."""
        return self.retry_of != _NO_ID


NO_EXTRAS: Final = Extras()


def extras_of(meta: bytes, retry_of: bytes, schedule: bytes = b"", scheduled_for: int = 0) -> Extras:
    """Return what a job has that came from elsewhere; `retry_of` is empty or zero for one that repeats none."""
    if not (meta or schedule or any(retry_of)):
        return NO_EXTRAS
    return Extras(meta, retry_of or _NO_ID, schedule=schedule, scheduled_for=scheduled_for)


class AnnexWriter:
    """The supervisor's side."""

    def __init__(self, directory: str) -> None:
        self._fd = private_files.create(f"{directory}/{NAME}")
        self._next = 1

    def write(self, row: int, job_id: bytes, extras: Extras) -> None:
        """Write what belongs to a row; raise OSError where there is no room."""
        texts = extras.meta, extras.schedule, extras.queue, extras.key
        head = _SLOT.pack(job_id, extras.retry_of, *extras.failure, extras.scheduled_for, *map(len, texts))
        _write(self._fd, b"".join((head, *texts)), RING_BYTES + (row - 1) * _SLOT_BYTES)

    def add_failure(self, job_id: bytes, before: tuple[int, int], attempt: dict[str, Any]) -> tuple[int, int]:
        """Write an attempt; return its place. Raise OSError where there is no room."""
        body = _FAILURE.pack(job_id, *before) + json.dumps(attempt).encode()
        length = _CRC.size + len(body)
        position = self._next if self._next + length <= RING_BYTES else 1
        _write(self._fd, body, position)
        self._next = position + length
        return position, length

    def close(self) -> None:
        """Close the file, which the owner of the directory removes."""
        os.close(self._fd)


def _write(fd: int, body: bytes, position: int) -> None:
    data = _CRC.pack(crc32(body)) + body
    if os.pwrite(fd, data, position) != len(data):
        raise OSError(f"the file system took only a part of {len(data)} bytes")


class AnnexReader:
    """Any process's side. It finds nothing where there is no such file."""

    def __init__(self, directory: str) -> None:
        self._fd = -1
        with contextlib.suppress(OSError):
            self._fd = os.open(f"{directory}/{NAME}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def read(self, row: int, job_id: bytes) -> Extras | None:
        """Return what belongs to this job's row; None if the row is another job's by now."""
        for _ in range(_TRIES):
            data = self._read(RING_BYTES + (row - 1) * _SLOT_BYTES, _SLOT_BYTES)
            if len(data) >= _CRC.size + _SLOT.size:
                owner, retry_of, position, length, moment, *lengths = _SLOT.unpack_from(data, _CRC.size)
                ends = list(itertools.accumulate(lengths, initial=_CRC.size + _SLOT.size))
                if crc32(data[_CRC.size : ends[-1]]) == _CRC.unpack_from(data)[0]:
                    meta, *texts = [data[start:end] for start, end in itertools.pairwise(ends)]
                    schedule, queue, key = texts
                    found = Extras(meta, retry_of, (position, length), schedule, moment, queue, key)
                    return found if owner == job_id else None
        return None

    def attempts(self, job_id: bytes, extras: Extras, limit: int = MAX_ATTEMPTS) -> list[dict[str, Any]]:
        """Return the failed attempts of a job that are still there, at most `limit`, the last one first."""
        found: list[dict[str, Any]] = []
        position, length = extras.failure
        while position and len(found) < limit:
            data = self._read(position, length)
            if len(data) != length or crc32(data[_CRC.size :]) != _CRC.unpack_from(data)[0]:
                break
            owner, position, length = _FAILURE.unpack_from(data, _CRC.size)
            if owner != job_id:
                break
            found.append(json.loads(data[_CRC.size + _FAILURE.size :]))
        return found

    def _read(self, position: int, length: int) -> bytes:
        with contextlib.suppress(OSError):
            if self._fd >= 0:
                return os.pread(self._fd, length, position)
        return b""

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def __del__(self) -> None:
        self.close()


class AnnexSnapshot(AnnexReader):
    """What the file had of some jobs at one moment. It has no descriptor, and stays when the file has gone."""

    def __init__(self, source: AnnexReader, rows: Iterable[tuple[int, bytes]]) -> None:
        """`rows` are (row, job id) of the jobs."""
        self._fd = -1
        self._pieces: dict[int, bytes] = {}
        self._source: AnnexReader | None = source
        for row, job_id in rows:
            extras = self.read(row, job_id)
            if extras is not None:
                self.attempts(job_id, extras)
        self._source = None

    def _read(self, position: int, length: int) -> bytes:
        if self._source is not None:
            self._pieces[position] = self._source._read(position, length)  # noqa: SLF001 - of the same kind
        return self._pieces.get(position, b"")
