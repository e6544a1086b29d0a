"""What users see of a pool's schedules."""

from __future__ import annotations

from typing import Any, NamedTuple

from procjobs.shared.moments import iso


class ScheduleInfo(NamedTuple):
    """A schedule of a pool. Times are Unix times in seconds, None for events that have not happened.

    `call` is the name of the function. `rule` is cron, every, after or at; `expression` what was written, `tz` the zone of
    its times, `text` the same in words. `next_at` are the next runs, jitter included; empty while it is paused or when no
    run follows. Of the last run: `last_at` is the time that it was for, `last_late` how many seconds after it (and its
    jitter) the job was made, `last_job_id`, `last_state` and `last_error` are the job's. `running` are the jobs that
    have not ended. `skipped` counts the periods that `overlap` has left out, `missed` those that passed while nobody could
    start them, or that were too late. `is_declared`: the code of an application has it, or a settings file.
    """

    name: str
    call: str
    rule: str
    expression: str
    tz: str | None
    text: str
    catch_up: str
    overlap: str
    jitter: float
    expires: float | None
    is_declared: bool
    is_paused: bool
    next_at: tuple[float, ...]
    last_at: float | None
    last_late: float | None
    last_job_id: str | None
    last_state: str | None
    last_error: str | None
    running: tuple[str, ...]
    skipped: int
    missed: int

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON: the fields, times as ISO 8601 text in UTC."""
        return {**self._asdict(), "next_at": [iso(moment) for moment in self.next_at], "last_at": iso(self.last_at),
                "running": list(self.running)}  # fmt: skip


def info_from_json(values: dict[str, Any]) -> ScheduleInfo:
    """Return the record that a supervisor has sent."""
    return ScheduleInfo(**{**values, "next_at": tuple(values["next_at"]), "running": tuple(values["running"])})
