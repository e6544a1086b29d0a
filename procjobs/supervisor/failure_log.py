"""The lines in the pool's log about jobs that ended otherwise than well, whether or not anybody waits for these jobs.

A line has the job's id and name, how and why it ended, the attempt and the message; below it is the traceback. The lines are
bounded: a thousand jobs that fail within a second leave some lines, and one with the number of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER
from procjobs.dispatch.failures import job_name
from procjobs.shared.states import Reason
from procjobs.shared.wire import WireError, limit_text, parse_finished, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from procjobs.supervisor.job import SupervisedJob
    from procjobs.supervisor.log import Log

MAX_LINES: Final = 20
"""The most failures that are logged in one period."""
_PERIOD: Final = 1.0
_MAX_TRACEBACK_BYTES: Final = 8 * 1024
_MAX_MESSAGE_BYTES: Final = 4096


class _Lines:
    """The lines of one sort, and how many of them the present period has left out."""

    def __init__(self, write: Callable[[str], None], how: str) -> None:
        self._write = write
        self._how = how
        self._ends_at = 0.0
        self._written = 0
        self._skipped = 0

    def take(self, now: float) -> bool:
        """Return whether there is room for one more line in this period; if not, count it."""
        if now >= self._ends_at:
            self.close()
            self._ends_at, self._written = now + _PERIOD, 0
        has_room = self._written < MAX_LINES
        self._written += has_room
        self._skipped += not has_room
        return has_room

    def write(self, text: str) -> None:
        """Write a line."""
        self._write(text)

    def next_deadline(self) -> float:
        """Return when the number of skipped lines is to be written."""
        return self._ends_at if self._skipped else NEVER

    def close(self) -> None:
        """Write how many lines were skipped."""
        if self._skipped:
            count, self._skipped = self._skipped, 0
            jobs = "1 more job" if count == 1 else f"{count} more jobs"
            self._write(f"{jobs} ended in that second {self._how}; only the first {MAX_LINES} are logged")


class FailureLog:
    """Writes a line for each job that failed, expired or was cancelled, up to a number in each second.

    Cancelled jobs have a number of their own: somebody wanted their end, and many of them hide no failure.
    """

    def __init__(self, log: Log) -> None:
        self._failed = _Lines(log.write_warning, "without success")
        self._cancelled = _Lines(log.write, "since they were cancelled")

    def write(self, job: SupervisedJob, reason: Reason, frame: bytes, error: str, now: float) -> None:
        """Write the line of a job that has just ended, or count it; `frame` is its answer, `error` one line of text."""
        lines = self._cancelled if reason is Reason.CANCELLED else self._failed
        if lines.take(now):
            lines.write(_describe(job, reason, frame, error))

    def next_deadline(self) -> float:
        """Return when the number of skipped lines is to be written."""
        return min(self._failed.next_deadline(), self._cancelled.next_deadline())

    def advance(self, now: float) -> None:
        """Write how many lines were skipped, if their second is over."""
        for lines in (self._failed, self._cancelled):
            if lines.next_deadline() <= now:
                lines.close()

    def close(self) -> None:
        """Write how many lines were skipped."""
        self._failed.close()
        self._cancelled.close()


def _describe(job: SupervisedJob, reason: Reason, frame: bytes, error: str) -> str:
    who = job_name(job)
    message = limit_text(error.removeprefix(f"{who} "), _MAX_MESSAGE_BYTES)
    trace = _traceback_in(frame)
    return f"{who} {job.state.text} ({reason.text}, attempt {job.attempt}): {message}" + (f"\n{trace}" if trace else "")


def _traceback_in(frame: bytes) -> str:
    """Return the traceback in an answer, empty if it has none."""
    try:
        text = parse_json(parse_finished(frame).details).get("traceback", "")
    except WireError:
        return ""
    return limit_text(str(text).strip(), _MAX_TRACEBACK_BYTES)
