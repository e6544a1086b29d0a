"""The calls of hooks that are still to be made: one for each hook and each job that ended otherwise than well.

A call that fails is made again after a pause that doubles, up to five times in all. The calls are bounded: jobs that fail
while so many wait are told in the log alone.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, Final

from procjobs.clock import NEVER, wall
from procjobs.shared.hook_names import show_hook
from procjobs.shared.ids import to_text
from procjobs.shared.meta import unpack_meta
from procjobs.shared.states import Reason
from procjobs.shared.wire import WireError, limit_text, parse_finished
from procjobs.supervisor.attempts import traceback_of

if TYPE_CHECKING:
    from procjobs.shared.table.state_writer import TableWriter
    from procjobs.supervisor.job import SupervisedJob
    from procjobs.supervisor.log import Log

MAX_TRIES: Final = 5
MAX_CALLS: Final = 1000
_FIRST_PAUSE: Final = 1.0
_NOT_TOLD: Final = frozenset({Reason.NONE, Reason.CANCELLED, Reason.REJECTED})
"""Whoever cancelled a job knows it, and so does whoever has submitted one that was not taken."""
_MAX_ERROR_BYTES: Final = 4096
_MAX_PROBLEM_BYTES: Final = 4096


class HookCall:
    """One hook that is to be called with the record of one job."""

    __slots__ = ("hook", "number", "record", "tries")

    def __init__(self, number: int, hook: str, record: dict[str, Any]) -> None:
        self.number = number
        self.hook = hook
        self.record = record
        self.tries = 0


class PendingHooks:
    """The calls that wait, by the time at which they are due."""

    def __init__(self, hooks: tuple[str, ...], log: Log) -> None:
        self._hooks = hooks
        self._log = log
        self._heap: list[tuple[float, int, HookCall]] = []
        self._number = 0
        self._under_way = 0
        self._dropped = 0

    @property
    def are_wanted(self) -> bool:
        """Whether the pool has any hook."""
        return bool(self._hooks)

    @property
    def is_empty(self) -> bool:
        """Whether every call was made, or given up."""
        return not self._heap and not self._under_way

    def add(self, job: SupervisedJob, reason: Reason, frame: bytes, error: str, table: TableWriter) -> None:
        """Have the hooks called with the record of a job that has just ended, unless there is nothing to tell."""
        if not self._hooks or reason in _NOT_TOLD:
            return
        if len(self._heap) >= MAX_CALLS:
            if not self._dropped:
                text = f"{MAX_CALLS} calls of hooks (on_failure) wait: the next jobs that fail are told here alone"
                self._log.write_warning(text)
            self._dropped += 1
            return
        record = _record(job, reason, frame, error, table)
        for hook in self._hooks:
            self._number += 1
            self._push(0.0, HookCall(self._number, hook, record))

    def _push(self, due_at: float, call: HookCall) -> None:
        heapq.heappush(self._heap, (due_at, call.number, call))

    def next_time(self) -> float:
        """Return when the next call is due, infinity if there is none."""
        return self._heap[0][0] if self._heap else NEVER

    def take_due(self, now: float) -> HookCall | None:
        """Return the call that is to be made now, if there is one; `done` or `fail` follows."""
        if not self._heap or self._heap[0][0] > now:
            return None
        self._under_way += 1
        return heapq.heappop(self._heap)[2]

    def done(self, _call: HookCall) -> None:
        """Note that a call was made."""
        self._under_way -= 1
        if self._dropped and not self._heap:
            jobs = "1 job" if self._dropped == 1 else f"{self._dropped} jobs"
            self._log.write_warning(f"hooks (on_failure) were not called for {jobs}, since too many calls waited")
            self._dropped = 0

    def fail(self, call: HookCall, problem: str, now: float) -> None:
        """Note that a call failed: it is made again after a pause, or given up."""
        self._under_way -= 1
        call.tries += 1
        text = limit_text(problem, _MAX_PROBLEM_BYTES)
        who = f"the hook {show_hook(call.hook)} for job {call.record['id']} {call.record['name']}"
        if call.tries >= MAX_TRIES:
            self._log.write_warning(f"{who} has failed {MAX_TRIES} times and is given up: {text}")
            return
        pause = _FIRST_PAUSE * 2.0 ** (call.tries - 1)
        self._push(now + pause, call)
        self._log.write_warning(f"{who} has failed, and is called again in {pause:g} s: {text}")

    def close(self) -> None:
        """Say in the log how many calls are not made any more."""
        if self._heap:
            self._log.write_warning(f"the pool ends, and {len(self._heap)} calls of hooks (on_failure) are not made")


def _record(job: SupervisedJob, reason: Reason, frame: bytes, error: str, table: TableWriter) -> dict[str, Any]:
    """Return the fields of a JobStatus (procjobs.shared.records), as far as they are known here."""
    submitted_at = table.submitted_at(job.row) if job.row else wall()
    started_at = worker_pid = None
    if job.row and job.attempt:
        report = table.last_report(job.row, job.id)
        started_at, worker_pid = report.started_at, report.worker_pid
    try:
        details = traceback_of(job, parse_finished(frame).details)
    except WireError:
        details = None
    return {
        "id": to_text(job.id), "name": job.kind.name.decode(errors="replace"), "state": job.state.text,
        "reason": reason.text, "attempt": job.attempt, "progress": None, "submitted_at": submitted_at,
        "started_at": started_at, "finished_at": wall(), "worker_pid": worker_pid,
        "error": limit_text(error, _MAX_ERROR_BYTES), "meta": unpack_meta(job.extras.meta),
        "retry_of": to_text(job.extras.retry_of) if job.extras.is_retry else None, "error_details": details,
    }  # fmt: skip
