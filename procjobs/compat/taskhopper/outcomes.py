"""How a task has ended, from the end of its job."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any, Final, NamedTuple, TypeAlias

import procjobs
from procjobs.errors import UnknownJob

_STATUS_TIMEOUT: Final = 2.0
_BY_THE_POOL: Final = {"timeout", "stalled", "memory", "crashed", "quarantined"}
"""Reasons with an error of the pool's own, which needs no code of the application to be unpickled."""


class Succeeded(NamedTuple):
    """It returned."""

    result: Any


class Failed(NamedTuple):
    """It raised, or was stopped, or could not be called: a traceback, or a sentence."""

    why: str


class Again(NamedTuple):
    """It was cut off, and is to run again; `is_loss`: because the pool has ended."""

    why: str
    is_loss: bool = False


class Unloadable(NamedTuple):
    """The file of the tasks could not be imported."""

    why: str


Outcome: TypeAlias = Succeeded | Failed | Again | Unloadable


def outcome_of(pool: procjobs.Pool, job: procjobs.Job[str]) -> Outcome:
    """Return the outcome of a job that has ended.

    An exception of the task is not unpickled: its class is one of the application, whose code is not loaded here.
    """
    if not job.has_failed() and not job.cancelled():
        answer = json.loads(job.result())
        if "unloadable" in answer:
            last = answer["unloadable"].strip().rpartition("\n")[2]
            return Unloadable(f"the file of the tasks cannot be imported: {last}")
        return Failed(answer["failed"]) if "failed" in answer else Succeeded(answer["result"])
    status = _final_status(pool, job)
    if status is None:
        return Again("the supervisor of the runner's pool has ended", is_loss=True)
    if status.reason == "raised" and status.error_details:
        return Failed(status.error_details.rstrip())
    parts = [_in_words(job, status)]
    if status.error_details:
        parts.insert(0, status.error_details)  # the stack; a reader of the last line sees why it was stopped
    return Failed("\n".join(part.rstrip() for part in parts))


def _in_words(job: procjobs.Job[str], status: procjobs.JobStatus) -> str:
    """Return how the pool has ended a job; the status has no more than the begin of it."""
    if status.reason in _BY_THE_POOL and not job.cancelled():
        return str(job.exception(0))
    return status.error or f"the task ended as {status.state}"


def _final_status(pool: procjobs.Pool, job: procjobs.Job[str]) -> procjobs.JobStatus | None:
    """Return the final status of a job; None if the supervisor has ended before it."""
    deadline = time.monotonic() + _STATUS_TIMEOUT
    while time.monotonic() < deadline:
        with contextlib.suppress(UnknownJob):
            status = pool.status(job.id)
            if status.done:
                return status
        time.sleep(0.01)
    return None
