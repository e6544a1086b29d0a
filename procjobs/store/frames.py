"""Answers that no worker gave: FINISHED frames that the store makes itself."""

from __future__ import annotations

from procjobs.shared.ids import to_text
from procjobs.shared.wire import HEADER, failure_frame


def forgotten_frame(job_id: bytes) -> bytes:
    """Return the answer about a job whose result was kept for `result_ttl`, and is not any more."""
    return failure_frame(job_id, "UnknownJob", f"the result of job {to_text(job_id)} is not kept any longer (result_ttl)")


def has_data(frame: bytes) -> bool:
    """Return whether a descriptor belongs to a FINISHED frame."""
    return bool(HEADER.unpack_from(frame)[2])
