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
    from procjobs.supervisor.job import SupervisedJob
    from procjobs.supervisor.log import Log

MAX_LINES: Final = 20
"""The most failures that are logged in one period."""
_PERIOD: Final = 1.0
_MAX_TRACEBACK_BYTES: Final = 8 * 1024
_MAX_MESSAGE_BYTES: Final = 4096


class FailureLog:
    """Writes a line for each job that failed, expired or was cancelled, up to a number in each second."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._ends_at = 0.0
        self._written = 0
        self._skipped = 0

    def write(self, job: SupervisedJob, reason: Reason, frame: bytes, error: str, now: float) -> None:
        """Write the line of a job that has just ended, or count it; `frame` is its answer, `error` one line of text."""
        if now >= self._ends_at:
            self.advance(now)
            self._ends_at, self._written = now + _PERIOD, 0
        if self._written >= MAX_LINES:
            self._skipped += 1
            return
        self._written += 1
        text = _describe(job, reason, frame, error)
        if reason is Reason.CANCELLED:  # somebody wanted it
            self._log.write(text)
        else:
            self._log.write_warning(text)

    def next_deadline(self) -> float:
        """Return when the number of skipped lines is to be written."""
        return self._ends_at if self._skipped else NEVER

    def advance(self, now: float) -> None:
        """Write how many lines were skipped, if their second is over."""
        if self._skipped and now >= self._ends_at:
            self.close()

    def close(self) -> None:
        """Write how many lines were skipped."""
        if self._skipped:
            count, self._skipped = self._skipped, 0
            jobs = "1 more job" if count == 1 else f"{count} more jobs"
            self._log.write_warning(f"{jobs} ended in that second without success; only the first {MAX_LINES} are logged")


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
