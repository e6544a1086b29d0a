"""What the timetable decides, and what it shows. All times are Unix times in microseconds."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from procjobs.schedules.schedule import Schedule


class Run(NamedTuple):
    """Make a job for this period. `late` is how long after its due time this is decided. The cursor is now `period`.

    Not for a run off the grid (`Timetable.run_now`), which leaves the cursor where it is.
    """

    name: str
    period: int
    run_id: bytes
    late: int


class Cancel(NamedTuple):
    """Cancel these runs: a newer period is to start when they have ended (`overlap="replace"`)."""

    name: str
    run_ids: tuple[bytes, ...]


class Drop(NamedTuple):
    """The last `count` periods up to this one are not run. `why` is "skipped" or "missed". The cursor is now `period`.

    "skipped": a run was still going on. "missed": nobody could start them in time. Of cron lines at most 100 are counted.
    """

    name: str
    period: int
    count: int  # type: ignore[assignment]  # hides the method of tuples, which nobody needs here
    why: str


Decision: TypeAlias = Run | Cancel | Drop


class View(NamedTuple):
    """The state of one schedule. Every period up to `cursor` is decided; `waiting_period` waits for the end of a run."""

    schedule: Schedule
    cursor: int
    is_paused: bool
    running: tuple[bytes, ...]
    waiting_period: int | None
    next_due: int | None
    ended_at: int | None
    skipped: int
    missed: int
