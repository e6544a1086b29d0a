"""The timetable of schedules: which runs are made, told the time."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest

from procjobs.schedules import cron
from procjobs.schedules.schedule import make_schedule
from procjobs.schedules.timetable import Cancel, Drop, Run, Timetable

S = 1_000_000
M = 60 * S
YEAR = 365 * 24 * 60 * M


def timetable(*, cursor=0, running=(), ended_at=None, **options):
    """A timetable with one schedule, every minute, whose runs are numbered from 0."""
    numbers = itertools.count()
    made = Timetable(lambda: bytes([next(numbers) % 256]))
    made.put(minutely(**options), cursor=cursor, running=running, ended_at=ended_at)
    return made


def minutely(name="a", **options):
    return make_schedule(name, **(options if {"cron", "after", "at", "every"} & set(options) else {"every": 60} | options))


def run(period, number, late=0):
    return Run("a", period, bytes([number]), late)


def end(made, number, now):
    """Tell of the end of a run, and return what is decided then."""
    made.ended("a", bytes([number]), now)
    return made.advance(now)


def counts(made):
    view = made.view("a")
    return view.skipped, view.missed


def test_period_is_run_when_it_is_due():
    made = timetable()
    assert M == made.next_due()
    assert [] == made.advance(M - 1)
    assert [run(M, 0, 3)] == made.advance(M + 3)
    assert 2 * M == made.next_due()
    assert [] == end(made, 0, M + S)
    assert [run(2 * M, 1)] == made.advance(2 * M)


def test_single_period_is_run_once_and_then_nothing_is_due():
    made = timetable(at=datetime(1970, 1, 1, 1, tzinfo=UTC))
    assert [run(60 * M, 0, S)] == made.advance(60 * M + S)
    assert None is made.next_due()
    assert [] == end(made, 0, 61 * M)


# Overlap ------------------------------------------------------------------------------------------------------------


def test_period_that_meets_a_run_is_skipped_and_counted():
    made = timetable()
    made.advance(M)
    assert [Drop("a", 2 * M, 1, "skipped")] == made.advance(2 * M)
    assert [] == end(made, 0, 2 * M + S)
    assert [run(3 * M, 1)] == made.advance(3 * M)
    assert (1, 0) == counts(made)


def test_queue_lets_one_period_wait_and_skips_those_that_come_meanwhile():
    made = timetable(overlap="queue")
    made.advance(M)
    assert [[], []] == [made.advance(k * M) for k in (2, 3)]
    assert 2 * M == made.view("a").waiting_period
    assert M == made.view("a").cursor  # a crash now loses nothing
    assert [run(2 * M, 1, M + S), Drop("a", 3 * M, 1, "skipped")] == end(made, 0, 3 * M + S)
    assert [] == end(made, 1, 3 * M + 2 * S)
    assert [run(4 * M, 2)] == made.advance(4 * M)


def test_allow_starts_runs_beside_each_other():
    made = timetable(overlap="allow")
    assert [[run(M, 0)], [run(2 * M, 1)], [run(3 * M, 2)]] == [made.advance(k * M) for k in (1, 2, 3)]
    assert (b"\0", b"\1", b"\2") == made.view("a").running


def test_replace_cancels_what_runs_once_and_starts_the_newest_when_it_has_ended():
    made = timetable(overlap="replace")
    made.advance(M)
    assert [Cancel("a", (b"\0",))] == made.advance(2 * M)
    assert [Drop("a", 2 * M, 1, "skipped")] == made.advance(3 * M)
    assert [run(3 * M, 1, S)] == end(made, 0, 3 * M + S)
    assert [Cancel("a", (b"\1",))] == made.advance(4 * M)


def test_run_that_was_not_made_after_all_makes_room_for_the_next():
    made = timetable(overlap="queue")
    made.advance(M)
    assert [] == end(made, 0, M)
    assert [run(2 * M, 1)] == made.advance(2 * M)


def test_runs_that_go_on_since_before_a_restart_count():
    made = timetable(running=[b"before"])
    assert [Drop("a", M, 1, "skipped")] == made.advance(M)
    made.ended("a", b"before", M + 1)
    assert [run(2 * M, 0)] == made.advance(2 * M)


# Catching up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("catch_up", [None, "last"])
@pytest.mark.parametrize("overlap", ["skip", "queue", "allow", "replace"])
def test_newest_missed_period_alone_is_run(catch_up, overlap):
    made = timetable(catch_up=catch_up, overlap=overlap)
    assert [Drop("a", 4 * M, 4, "missed"), run(5 * M, 0, 30 * S)] == made.advance(5 * M + 30 * S)
    assert (0, 4) == counts(made)


@pytest.mark.parametrize("overlap", ["skip", "queue", "replace"])
def test_all_missed_periods_are_run_one_after_the_other(overlap):
    made = timetable(catch_up="all", overlap=overlap)
    now = 3 * M + 30 * S
    assert [run(M, 0, now - M)] == made.advance(now)
    assert 2 * M == made.view("a").waiting_period
    assert [run(2 * M, 1, now + 1 - 2 * M)] == end(made, 0, now + 1)
    assert [run(3 * M, 2, now + 2 - 3 * M)] == end(made, 1, now + 2)
    assert [] == end(made, 2, now + 3)
    assert [run(4 * M, 3)] == made.advance(4 * M)
    assert (0, 0) == counts(made)


def test_all_missed_periods_are_run_at_once_where_they_may_overlap():
    made = timetable(catch_up="all", overlap="allow")
    assert [run(k * M, k - 1, (3 - k) * M) for k in (1, 2, 3)] == made.advance(3 * M)


def test_at_most_a_hundred_missed_periods_are_run():
    made = timetable(catch_up="all", overlap="allow")
    dropped, *runs = made.advance(1000 * M)
    assert Drop("a", 900 * M, 900, "missed") == dropped
    assert [k * M for k in range(901, 1001)] == [one.period for one in runs]


@pytest.mark.parametrize("overlap", ["skip", "queue"])
def test_periods_that_come_on_time_while_others_are_caught_up_are_skipped(overlap):
    made = timetable(catch_up="all", overlap=overlap)
    made.advance(2 * M + 30 * S)
    assert [[], []] == [made.advance(k * M) for k in (3, 4)]
    assert [run(2 * M, 1, 2 * M + S), Drop("a", 4 * M, 2, "skipped")] == end(made, 0, 4 * M + S)
    assert [] == end(made, 1, 4 * M + 2 * S)


def test_newest_period_that_comes_while_others_are_caught_up_replaces_none_of_them():
    made = timetable(catch_up="all", overlap="replace")
    made.advance(2 * M + 30 * S)
    assert [[], []] == [made.advance(k * M) for k in (3, 4)]
    assert [run(2 * M, 1, 2 * M + S), Drop("a", 3 * M, 1, "skipped")] == end(made, 0, 4 * M + S)
    assert 4 * M == made.view("a").waiting_period
    assert [run(4 * M, 2, 2 * S)] == end(made, 1, 4 * M + 2 * S)
    assert [Cancel("a", (b"\2",))] == made.advance(5 * M)


def test_missed_periods_that_nobody_could_look_at_join_those_that_are_caught_up():
    made = timetable(catch_up="all")
    made.advance(2 * M + 30 * S)
    assert [] == made.advance(5 * M + 30 * S)  # a suspend while the first one runs
    now = 5 * M + 31 * S
    assert [[run(k * M, k - 1, now - k * M)] for k in (2, 3, 4, 5)] == [end(made, k - 2, now) for k in (2, 3, 4, 5)]


def test_period_that_is_late_by_more_than_five_seconds_is_not_run_without_catching_up():
    made = timetable(catch_up="none")
    assert [run(M, 0, 5 * S)] == made.advance(M + 5 * S)
    end(made, 0, M + 6 * S)
    assert [Drop("a", 2 * M, 1, "missed")] == made.advance(2 * M + 5 * S + 1)
    assert (0, 1) == counts(made)


def test_periods_within_five_seconds_are_run_in_their_order_without_catching_up():
    made = timetable(every=1, catch_up="none", overlap="allow")
    dropped, *runs = made.advance(20 * S)
    assert Drop("a", 14 * S, 14, "missed") == dropped
    assert [k * S for k in range(15, 21)] == [one.period for one in runs]


@pytest.mark.parametrize("catch_up", ["last", "none"])
def test_replace_without_catching_up_starts_the_newest_alone(catch_up):
    made = timetable(every=1, catch_up=catch_up, overlap="replace")
    assert [Drop("a", 2 * S, 2, "missed"), run(3 * S, 0)] == made.advance(3 * S)


def test_period_that_has_expired_is_not_run():
    made = timetable(expires=20)
    assert [Drop("a", 5 * M, 5, "missed")] == made.advance(5 * M + 20 * S + 1)
    assert [run(6 * M, 0, 20 * S)] == made.advance(6 * M + 20 * S)


def test_period_that_expires_while_it_waits_is_not_run():
    made = timetable(expires=20, overlap="queue")
    made.advance(M)
    assert [] == made.advance(2 * M)
    assert [Drop("a", 2 * M, 1, "missed")] == end(made, 0, 2 * M + 21 * S)
    assert [run(3 * M, 1)] == made.advance(3 * M)


def test_all_that_has_not_expired_is_caught_up():
    made = timetable(catch_up="all", expires=130)
    assert [Drop("a", M, 1, "missed"), Drop("a", 2 * M, 1, "missed"), run(3 * M, 0, 2 * M)] == made.advance(5 * M)
    assert [Drop("a", 4 * M, 1, "missed"), run(5 * M, 1, 2 * M)] == end(made, 0, 7 * M)


def test_a_year_of_seconds_is_counted_and_not_walked_through():
    made = timetable(every=1)
    assert [Drop("a", YEAR - S, YEAR // S - 1, "missed"), run(YEAR, 0)] == made.advance(YEAR)


@pytest.mark.parametrize("catch_up", ["last", "all", "none"])
@pytest.mark.parametrize("overlap", ["skip", "allow"])
def test_a_year_of_a_cron_line_takes_few_steps(catch_up, overlap, monkeypatch):
    steps = itertools.count()
    for name in ("_first", "_last"):
        step = getattr(cron._Walk, name)
        monkeypatch.setattr(cron._Walk, name, lambda self, shown, step=step: (next(steps), step(self, shown))[1])
    made = timetable(cron="* * * * *", catch_up=catch_up, overlap=overlap, tz="Europe/Berlin")
    dropped = made.advance(YEAR + 10 * S)[0]
    assert (100, "missed") == (dropped.count, dropped.why)
    assert next(steps) < 320


# Clocks -------------------------------------------------------------------------------------------------------------


def test_clock_that_is_set_back_runs_nothing_twice():
    made = timetable()
    for k in (1, 2, 3):
        made.advance(k * M)
        end(made, k - 1, k * M + S)
    assert [] == made.advance(M - S)
    assert M - S == made.view("a").cursor
    assert [[], [], []] == [made.advance(k * M) for k in (1, 2, 3)]
    assert [run(4 * M, 3)] == made.advance(4 * M)
    assert (0, 0) == counts(made)


def test_periods_that_were_dropped_while_the_clock_was_ahead_are_run_when_their_time_comes():
    made = timetable()
    assert [Drop("a", 9 * M, 9, "missed"), run(10 * M, 0)] == made.advance(10 * M)
    end(made, 0, 10 * M)
    assert [] == made.advance(8 * M + S)
    assert [run(9 * M, 1)] == made.advance(9 * M)
    end(made, 1, 9 * M)
    assert [] == made.advance(10 * M)
    assert [run(11 * M, 2)] == made.advance(11 * M)


def test_what_waits_in_the_future_of_a_clock_that_is_set_back_comes_again():
    made = timetable(overlap="queue")
    made.advance(M)
    made.advance(2 * M)
    assert [] == made.advance(M + S)
    assert None is made.view("a").waiting_period
    assert [] == end(made, 0, M + 2 * S)
    assert [run(2 * M, 1)] == made.advance(2 * M)


def test_period_that_waits_and_is_not_due_any_more_when_the_clock_is_set_back_comes_again():
    made = timetable(overlap="queue", jitter=30)
    first, second = made.upcoming("a", 0, 2)
    made.advance(first)
    made.advance(second)
    assert [] == made.advance(second - 1)
    assert (None, second) == (made.view("a").waiting_period, made.next_due())
    assert [] == end(made, 0, second - 1)
    assert [run(2 * M, 1)] == made.advance(second)


def test_period_that_waited_when_the_clock_was_set_back_waits_again_when_its_time_comes():
    made = timetable(overlap="queue")
    made.advance(M)
    made.advance(2 * M)
    assert [[], []] == [made.advance(M + S), made.advance(2 * M)]
    assert 2 * M == made.view("a").waiting_period
    assert [run(2 * M, 1, S)] == end(made, 0, 2 * M + S)


def test_period_waits_also_behind_one_that_was_run_before_the_clock_was_set_back():
    made = timetable(overlap="queue", catch_up="all")
    made.advance(M)
    made.advance(0)
    made.advance(2 * M + 10 * S)  # the first of these two was run, the second waits
    assert [[], []] == [made.advance(M + 30 * S), made.advance(2 * M)]
    assert 2 * M == made.view("a").waiting_period
    assert [run(2 * M, 1, S)] == end(made, 0, 2 * M + S)


def test_periods_that_came_while_one_waited_are_skipped_up_to_the_clock_that_was_set_back():
    made = timetable(overlap="queue")
    for k in (1, 2, 3, 4):
        made.advance(k * M)
    assert [] == made.advance(3 * M + 30 * S)
    assert [run(2 * M, 1, M + 31 * S), Drop("a", 3 * M, 1, "skipped")] == end(made, 0, 3 * M + 31 * S)
    assert [] == end(made, 1, 3 * M + 32 * S)
    assert [run(4 * M, 2)] == made.advance(4 * M)


def test_cursor_of_the_store_that_is_in_the_future_follows_the_clock():
    made = timetable(cursor=YEAR)
    assert [] == made.advance(M + S)
    assert [run(2 * M, 0)] == made.advance(2 * M)


def test_last_4096_runs_are_remembered():
    made = timetable(every=1, overlap="allow")
    for k in range(1, 5001):
        made.advance(k * S)
    assert [] == [one for k in range(904, 5001) for one in made.advance(k * S)]
    assert [904] == [one.period // S for k in (903, 904) for one in made.advance(k * S)]


# Jitter -------------------------------------------------------------------------------------------------------------


def test_jitter_delays_each_period_by_its_own_time_and_the_grid_stays():
    made = timetable(jitter=30)
    dues = made.upcoming("a", 0, 50)
    assert [minutely(jitter=30).due_at(k * M) for k in range(1, 51)] == dues
    for number, due in enumerate(dues):
        assert due == made.next_due()
        assert [] == made.advance(due - 1)
        assert [run((number + 1) * M, number)] == made.advance(due)
        end(made, number, due)


# Runs off the grid, pauses --------------------------------------------------------------------------------------------


def test_run_now_does_not_move_the_cursor_and_counts_as_running():
    made = timetable()
    made.advance(30 * S)
    assert run(30 * S, 0) == made.run_now("a", 30 * S)
    assert 0 == made.view("a").cursor
    assert [Drop("a", M, 1, "skipped")] == made.advance(M)
    assert run(M + S, 1) == made.run_now("a", M + S)  # beside the other one


def test_run_now_has_a_moment_of_its_own():
    made = timetable()
    assert [M + 1, M + 2] == [made.run_now("a", M).period for _ in range(2)]


def test_periods_pass_while_a_schedule_is_paused():
    made = timetable()
    made.pause("a", S)
    assert (None, []) == (made.next_due(), made.advance(5 * M))
    assert run(5 * M + 1, 0) == made.run_now("a", 5 * M + 1)
    end(made, 0, 5 * M + 2)
    made.resume("a", 5 * M + S)
    assert [run(6 * M, 1)] == made.advance(6 * M)
    assert (0, 0) == counts(made)


def test_resuming_what_is_not_paused_changes_nothing():
    made = timetable()
    made.resume("a", M)
    assert [run(M, 0, S)] == made.advance(M + S)


def test_pausing_forgets_what_waits():
    made = timetable(overlap="queue")
    made.advance(M)
    made.advance(2 * M)
    made.pause("a", 2 * M)
    assert [] == end(made, 0, 2 * M + S)
    made.resume("a", 2 * M + S)
    assert [run(3 * M, 1)] == made.advance(3 * M)


# Pauses between runs --------------------------------------------------------------------------------------------------


def test_pause_begins_when_the_run_before_has_ended():
    made = timetable(after=30)
    assert 30 * S == made.next_due()
    assert [run(30 * S, 0)] == made.advance(30 * S)
    assert None is made.next_due()
    assert [] == end(made, 0, 100 * S)
    assert [130 * S] == made.upcoming("a", 100 * S, 5)
    assert [run(130 * S, 1, S)] == made.advance(131 * S)


def test_pause_goes_on_after_a_restart():
    made = timetable(after=30, cursor=50 * S, ended_at=100 * S)
    assert 130 * S == made.next_due()
    assert [run(130 * S, 0, 70 * S)] == made.advance(200 * S)


def test_pause_begins_anew_with_a_run_that_was_not_made_in_time():
    made = timetable(after=30, catch_up="none")
    assert [Drop("a", 30 * S, 1, "missed")] == made.advance(60 * S)
    assert 90 * S == made.next_due()


def test_pause_waits_for_runs_off_the_grid_too():
    made = timetable(after=30)
    made.run_now("a", 10 * S)
    assert [] == made.advance(60 * S)
    end(made, 0, 61 * S)
    assert 91 * S == made.next_due()


def test_pause_is_not_longer_when_the_clock_is_set_back():
    made = timetable(after=30, cursor=1000 * S, ended_at=1000 * S)
    made.advance(1000 * S)
    assert [] == made.advance(100 * S)
    assert 130 * S == made.next_due()


# Several schedules ----------------------------------------------------------------------------------------------------


def test_decisions_come_in_the_order_of_their_due_times():
    made = timetable(catch_up="all", overlap="allow")
    made.put(minutely("b", every=40, catch_up="all", overlap="allow"), cursor=0)
    assert [40, 60, 80, 120, 120] == [one.period // S for one in made.advance(120 * S)]


def test_changed_rule_begins_at_its_cursor_and_keeps_what_runs():
    made = timetable(overlap="queue")
    made.advance(M)
    made.advance(2 * M)
    made.put(minutely(every=90, overlap="queue"), cursor=2 * M + S)
    assert (None, (b"\0",)) == (made.view("a").waiting_period, made.view("a").running)
    assert [] == made.advance(180 * S)
    assert [run(180 * S, 1, S)] == end(made, 0, 181 * S)


def test_changed_options_keep_everything():
    made = timetable(overlap="queue")
    made.advance(M)
    made.advance(2 * M)
    made.put(minutely(), cursor=5 * M, running=[b"\0"])
    assert (M, 2 * M) == (made.view("a").cursor, made.view("a").waiting_period)
    assert [run(2 * M, 1, S)] == end(made, 0, 2 * M + S)


def test_what_waits_is_started_when_runs_may_overlap_from_now_on():
    made = timetable(overlap="queue")
    made.advance(M)
    made.advance(2 * M)
    made.put(minutely(overlap="allow"), cursor=0)
    assert [run(2 * M, 1, S)] == made.advance(2 * M + S)


def test_schedule_that_is_put_again_without_its_pause_goes_on_from_the_cursor():
    made = timetable()
    made.pause("a", 0)
    made.put(minutely(), cursor=5 * M)
    assert [run(6 * M, 0)] == made.advance(6 * M)


def test_removed_schedule_stops():
    made = timetable()
    made.advance(M)
    made.remove("a")
    made.ended("a", b"\0", M)
    assert ([], None, 0) == (made.advance(9 * M), made.next_due(), len(made))
    made.put(minutely(), cursor=9 * M)
    assert ["a"] == made.names()
    assert [run(10 * M, 1)] == made.advance(10 * M)


def test_unknown_names_are_key_errors():
    made = timetable()
    calls = [made.remove, made.view, lambda n: made.pause(n, 0), lambda n: made.resume(n, 0), lambda n: made.run_now(n, 0)]
    for call in [*calls, lambda n: made.upcoming(n, 0, 1)]:
        with pytest.raises(KeyError):
            call("b")
    assert "a" in made
    assert "b" not in made


def test_what_is_not_due_any_more_does_not_pile_up():
    made = timetable()
    for k in range(10_000):
        made.put(minutely(every=60 + k % 2), cursor=k)
    assert len(made._heap) < 100
    assert made.next_due() == made.view("a").next_due
