"""The bytes between processes. Pure: no descriptor is touched here, and nothing is unpickled.

Clients and the supervisor exchange frames over a Unix stream socket; a worker answers the supervisor in the same frames.
All numbers are little-endian.

    FRAME
    OFFSET SIZE FIELD
    0      4    length of the frame, this header included
    4      1    kind (class Frame)
    5      1    number of descriptors that travel with it: 0 or 1
    6      2    zero
    8      ...  body

    HELLO, REFUSED, CONTROL          procjobs.shared.hello: these three are the same in all versions
    WELCOME   supervisor -> client   JSON
    HANDED_OVER     supervisor -> client   empty: what was taken and not answered is the successor's; no more is taken
    KIND      client -> supervisor   u32 number of the kind, u32 length of the JSON {"name", "options"}, JSON, function
    CALLER    client -> supervisor   JSON {"authkey", "first", "last"}, all optional: holds for the KINDs that follow
    FORGET    client -> supervisor   empty: every kind of this connection is forgotten
    SUBMIT    client -> supervisor   SUBMIT struct, key, meta (JSON), inline part of the payload
    SUBMIT_UNIQUE   client -> supervisor   as SUBMIT; before the key f64: seconds for which it is taken, 0: until the end
    STAGE     client -> supervisor   u64 number of the batch: its descriptor is that of a job of a SUBMIT_MANY that follows
    SUBMIT_MANY     client -> supervisor   u64 number of the batch, u32 jobs: its descriptor is a file of SUBMIT frames, of
                                     which those with a descriptor take the staged ones in order. All are taken, or none
    SCHEDULE  client -> supervisor   a call and its times (procjobs.shared.schedule_wire): REPLY {"refusal", "info"} answers
    DUPLICATE supervisor -> client   job id, id of the job that has its key: that submission is none. Before its ACCEPTED
    ACCEPTED  supervisor -> client   u64 submissions of this connection taken so far
    FINISHED  worker -> supervisor -> client   FINISHED struct, JSON (failures, usage), inline part of the payload
    REQUEST   client -> supervisor   u32 number of the request, JSON {"call", ...}
    REPLY     supervisor -> client   u32 number of the request, JSON
    WATCH     client -> supervisor   job id: a FINISHED is wanted for it, now or when there is one
    NOTICE    supervisor -> client   JSON {"problem", "warning", "notice"}: why this client's code cannot run, in what it
                                     differs from that of its workers, what else it should know of it
    CODE      client -> supervisor   JSON {"files"}: digests of source files that it has seen since HELLO or the last CODE
    READY     worker -> supervisor   u64 resident bytes of the worker, which has initialised
    INIT_FAILED     worker -> supervisor   text: the initializer failed; the worker ends after it
    LOADED    worker -> supervisor   JSON {"files"}: digests of source files that a job had it load, before its FINISHED
    CHECKPOINT      worker -> supervisor   job id: a job hands a checkpoint over (procjobs.shared.checkpoints)
    SPENT     worker -> supervisor   text: what a job has left cannot be put back; the worker ends after the next FINISHED

Jobs go to a worker as one message each: JOB struct, JSON and function of the kind where the worker has not seen it yet,
inline part of the payload. Up to MAX_PACKET_BYTES it is a packet in a pipe; others take a socket, and the pipe JOB_ASIDE.

A payload is an inline part and at most one descriptor, of a memory file with everything that is too big for a frame
(procjobs.host.payload). So every frame is small, and no process needs memory for data that only passes through it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final, NamedTuple

from procjobs.clock import NEVER
from procjobs.shared.states import Reason

WIRE_VERSION: Final = 5
"""The version of the frames between clients and a supervisor, and of their contents. tests/unit/test_wire.py fails when
the frames have changed and it has not."""
MAGIC: Final = b"procjobs"
ANY_CODE: Final = ""
"""The generation in the HELLO of a client that submits nothing: any generation will do."""
MAX_FRAME_BYTES: Final = 256 * 1024
MAX_INLINE_BYTES: Final = 64 * 1024
"""The largest inline part of a payload; larger ones go into a memory file."""
MAX_BATCH_BYTES: Final = 128 * 2**20
"""The largest file of SUBMIT frames; a supervisor has it in memory while it takes the jobs."""
MAX_STAGED: Final = 4096
MAX_CALLER_BYTES: Final = 12 * 1024
"""The largest body of a CALLER frame: it goes to a worker in the JSON of a kind, beside a function and an inline part."""
MAX_FUNCTION_BYTES: Final = 32 * 1024
"""The largest pickle of a function that is described once; a larger one travels with each call."""
MAX_JOB_BYTES: Final = 112 * 1024
"""The largest message to a worker: inline part, function, and 16 KiB for the rest."""

MAX_PACKET_BYTES: Final = 4096
"""The largest message to a worker that its pipe takes whole (PIPE_BUF of Linux)."""
JOB_ASIDE: Final = b"\0"
"""In a worker's pipe: the job is the next message of its socket."""
NO_PIPES_STATUS: Final = 119
"""The exit status of a worker that cannot answer, because the job has closed or replaced its descriptors."""

HEADER: Final = struct.Struct("<IBBH")
SUBMIT: Final = struct.Struct("<16sIddHB")
"""Job id, kind, delay in seconds, expires in seconds (0: never), length of the meta, of the key."""
FINISHED: Final = struct.Struct("<16sBBHdQI")  # job id, outcome, reason, attempt, seconds it ran, rss, length of the JSON
JOB: Final = struct.Struct("<16sIIHHI")  # job id, kind, row, attempt, length of the kind's JSON, length of its function
KIND: Final = struct.Struct("<II")  # number, length of the JSON
F64: Final = struct.Struct("<d")
U32: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")
BATCH: Final = struct.Struct("<QI")  # number of the batch, how many jobs
BODY: Final = HEADER.size
SUBMIT_FRAME: Final = struct.Struct(HEADER.format + SUBMIT.format[1:])
FINISHED_FRAME: Final = struct.Struct(HEADER.format + FINISHED.format[1:])

assert HEADER.size == 8
assert SUBMIT.size == 39
assert FINISHED.size == 40
assert JOB.size == 32
assert MAX_INLINE_BYTES + MAX_FUNCTION_BYTES + 16 * 1024 <= MAX_JOB_BYTES


class Frame(IntEnum):
    """Kinds of frames."""

    HELLO = 1
    WELCOME = 2
    REFUSED = 3
    KIND = 4
    FORGET = 5
    SUBMIT = 6
    ACCEPTED = 7
    FINISHED = 8
    REQUEST = 9
    REPLY = 10
    WATCH = 11
    NOTICE = 12
    READY = 13
    INIT_FAILED = 14
    SUBMIT_UNIQUE = 15
    DUPLICATE = 16
    CODE = 17
    LOADED = 18
    SPENT = 19
    HANDED_OVER = 20
    CALLER = 21
    STAGE = 22
    SUBMIT_MANY = 23
    SCHEDULE = 24
    CHECKPOINT = 30
    CONTROL = 100


class Outcome(IntEnum):
    """How an attempt ended, in a FINISHED frame."""

    RETURNED = 1  # payload: the result
    RAISED = 2  # JSON {"type", "message", "traceback"}; payload: the exception
    UNPICKLABLE = 3  # JSON {"message", "traceback"}: function, arguments, result or exception
    VERDICT = 4  # JSON {"error", "message", ...}: the supervisor's answer for a job that gave none of its own


class WireError(Exception):
    """The bytes do not follow the description above; the connection cannot be read any further."""


RawFrame = tuple[int, bytes, bool]
"""A frame as it arrived: its kind, all of its bytes, whether a descriptor belongs to it. The body begins at BODY.

A plain tuple, and one copy of the bytes: a NamedTuple with a second copy cost 0.5 us for each of a job's four frames.
"""


def frame(kind: Frame, body: bytes, *, descriptors: int = 0) -> bytes:
    """Return a whole frame."""
    return HEADER.pack(HEADER.size + len(body), kind, descriptors, 0) + body


def json_frame(kind: Frame, value: Any, *, prefix: bytes = b"", descriptors: int = 0) -> bytes:
    """Return a frame whose body is `prefix` and JSON."""
    return frame(kind, prefix + json.dumps(value).encode(), descriptors=descriptors)


def parse_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`; raise WireError for anything else."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WireError(f"expected JSON: {error}") from None
    if not isinstance(value, dict):
        raise WireError(f"expected a JSON object, not {type(value).__name__}")
    return value


class FrameReader:
    """Cuts a byte stream into frames. A partial frame waits for its rest; nonsense raises WireError."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    @property
    def has_part(self) -> bool:
        """Whether the beginning of a frame has arrived, and not its end."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[RawFrame]:
        """Yield the frames that are complete with `data`. Consume the iterator before feeding again."""
        buffer = self._buffer + data if self._buffer else data
        position, end = 0, len(buffer)
        unpack = HEADER.unpack_from
        while end - position >= 8:
            length, kind, descriptors, zero = unpack(buffer, position)
            if not 8 <= length <= MAX_FRAME_BYTES or zero or descriptors > 1:
                raise WireError(f"a frame of kind {kind} claims {length} bytes and {descriptors} descriptors")
            stop = position + length
            if stop > end:
                break
            yield kind, buffer[position:stop], descriptors == 1
            position = stop
        self._buffer = buffer[position:]


def finished_frame(
    job_id: bytes,
    outcome: Outcome,
    reason: int,
    attempt: int,
    seconds: float,
    details: dict[str, Any] | None = None,
    payload: bytes = b"",
    *,
    descriptors: int = 0,
    rss_bytes: int = 0,
) -> bytes:
    """Return a FINISHED frame; `rss_bytes` is the worker's resident memory after the job, 0 where it was not measured."""
    text = json.dumps(details).encode() if details is not None else b""
    head = FINISHED.pack(job_id, outcome, reason, attempt, seconds, rss_bytes, len(text))
    return frame(Frame.FINISHED, head + text + payload, descriptors=descriptors)


def failure_frame(
    job_id: bytes,
    error: str,
    message: str,
    *,
    reason: int = 0,
    attempt: int = 0,
    details: dict[str, Any] | None = None,
) -> bytes:
    """Return the FINISHED frame of a job that gave no answer of its own.

    `error` names the exception that the client raises, `details` are the attributes of that exception.
    """
    values = {"error": error, "message": message, **(details or {})}
    return finished_frame(job_id, Outcome.VERDICT, reason, attempt, 0.0, values)


class Finished(NamedTuple):
    """The contents of a FINISHED frame; `details` is undecoded JSON, empty where there is none."""

    job_id: bytes
    outcome: int
    reason: int
    attempt: int
    seconds: float
    rss_bytes: int
    details: bytes


def without_payload(raw: bytes, why: str) -> bytes:
    """Return a FINISHED frame whose payload is lost as one that says why; raise WireError if the frame makes no sense."""
    job_id, outcome, reason, attempt, seconds, rss_bytes, details = parse_finished(raw)
    values = parse_json(details) if details else {}
    if outcome == Outcome.RETURNED:
        outcome, reason = int(Outcome.UNPICKLABLE), int(Reason.PAYLOAD)
        values |= {"message": f"the result was lost: {why}", "traceback": ""}
    else:
        values["unpicklable"] = why
    text = json.dumps(values).encode()
    head = FINISHED_FRAME.size + len(text), Frame.FINISHED, False, 0, job_id
    return FINISHED_FRAME.pack(*head, outcome, reason, attempt, seconds, rss_bytes, len(text)) + text


def verdict_of(raw: bytes) -> str | None:
    """Return the error that the supervisor itself tells in a FINISHED frame, None if a worker has told how the job ended."""
    finished = parse_finished(raw)
    return str(parse_json(finished.details)["error"]) if finished.outcome == Outcome.VERDICT else None


def parse_finished(raw: bytes) -> Finished:
    """Return the contents of a FINISHED frame, except the payload; raise WireError unless all is as described above.

    The JSON of a failure is checked for everything that a job's handle will look for in it: a job can forge these bytes.
    """
    try:
        job_id, outcome, reason, attempt, seconds, rss_bytes, length = FINISHED.unpack_from(raw, BODY)
    except struct.error:
        raise WireError("a FINISHED frame is too short") from None
    stop = FINISHED_FRAME.size + length
    if stop > len(raw):
        raise WireError("a FINISHED frame is shorter than it says")
    if not 0.0 <= seconds < NEVER:
        raise WireError("a FINISHED frame of a job that ran for an impossible time")
    details = raw[FINISHED_FRAME.size : stop]
    if outcome != Outcome.RETURNED:
        required = _REQUIRED.get(outcome)
        if required is None:
            raise WireError(f"a FINISHED frame with an unknown outcome: {outcome}")
        values = parse_json(details)
        if not all(isinstance(values.get(name), str) for name in required):
            raise WireError(f"a FINISHED frame that does not say all of {', '.join(required)}")
    return Finished(job_id, outcome, reason, attempt, seconds, rss_bytes, details)


def finished_payload(raw: bytes) -> bytes:
    """Return the inline part of the payload in a FINISHED frame that was parsed before."""
    return raw[FINISHED_FRAME.size + FINISHED_FRAME.unpack_from(raw)[-1] :]


_REQUIRED: Final = {
    int(Outcome.RAISED): ("type", "message", "traceback"),
    int(Outcome.UNPICKLABLE): ("message", "traceback"),
    int(Outcome.VERDICT): ("error", "message"),
}


def limit_text(text: str, max_bytes: int) -> str:
    """Return `text` cut to at most `max_bytes` in UTF-8: a quarter from its beginning, the rest from its end."""
    data = text.encode(errors="replace")
    if len(data) <= max_bytes:
        return data.decode(errors="replace")
    head, tail = max_bytes // 4, max_bytes - max_bytes // 4 - 32
    cut = len(data) - head - tail
    return f"{data[:head].decode(errors='ignore')}\n... {cut} bytes ...\n{data[-tail:].decode(errors='ignore')}"
