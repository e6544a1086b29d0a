"""The first frames between two processes, which may be of different releases. Pure. Their form never changes.

    FRAME
    OFFSET SIZE FIELD
    0      4    length of the frame, this header included
    4      1    kind: 1 HELLO, 3 REFUSED, 100 CONTROL
    5      1    number of descriptors that travel with it: 0 or 1
    6      2    zero
    8      ...  body

    HELLO    client -> supervisor   "procjobs", u16 version of all other frames, JSON {"pid", "version", ...}
    REFUSED  supervisor -> client   JSON {"message", "pid", "version", "wire", "served"}; the connection ends after it
    CONTROL  supervisor -> client   JSON, the answer to a HELLO that asks for something

Everything else that a pair of processes says belongs to the version in the HELLO, WIRE_VERSION of this release. A HELLO
with "ask" is not about any of it: it is understood whatever the version is. "ask" is one of these:

    "stop"       the pool is to end, as by `procjobs stop`
    "hand_over"  the supervisor is to end when its running jobs have; the others are for its successor, the process that
                 asks. CONTROL {"state": "busy", "pid", "running": n} says for how many jobs it waits, and {"state": "over"}
                 brings the pool's lock along. If the asking process goes away before that, the pool stays.

A key of the JSON that is not known is ignored. What a release does not understand it refuses.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from procjobs.shared import wire
from procjobs.shared.wire import BODY, Frame, WireError
from procjobs.version import __version__

_VERSION_AT: Final = BODY + len(wire.MAGIC)
_JSON_AT: Final = _VERSION_AT + 2
STOP, HAND_OVER = "stop", "hand_over"
BUSY, OVER = "busy", "over"
STARTED: Final = b"started"
"""The word of a new supervisor to its starter: clients can connect."""


class Hello(NamedTuple):
    """A HELLO: the version of the frames that its sender uses, and everything else that it says."""

    wire_version: int
    values: dict[str, Any]

    @property
    def ask(self) -> str:
        """The thing that the sender asks for; empty for a client."""
        return str(self.values.get("ask") or "")

    @property
    def release(self) -> str:
        """The release of procjobs that the sender runs."""
        return str(self.values.get("version") or "an older release")


def hello_frame(values: dict[str, Any], *, descriptors: int = 0, wire_version: int = wire.WIRE_VERSION) -> bytes:
    """Return a HELLO of this release."""
    head = wire.MAGIC + wire_version.to_bytes(2, "little")
    return wire.json_frame(Frame.HELLO, {**values, "version": __version__}, prefix=head, descriptors=descriptors)


def parse_hello(raw: bytes) -> Hello:
    """Return the contents of a HELLO; raise WireError for anything else."""
    if raw[BODY:_VERSION_AT] != wire.MAGIC or len(raw) < _JSON_AT:
        raise WireError("this is not how procjobs says hello")
    return Hello(int.from_bytes(raw[_VERSION_AT:_JSON_AT], "little"), wire.parse_json(raw[_JSON_AT:]))


def describe_versions(pool: str, supervisor: dict[str, Any], client_release: str, client_wire: int) -> str:
    """Return why a client and a supervisor of different wire versions do not work together, and what to do."""
    older = "this process" if client_wire < int(supervisor["wire"]) else "the pool"
    remedy = (
        "restart this process with the newer release"
        if older == "this process"
        else f"stop the pool with `procjobs stop {pool}`, and the next client starts it anew"
    )
    return (
        f"pool {pool!r} is run by procjobs {supervisor['version']} (pid {supervisor['pid']}), this process has procjobs "
        f"{client_release}, whose protocol differs ({supervisor['wire']}, {client_wire}): {remedy}"
    )
