"""From a submission to its frame: here, and only here, a client pickles calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from procjobs.client.connection.interruptible import came_from_outside
from procjobs.errors import PayloadError
from procjobs.host import payload
from procjobs.shared.wire import F64, SUBMIT_FRAME, Frame

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from procjobs.client.connection.submission import Submission

_SUBMIT: Final = int(Frame.SUBMIT)
_SUBMIT_UNIQUE: Final = int(Frame.SUBMIT_UNIQUE)


def pack(submission: Submission, directory: str, by_value: AbstractSet[str]) -> None:
    """Give a submission its frame and its file, if its payload is large; raise PayloadError if it cannot be pickled."""
    handle, kind, terms, call = submission.handle, submission.kind, submission.terms, submission.call
    payload_call = call if kind.carries_function else call[1:]
    try:
        rest, file = payload.dump(payload_call, directory, call[1], by_value, lends_handles=True)
    except Exception as error:
        if came_from_outside(error):
            raise
        raise PayloadError(payload.explain(payload_call, handle.name, error, by_value)) from error
    key, meta, frame_kind = terms.key, terms.meta, _SUBMIT
    if meta:
        rest = meta + rest
    if key:
        rest = key + rest
        if terms.unique is not None:
            frame_kind, rest = _SUBMIT_UNIQUE, F64.pack(terms.unique) + rest
    length = SUBMIT_FRAME.size + len(rest)
    submission.frame = SUBMIT_FRAME.pack(
        length, frame_kind, file is not None, 0, handle.raw_id, kind.number, submission.delay, terms.expires,
        len(meta), len(key),
    ) + rest  # fmt: skip
    submission.file, submission.went = file, []
