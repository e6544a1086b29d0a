"""The documents of jobs that end users' pages read, made of `JobStatus`. Pure."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from procjobs.web.moments import iso
from procjobs.web.text import MAX_ERROR, MAX_MESSAGE, clean, clean_lines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from procjobs import JobStatus, Progress

POLL_RUNNING: Final = 0.5
POLL_QUEUED: Final = 2.0
POLL_SCHEDULED: Final = 5.0
_LONG_QUEUED: Final = 10.0
_MARK_BYTES: Final = 6


def job_document(job_id: str, status: JobStatus | None, error: str | None = None) -> dict[str, Any]:
    """Return what a page may know of a job; of one that is not known, its id and the state "unknown".

    `job_id` is the id as the page gave it. Nothing in it says what the job does: no name of a function, no data, no
    traceback. `error` is there for jobs that have failed, and for ids that are refused.
    """
    if status is None:
        refusal = {} if error is None else {"error": error}
        return {"id": job_id, "state": "unknown", **refusal}
    document = {
        "id": job_id,
        "state": status.state,
        "reason": status.reason,
        "done": status.done,
        "attempt": status.attempt,
        "submitted_at": iso(status.submitted_at),
        "started_at": iso(status.started_at),
        "finished_at": iso(status.finished_at),
        "progress": None if status.progress is None else progress_document(status.progress),
    }
    return document if status.error is None else {**document, "error": clean_lines(status.error, MAX_ERROR)}


def progress_document(progress: Progress) -> dict[str, Any]:
    """Return the last report of a job; numbers that JSON does not have are None."""
    message = progress.message
    return {
        "value": _finite(progress.value),
        "total": _finite(progress.total),
        "fraction": _finite(progress.fraction),
        "message": None if message is None else clean(message, MAX_MESSAGE),
        "eta": _finite(progress.eta()),
        "updated_at": iso(progress.updated_at),
    }


def mark(status: JobStatus | None) -> str:
    """Return a short text that differs whenever a document would say something else.

    The change count of a job alone will not do: a successor of its supervisor counts anew. Whether the remaining time can
    be told belongs to it as well: that changes when a job falls silent.
    """
    if status is None:
        return "unknown"
    progress = status.progress
    last = None if progress is None else (progress.updated_at, progress.value, progress.eta() is None)
    facts = (status.version, status.state, status.attempt, status.started_at, status.finished_at, last)
    return blake2b(repr(facts).encode(), digest_size=_MARK_BYTES).hexdigest()


def poll_after(statuses: Iterable[JobStatus | None], now: float) -> float:
    """Return after how many seconds a page that polls should ask again; `now` in Unix time."""
    waits = [_poll_after(status, now) for status in statuses if status is not None and not status.done]
    return min(waits, default=POLL_SCHEDULED)


def _poll_after(status: JobStatus, now: float) -> float:
    if status.state == "scheduled":
        return POLL_SCHEDULED
    is_long_queued = status.state == "queued" and now - status.submitted_at > _LONG_QUEUED
    return POLL_QUEUED if is_long_queued else POLL_RUNNING


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) < float("inf") else None
