"""The file `arguments` of a pool that records those of its jobs: a text for each row of the table.

The supervisor makes it, the worker that begins a job writes the text, any process reads it. It is not mapped: a full file
system costs the text and nothing else. What was never written takes no memory; a row that was used takes up to 2 KiB, and
the next job in it takes its place. No descriptor stays open in a worker, whose jobs may close what they like.

    OFFSET      SIZE          PART
    0           2080 x rows   SLOT of each row: crc-32 of what follows, id of the job, length of the text; the text in UTF-8
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import Final
from zlib import crc32

from procjobs.shared import private_files
from procjobs.shared.table.layout import clip

NAME: Final = "arguments"
MAX_BYTES: Final = 2048
"""The most bytes of a text."""
_CRC: Final = struct.Struct("<I")
_SLOT: Final = struct.Struct("<16sH")
_SLOT_BYTES: Final = 2080
_TRIES: Final = 20

assert _CRC.size + _SLOT.size + MAX_BYTES <= _SLOT_BYTES


def create(directory: str) -> None:
    """Make the file, with nothing in it; OSError where that cannot be."""
    os.close(private_files.create(f"{directory}/{NAME}"))


def write(directory: str, row: int, job_id: bytes, text: str) -> None:
    """Write the text of the job in a row, cut so that it fits; it is left out where there is no room, or no file."""
    data = clip(text, MAX_BYTES)
    body = _SLOT.pack(job_id, len(data)) + data
    with contextlib.suppress(OSError):
        fd = os.open(f"{directory}/{NAME}", os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.pwrite(fd, _CRC.pack(crc32(body)) + body, (row - 1) * _SLOT_BYTES)
        finally:
            os.close(fd)


def read(directory: str, row: int, job_id: bytes) -> str | None:
    """Return the text of the job in a row; None if there is none, or the row is another job's by now."""
    for _ in range(_TRIES):
        data = _read_slot(directory, row)
        if len(data) < _CRC.size + _SLOT.size:
            return None
        owner, length = _SLOT.unpack_from(data, _CRC.size)
        stop = _CRC.size + _SLOT.size + length
        if crc32(data[_CRC.size : stop]) == _CRC.unpack_from(data)[0]:
            return data[_CRC.size + _SLOT.size : stop].decode(errors="replace") if owner == job_id else None
    return None


def _read_slot(directory: str, row: int) -> bytes:
    with contextlib.suppress(OSError):
        fd = os.open(f"{directory}/{NAME}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return os.pread(fd, _SLOT_BYTES, (row - 1) * _SLOT_BYTES)
        finally:
            os.close(fd)
    return b""
