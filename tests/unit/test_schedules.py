"""Schedules and their rules: what users may write, what they are told otherwise, and the way through JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procjobs.errors import ConfigurationError
from procjobs.schedules.rules import After, At, Every, make_rule, rule_from_json
from procjobs.schedules.schedule import Schedule, make_schedule, schedule_from_json

S = 1_000_000
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)
BARE = NEW_YEAR.replace(tzinfo=None)
SKIPPED = datetime(2026, 3, 29, 2, 30, tzinfo=UTC).replace(tzinfo=None)
RULES = [
    ({"cron": "30 2 * * *", "tz": "Europe/Berlin"}, "30 2 * * *", "At 02:30 every day (Europe/Berlin)"),
    ({"cron": "@hourly"}, "@hourly", "At the start of every hour (UTC)"),
    ({"every": 300}, "every 5m", "Every 5 minutes"),
    ({"every": "1d"}, "every 1d", "Every day"),
    ({"every": timedelta(hours=1, seconds=1.5)}, "every 1h1.5s", "Every 1 hour 1.5 seconds"),
    ({"every": 60, "anchor": NEW_YEAR}, "every 1m", "Every minute, counted from 2027-01-01 00:00:00 UTC"),
    ({"after": 90}, "after 1m30s", "1 minute 30 seconds after the end of the run before"),
    ({"after": 1}, "after 1s", "1 second after the end of the run before"),
    ({"at": NEW_YEAR}, "at 2027-01-01T00:00:00", "Once, at 2027-01-01 00:00:00 (UTC)"),
    ({"at": BARE, "tz": "Asia/Kolkata"}, "at 2027-01-01T00:00:00", "Once, at 2027-01-01 00:00:00 (Asia/Kolkata)"),
]


@pytest.mark.parametrize(("options", "expression", "words"), RULES)
def test_rule_says_what_it_is(options, expression, words):
    rule = make_rule(**options)
    assert (expression, words) == (rule.expression(), rule.explain())


@pytest.mark.parametrize("options", [options for options, *_ in RULES])
def test_rule_is_the_same_after_its_way_through_json(options):
    schedule = make_schedule("nightly", **options, catch_up="last", expires=90)
    assert schedule == schedule_from_json(json.loads(json.dumps(schedule.to_json())))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "expected exactly one of cron=, every=, after= and at=, got none of them"),
        ({"cron": "* * * * *", "every": 5}, "got cron= and every="),
        ({"every": 0.5}, "every=0.5: expected at least one second"),
        ({"every": 0}, "every=0: expected more than zero seconds"),
        ({"every": "soon"}, "every='soon': expected seconds"),
        ({"every": True}, "every=True: expected seconds"),
        ({"after": "999ms"}, "after='999ms': expected at least one second"),
        ({"at": BARE}, r"at=datetime.*has no time zone: give it one, or say tz="),
        ({"at": "tomorrow"}, "at='tomorrow': expected a datetime"),
        ({"at": SKIPPED, "tz": "Europe/Berlin"}, "no clock shows that time in Europe/Berlin"),
        ({"cron": "@daily", "tz": "Europ/berlin"}, "tz='Europ/berlin': no such time zone; did you mean 'Europe/Berlin' or"),
        ({"cron": "@daily", "tz": "/etc/passwd"}, "tz='/etc/passwd': no such time zone; give a name such as"),
        ({"cron": "@daily", "tz": "Europe"}, "tz='Europe': no such time zone; "),
        ({"cron": "@daily", "tz": ""}, "tz='': no such time zone; "),
        ({"cron": "@daily", "tz": "../../etc/passwd"}, "no such time zone"),
        ({"cron": "@daily", "tz": "a\0b"}, "no such time zone"),
        ({"cron": "@daily", "tz": "x" * 5000}, "no such time zone"),
        ({"cron": "@daily", "tz": 5}, "tz=5: expected the name of a time zone"),
        ({"cron": "@daily", "tz": ZoneInfo("UTC")}, "expected the name of a time zone"),
        ({"every": 5, "tz": "Europe/Berlin"}, "tz='Europe/Berlin' is for cron= and for at=, and this is every="),
        ({"after": 5, "tz": "UTC"}, "tz='UTC' is for cron= and for at=, and this is after="),
        ({"cron": "@daily", "anchor": 5}, "anchor= is for every= alone, and this is cron="),
        ({"every": 5, "anchor": "now"}, "anchor='now': expected a datetime, or a Unix time"),
        ({"every": 5, "anchor": 1e300}, "anchor=1e\\+300: expected a datetime"),
        ({"every": 5, "anchor": float("nan")}, "anchor=nan: expected a datetime"),
        ({"every": 5, "anchor": BARE}, "anchor=.*has no time zone"),
        ({"every": 5, "catch_up": "some"}, "catch_up='some': expected 'last', 'all', 'none' or None"),
        ({"every": 5, "overlap": "maybe"}, "overlap='maybe': expected 'skip', 'queue', 'allow', 'replace'"),
        ({"every": 5, "overlap": []}, r"overlap=\[\]: expected"),
        ({"every": 5, "jitter": 5}, r"jitter=5: expected less than every= \(5 s\)"),
        ({"every": 5, "jitter": -1}, "jitter=-1: expected zero or more seconds"),
        ({"every": 5, "jitter": 3, "expires": 3}, r"expires=3: expected more than jitter= \(3 s\)"),
        ({"every": 5, "expires": 0}, "expires=0: expected more than zero seconds"),
        ({"after": 5, "overlap": "allow"}, "overlap='allow': runs with after= never overlap"),
        ({"after": 5, "catch_up": "all"}, "catch_up='all': with after= at most one run can be missed"),
        ({"cron": "61 * * * *"}, r"cron='61 \* \* \* \*': Bad minute"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_name_of_the_schedule(options, told):
    with pytest.raises(ConfigurationError, match=f"^schedule 'nightly': .*{told}"):
        make_schedule("nightly", **options)


@pytest.mark.parametrize("name", ["", "a/b", "x" * 101, "a\nb", None, 5, b"a"])
def test_name_that_cannot_be_one_is_refused(name):
    with pytest.raises(ConfigurationError, match="expected a name, of 1 to 100 letters"):
        make_schedule(name, every=5)


def test_durations_are_given_as_everywhere():
    schedule = make_schedule("a", every="5m", jitter=timedelta(seconds=30), expires="1h")
    assert Schedule("a", Every(300 * S), None, "skip", 30.0, 3600.0) == schedule
    assert After(90 * S) == make_rule(after="1m30s")


def test_moment_is_the_same_in_any_zone_it_is_given_in():
    in_delhi = NEW_YEAR.astimezone(timezone(timedelta(hours=5.5)))
    assert make_rule(at=NEW_YEAR) == make_rule(at=in_delhi)
    assert At(make_rule(at=NEW_YEAR).moment - 3600 * S, "Europe/Berlin") == make_rule(at=BARE, tz="Europe/Berlin")


def test_moment_in_the_hour_that_comes_twice_is_the_first_unless_it_says_otherwise():
    twice = datetime(2026, 10, 25, 2, 30, tzinfo=UTC).replace(tzinfo=None)
    first, second = (make_rule(at=twice.replace(fold=fold), tz="Europe/Berlin").moment for fold in (0, 1))
    assert 3600 * S == second - first


def test_single_period_is_found_from_both_sides():
    rule = make_rule(at=NEW_YEAR)
    at = rule.moment
    assert [at, None, at, None] == [
        rule.next_after(at - 1), rule.next_after(at), rule.latest_until(at), rule.latest_until(at - 1)
    ]  # fmt: skip
    assert [1, 0, 0] == [rule.count(at - 1, at), rule.count(at, at + 1), rule.count(at - 2, at - 1)]


@given(st.integers(S, 10**15), st.integers(-(10**17), 10**17), st.integers(-(10**17), 10**17))
def test_grid_has_its_anchor_and_a_fixed_step(step, anchor, moment):
    rule = Every(step, anchor)
    period = rule.next_after(moment)
    assert moment < period <= moment + step
    assert 0 == (period - anchor) % step
    assert period == rule.latest_until(period) == rule.latest_until(period + step - 1)
    assert step == rule.interval_at(period)
    assert [0, 1, 1000] == [rule.count(period, period + after) for after in (step - 1, step, 1000 * step)]


@given(st.text(max_size=20), st.integers(0, 10**16), st.integers(1, 10**6))
def test_jitter_is_within_bounds_and_the_same_each_time(name, period, jitter):
    schedule = Schedule(name, Every(10**13), jitter=float(jitter))
    assert period <= schedule.due_at(period) < period + jitter * S
    assert schedule.due_at(period) == Schedule(name, Every(10**13), jitter=float(jitter)).due_at(period)


def test_jitter_spreads_periods_and_schedules():
    for offsets in (
        {Schedule("a", Every(60 * S), jitter=30.0).due_at(k * 60 * S) - k * 60 * S for k in range(1000)},
        {Schedule(f"job-{k}", Every(60 * S), jitter=30.0).due_at(0) for k in range(1000)},
    ):
        thirds = [sum(k * 10 * S <= offset < (k + 1) * 10 * S for offset in offsets) for k in range(3)]
        assert 250 < min(thirds)
        assert 1000 == sum(thirds)


def test_jitter_is_what_it_was_in_earlier_releases():
    assert [1_556_301, 81_666_810] == [Schedule("a", Every(60 * S), jitter=30.0).due_at(k * 60 * S) for k in range(2)]


def test_jitter_never_reaches_the_next_period():
    schedule = make_schedule("a", cron="*/10 * * * * *", jitter=3600)
    assert all(k * 10 * S <= schedule.due_at(k * 10 * S) < (k + 1) * 10 * S for k in range(100))


NONSENSE = [
    None, [], {}, "cron", {"cron": "* * * * *"}, {"cron": "* * * * *", "tz": 5}, {"cron": "bad", "tz": "UTC"},
    {"every": 5, "anchor": 0}, {"every": True, "anchor": 0}, {"every": S, "anchor": 0, "more": 1}, {"every": S},
    {"every": 1.5 * S, "anchor": 0}, {"every": 10**30, "anchor": 0}, {"every": S, "anchor": 10**30}, {"after": 0},
    {"after": "5s"}, {"at": 10**30, "tz": "UTC"}, {"at": 0, "tz": "Nowhere"}, {"at": 0},
]  # fmt: skip


@pytest.mark.parametrize("values", NONSENSE)
def test_rule_that_nobody_has_written_is_refused(values):
    with pytest.raises(ConfigurationError):
        rule_from_json(values)
    with pytest.raises(ConfigurationError, match=r"^schedule 'a': "):
        schedule_from_json(make_schedule("a", every=5).to_json() | {"rule": values})


@pytest.mark.parametrize("values", [None, [], {}, {"name": "a"}, make_schedule("a", every=5).to_json() | {"more": 1}])
def test_schedule_that_nobody_has_written_is_refused(values):
    with pytest.raises(ConfigurationError, match="describes no schedule: was it written by another release"):
        schedule_from_json(values)


GOOD = st.sampled_from([make_schedule(f"a{k}", **options) for k, (options, *_) in enumerate(RULES)])
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["all", "skip"])
WHATEVER = ATOMS | st.lists(ATOMS, max_size=2) | st.dictionaries(st.sampled_from(["cron", "tz", "every", "at"]), ATOMS)


@given(GOOD, st.dictionaries(st.sampled_from(sorted(make_schedule("a", every=5).to_json())), WHATEVER, max_size=3))
def test_any_json_is_a_schedule_or_refused(good, changes):
    try:
        schedule = schedule_from_json(good.to_json() | changes)
    except ConfigurationError:
        return
    assert schedule == schedule_from_json(schedule.to_json())
