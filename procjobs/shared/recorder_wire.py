"""The bytes between a supervisor and its recorder. Pure: no descriptor is touched here.

The supervisor sends events, in batches. Both ends are the same interpreter, so a batch is `marshal`, which takes a fifth of
the time of JSON and takes bytes. The supervisor itself unpacks no such thing: what the recorder says are frames as in
`procjobs.shared.wire`, with kinds of its own.

    BATCH     supervisor -> recorder
    OFFSET SIZE FIELD
    0      4    length of the batch, this header included
    4      4    number of descriptors that travel with it: 0 or 1, which is that of its last event
    8      8    number of its last event; events are numbered from 1 for the life of the supervisor
    16     ...  a list of tuples, the first element of each being its class Op

    OPEN      (what, settings): the first batch of a recorder; numbered 0
    KIND      (what, number, description, function): what later events call kind `number`; has the number of the next event
    FORGET    (what,): the kinds that were told of before are told of again where they are needed
    SUBMIT    (what, job id, kind, inline, has descriptor, submitted, not before, expires, key, unique until)
    START     (what, job id, attempt, worker, pid, time)
    RETRY     (what, job id, attempt, account of the attempt, not before)
    END       (what, job id, attempt, state, reason, frame, has descriptor, time, error, account of the attempt or None)
    FREE      (what, job id, attempt, account or None): the pool stops; the job goes back to those that wait in the store
    FIND      (what, job id): FOUND is wanted
    CANCEL    (what, job id, token): if it waits in the store, it is cancelled; TOLD is wanted
    KEY       (what, key, token): which job has this key for itself? TOLD is wanted
    SWEEP     (what,): what transactions of users have left in the outbox becomes jobs
    LOAD      (what, most, later, queues): so many of those that wait in the store are wanted, and of those that wait for
              a time, but none of these queues: LOADED for each, and WINDOW

    COMMITTED recorder -> supervisor   u64: every event up to this number is in the database
    STATE     recorder -> supervisor   JSON {"problem"}: why the store cannot be written, "" when it can
    REFUSED   recorder -> supervisor   job id, text: this submission cannot be stored, whatever the state of the database
    HELD      recorder -> supervisor   job id, JSON: a submission that was sent again: what the store knew of it already
    FOUND     recorder -> supervisor   job id, u32 length of JSON {"state"}, JSON, FINISHED frame where it has ended
    TOLD      recorder -> supervisor   JSON {"token", ...}: the answer to a question that had this token
    LOADED    recorder -> supervisor   LOADED struct, key, description, function, inline
    WINDOW    recorder -> supervisor   f64: seconds until a job that waits in the store may run, infinity: none does
"""

from __future__ import annotations

import marshal
import struct
from enum import IntEnum
from typing import Any, Final

BATCH: Final = struct.Struct("<IIQ")
LOADED: Final = struct.Struct("<16sHHHdddBII")
"""Job id, attempt, how often it was cut off, crashes, submitted, not before, expires (Unix times, 0: none), length of the
key, of the description, of the function."""
WINDOW: Final = struct.Struct("<d")
MAX_STORED_BYTES: Final = 64 * 2**20
"""The largest descriptor of a job or of an answer that goes into the database: a transaction is held up for 0.3 s by it."""
MAX_EVENTS: Final = 1000
"""The most events of a batch. A transaction takes what has arrived, so a batch is no bound of anything but memory."""

assert BATCH.size == 16
assert LOADED.size == 55

Event = tuple[Any, ...]


class Op(IntEnum):
    """What an event says."""

    OPEN = 0
    KIND = 1
    SUBMIT = 2
    START = 3
    RETRY = 4
    END = 5
    FREE = 6
    FIND = 7
    CANCEL = 8
    LOAD = 9
    KEY = 10
    SWEEP = 11
    FORGET = 12


class RecorderFrame(IntEnum):
    """What a recorder says: the kinds of its frames."""

    COMMITTED = 1
    STATE = 2
    REFUSED = 3
    HELD = 4
    FOUND = 5
    TOLD = 6
    LOADED = 7
    WINDOW = 8


def pack_batch(events: list[Event], last: int, *, descriptors: int = 0) -> bytes:
    """Return a batch whose last event has this number."""
    body = marshal.dumps(events)
    return BATCH.pack(BATCH.size + len(body), descriptors, last) + body


class BatchReader:
    """Cuts a byte stream into batches; a part of one waits for its rest."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        self._buffer += data

    def next(self) -> tuple[list[Event], int, bool] | None:
        """Return (events, number of the last one, whether a descriptor belongs to it), None if none is whole yet."""
        if len(self._buffer) < BATCH.size:
            return None
        length, descriptors, last = BATCH.unpack_from(self._buffer)
        if len(self._buffer) < length:
            return None
        with memoryview(self._buffer) as view:
            events = marshal.loads(view[BATCH.size : length])  # noqa: S302 - the supervisor alone has the other end
        del self._buffer[:length]
        return events, last, descriptors == 1
