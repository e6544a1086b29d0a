"""The timetable against everything that can happen, in any order.

The world below stands for a supervisor with a store: it keeps the cursors, the rows of the periods that have a job, and the
jobs that run. Hypothesis chooses what happens. After each thing the laws of the timetable are checked.
"""

from __future__ import annotations

import itertools

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from procjobs.schedules.entry import GRACE, MAX_CAUGHT_UP
from procjobs.schedules.rules import After
from procjobs.schedules.schedule import CATCH_UP, OVERLAP, make_schedule
from procjobs.schedules.timetable import Cancel, Drop, Run, Timetable

S = 1_000_000
BEGIN = 1_790_000_000 * S
RULES = st.sampled_from([
    {"every": 60}, {"every": 60, "jitter": 25}, {"every": 7, "anchor": 3}, {"cron": "*/2 * * * *"},
    {"cron": "0,20 * * * * *", "jitter": 15}, {"after": 30},
])  # fmt: skip
OPTIONS = st.fixed_dictionaries({
    "catch_up": st.sampled_from([None, *CATCH_UP]),
    "overlap": st.sampled_from(OVERLAP),
    "expires": st.sampled_from([None, None, 150]),
})  # fmt: skip


def build(name, given, options):
    if "after" in given:
        options = {"catch_up": "none"} if options["catch_up"] == "none" else {}
    return make_schedule(name, **given, **options)


class World(RuleBasedStateMachine):
    @initialize(drawn=st.lists(st.tuples(RULES, OPTIONS), min_size=1, max_size=3))
    def begin(self, drawn):
        self.now = BEGIN
        self.numbers = itertools.count()
        self.schedules = {name: build(name, *given) for name, given in zip("abc", drawn, strict=False)}
        self.cursors = dict.fromkeys(self.schedules, BEGIN)
        self.paused = set()
        self.rows = set()  # those of the store: one for each period that has a job
        self.running = {name: [] for name in self.schedules}
        self.ended_at = dict.fromkeys(self.schedules)
        self.start()

    def start(self):
        """Start a supervisor, which knows what the store knows."""
        self.made = {name: set() for name in self.schedules}  # the periods that this timetable has run
        self.cancelled = set()
        self.changed = set()  # what waits may do so by other options than those of now
        self.counts = {(name, why): 0 for name in self.schedules for why in ("skipped", "missed")}
        self.timetable = Timetable(lambda: next(self.numbers).to_bytes(16, "big"))
        for name, schedule in self.schedules.items():
            self.timetable.put(
                schedule, cursor=self.cursors[name], is_paused=name in self.paused, running=self.running[name],
                ended_at=self.ended_at[name],
            )  # fmt: skip

    # What can happen ------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.3, 1, 4, 20, 61, 200]))
    def time_passes(self, seconds):
        end = self.now + int(seconds * S)
        while (due := self.timetable.next_due()) is not None and due <= end:
            assert due > self.now
            self.turn(due)
        self.turn(end)

    @rule(seconds=st.sampled_from([3, 6, 90, 600, 5000]))
    def clock_is_set_forward(self, seconds):
        self.turn(self.now + seconds * S)

    @rule(seconds=st.sampled_from([1, 30, 150, 1000]))
    def clock_is_set_back(self, seconds):
        self.turn(self.now - seconds * S)

    @precondition(lambda self: any(self.running.values()))
    @rule(data=st.data())
    def job_ends(self, data):
        name, run_id = data.draw(st.sampled_from([(n, run_id) for n, ids in self.running.items() for run_id in ids]))
        self.end(name, run_id)
        self.timetable.ended(name, run_id, self.now)
        self.turn(self.now)

    @rule(seconds=st.sampled_from([0, 2, 70, 1500, 9000]), data=st.data())
    def supervisor_is_killed(self, seconds, data):
        for name, run_ids in self.running.items():
            for run_id in list(run_ids):
                if data.draw(st.booleans(), label="ended"):
                    self.end(name, run_id)
        self.start()
        self.turn(self.now + seconds * S)

    @rule(data=st.data())
    def schedule_is_paused_or_resumed(self, data):
        name = data.draw(st.sampled_from(sorted(self.schedules)))
        if name in self.paused:
            self.paused.remove(name)
            self.cursors[name] = self.now
            self.timetable.resume(name, self.now)
        else:
            self.paused.add(name)
            self.timetable.pause(name, self.now)
        self.turn(self.now)

    @rule(data=st.data())
    def schedule_is_run_now(self, data):
        name = data.draw(st.sampled_from(sorted(self.schedules)))
        run = self.timetable.run_now(name, self.now)
        assert self.now <= run.period < self.now + 1000
        assert self.schedules[name].rule.latest_until(run.period) != run.period
        self.note(run)
        self.turn(self.now)

    @rule(data=st.data(), options=OPTIONS)
    def options_of_a_schedule_change(self, data, options):
        name = data.draw(st.sampled_from(sorted(self.schedules)))
        old = self.schedules[name]
        if not isinstance(old.rule, After) and not old.jitter:
            changed = build(name, {"every": 60}, options)
            self.changed.add(name)
            self.schedules[name] = type(old)(name, old.rule, changed.catch_up, changed.overlap, 0.0, changed.expires)
            self.timetable.put(self.schedules[name], cursor=self.cursors[name], is_paused=name in self.paused)
            self.turn(self.now)

    # What the supervisor does ---------------------------------------------------------------------------------------

    def end(self, name, run_id):
        self.running[name].remove(run_id)
        if not self.running[name]:
            self.ended_at[name] = self.now

    def turn(self, now):
        self.now = now
        for name, cursor in self.cursors.items():
            self.cursors[name] = min(cursor, now)
            self.ended_at[name] = None if self.ended_at[name] is None else min(self.ended_at[name], now)
        not_made = []
        dues = []
        busy_before = {name: bool(ids) for name, ids in self.running.items()}
        for decision in self.timetable.advance(now):
            assert decision.name not in self.paused
            match decision:
                case Run():
                    self.check_run(decision)
                    not_made += self.note(decision)
                case Drop():
                    self.check_drop(decision, busy_before[decision.name])
                case Cancel():
                    self.check_cancel(decision)
            if not isinstance(decision, Cancel):
                self.cursors[decision.name] = decision.period
                dues.append(self.schedules[decision.name].due_at(decision.period))
        assert sorted(dues) == dues
        for run in not_made:
            self.end(run.name, run.run_id)
            self.timetable.ended(run.name, run.run_id, now)
        if not_made:
            self.turn(now)
        self.check_all()

    def note(self, run):
        """Write the job of a run into the store; return the run if its period has one already."""
        assert run.period not in self.made[run.name]
        self.made[run.name].add(run.period)
        self.running[run.name].append(run.run_id)
        is_new = (run.name, run.period) not in self.rows
        self.rows.add((run.name, run.period))
        return [] if is_new else [run]

    # The laws -------------------------------------------------------------------------------------------------------

    def undecided(self, name, until):
        """The periods after the cursor that this timetable has not run: few enough to be counted."""
        schedule, found = self.schedules[name], []
        period = schedule.rule.next_after(self.cursors[name])
        while period is not None and period <= until:
            found += [period] if period not in self.made[name] else []
            period = schedule.rule.next_after(period)
        return found

    def check_run(self, run):
        schedule = self.schedules[run.name]
        due = schedule.due_at(run.period)
        assert self.now - due == run.late >= 0
        assert schedule.overlap == "allow" or not self.running[run.name]
        assert schedule.expires is None or self.now <= run.period + schedule.expires * S
        if isinstance(schedule.rule, After):
            assert run.period - schedule.rule.pause >= max(self.cursors[run.name], self.ended_at[run.name] or 0)
            return
        assert [run.period] == self.undecided(run.name, run.period)  # nothing before it is lost
        if schedule.overlap == "skip" and schedule.catch_up == "none" and run.name not in self.changed:
            assert run.late <= GRACE

    def check_drop(self, drop, was_busy):
        schedule = self.schedules[drop.name]
        self.counts[drop.name, drop.why] += drop.count
        if isinstance(schedule.rule, After):
            assert (drop.why, drop.count) == ("missed", 1)
            self.ended_at[drop.name] = self.now
            return
        lost = self.undecided(drop.name, drop.period)
        assert drop.period == schedule.rule.latest_until(drop.period)
        assert drop.period in lost or self.made[drop.name]
        assert drop.count == len(lost) or (len(lost) > 100 and "cron" in schedule.rule.to_json())
        if drop.why == "skipped":
            assert schedule.overlap != "allow" or drop.name in self.changed
            assert was_busy or self.running[drop.name] or schedule.expires is not None
        elif schedule.catch_up == "all" and schedule.expires is None:
            newer = self.schedules[drop.name].rule.count(drop.period, self.now)
            assert newer >= MAX_CAUGHT_UP

    def check_cancel(self, cancel):
        assert self.schedules[cancel.name].overlap == "replace"
        assert set() == self.cancelled & set(cancel.run_ids)
        assert set(cancel.run_ids) <= set(self.running[cancel.name])
        assert cancel.run_ids
        self.cancelled |= set(cancel.run_ids)

    def check_all(self):
        due = self.timetable.next_due()
        assert due is None or due > self.now
        for name, schedule in self.schedules.items():
            view = self.timetable.view(name)
            assert set(self.running[name]) == set(view.running)
            assert (view.skipped, view.missed) == (self.counts[name, "skipped"], self.counts[name, "missed"])
            assert (view.is_paused, view.schedule) == (name in self.paused, schedule)
            if name in self.paused:
                assert None is view.next_due is view.waiting_period
                continue
            late = [period for period in self.undecided_grid(name) if schedule.due_at(period) <= self.now]
            if self.running[name] and late:
                assert view.waiting_period == late[0]
            else:
                assert [] == late
                assert None is view.waiting_period
            if not isinstance(schedule.rule, After):
                assert view.next_due == schedule.due_at(schedule.rule.next_after(self.past(name)))

    def undecided_grid(self, name):
        return [] if isinstance(self.schedules[name].rule, After) else self.undecided(name, self.now)

    def past(self, name):
        """The last period that is due."""
        schedule = self.schedules[name]
        period = schedule.rule.latest_until(self.now)
        return max(self.cursors[name], period if schedule.due_at(period) <= self.now else period - 1)


World.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestTimetable = World.TestCase
