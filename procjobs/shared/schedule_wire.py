"""The body of a SCHEDULE frame: a call with the times at which a pool is to make a job of it. Pure.

    OFFSET SIZE FIELD
    0      4    number of the request that REPLY answers; 0: it is not answered
    4      12   lengths of the head, the description and the function
    16     ...  head, JSON {"schedule", "is_declared", "key", "meta"}; description and function as in a KIND frame; then the
                inline part of the payload, whose descriptor, if it has one, travels with the frame

A template sends the same body, in base64, for each schedule that a module of the preload declares.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final, NamedTuple

from procjobs.shared.meta import unpack_meta
from procjobs.shared.wire import MAX_FUNCTION_BYTES, MAX_INLINE_BYTES, WireError, parse_json

_LENGTHS: Final = struct.Struct("<IIII")
_MAX_KEY_BYTES: Final = 200


class ScheduleRequest(NamedTuple):
    """A schedule as it travels. `schedule` is the JSON of `procjobs.schedules.schedule.Schedule`.

    `is_declared`: the code of the client has it, and a newer deploy that has it no more takes it out.
    """

    number: int
    schedule: dict[str, Any]
    is_declared: bool
    key: bytes
    meta: bytes
    description: bytes
    function: bytes
    inline: bytes

    def pack(self) -> bytes:
        """Return the body of the frame."""
        values = {"schedule": self.schedule, "is_declared": self.is_declared, "key": self.key.hex(),
                  "meta": self.meta.decode()}  # fmt: skip
        head = json.dumps(values).encode()
        lengths = _LENGTHS.pack(self.number, len(head), len(self.description), len(self.function))
        return b"".join((lengths, head, self.description, self.function, self.inline))


def parse(body: bytes) -> ScheduleRequest:
    """Return what a body says; raise WireError for one that makes no sense. The schedule itself is not checked here."""
    try:
        number, *lengths = _LENGTHS.unpack_from(body)
        parts, position = [], _LENGTHS.size
        for length in lengths:
            parts.append(body[position : position + length])
            position += length
        head, description, function = parts
        values = parse_json(head)
        schedule, meta = values["schedule"], str(values["meta"]).encode()
        key = bytes.fromhex(values["key"])
        unpack_meta(meta)
    except (struct.error, KeyError, TypeError, ValueError) as error:
        raise WireError(f"a SCHEDULE that makes no sense: {error!r}") from None
    inline = body[position:]
    is_too_large = len(inline) > MAX_INLINE_BYTES or len(function) > MAX_FUNCTION_BYTES or len(key) > _MAX_KEY_BYTES
    if position > len(body) or is_too_large or not isinstance(schedule, dict):
        raise WireError("a SCHEDULE that is too short, or too large")
    return ScheduleRequest(number, schedule, bool(values.get("is_declared")), key, meta, description, function, inline)
