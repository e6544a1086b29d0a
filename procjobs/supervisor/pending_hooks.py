"""The calls of hooks that are still to be made: one for each hook and each job that ended otherwise than well.

A call that fails is made again after a pause that doubles, up to five times in all. The calls are bounded: jobs that fail
while so many wait are told in the log alone. Where the pool has a store, this keeps each job until its calls were made
(procjobs.store.hook_marks): jobs that find no room here come from there later, and so do those of earlier supervisors.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, Final

from procjobs.clock import NEVER, wall
from procjobs.shared.hook_names import show_hook
from procjobs.shared.ids import to_text
from procjobs.shared.job_keys import key_text
from procjobs.shared.meta import unpack_meta
from procjobs.shared.scheduled import name_of, seconds_of
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

    def __init__(self, hooks: tuple[str, ...], log: Log, *, are_stored: bool = False) -> None:
        """`are_stored`: a store keeps the jobs whose calls were not made."""
        self._hooks = hooks
        self._log = log
        self._heap: list[tuple[float, int, HookCall]] = []
        self._number = 0
        self._under_way = 0
        self._dropped = 0
        self._calls: dict[str, int] = {}  # the calls of each job that are not made yet
        self._settled: list[str] = []
        self._are_stored = are_stored
        self._has_read_all = not are_stored
        self._has_more = False  # in the store, as far as is known

    @property
    def are_wanted(self) -> bool:
        """Whether the pool has any hook."""
        return bool(self._hooks)

    @property
    def is_empty(self) -> bool:
        """Whether every call that is here was made, or given up."""
        return not self._heap and not self._under_way

    @property
    def are_called(self) -> bool:
        """Whether this is so, and the store is not known to have more of them."""
        return self.is_empty and not self._has_more

    @property
    def wants_stored(self) -> bool:
        """Whether jobs that the store has should come now."""
        return not self._has_read_all and self.is_empty

    def tell_of(self, reason: Reason) -> bool:
        """Return whether the hooks are called with a job that has ended with this reason."""
        return bool(self._hooks) and reason not in _NOT_TOLD

    def add(self, job: SupervisedJob, reason: Reason, frame: bytes, error: str, table: TableWriter) -> None:
        """Have the hooks called with the record of a job that has just ended, unless there is nothing to tell."""
        if not self.tell_of(reason) or (self._are_stored and reason is Reason.STOPPED):
            return  # a store runs a job that was stopped once more, or has another end of it
        if len(self._heap) >= MAX_CALLS:
            self._drop()
        elif to_text(job.id) not in self._calls:
            self._add(_record(job, reason, frame, error, table))

    def add_stored(self, records: list[dict[str, Any]], *, has_more: bool) -> None:
        """Have the hooks called with jobs that the store has kept; whether it `has_more` of them."""
        self._has_read_all, self._has_more = not has_more, has_more
        for record in records:
            if record["id"] not in self._calls:
                self._add(record)

    def take_settled(self) -> list[str]:
        """Return the ids of jobs with which every hook was called, or given up, for the store to drop their marks."""
        settled, self._settled = self._settled, []
        return settled

    def _drop(self) -> None:
        """Leave a job to the store, or to the log."""
        if self._are_stored:
            self._has_read_all, self._has_more = False, True
        else:
            if not self._dropped:
                text = f"{MAX_CALLS} calls of hooks (on_failure) wait: the next jobs that fail are told here alone"
                self._log.write_warning(text)
            self._dropped += 1

    def _add(self, record: dict[str, Any]) -> None:
        self._calls[record["id"]] = len(self._hooks)
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

    def done(self, call: HookCall) -> None:
        """Note that a call was made."""
        self._under_way -= 1
        self._settle(call)
        if self._dropped and not self._heap:
            jobs = "1 job" if self._dropped == 1 else f"{self._dropped} jobs"
            self._log.write_warning(f"hooks (on_failure) were not called for {jobs}, since too many calls waited")
            self._dropped = 0

    def _settle(self, call: HookCall) -> None:
        job_id = call.record["id"]
        self._calls[job_id] -= 1
        if not self._calls[job_id]:
            del self._calls[job_id]
            if self._are_stored:
                self._settled.append(job_id)

    def fail(self, call: HookCall, problem: str, now: float) -> None:
        """Note that a call failed: it is made again after a pause, or given up."""
        self._under_way -= 1
        call.tries += 1
        text = limit_text(problem, _MAX_PROBLEM_BYTES)
        who = f"the hook {show_hook(call.hook)} for job {call.record['id']} {call.record['name']}"
        if call.tries >= MAX_TRIES:
            self._log.write_warning(f"{who} has failed {MAX_TRIES} times and is given up: {text}")
            self._settle(call)
            return
        pause = _FIRST_PAUSE * 2.0 ** (call.tries - 1)
        self._push(now + pause, call)
        self._log.write_warning(f"{who} has failed, and is called again in {pause:g} s: {text}")

    def close(self) -> None:
        """Say in the log how many calls are not made any more."""
        if self._heap:
            then = "left to its next start" if self._are_stored else "not made"
            self._log.write_warning(f"the pool ends, and {len(self._heap)} calls of hooks (on_failure) are {then}")


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
        "schedule": name_of(job.extras.schedule), "scheduled_for": seconds_of(job.extras.scheduled_for),
        "queue": job.kind.options.queue, "key": key_text(job.key),
    }  # fmt: skip
