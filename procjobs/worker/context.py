"""The functions for the code of jobs: `progress`, `track`, `current_job`."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

from procjobs.shared.ids import to_text
from procjobs.shared.table.progress_writer import ProgressWriter

T = TypeVar("T")


class JobContext:
    """The job that this process runs.

    `deadline` is the `time.monotonic()` at which it will be stopped, None without a timeout; `attempt` counts from 1.
    """

    __slots__ = ("_id", "_is_stopping", "attempt", "deadline", "name")

    def __init__(
        self, job_id: bytes, name: str, attempt: int, deadline: float | None, is_stopping: Callable[[], bool]
    ) -> None:
        self._id = job_id
        self.name = name
        self.attempt = attempt
        self.deadline = deadline
        self._is_stopping = is_stopping

    @property
    def id(self) -> str:
        """The job's id, the same as `Job.id` where it was submitted."""
        return to_text(self._id)

    @property
    def cancelled(self) -> bool:
        """Whether this job is being stopped: cancelled, timed out, or its pool is ending.

        By default SIGTERM has ended the process before it can ask. A job with a SIGTERM handler of its own sees True here
        and has the grace period to clean up.
        """
        return self._is_stopping()

    def __repr__(self) -> str:
        return f"<JobContext {self.id} {self.name} attempt {self.attempt}>"


_Facts = tuple[bytes, str, int, float | None, Callable[[], bool]]

_facts: _Facts | None = None
"""The fields of a JobContext. It is made on demand, for few jobs ask for it, and to make one costs 0.6 us."""
_current: tuple[_Facts, JobContext] | None = None
_writer: ProgressWriter | None = None


def current_job() -> JobContext | None:
    """Return the job that this process is running, None outside a job. A child process of a job is outside."""
    global _current
    facts, current = _facts, _current
    if facts is None:
        return None
    if current is None or current[0] is not facts:  # a thread of an earlier job may still be in here
        current = _current = facts, JobContext(*facts)
    return current[1]


def progress(value: float, total: float | None = None, message: str | None = None, data: Any = None) -> None:
    """Report how far the job is; any process of the host reads it with `Pool.progress(job_id)`.

    `value` and `total` are in a unit of the job's choice; `message` is text for people; `data` any picklable object (None
    means no data). Never blocks: it writes some 200 bytes of shared memory; a long message or large data go into a file.
    Outside a job it does nothing, so that a function that reports can also be called directly.
    """
    writer = _writer
    if writer is None:
        return
    try:
        if message is None and data is None:
            writer.report(value, total)
        else:
            writer.report_more(value, total, message, None if data is None else _dump(data))
    except struct.error:
        raise TypeError(f"progress({value!r}, total={total!r}): expected numbers") from None


def _dump(data: Any) -> bytes:
    from procjobs.host.payload import dump_inline  # a worker has it already; `import procjobs` goes without cloudpickle

    return dump_inline(data)


def track(iterable: Iterable[T], total: float | None = None, message: str | None = None) -> Iterator[T]:
    """Yield the items, and report after each one how many have been worked on; `total` defaults to `len(iterable)`."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    progress(0, total, message)
    for count, item in enumerate(iterable, 1):
        yield item
        progress(count, total, message)


def enter_job(facts: _Facts, writer: ProgressWriter) -> None:
    """Make this the job of the functions above; the worker calls it."""
    global _facts, _writer
    _facts, _writer = facts, writer


def leave_job() -> None:
    """Say that no job runs."""
    global _facts, _current, _writer
    _facts = _current = _writer = None


# A row has one writer: the process of the worker. Its children must not write there.
os.register_at_fork(after_in_child=leave_job)
