"""The bytes between a supervisor and its recorder. Pure: no descriptor is touched here.

The supervisor sends events, in batches. Both ends are the same interpreter, so a batch is `marshal`, which takes a fifth of
the time of JSON and takes bytes. The supervisor itself unpacks no such thing: the recorder answers with frames as in
`procjobs.shared.wire`, with kinds of its own.

    BATCH     supervisor -> recorder
    OFFSET SIZE FIELD
    0      4    length of the batch, this header included
    4      4    number of descriptors that travel with it: 0 or 1, which is that of its last event; plus 2 if its last event
                is to be in one commit with the next one
    8      8    number of its last event; events are numbered from 1 for the life of the supervisor
    16     ...  a list of tuples, one for each event: its Op as a number, then its fields in the order of its class

    OP        CLASS     FIELDS
    OPEN      Open      url, pool, owner, result_ttl, history_ttl, history_limit, holder, epoch, known_jobs,
                        started_attempts, retry_ttl, has_hooks
    KIND      Kind      number, description, function
    SUBMIT    Submit    job_id, kind, inline, has_descriptor, submitted_at, not_before, expires_at, key, unique_until, extras
    START     Start     job_id, attempt, worker, pid, time
    RETRY     Retry     job_id, attempt, account, not_before
    END       End       job_id, attempt, state, reason, frame, has_descriptor, ended_at, error, account, is_told
    FREE      Free      job_id, attempt, account
    FIND      Find      job_id
    CANCEL    Cancel    job_id, token
    LOAD      Load      max_due, max_later, excluded_queues
    SWEEP     Sweep
    FORGET    Forget
    RELEASE   Release
    REPEAT    Repeat    job_id, new_id, token
    CHECKPOINT Checkpoint job_id, saved_at, data
    HOOKS     Hooks     max_jobs, token
    HOOKED    Hooked    job_id
    PUTSCHEDULE PutSchedule name, spec, is_declared, kind, inline, has_descriptor, key, meta, cursor, token
    DROPSCHEDULE DropSchedule name, token
    NOTESCHEDULE NoteSchedule name, cursor, is_paused, skipped, missed
    FIRE      Fire      name, period, scheduled_for, job_id, cursor, token
    SCHEDULES Schedules after, token

    CLAIMED   recorder -> supervisor   u64 epoch: the jobs of the pool are this supervisor's; for SQLite with the locked file
    LEASE     recorder -> supervisor   f64 CLOCK_BOOTTIME: until then no other supervisor takes them over
    LOST      recorder -> supervisor   text: another supervisor has them now
    COMMITTED recorder -> supervisor   u64: every event up to this number is in the database
    FENCED    recorder -> supervisor   job id: the store did not take an event of this job, which is not this supervisor's
    DUPLICATE recorder -> supervisor   job id, id of the job that has its key: this submission was not stored
    STATE     recorder -> supervisor   JSON {"problem"}: why the store cannot be written, "" when it can
    REFUSED   recorder -> supervisor   job id, text: this submission cannot be stored, whatever the state of the database
    HELD      recorder -> supervisor   job id, JSON {"attempt", "cut_off", "crashes"}: the store has this submission already
    FOUND     recorder -> supervisor   job id, u32 length of JSON {"state"}, JSON, FINISHED frame where it has ended
    TOLD      recorder -> supervisor   JSON {"token", ...}: the answer to the question that had this token
    LOADED    recorder -> supervisor   LOADED struct, key, meta, schedule, description, function, inline
    RESTORE   recorder -> supervisor   job id; with its last checkpoint in the descriptor. Before its LOADED or HELD
    WINDOW    recorder -> supervisor   f64: seconds until a job that waits in the store may run; infinity if no job waits
"""

from __future__ import annotations

import marshal
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

BATCH: Final = struct.Struct("<IIQ")
LOADED: Final = struct.Struct("<16sHHHddd16sqBHHII")
"""Job id, attempt, interruptions, crashes, submitted, not before, expires (Unix times, 0: none), id of the job that it
repeats (zero: none), the moment for which a schedule has made it (0: none), length of the key, of the meta, of the name of
the schedule, of the description, of the function."""
WINDOW: Final = struct.Struct("<d")
MAX_STORED_BYTES: Final = 64 * 2**20
"""The largest descriptor of a job or of an answer that goes into the database: a transaction is held up for 0.3 s by it."""
LEASE: Final = 30.0
"""For how many seconds a supervisor that others cannot see may say nothing before they take its jobs over."""
MAX_EVENTS: Final = 1000
"""The most events of a batch. A transaction takes all that has arrived, so this bounds the memory of a batch alone."""

assert BATCH.size == 16
assert LOADED.size == 83


class Op(IntEnum):
    """Which event a tuple is, on the wire."""

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
    SWEEP = 10
    FORGET = 11
    RELEASE = 12
    REPEAT = 13
    CHECKPOINT = 14
    HOOKS = 15
    HOOKED = 16
    PUTSCHEDULE = 17
    DROPSCHEDULE = 18
    NOTESCHEDULE = 19
    FIRE = 20
    SCHEDULES = 21


# The fields are plain values: marshal refuses an IntEnum or a NamedTuple inside an event. Times are Unix times in seconds;
# those of schedules (period, scheduled_for, cursor) in whole microseconds.


class Open(NamedTuple):
    """The first event of a recorder; it has the number 0. For SQLite the locked file comes with it, once there is one.

    `owner` is the id of the supervisor; `holder` is JSON, its Identity with the `mark` and the `directory` of its pool.
    `epoch` is that of its claim, 0 before there is one; `known_jobs` are the jobs that it has in memory since then.
    `started_attempts` are attempts, by job id, that the table of a killed supervisor shows as started. `has_hooks`: the
    pool calls hooks for jobs that fail.
    """

    url: str
    pool: str
    owner: str
    result_ttl: float
    history_ttl: float
    history_limit: int
    holder: str
    epoch: int
    known_jobs: list[bytes]
    started_attempts: dict[str, int]
    retry_ttl: float = 0.0
    has_hooks: bool = False

    def __repr__(self) -> str:
        return f"Open(pool={self.pool!r}, owner={self.owner!r}, epoch={self.epoch})"  # the URL may have a password


class Kind(NamedTuple):
    """The meaning of kind `number` in later events. It has the number of the next event."""

    number: int
    description: bytes
    function: bytes


class Submit(NamedTuple):
    """A job to be stored. `not_before` and `expires_at` are 0 where there is no such time.

    `unique_until` is None for a job that does not have its key for itself. `extras` are its meta, as JSON, the id of
    the job that it repeats, the name of its schedule, all of which may be empty, and the moment for which that has made it
    (0: none).
    """

    job_id: bytes
    kind: int
    inline: bytes
    has_descriptor: bool
    submitted_at: float
    not_before: float
    expires_at: float
    key: bytes
    unique_until: float | None
    extras: tuple[bytes, bytes, bytes, int] = (b"", b"", b"", 0)


class Start(NamedTuple):
    """An attempt was given to a worker: `worker` is its slot, `pid` its process."""

    job_id: bytes
    attempt: int
    worker: int
    pid: int
    time: float


class Retry(NamedTuple):
    """An attempt failed and another one follows, at `not_before` (0: at once).

    `account` is all that is known of the attempt, by the names of the columns of the attempts.
    """

    job_id: bytes
    attempt: int
    account: dict[str, Any]
    not_before: float


class End(NamedTuple):
    """A job has ended. `frame` is its FINISHED frame; `account` as in Retry, None if nothing is known of an attempt.

    `is_told`: the hooks of the pool are to be called with it, until HOOKED says that they were.
    """

    job_id: bytes
    attempt: int
    state: int
    reason: int
    frame: bytes
    has_descriptor: bool
    ended_at: float
    error: str
    account: dict[str, Any] | None
    is_told: bool = False


class Free(NamedTuple):
    """The pool stops: the job goes back to those that wait in the store. `account` is that of the attempt it interrupts."""

    job_id: bytes
    attempt: int
    account: dict[str, Any] | None


class Find(NamedTuple):
    """Asks for a job: FOUND is the answer."""

    job_id: bytes


class Cancel(NamedTuple):
    """Cancels a job if it waits in the store: TOLD is the answer."""

    job_id: bytes
    token: int


class Load(NamedTuple):
    """Asks for jobs that wait in the store: LOADED for each, then WINDOW, are the answer.

    At most `max_due` jobs that may run now and `max_later` that wait for a time; jobs of `excluded_queues` stay.
    """

    max_due: int
    max_later: int
    excluded_queues: list[str | None]


class Sweep(NamedTuple):
    """Makes jobs of everything that transactions of users have left in the outbox."""


class Forget(NamedTuple):
    """Makes room: a kind that is needed after this is described again."""


class Release(NamedTuple):
    """Gives the claim up: the pool has stopped, and none of its workers runs any more. The last event."""


class Repeat(NamedTuple):
    """Makes a new job of one that ended otherwise than well: TOLD is the answer."""

    job_id: bytes
    new_id: bytes
    token: int


class Checkpoint(NamedTuple):
    """A job's last checkpoint, pickled; empty data: there is none any more."""

    job_id: bytes
    saved_at: float
    data: bytes


class Hooks(NamedTuple):
    """Asks for jobs for which hooks are still to be called, at most so many: TOLD is the answer."""

    max_jobs: int
    token: int


class Hooked(NamedTuple):
    """The hooks were called with a job, or given up."""

    job_id: bytes


class PutSchedule(NamedTuple):
    """A schedule, in the place of the one that the pool has of this name: TOLD is the answer.

    `spec` is JSON with its "rule" and "expires", `is_declared` says whether code declares it; the others are as in Submit.
    `cursor` is taken by a schedule that is new, or has another rule than before.
    """

    name: str
    spec: str
    is_declared: bool
    kind: int
    inline: bytes
    has_descriptor: bool
    key: bytes
    meta: bytes
    cursor: int
    token: int


class DropSchedule(NamedTuple):
    """Drops a schedule: TOLD is the answer. The periods that were run are still remembered."""

    name: str
    token: int


class NoteSchedule(NamedTuple):
    """How far a schedule is, and all that it has left out; `is_paused` is 0 or 1, -1 to leave that as it is."""

    name: str
    cursor: int
    is_paused: int
    skipped: int
    missed: int


class Fire(NamedTuple):
    """Makes the job of a period, and moves the cursor: TOLD is the answer."""

    name: str
    period: int
    scheduled_for: int
    job_id: bytes
    cursor: int
    token: int


class Schedules(NamedTuple):
    """Asks for the schedules of the pool whose names come after this one: TOLD is the answer."""

    after: str
    token: int


Event = (
    Open | Kind | Submit | Start | Retry | End | Free | Find | Cancel | Load | Sweep | Forget | Release | Repeat
    | Checkpoint | Hooks | Hooked | PutSchedule | DropSchedule | NoteSchedule | Fire | Schedules
)  # fmt: skip
EventWithFd = tuple[Event, "int | None"]
"""An event as it has arrived, and its descriptor."""

_CLASSES: Final[tuple[type[Event], ...]] = (
    Open, Kind, Submit, Start, Retry, End, Free, Find, Cancel, Load, Sweep, Forget, Release,
    Repeat, Checkpoint, Hooks, Hooked, PutSchedule, DropSchedule, NoteSchedule, Fire, Schedules,
)  # fmt: skip
_OPS: Final = {cls: op for op, cls in enumerate(_CLASSES)}

_new: Final[Any] = tuple.__new__

assert [cls.__name__.upper() for cls in _CLASSES] == [op.name for op in Op]


class RecorderFrame(IntEnum):
    """The kinds of a recorder's frames."""

    COMMITTED = 1
    STATE = 2
    REFUSED = 3
    HELD = 4
    FOUND = 5
    TOLD = 6
    LOADED = 7
    WINDOW = 8
    CLAIMED = 9
    LEASE = 10
    LOST = 11
    FENCED = 12
    DUPLICATE = 13
    RESTORE = 14


def pack_batch(events: Sequence[Event], last: int, *, descriptors: int = 0, is_open: bool = False) -> bytes:
    """Return a batch whose last event has this number; it `is_open` if that belongs with the next one."""
    ops = _OPS
    body = marshal.dumps([(ops[type(event)], *event) for event in events])
    return BATCH.pack(BATCH.size + len(body), descriptors | is_open << 1, last) + body


class BatchReader:
    """Cuts a byte stream into batches; a part of one waits for its rest."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        self._buffer += data

    def next(self) -> tuple[list[Event], int, bool, bool] | None:
        """Return (events, number of the last one, whether a descriptor belongs to it, whether it belongs with the next one).

        None if no batch is whole yet.
        """
        if len(self._buffer) < BATCH.size:
            return None
        length, flags, last = BATCH.unpack_from(self._buffer)
        if len(self._buffer) < length:
            return None
        with memoryview(self._buffer) as view:
            rows = marshal.loads(view[BATCH.size : length])  # noqa: S302 - the supervisor alone has the other end
        del self._buffer[:length]
        classes, new = _CLASSES, _new  # `_make` takes 0.15 us more
        return [new(classes[row[0]], row[1:]) for row in rows], last, flags & 1 == 1, flags & 2 == 2
