"""What is kept of a schedule beside its times, and how it is described to clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from procjobs.shared.ids import from_text, to_text
from procjobs.shared.moments import MICROS

if TYPE_CHECKING:
    from procjobs.schedules.decisions import View
    from procjobs.supervisor.durable.durability import Told
    from procjobs.supervisor.job import SupervisedJob
    from procjobs.supervisor.schedules.kept_calls import ScheduleCall

_NO_JOB: Final = b""


class LastRun(NamedTuple):
    """The last run of a schedule: its job, the period, how late (microseconds) the job was made, and how it ended.

    `late` is negative where it is not known; `state` is that of the job as last heard.
    """

    job_id: bytes = _NO_JOB
    period: int = 0
    late: int = 0
    state: str = ""
    error: str = ""

    @classmethod
    def from_store(cls, told: Told) -> LastRun:
        """Return the last run as the store has it; it does not know how late it was."""
        if not told["last_job"]:
            return cls()
        return cls(
            from_text(told["last_job"]), int(told["last_period"]), -1, told["last_state"] or "", told["last_error"] or ""
        )


class Entry:
    """A schedule as the supervisor keeps it; the timetable has its times. `call` is None where the store has it."""

    __slots__ = ("call", "call_name", "is_declared", "last")

    def __init__(self, call_name: str, call: ScheduleCall | None, *, is_declared: bool, last: LastRun) -> None:
        self.call_name = call_name
        self.call = call
        self.is_declared = is_declared
        self.last = last

    def to_json(self, view: View) -> dict[str, Any]:
        """Return all that is known of the schedule but its call, in the words in which a store tells it."""
        last = self.last
        return {
            "schedule": view.schedule.to_json(), "is_declared": self.is_declared, "cursor": view.cursor,
            "is_paused": view.is_paused, "skipped": view.skipped, "missed": view.missed, "ended_at": view.ended_at,
            "running": [to_text(job_id) for job_id in view.running], "last_period": last.period,
            "last_job": to_text(last.job_id) if last.job_id else None, "last_state": last.state, "last_error": last.error,
            "meta": "" if self.call is None else self.call.meta.decode(),
        }  # fmt: skip


def describe(
    entry: Entry, view: View, moments: Sequence[int], job: SupervisedJob | None, running: list[str]
) -> dict[str, Any]:
    """Return the fields of a ScheduleInfo. `job` is that of the last run, None if it is not known any more."""
    schedule, last = view.schedule, entry.last
    rule = schedule.rule
    values = rule.to_json()  # the first field is named after the kind of rule
    return {
        "name": schedule.name, "call": entry.call_name, "rule": next(iter(values)), "expression": rule.expression(),
        "tz": values.get("tz"), "text": rule.explain(), "catch_up": schedule.catch_up or "last", "overlap": schedule.overlap,
        "jitter": schedule.jitter, "expires": schedule.expires, "is_declared": entry.is_declared,
        "is_paused": view.is_paused, "next_at": [moment / MICROS for moment in moments],
        "last_at": last.period / MICROS if last.job_id else None,
        "last_late": last.late / MICROS if last.job_id and last.late >= 0 else None,
        "last_job_id": to_text(last.job_id) if last.job_id else None,
        "last_state": (job.state.text if job is not None else last.state) or None, "last_error": last.error or None,
        "running": running, "skipped": view.skipped, "missed": view.missed,
    }  # fmt: skip
