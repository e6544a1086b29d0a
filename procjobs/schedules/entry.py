"""One schedule in the timetable: which of its periods are decided, which wait, and what runs.

The periods of a rule are looked at in their order. Three marks stand between them:

    cursor          every period up to here is decided: it was run or dropped, and this was reported
    pending_until   the periods from the cursor to here are run one after the other, each when nothing runs
    horizon         the periods from there to here came while others were waiting, and are dropped after those

A period that waits is not decided, so the cursor stays before it, and a crash does not lose it. Hence the periods that
come meanwhile cannot be reported at once: the cursor would have to pass the one that waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from procjobs.schedules.decisions import Cancel, Decision, Drop, Run
from procjobs.schedules.rules import After
from procjobs.schedules.schedule import Schedule
from procjobs.schedules.zones import SECOND

GRACE: Final = 5 * SECOND
"""A period that is later than this is one that nobody could start in time."""
MAX_CAUGHT_UP: Final = 100
MAX_REMEMBERED: Final = 4096


class Entry:
    """One schedule and its state. `decided` collects pairs of a due time and a decision, for the timetable."""

    def __init__(self, schedule: Schedule, cursor: int, new_id: Callable[[], bytes]) -> None:
        self.schedule = schedule
        self.cursor = self.pending_until = self.horizon = cursor
        self.is_paused = False
        self.running: dict[bytes, bool] = {}  # whether it was cancelled for a newer period
        self.ended_at: int | None = None
        self.skipped = self.missed = 0
        self.decided: list[tuple[int, Decision]] = []
        self._made: dict[int, None] = {}  # the periods that were run, the oldest first
        self._is_catching_up = False
        self._new_id = new_id

    @property
    def is_waiting(self) -> bool:
        """Whether a period waits for the end of a run; not one that was run before the clock was set back."""
        return self.first_pending() is not None

    @property
    def next_due(self) -> int | None:
        """The moment of the next decision; None where there is none, or it needs the end of a run."""
        if self.is_paused:
            return None
        period = self.first_pending()
        if period is None or not self._may_start:
            period = self.next_after(self.horizon)
        return None if period is None else self.schedule.due_at(period)

    @property
    def _may_start(self) -> bool:
        return not self.running or self.schedule.overlap == "allow"

    def first_pending(self) -> int | None:
        """Return the period that is run when what runs has ended; None if none waits."""
        period = self.next_after(self.cursor) if self.pending_until > self.cursor else None
        while period is not None and period in self._made:
            period = self.next_after(period)
        return period if period is not None and period <= self.pending_until else None

    def was_run(self, period: int) -> bool:
        """Return whether a run was made for this period, as far as it is remembered."""
        return period in self._made

    def newest_due(self, now: int) -> int | None:
        """Return the last period that is due and was not looked at; None if there is none."""
        rule = self.schedule.rule
        if isinstance(rule, After):
            period = self.next_after(self.horizon)
            return period if period is not None and self.schedule.due_at(period) <= now else None
        period = self._last_due(now)
        return period if period is not None and period > self.horizon else None

    def _last_due(self, now: int) -> int | None:
        """Return the last period of the grid that is due, also one that is decided; None if there is none."""
        period = self.schedule.rule.latest_until(now)
        if period is not None and self.schedule.due_at(period) > now:
            period = self.schedule.rule.latest_until(period - 1)  # that is due: no run is due after the next period
        return period

    def turn(self, now: int) -> None:
        """Decide everything that can be decided now."""
        self._start_pending(now)
        newest = self.newest_due(now)
        if newest is None:
            return
        if self.schedule.catch_up == "all" and self.schedule.overlap != "allow":
            self._catch_up(newest, now)
        elif self.is_waiting:
            self._meet(newest, now)
        else:
            self._take(newest, now)

    def run_now(self, now: int) -> Run:
        """Make a run off the grid, whatever runs. Its period is now, or the first microsecond after it that is free."""
        period = now
        while period in self._made or self.schedule.rule.latest_until(period) == period:
            period += 1
        return self._make_run(period, 0)

    def end(self, run_id: bytes, now: int) -> None:
        """Note the end of a run; one that is not known is ignored."""
        if self.running.pop(run_id, None) is not None and not self.running:
            self.ended_at = now

    def go_to(self, moment: int) -> None:
        """Forget what waits, and go on with the periods after a moment."""
        self.cursor = self.pending_until = self.horizon = moment
        self._is_catching_up = False

    def set_back(self, now: int) -> None:
        """Follow a clock that was set back: the periods after now come again, and are run unless they were run before."""
        self.cursor = min(self.cursor, now)
        newest = self._last_due(now)
        due_until = self.cursor if newest is None else max(newest, self.cursor)
        self.pending_until = min(self.pending_until, due_until)
        self.horizon = min(self.horizon, due_until)
        if self.ended_at is not None:
            self.ended_at = min(self.ended_at, now)

    # New periods ----------------------------------------------------------------------------------------------------

    def _take(self, newest: int, now: int) -> None:
        """Decide about the periods up to the newest one that is due; none waits."""
        kept = [period for period in self._kept(newest, now) if not self._is_expired(period, now)]
        before = self.schedule.rule.latest_until(kept[0] - 1) if kept else newest
        if before is not None and before > self.cursor:
            self._drop(before, "missed", now)
        for period in kept:
            self._meet(period, now)

    def _kept(self, newest: int, now: int) -> list[int]:
        """Return those of the periods up to the newest one that are not too late, the oldest first."""
        if self.schedule.catch_up == "all":
            return self._last_periods(newest, self.horizon)
        if self.schedule.catch_up != "none":
            return [newest]
        late = self.newest_due(now - GRACE - 1)
        kept = self._last_periods(newest, self.horizon if late is None else late)
        return kept[-1:] if self.schedule.overlap == "replace" else kept

    def _last_periods(self, newest: int, after: int) -> list[int]:
        """Return the periods after one moment and up to `newest`, the last 100 of them, the oldest first."""
        found: list[int] = []
        period: int | None = newest
        while period is not None and period > after and len(found) < MAX_CAUGHT_UP:
            found.append(period)
            period = self.schedule.rule.latest_until(period - 1)
        return found[::-1]

    def _catch_up(self, newest: int, now: int) -> None:
        """Let all periods up to the newest one wait for their turn; those that are on time, while others run, meet these."""
        late = newest if not self.running else self.newest_due(now - GRACE - 1)
        if late is not None:
            first = self._last_periods(late, self.cursor)[0]
            before = self.schedule.rule.latest_until(first - 1)
            if before is not None and before > self.cursor:
                self._drop(before, "missed", now)
            self.pending_until = self.horizon = late
            self._is_catching_up = True
            self._start_pending(now)
        for period in self._last_periods(newest, self.horizon):
            self._meet(period, now)

    def _meet(self, period: int, now: int) -> None:
        """Decide about a period that is on time."""
        overlap = self.schedule.overlap
        self.horizon = period
        if period in self._made:  # before the clock was set back
            if not self.is_waiting:
                self._pass(period)
        elif self._may_start:
            self._run(period, now)
        elif overlap == "replace" and not self._is_catching_up:
            self._supersede(period, now)
        elif not self.is_waiting and overlap == "skip":
            self._drop(period, "skipped", now)
        elif not self.is_waiting:
            self.pending_until = period

    def _supersede(self, period: int, now: int) -> None:
        """Let this period alone wait, and cancel what runs."""
        before = self.schedule.rule.latest_until(period - 1)
        if before is not None and before > self.cursor:
            self._drop(before, "skipped", now)
        self.pending_until = self.horizon = period
        run_ids = tuple(run_id for run_id, is_cancelled in self.running.items() if not is_cancelled)
        if run_ids:
            self.running.update(dict.fromkeys(run_ids, True))
            self.decided.append((self.schedule.due_at(period), Cancel(self.schedule.name, run_ids)))

    # Periods that wait ----------------------------------------------------------------------------------------------

    def _start_pending(self, now: int) -> None:
        """Run the next one of the periods that wait, if nothing runs; drop those that came while the last of them waited."""
        while self._may_start and (period := self.first_pending()) is not None:
            if self._is_expired(period, now):
                self._drop(period, "missed", now)
            else:
                self._run(period, now)
        if self.is_waiting:
            return
        was_catching_up, self._is_catching_up = self._is_catching_up, False
        if self.horizon <= self.cursor:
            return
        if was_catching_up and self.schedule.overlap == "replace":
            self._keep_newest(now)
        else:
            self._drop(self.horizon, "skipped", now)

    def _keep_newest(self, now: int) -> None:
        """Let the newest of the periods that came meanwhile wait; nothing is cancelled for it."""
        newest = self.horizon
        before = self.schedule.rule.latest_until(newest - 1)
        if before is not None and before > self.cursor:
            self._drop(before, "skipped", now)
        self.pending_until = self.horizon = newest
        if not self.running:
            self._start_pending(now)

    # Decisions ------------------------------------------------------------------------------------------------------

    def _run(self, period: int, now: int) -> None:
        due = self.schedule.due_at(period)
        self._pass(period)
        self.decided.append((due, self._make_run(period, max(now - due, 0))))

    def _make_run(self, period: int, late: int) -> Run:
        run_id = self._new_id()
        self.running[run_id] = False
        self._made[period] = None
        if len(self._made) > MAX_REMEMBERED:
            del self._made[next(iter(self._made))]
        return Run(self.schedule.name, period, run_id, late)

    def _drop(self, period: int, why: str, now: int) -> None:
        """Decide that the periods up to this one are not run. Those run before the clock was set back do not count."""
        count = self._count(self.cursor, period)
        self._pass(period)
        if isinstance(self.schedule.rule, After):
            self.ended_at = now  # the next pause begins
        if not count:
            return
        if why == "missed":
            self.missed += count
        else:
            self.skipped += count
        self.decided.append((self.schedule.due_at(period), Drop(self.schedule.name, period, count, why)))

    def _count(self, after: int, until: int) -> int:
        rule = self.schedule.rule
        if isinstance(rule, After):
            return 1
        made = sum(after < period <= until and rule.latest_until(period) == period for period in self._made)
        return max(rule.count(after, until) - made, 0)

    def _pass(self, period: int) -> None:
        self.cursor = period
        self.pending_until = max(self.pending_until, period)
        self.horizon = max(self.horizon, period)

    def next_after(self, moment: int) -> int | None:
        """Return the first period after a moment. With a pause between runs it depends on the end of the last run."""
        rule = self.schedule.rule
        if not isinstance(rule, After):
            return rule.next_after(moment)
        if self.running:
            return None
        period = max(moment, moment if self.ended_at is None else self.ended_at) + rule.pause
        while period in self._made:
            period += 1
        return period

    def _is_expired(self, period: int, now: int) -> bool:
        end = self.schedule.expires_at(period)
        return end is not None and end < now
