"""The timetable of a pool: which runs are to be made now. Pure: it is told the time, and reads no clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Final

from procjobs.schedules.decisions import Cancel, Decision, Drop, Run, View
from procjobs.schedules.entry import Entry
from procjobs.schedules.schedule import Schedule

__all__ = ["Cancel", "Decision", "Drop", "Run", "Timetable", "View"]

_MAX_STALE: Final = 64


class Timetable:
    """Schedules by name, and what is to be done about them. All times are Unix times in microseconds.

    1. A period is run at most once, also when the clock is set back: the last 4096 runs of each schedule are remembered.
    2. Except with overlap="allow", a period is started only when nothing of its schedule runs.
    3. Every period after the cursor given to `put` is run, dropped with a Drop, or still after the cursor. Not so periods
       that pass while the schedule is paused.
    4. No call takes long, however many periods have passed.

    The caller makes jobs for the runs, and tells of their ends. A Run or Drop moves the cursor of its schedule.
    """

    def __init__(self, new_id: Callable[[], bytes]) -> None:
        self._new_id = new_id
        self._entries: dict[str, Entry] = {}
        self._dues: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []  # with dues that are not valid any more
        self._new: set[str] = set()  # not yet compared with the clock
        self._now: int | None = None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def names(self) -> list[str]:
        """Return the names of all schedules, in the order in which they were put first."""
        return list(self._entries)

    def put(
        self,
        schedule: Schedule,
        *,
        cursor: int,
        is_paused: bool = False,
        running: Iterable[bytes] = (),
        ended_at: int | None = None,
        skipped: int = 0,
        missed: int = 0,
    ) -> None:
        """Add a schedule, or replace the one of this name. Periods up to `cursor` count as decided.

        Runs that are going on stay known, and so are the periods that were run. Where the rule is the same, all else
        stays too: the cursor, what waits, the counts; but a schedule that is not paused any more goes on from `cursor`.
        """
        old = self._entries.get(schedule.name)
        if old is None:
            entry = self._entries[schedule.name] = Entry(schedule, cursor, self._new_id)
            entry.ended_at, entry.skipped, entry.missed = ended_at, skipped, missed
        else:
            entry = old
            if old.schedule.rule != schedule.rule or (old.is_paused and not is_paused):
                entry.go_to(cursor)
            if is_paused:
                entry.go_to(entry.cursor)
            entry.schedule = schedule
        entry.is_paused = is_paused
        entry.running.update(dict.fromkeys(running, False) | entry.running)
        self._new.add(schedule.name)
        self._reschedule(schedule.name)

    def remove(self, name: str) -> None:
        """Forget a schedule; KeyError if there is none of this name."""
        del self._entries[name]
        self._dues.pop(name, None)
        self._new.discard(name)

    def pause(self, name: str, now: int) -> None:
        """Let periods pass, from now on, without a run; what waits is forgotten. KeyError for an unknown name."""
        entry = self._entries[name]
        entry.is_paused = True
        entry.go_to(entry.cursor)
        self._reschedule(name)

    def resume(self, name: str, now: int) -> None:
        """Go on with the periods after now; nothing happens to one that is not paused. KeyError for an unknown name."""
        entry = self._entries[name]
        if entry.is_paused:
            entry.is_paused = False
            entry.go_to(now)
            self._reschedule(name)

    def run_now(self, name: str, now: int) -> Run:
        """Return a run off the grid, whatever runs, also where the schedule is paused. KeyError for an unknown name."""
        run = self._entries[name].run_now(now)
        self._reschedule(name)
        return run

    def ended(self, name: str, run_id: bytes, now: int) -> None:
        """Note that the job of a run has ended, or was not made after all. What is not known is ignored."""
        entry = self._entries.get(name)
        if entry is not None:
            entry.end(run_id, now)
            self._reschedule(name)

    def advance(self, now: int) -> list[Decision]:
        """Return what is to be done now, in the order of the due times. It is cheap when nothing is due."""
        self._follow_clock(now)
        if not self._heap or self._heap[0][0] > now:
            return []
        turned = {}
        while self._heap and self._heap[0][0] <= now:
            due, name = heapq.heappop(self._heap)
            if self._dues.get(name) == due:
                turned[name] = self._entries[name]
        decided: list[tuple[int, Decision]] = []
        for name, entry in turned.items():
            entry.turn(now)
            decided += entry.decided
            entry.decided.clear()
            self._reschedule(name)
        decided.sort(key=lambda pair: pair[0])
        return [decision for _, decision in decided]

    def next_due(self) -> int | None:
        """Return the moment of the next decision, which may have passed; None if there is none."""
        while self._heap and self._dues.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def upcoming(self, name: str, now: int, count: int) -> list[int]:
        """Return when the next runs are due, at most `count`, as if none overlapped. KeyError for an unknown name."""
        entry = self._entries[name]
        found: list[int] = []
        newest = entry.newest_due(now)
        period = entry.next_after(entry.horizon if newest is None else newest)
        while period is not None and len(found) < count:
            if not entry.was_run(period):
                found.append(entry.schedule.due_at(period))
            period = entry.schedule.rule.next_after(period)
        return found

    def view(self, name: str) -> View:
        """Return the state of a schedule. KeyError for an unknown name."""
        entry = self._entries[name]
        return View(
            schedule=entry.schedule,
            cursor=entry.cursor,
            is_paused=entry.is_paused,
            running=tuple(entry.running),
            waiting_period=entry.first_pending(),
            next_due=entry.next_due,
            ended_at=entry.ended_at,
            skipped=entry.skipped,
            missed=entry.missed,
        )

    def _follow_clock(self, now: int) -> None:
        """Note the time; where it was set back, or a cursor of a store is in the future, the cursors follow."""
        names = self._entries if self._now is not None and now < self._now else self._new
        for name in names:
            self._entries[name].set_back(now)
            self._reschedule(name)
        self._new.clear()
        self._now = now

    def _reschedule(self, name: str) -> None:
        due = self._entries[name].next_due
        if due is None:
            self._dues.pop(name, None)
        elif self._dues.get(name) != due:
            self._dues[name] = due
            heapq.heappush(self._heap, (due, name))
        if len(self._heap) > 2 * len(self._entries) + _MAX_STALE:
            self._heap = [(due, name) for name, due in self._dues.items()]
            heapq.heapify(self._heap)
