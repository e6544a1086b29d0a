"""The file `trend` of a pool: how busy it was in the last hour, some points of time in a ring.

Beside the table, and not mapped: a full file system is an error for its one writer, the supervisor, and what was never
written takes no memory. The writer knows nothing of time: it puts each point after the one before.

    OFFSET    SIZE       PART
    64 x n    64         POINT, the n-th; its change count says which is the latest
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import Final
from zlib import crc32

from procjobs.shared import private_files
from procjobs.shared.fact_records import TrendPoint
from procjobs.shared.table.layout import PART_HEAD

NAME: Final = "trend"
MAX_POINTS: Final = 1536
"""Two for each 5 seconds of an hour: what a pool writes that wakes up just as often (procjobs.supervisor.trend)."""
_POINT: Final = struct.Struct("=dQQIIId")  # the fields of TrendPoint
_POINT_BYTES: Final = 64

assert PART_HEAD.size + _POINT.size <= _POINT_BYTES


class TrendWriter:
    """The supervisor's side."""

    def __init__(self, directory: str) -> None:
        self._fd = private_files.create(f"{directory}/{NAME}")
        self._count = 0

    def write(self, point: TrendPoint) -> None:
        """Write a point; it is left out where the file system has no room."""
        self._count += 1
        body = _POINT.pack(*point)
        data = PART_HEAD.pack(crc32(body, self._count), self._count) + body
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, data, self._count % MAX_POINTS * _POINT_BYTES)

    def close(self) -> None:
        """Close the file, which the owner of the directory removes."""
        os.close(self._fd)


def read_points(directory: str) -> list[TrendPoint]:
    """Return the points in the order in which they were written; OSError if the file cannot be read."""
    fd = os.open(f"{directory}/{NAME}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        data = os.pread(fd, MAX_POINTS * _POINT_BYTES, 0)
    finally:
        os.close(fd)
    points = {}
    for offset in range(0, len(data) - PART_HEAD.size - _POINT.size + 1, _POINT_BYTES):
        crc, count = PART_HEAD.unpack_from(data, offset)
        start = offset + PART_HEAD.size
        if count and crc32(data[start : start + _POINT.size], count) == crc:  # else it is empty, or just being written
            points[count] = TrendPoint._make(_POINT.unpack_from(data, start))
    return [points[count] for count in sorted(points)]
