"""The bytes of the shared table, and the protocol by which one process writes a part of them and others read it.

The table is one file, mapped by every process of the pool and by every client.

    TABLE
    OFFSET        SIZE        PART
    0             4096        IDENTITY (written once) at 0, COUNTERS at 128, OLDEST at 256, PROBLEM at 512,
                              SCALING at 1024, STORE at 2048
    4096          512 x 64    SLOT of each worker; from 56 on TAKEN, written by that worker
    36864         4 x buckets u32 number of the first row whose job id falls into the bucket, 0 for none
    rows_offset   512 x rows  row n at rows_offset + 512 * (n - 1)

    ROW
    0             280         STATE, written by the supervisor
    280           232         PROGRESS, written by the one worker that runs the job

Every part begins with 8 bytes, a CRC-32 and a change count. The rules:

1. A part has one writer. It counts up, and writes checksum, count and body with one copy.
2. The checksum is over the body, seeded with the count. A reader copies the part and computes the checksum again; if it
   differs, the copy was torn by a write, and the reader copies again. That holds for every processor.
3. There is no lock, so no process waits for another. A writer that was killed in the middle of a copy leaves a part whose
   checksum never fits; readers give up after a bounded number of tries and treat it as absent.
4. A part that is all zero has never been written.

Not promised: that the parts of a row are of the same instant. PROGRESS carries the last 8 bytes of the job id and the
attempt, so that readers recognise a part that is of an earlier job in this row, or of an earlier attempt.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from mmap import mmap
from typing import Any, Final, NamedTuple
from zlib import crc32

from procjobs.clock import sleep
from procjobs.shared.config import MAX_SLOTS

MAGIC: Final = b"procjobs table 2"

PART_HEAD: Final = struct.Struct("=II")  # crc, count
IDENTITY: Final = struct.Struct("=16sIIIIQd")  # magic, version, supervisor pid, buckets, rows, rows_offset, boot time
COUNTERS: Final = struct.Struct("=IIIIIQQQQIId")  # see table.Counters
OLDEST: Final = struct.Struct("=dd")  # since when the first job waits that could run (monotonic, 0.0: none), its ticket
PROBLEM: Final = struct.Struct("=255p")
STORE: Final = struct.Struct("=255p")
SCALING: Final = struct.Struct("=IIIxxxxd255p")  # least, most, size, changed at, why
SLOT: Final = struct.Struct("=IIBBH16sQd")  # pid, generation, state, order, attempt, job id, jobs done, started at
TAKEN: Final = struct.Struct("=6sH")  # end of the id, attempt: the job whose interruption has arrived in it
STATE: Final = struct.Struct("=16sIBBHIddd64p156p")
"""Id, next, state, reason, attempt, flags, when it was submitted, ticket, when it ended, name, error.

The ticket of a job is one more than that of the job before it; 0.0 of one that does not wait in the order in which jobs
come: it was delayed, or shares limits. That in OLDEST is 0.0 where jobs wait in more than one order.
"""
TICKET: Final = struct.Struct("=d")
TICKET_OFFSET: Final = 36
STATE_HEAD: Final = struct.Struct("=16sI")
STATE_CHANGED: Final = struct.Struct("=20sBBH20sd64s156p")  # STATE, with the fields that do not change as packed bytes
PROGRESS: Final = struct.Struct("=8sHHIdddd84p80p12s")  # tag, attempt, flags, pid, started, value, total, updated, ..., PACE
PACE: Final = struct.Struct("=fff")  # the first value, after how many seconds it came, the longest pause between reports

COUNTERS_OFFSET: Final = 128
OLDEST_OFFSET: Final = 256
PROBLEM_OFFSET: Final = 512
STORE_OFFSET: Final = 2048
SCALING_OFFSET: Final = 1024
SLOTS_OFFSET: Final = 4096
SLOT_BYTES: Final = 64
TAKEN_OFFSET: Final = 56
BUCKETS_OFFSET: Final = SLOTS_OFFSET + MAX_SLOTS * SLOT_BYTES
ROW_BYTES: Final = 512
PROGRESS_OFFSET: Final = 280
PROGRESS_FLAGS_OFFSET: Final = PROGRESS_OFFSET + 8 + 10  # the byte of PROGRESS with its flags
INLINE_MESSAGE_BYTES: Final = 83
INLINE_DATA_BYTES: Final = 79

assert PART_HEAD.size + IDENTITY.size <= COUNTERS_OFFSET
assert COUNTERS_OFFSET + PART_HEAD.size + COUNTERS.size <= OLDEST_OFFSET
assert OLDEST_OFFSET + PART_HEAD.size + OLDEST.size <= PROBLEM_OFFSET
assert STORE_OFFSET + PART_HEAD.size + STORE.size <= SLOTS_OFFSET
assert PROBLEM_OFFSET + PART_HEAD.size + PROBLEM.size <= SCALING_OFFSET
assert SCALING_OFFSET + PART_HEAD.size + SCALING.size <= STORE_OFFSET
assert PART_HEAD.size + SLOT.size <= TAKEN_OFFSET
assert TAKEN_OFFSET + TAKEN.size <= SLOT_BYTES
assert PART_HEAD.size + STATE.size <= PROGRESS_OFFSET
assert STATE_CHANGED.size == STATE.size
assert PROGRESS_OFFSET + PART_HEAD.size + PROGRESS.size <= ROW_BYTES
assert BUCKETS_OFFSET == 36864

STATE_FLAGS_OFFSET: Final = 24
"""Where STATE has its flags."""
HAS_EXTRAS: Final = 1
"""A flag of STATE: the annex has more of this job (procjobs.shared.table.annex)."""

_TRIES: Final = 200


# The flags of a PROGRESS part: plain numbers, since to test one of an IntFlag costs 0.5 us.
REPORTED: Final = 1
"""Value, total and time are the job's; without it the job has begun and reported nothing yet."""
HAS_TOTAL: Final = 2
HAS_MESSAGE: Final = 4
HAS_DATA: Final = 8
IN_FILE: Final = 16
"""Message and data are in a file beside the table, named after the job."""
MAY_HAVE_FILE: Final = 32
"""Such a file was written earlier, perhaps in an earlier attempt, and is to be removed at the end."""
WORKER_SHIFT: Final = 6
"""The bits of the flags from here on are the slot of the worker."""
assert MAX_SLOTS << WORKER_SHIFT <= 1 << 16


def write_part(table: mmap, offset: int, count: int, body: bytes) -> None:
    """Write a part with its checksum. `count` (32 bits) is the writer's, one more than before."""
    table[offset : offset + 8 + len(body)] = PART_HEAD.pack(crc32(body, count), count) + body


def try_read_part(table: mmap, offset: int, size: int) -> bytes | None:
    """Return the body of a part as one process wrote it; None if it was never written or its writer died in the act."""
    stop = offset + 8 + size
    for attempt in range(_TRIES):
        copy = table[offset:stop]
        crc, count = PART_HEAD.unpack_from(copy)
        body = copy[8:]
        if crc32(body, count) == crc:
            return body
        if not count and not crc:
            return None
        if attempt > 10:  # the writer was interrupted in the middle: let it run
            sleep(0.000_01)
    return None


def clip(text: str, max_bytes: int) -> bytes:
    """Return `text` in UTF-8, cut at a whole character so that it fits."""
    data = text.encode(errors="replace")
    return data if len(data) <= max_bytes else data[: max_bytes - 3].decode(errors="ignore").encode() + "…".encode()


def unpack_part(layout: struct.Struct, body: bytes) -> tuple[Any, ...]:
    """Return the fields of a part's body."""
    return layout.unpack(body)


def bucket_of(job_id: bytes, buckets: int) -> int:
    """Return the bucket of a job id; its last bytes are random."""
    return int.from_bytes(job_id[12:], "little") & (buckets - 1)


def data_file(directory: str, job_id: bytes) -> str:
    """Return the path of the file with a job's message and data when they are too big for its row."""
    return f"{directory}/data-{job_id.hex()}"


HAS_SCHEDULES: Final = 4
"""The bit of `Counters.accepting` that says that the pool has schedules."""


class Counters(NamedTuple):
    """The pool's counters in the table. In `accepting`, bit 0: it takes jobs; bit 1: it is paused; bit 2: HAS_SCHEDULES."""

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
    """The pool's size and its bounds in the table; `change` describes the last change, at a Unix time."""

    least: int = 0
    most: int = 0
    size: int = 0
    changed_at: float = 0.0
    change: str = ""


class Order(IntEnum):
    """Why the job of a slot is interrupted; an order is for one attempt of one job, and for no other one."""

    NONE = 0
    CANCEL = 1
    TIMEOUT = 2
    STALL = 3
    STOP = 4  # its pool ends


class SlotRecord(NamedTuple):
    """One worker in the table; `state` indexes SLOT_STATES, `order` is an Order for this attempt of the job."""

    pid: int
    generation: int
    state: int
    order: int
    attempt: int
    job_id: bytes
    jobs_done: int
    started_at: float


SLOT_STATES = ("empty", "starting", "idle", "busy", "stopping", "waiting")
