"""The file `counts` of a pool: how jobs of each kind have fared, and since when jobs wait in each queue.

Beside the table, since most readers need only that. It has parts as in `layout`, each with its checksum: the supervisor
writes them, any process reads them and waits for nobody.

    OFFSET               SIZE         PART
    0                    512          HEAD: number of rows of kinds, and of queues
    512                  512 x kinds  KIND, the first one for all kinds that have no row of their own
    512 x (1 + kinds)    512 x queues QUEUE
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from typing import Final

from procjobs.clock import monotonic
from procjobs.shared import private_files
from procjobs.shared.records import Histogram, KindInfo
from procjobs.shared.table.layout import PART_HEAD, try_read_part, write_part
from procjobs.shared.table.state_writer import give_memory

BOUNDS: Final = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
"""The upper bounds of the buckets of a histogram, in seconds; the last bucket has none."""
BUCKETS: Final = len(BOUNDS) + 1
MAX_KINDS: Final = 200
"""The most kinds that have a row of their own."""
OTHERS: Final = "others"

_HEAD: Final = struct.Struct("=II")
_KIND: Final = struct.Struct(f"=64p5Qd{BUCKETS}Qd{BUCKETS}Q")  # name, counters, and two histograms after their sums
_QUEUE: Final = struct.Struct("=dH400s")  # since (monotonic, 0: no job waits), length of the name, name
_PART_BYTES: Final = 512
_ROWS: Final = MAX_KINDS + 1
_MASK: Final = 0xFFFF_FFFF

assert PART_HEAD.size + max(_KIND.size, _QUEUE.size) <= _PART_BYTES


class KindRow:
    """The numbers of one kind: `counters` are in the order of KindInfo; of each histogram, its sum and its buckets.

    `use` says how often jobs of this kind have ended, also before the kind had this row.
    """

    __slots__ = ("counters", "name", "number", "run_counts", "run_sum", "use", "wait_counts", "wait_sum")

    def __init__(self, number: int, name: bytes) -> None:
        self.number = number
        self.use = 0
        self.begin(name)

    def begin(self, name: bytes) -> None:
        """Begin at zero, for another kind."""
        self.name = name
        self.counters = [0] * 5
        self.run_sum = self.wait_sum = 0.0
        self.run_counts = [0] * BUCKETS
        self.wait_counts = [0] * BUCKETS

    def absorb(self, other: KindRow) -> None:
        """Add the numbers of a kind that is about to lose its row."""
        for mine, more in (
            (self.counters, other.counters), (self.run_counts, other.run_counts), (self.wait_counts, other.wait_counts)
        ):  # fmt: skip
            mine[:] = [a + b for a, b in zip(mine, more, strict=True)]
        self.run_sum += other.run_sum
        self.wait_sum += other.wait_sum


class CountsWriter:
    """The supervisor's side of the file."""

    def __init__(self, path: str, queues: Sequence[str]) -> None:
        """Create the file; OSError where there is no room for it."""
        size = _PART_BYTES * (1 + _ROWS + len(queues))
        fd = private_files.create(path)
        try:
            os.ftruncate(fd, size)
            give_memory(fd, 0, size)
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._count = 0
        self._queues = {name: _PART_BYTES * (1 + _ROWS + n) for n, name in enumerate(queues)}
        self._write(0, _HEAD.pack(_ROWS, len(queues)))
        for name in queues:
            self.write_queue(name, 0.0)

    def _write(self, offset: int, body: bytes) -> None:
        self._count = (self._count + 1) & _MASK
        write_part(self._map, offset, self._count, body)

    def write_kind(self, row: KindRow) -> None:
        """Write the numbers of a kind."""
        body = _KIND.pack(row.name, *row.counters, row.run_sum, *row.run_counts, row.wait_sum, *row.wait_counts)
        self._write(_PART_BYTES * (1 + row.number), body)

    def write_queue(self, name: str, since: float) -> None:
        """Write since when (monotonic) the first job of a queue waits, 0.0 if none does."""
        data = name.encode(errors="replace")
        self._write(self._queues[name], _QUEUE.pack(since, len(data), data))

    def close(self) -> None:
        """Unmap the file; the owner of the directory removes it."""
        self._map.close()


def read_kinds(path: str) -> list[KindInfo]:
    """Return the kinds in a file, the most used first and all others last; OSError if it cannot be read."""
    with _map(path) as table:
        rows, _ = _read_head(table)
        kinds = [info for number in range(rows) if (info := _read_kind(table, number)) is not None]
    others = [info for info in kinds[:1] if info.name == OTHERS]
    return sorted(kinds[len(others) :], key=lambda info: -_ends(info)) + [info for info in others if _ends(info)]


def _ends(info: KindInfo) -> int:
    return sum(info[1:5])


def read_waits(path: str) -> dict[str, float]:
    """Return for how many seconds the first job of each queue has waited, by the queue's name; OSError as above."""
    with _map(path) as table:
        rows, queues = _read_head(table)
        bodies = [try_read_part(table, _PART_BYTES * (1 + rows + n), _QUEUE.size) for n in range(queues)]
    now, waits = monotonic(), {}
    for body in bodies:
        if body is not None:
            since, length, name = _QUEUE.unpack(body)
            waits[name[:length].decode(errors="replace")] = max(now - since, 0.0) if since else 0.0
    return waits


def _map(path: str) -> mmap.mmap:
    with private_files.FileToMap(path) as file:
        if os.fstat(file.fileno()).st_uid != os.geteuid():
            raise PermissionError(f"{path} belongs to another user")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _read_head(table: mmap.mmap) -> tuple[int, int]:
    body = try_read_part(table, 0, _HEAD.size)
    rows, queues = _HEAD.unpack(body) if body is not None else (0, 0)
    return rows, queues


def _read_kind(table: mmap.mmap, number: int) -> KindInfo | None:
    body = try_read_part(table, _PART_BYTES * (1 + number), _KIND.size)
    if body is None:
        return None
    name, *numbers = _KIND.unpack(body)
    runs, waits = numbers[5 : 6 + BUCKETS], numbers[6 + BUCKETS :]
    histograms = [Histogram(BOUNDS, tuple(counts), total) for total, *counts in (runs, waits)]
    return KindInfo._make([name.decode(errors="replace"), *numbers[:5], *histograms])
