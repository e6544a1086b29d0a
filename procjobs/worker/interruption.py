"""How a running job is interrupted: at its soft timeout, and when the supervisor stops it.

1. An interruption is an exception that the handler of SOFT_SIGNAL raises in the main thread, in the job's own code only.
   While the call is unpickled, and in wrappers around the job, it waits: a module whose import it cut short would stay so.
2. An order to stop is for one attempt of one job, and is read from the shared table. A signal that comes late finds
   another job there, or none, and does nothing.
3. A job that swallows the order and returns is interrupted again at its end, so that wrappers around it see that it has
   not succeeded: a transaction is rolled back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from _thread import get_ident
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER, monotonic
from procjobs.errors import JobCancelled, JobError, JobStalled, JobTimeout
from procjobs.host import process
from procjobs.shared.table.layout import Order
from procjobs.shared.table.progress_writer import ProgressWriter
from procjobs.worker.context import current_job
from procjobs.worker.exceptions import OWN_FILES, format_traceback

if TYPE_CHECKING:
    from procjobs.worker.awaiting import AwaitedJob

INTERRUPTIONS: Final = (JobTimeout, JobCancelled, JobStalled)
_REASONS: Final[dict[Order, tuple[type[JobError], str]]] = {
    Order.CANCEL: (JobCancelled, "was cancelled while it ran"),
    Order.TIMEOUT: (JobTimeout, "ran longer than its timeout"),
    Order.STALL: (JobStalled, "neither reported progress nor used any CPU time for its stall_timeout"),
    Order.STOP: (JobCancelled, "is stopped while it runs: its pool ends"),
}

OWN_FILES.add(__file__)


class Interruptions:
    """The interruptions of the jobs of one worker.

    `is_open` while the job's own code runs. `has_word` says that a signal came while it did not. `order` is the exception
    by which the job was stopped that runs, or has just ended, and `ordered_at` when that was.
    `soft_at` is the earliest time at which its soft timeout can come: a signal before it was meant for another job.
    """

    __slots__ = (
        "_awaited", "_pid", "_slot", "_thread", "_writer", "has_word", "is_open", "order", "ordered_at", "soft_at"
    )  # fmt: skip

    def __init__(self, writer: ProgressWriter, slot: int) -> None:
        self._writer = writer
        self._slot = slot
        self._pid = os.getpid()
        self._thread = get_ident()
        self.is_open = self.has_word = False
        self.order: JobError | None = None
        self.ordered_at = 0.0
        self._awaited: AwaitedJob | None = None
        self.soft_at = NEVER
        signal.signal(process.SOFT_SIGNAL, self._on_signal)

    def is_stopping(self) -> bool:
        """Return whether the supervisor wants the job to end that runs."""
        return self._writer.read_order(self._slot) is not Order.NONE

    @contextlib.contextmanager
    def given_to(self, job: AwaitedJob) -> Iterator[None]:
        """Give the interruptions that come to a coroutine: it knows where it may be interrupted."""
        self._awaited = job
        try:
            yield
        finally:
            self._awaited = None

    @contextlib.contextmanager
    def postponed(self) -> Iterator[None]:
        """Let no interruption come before the end of a block of the job's thread; one that was due comes after it."""
        if get_ident() != self._thread:
            yield  # signal handlers do not run in other threads
            return
        was_open, self.is_open = self.is_open, False
        try:
            yield
        finally:
            self.is_open = was_open
        if was_open and self.has_word:
            self.has_word = False
            signal.raise_signal(process.SOFT_SIGNAL)

    def raise_postponed(self) -> None:
        """Raise the interruption that has come before the job's own code began, if it is for this job."""
        self.has_word = False
        error = self._next()
        if error is not None:
            raise error

    def print_unless_own(self, error: BaseException) -> None:
        """Print the traceback of the exception with which a job ends that was stopped: nobody else is told of it."""
        if self.order is not None and not isinstance(error, INTERRUPTIONS):
            print(f"a job that was stopped failed in its clean-up: {self.order}", file=sys.stderr)  # noqa: T201 - its output
            print(format_traceback(error), file=sys.stderr)  # noqa: T201

    def forget_order(self, seconds: float) -> float:
        """Forget the order of the job that has ended; return what is left of `seconds` since it came."""
        self.order = None
        return self.ordered_at + seconds - monotonic()

    def _on_signal(self, _number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return
        if not self.is_open:
            self.has_word = True
            return
        error = self._next()
        if error is None:
            return
        if self._awaited is None:
            raise error
        self._awaited.interrupt(error, frame)

    def _next(self) -> JobError | None:
        """Return the interruption that is due in the job and was not raised yet, None if there is none."""
        order = Order.NONE if self.order is not None else self._writer.read_order(self._slot)
        if order is not Order.NONE:
            kind, why = _REASONS[order]
            self.order, self.ordered_at = _describe(kind, why), monotonic()
            self._writer.mark_taken(self._slot)
            return self.order
        if monotonic() >= self.soft_at:
            self.soft_at = NEVER
            return _describe(JobTimeout, "ran longer than its soft_timeout")
        return None


def _describe(kind: type[JobError], why: str) -> JobError:
    job = current_job()
    assert job is not None
    return kind(f"job {job.id} {job.name} {why} (attempt {job.attempt})", job_id=job.id, attempt=job.attempt)
