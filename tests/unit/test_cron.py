"""Cron lines in time zones, against a walk through the local calendar.

All clocks in these tests are changed at quarters of an hour. So a walk in quarters, each of them with its fifteen minutes,
meets every minute of a year.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise, product
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from procjobs.errors import ConfigurationError
from procjobs.schedules.cron import MACROS, make_cron

MINUTE = 60_000_000
DAY = 24 * 60 * MINUTE
QUARTER = timedelta(minutes=15)
QUARTERS = (0, 15, 30, 45)

YEARS = [
    ("Europe/Berlin", 2026),
    ("America/New_York", 2026),
    ("Australia/Lord_Howe", 2026),  # by half an hour
    ("America/Sao_Paulo", 2018),  # midnight is skipped
    ("Asia/Tehran", 2021),  # the same, and half an hour off
    ("Antarctica/Troll", 2026),  # by two hours
    ("Africa/Casablanca", 2026),  # summer time all year, apart from Ramadan
    ("Pacific/Apia", 2011),  # 30 December is skipped
    ("Asia/Kolkata", 2026),
    ("UTC", 2026),
]
ANY = range(24)
ALL = range(60)
LINES = [  # the line, its days, hours and minutes; each given twice, so that no parser is trusted
    ("30 2 * * *", lambda day: True, {2}, {30}),
    ("0 30 2 * * *", lambda day: True, {2}, {30}),
    ("0 0 * * *", lambda day: True, {0}, {0}),
    ("@daily", lambda day: True, {0}, {0}),
    ("0,30 1,2,3 * * *", lambda day: True, {1, 2, 3}, {0, 30}),
    ("15 2 * * SUN", lambda day: day.weekday() == 6, {2}, {15}),
    ("45 0-2 1,15 * *", lambda day: day.day in {1, 15}, {0, 1, 2}, {45}),
    ("0 0 30 12 *", lambda day: (day.month, day.day) == (12, 30), {0}, {0}),
    ("*/15 2 * * *", lambda day: True, {2}, {0, 15, 30, 45}),
    ("* 0-3 * 3,10 *", lambda day: day.month in {3, 10}, {0, 1, 2, 3}, ALL),
    ("30 * * * *", lambda day: True, ANY, {30}),
    ("*/5 * * * *", lambda day: True, ANY, range(0, 60, 5)),
    ("10 */2 * * *", lambda day: True, range(0, 24, 2), {10}),
    ("0 */3 * * 1-5", lambda day: day.weekday() < 5, range(0, 24, 3), {0}),
]
OTHER_FORMS = {"0 30 2 * * *", "@daily"}  # of the line before


def clock(*parts):
    """What a clock on a wall shows."""
    return datetime(*parts)  # noqa: DTZ001


EPOCH = clock(1970, 1, 1)


def moment_of(shown):
    return (shown - EPOCH) // timedelta(microseconds=1)


@cache
def calendar(zone, year):
    """Every quarter of a year and of the week before and after: pairs of a moment and what the clock shows."""
    found = []
    at = (clock(year, 1, 1) - timedelta(days=7)).replace(tzinfo=UTC)
    end = at + timedelta(days=380)
    moment, place = moment_of(at.replace(tzinfo=None)), ZoneInfo(zone)
    while at < end:
        shown = at.astimezone(place).replace(tzinfo=None)
        assert shown.minute in QUARTERS
        found.append((moment, shown))
        at += QUARTER
        moment += 15 * MINUTE
    return found


@cache
def first_shown(zone, year):
    """When the clock shows each quarter for the first time; a quarter that it never shows: when it is past it, and False."""
    quarters = calendar(zone, year)
    seen = {}
    for moment, shown in quarters:
        seen.setdefault(shown, (moment, True))
    last = quarters[-1][1]
    at, missing = quarters[0][1], []
    while at < last:
        if at in seen:
            seen |= dict.fromkeys(missing, (seen[at][0], False))
            missing = []
        else:
            missing.append(at)
        at += QUARTER
    return seen


@cache
def quarters_at(zone, year, is_each_hour):
    """By what the clock shows, hour and minute: the quarters as triples of that, a moment, and whether it is ever shown."""
    if is_each_hour:
        quarters = ((shown, moment, True) for moment, shown in calendar(zone, year))
    else:
        quarters = ((shown, *place) for shown, place in first_shown(zone, year).items())
    found = {(hour, minute): [] for hour in ANY for minute in QUARTERS}
    for shown, moment, is_shown in quarters:
        found[shown.hour, shown.minute].append((shown, moment, is_shown))
    return found


@cache
def expected(line, zone, year):
    """The moments of a line, by the table in procjobs/schedules/cron.py."""
    days, hours, minutes = next(sets for text, *sets in LINES if text == line)
    minute_field, hour_field = MACROS.get(line, line).split()[-5:-3]
    quarters = quarters_at(zone, year, hour_field.startswith("*"))
    found = set()
    for hour, quarter in product(hours, QUARTERS):
        inside = [(minute - quarter) * MINUTE for minute in minutes if 0 <= minute - quarter < 15]
        for shown, moment, is_shown in quarters[hour, quarter] if inside else ():
            if is_shown and days(shown):
                found.update([moment + later for later in inside])
            elif not is_shown and days(shown) and not minute_field.startswith("*"):
                found.add(moment)
    return sorted(found)


def bounds(year):
    return moment_of(clock(year, 1, 1)), moment_of(clock(year + 1, 1, 1))


@cache
def changes(zone, year):
    """The moments at which the clock is changed."""
    quarters = calendar(zone, year)
    return [after for (_, one), (after, other) in pairwise(quarters) if other - one != QUARTER]


def between(periods, low, high):
    return periods[bisect_left(periods, low) : bisect_left(periods, high)]


def walk(rule, low, high):
    """The periods that the rule finds, forwards and backwards."""
    forwards, period = [], rule.next_after(low - 1)
    while period is not None and period < high:
        forwards.append(period)
        period = rule.next_after(period)
    backwards, period = [], rule.latest_until(high - 1)
    while period is not None and period >= low:
        backwards.append(period)
        period = rule.latest_until(period - 1)
    return forwards, backwards[::-1]


@pytest.mark.parametrize(("zone", "year"), YEARS)
@pytest.mark.parametrize("line", [line for line, *_ in LINES])
def test_periods_are_those_of_the_calendar(zone, year, line):
    rule = make_cron(line, zone)
    periods = expected(line, zone, year)
    begin, end = bounds(year)
    spans = [(begin, end)]
    if len(periods) > 800 or line in OTHER_FORMS:  # the hours around the changes of the clock, and of a January
        spans = [(change - 4 * 60 * MINUTE, change + 4 * 60 * MINUTE) for change in changes(zone, year)]
        spans.append((begin, begin + DAY // 4))
    for low, high in spans:
        wanted = between(periods, low, high)
        assert (wanted, wanted) == walk(rule, low, high)


@pytest.mark.parametrize(("zone", "year"), YEARS[:8])
@pytest.mark.parametrize("line", [line for line, *_ in LINES])
def test_periods_are_found_from_any_moment_near_a_change_of_the_clock(zone, year, line):
    rule = make_cron(line, zone)
    periods = expected(line, zone, year)
    begin, end = bounds(year)
    for change in changes(zone, year)[:2]:
        for moment in range(change - 150 * MINUTE, change + 150 * MINUTE, 15 * MINUTE):
            for at in (moment - 1, moment):
                place, found = bisect_right(periods, at), [rule.latest_until(at), rule.next_after(at)]
                wanted = periods[max(place - 1, 0) : place + 1]
                assert between(wanted, begin, end) == [period for period in found if begin <= period < end]


def test_all_kinds_of_changes_are_in_these_years():
    steps = set()
    for zone, year in YEARS:
        quarters = calendar(zone, year)
        steps |= {other - one - QUARTER for (_, one), (_, other) in pairwise(quarters)}
    hours = {step / timedelta(hours=1) for step in steps}
    assert {-2, -1, -0.5, 0, 0.5, 1, 2, 24} == hours


def shown_in(zone, line, begin, count):
    rule, at, found = make_cron(line, zone), moment_of(begin), []
    for _ in range(count):
        at = rule.next_after(at)
        found.append((EPOCH + timedelta(microseconds=at)).replace(tzinfo=UTC).astimezone(ZoneInfo(zone)).isoformat())
    return found


def test_nightly_line_runs_once_in_the_night_with_the_hour_that_comes_twice():
    assert ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"] == shown_in(
        "Europe/Berlin", "30 2 * * *", clock(2026, 10, 24, 12), 2
    )


def test_nightly_line_runs_after_the_hour_that_is_skipped():
    assert ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"] == shown_in(
        "Europe/Berlin", "30 2 * * *", clock(2026, 3, 28, 12), 2
    )


def test_line_for_all_hours_runs_through_the_hour_that_comes_twice():
    assert ["02:00:00+02:00", "02:30:00+02:00", "02:00:00+01:00", "02:30:00+01:00", "03:00:00+01:00"] == [
        text.partition("T")[2] for text in shown_in("Europe/Berlin", "*/30 * * * *", clock(2026, 10, 24, 23, 59), 5)
    ]


def test_line_with_seconds_is_treated_as_one_without():
    assert ["2026-10-25T02:30:10+02:00", "2026-10-26T02:30:10+01:00"] == shown_in(
        "Europe/Berlin", "10 30 2 * * *", clock(2026, 10, 24, 12), 2
    )
    assert ["2026-03-29T03:00:00+02:00"] == shown_in("Europe/Berlin", "10 30 2 * * *", clock(2026, 3, 28, 12), 1)


@pytest.mark.parametrize("line", ["30 2 * * *", "0 2,3 * * *", "30 * * * *", "*/20 * * * *", "5 1-4 * * *"])
@pytest.mark.parametrize("begin", [clock(2026, 3, 28), clock(2026, 10, 24)])
def test_lines_of_five_fields_are_what_cronsim_makes_of_them(line, begin):
    theirs = CronSim(line, begin.replace(tzinfo=ZoneInfo("Europe/Berlin")))
    ours = shown_in("Europe/Berlin", line, begin - timedelta(hours=1 + (begin.month == 10)), 80)
    assert [next(theirs).isoformat() for _ in range(80)][1:70] == [text for text in ours if text > begin.isoformat()][1:70]


FIELD = {
    "minute": st.sampled_from(["*", "0", "*/7", "59", "1,31", "10-20/3", "30"]),
    "hour": st.sampled_from(["*", "0", "*/5", "23", "1,2,3", "0-3", "2"]),
    "day": st.sampled_from(["*", "1", "L", "31", "*/9", "28-31", "LW", "29"]),
    "month": st.sampled_from(["*", "2", "3,10", "*/6", "JAN-JUN"]),
    "weekday": st.sampled_from(["*", "0", "7", "MON-FRI", "5L", "1#1", "*/2"]),
}
TEXT = st.builds("{minute} {hour} {day} {month} {weekday}".format, **FIELD) | st.builds(
    "{second} {minute} {hour} {day} {month} {weekday}".format, second=st.sampled_from(["0", "*/10", "59", "*"]), **FIELD
)


@given(
    TEXT.filter(lambda line: "31 2 " not in line),
    st.sampled_from([zone for zone, _ in YEARS]),
    st.integers(moment_of(clock(2009, 1, 1)), moment_of(clock(2040, 1, 1))),
)
def test_next_and_last_periods_agree(line, zone, moment):
    rule = make_cron(line, zone)
    period = rule.next_after(moment)
    assert period > moment
    assert period % 1_000_000 == 0
    assert period == rule.latest_until(period) == rule.latest_until(period + 999_999)
    before = rule.latest_until(period - 1)
    assert before <= moment
    assert period == rule.next_after(before) == before + rule.interval_at(before)


# Lines that make no sense -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("61 * * * *", "Bad minute"),
        ("* * * *", "Wrong number of fields"),
        ("0 0 31 2 *", "Bad day-of-month"),
        ("H * * * *", "Bad minute"),
        ("* 24 * * *", "Bad hour"),
        ("* * * * 8", "Bad day-of-week"),
        ("", "Wrong number of fields"),
        ("*/0 * * * *", "Bad minute"),
        ("٣ * * * *", "Bad minute"),
    ],
)
def test_line_that_makes_no_sense_is_refused_with_the_reason_and_what_to_write(line, why):
    with pytest.raises(ConfigurationError) as caught:
        make_cron(line, "UTC")
    assert str(caught.value).startswith(f"cron={line!r}: {why}; expected [second] minute hour day-of-month month ")


@pytest.mark.parametrize("line", [5, None, b"* * * * *", "1" * 300, ["*"] * 5])
def test_what_is_no_line_is_refused(line):
    with pytest.raises(ConfigurationError, match=r"^cron=.*: expected \[second\] minute"):
        make_cron(line, "UTC")


def test_unknown_macro_is_refused_with_those_there_are():
    with pytest.raises(ConfigurationError, match="cron='@dayly': there is no such name; there are @hourly, @daily"):
        make_cron("@dayly", "UTC")


@pytest.mark.parametrize("macro", MACROS)
def test_macro_is_the_line_it_stands_for(macro):
    moment = moment_of(clock(2026, 5, 5, 5, 5))
    assert make_cron(MACROS[macro], "UTC").next_after(moment) == make_cron(macro.upper(), "UTC").next_after(moment)
    assert macro == make_cron(macro, "UTC").expression()


@given(st.text(alphabet="0123456789*/-,#LW@ JANMO?H", max_size=24))
def test_any_text_is_a_line_or_refused(text):
    try:
        rule = make_cron(text, "UTC")
    except ConfigurationError:
        return
    period = rule.next_after(0)
    assert rule.explain().endswith(" (UTC)")
    assert period is None or period == rule.latest_until(period)


def test_line_that_never_comes_has_no_next_period():
    rule = make_cron("0 0 */30 * 1#3", "UTC")  # the 1st or 31st, and the third Monday
    assert (None, None, None) == (rule.next_after(0), rule.latest_until(0), rule.interval_at(0))
    assert 0 == rule.count(0, 10**15)


def test_no_period_is_found_outside_the_calendar():
    rule = make_cron("@daily", "Europe/Berlin")
    for moment in (10**18, -(10**18), moment_of(clock(9999, 12, 31, 23, 59))):
        assert rule.next_after(moment) is None or moment < 0
    assert None is rule.latest_until(-(10**18))


def test_line_is_kept_as_it_was_written_with_single_spaces():
    rule = make_cron("  30   2 * *  mon ", "Europe/Berlin")
    assert "30 2 * * mon" == rule.expression()
    assert "At 02:30 on Monday (Europe/Berlin)" == rule.explain()


def test_missing_cronsim_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(ConfigurationError, match=r"need the package cronsim: pip install 'procjobs\[schedules\]'"):
        make_cron("* * * * *", "UTC")


def test_counting_stops_at_a_hundred(monkeypatch):
    rule = make_cron("* * * * *", "UTC")
    assert [0, 3, 100] == [rule.count(0, until * MINUTE) for until in (0, 3, 500_000)]
