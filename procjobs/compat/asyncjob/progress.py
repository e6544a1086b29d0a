"""Progress by uid, as the original tells it.

    (-1, None)     it waits, or runs and has not reported
    (value, data)  its last report, of any type
    None           it has succeeded or failed, its changes in the database are visible or undone; or nobody knows it
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import procjobs
from procjobs import JobContext, OutsideJob, UnknownJob, current_job
from procjobs.compat.asyncjob.current import running

_NOT_REPORTED: Final = (-1, None)

_tracker_of_job: Any = None


class ProgressTrackerProxy:
    """Stands for the tracker in use, which can be replaced at any time."""

    def __init__(self) -> None:
        self._tracker: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)


asyncjobs_progress_status = ProgressTrackerProxy()


def asyncjob_running_uid() -> str:
    """Return the uid of the job that calls this; raise OutsideJob elsewhere."""
    return _running("asyncjob_running_uid").id


def asyncjob_set_progress(value: Any, data: Any = None) -> None:
    """Report how far the job that calls this is; `data` is anything that can be pickled. Raise OutsideJob elsewhere."""
    uid = _running("asyncjob_set_progress").id
    # The number is for the pool's own views; the data come back unchanged, 50 not as 50.0.
    procjobs.progress(value if isinstance(value, int | float) else 0, data=(value, data))
    if _tracker_of_job is not None:
        _tracker_of_job.set_progress(uid, value, data)


def asyncjob_get_progress(entryid: str) -> tuple[Any, Any] | None:
    """Return the progress of a job as above; from any process of the host, with a Redis tracker from any host."""
    found: tuple[Any, Any] | None
    try:
        status = running().pool.status(entryid)
    except UnknownJob:  # another host's, perhaps
        found = asyncjobs_progress_status.get_progress(entryid)
        return found
    if status.done:
        return None
    found = status.progress.data if status.progress is not None else None
    return found if found is not None else _NOT_REPORTED


@contextlib.contextmanager
def tracker_for_job(tracker: Any) -> Iterator[None]:
    """Have the job in this worker report to a tracker, too."""
    global _tracker_of_job
    _tracker_of_job = tracker
    try:
        yield
    finally:
        _tracker_of_job = None


def _running(what: str) -> JobContext:
    job = current_job()
    if job is None:
        raise OutsideJob(f"{what}() is for the code of a job, and none is running in this process")
    return job
