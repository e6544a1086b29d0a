"""Durations, sizes and moments as users give them, and the words in which others are refused."""

from __future__ import annotations

import doctest
import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

import procjobs
from procjobs.client.connection.submission import Terms
from procjobs.errors import ConfigurationError
from procjobs.settings.environment import read_variables
from procjobs.settings.keys import SETTINGS, check_setting, check_written, parse_text_in_file
from procjobs.settings.plan import given_settings
from procjobs.shared import durations
from procjobs.shared.config import UNSET
from procjobs.shared.durations import check_seconds, parse_size, wait_seconds

DURATIONS = sorted(name for name, setting in SETTINGS.items() if float in setting.kinds)
SIZES = sorted(name for name, setting in SETTINGS.items() if setting.is_size)
TEXTS = [
    ("5s", 5), ("2m", 120), ("1h30m", 5400), ("500ms", 0.5), ("7d", 604_800), ("1w", 604_800), ("1.5h", 5400), (".5s", 0.5),
    (" 1 h 30 m ", 5400), ("1H", 3600), ("1m500ms", 60.5),
]  # fmt: skip
NONSENSE = [
    "5 parsecs", "parsecs", "", "s", "5", "1.5", "-5s", "5s2h", "5s5s", "1e3s", "nan", "inf", "1h-30m", "٣s", True, False,
    [], {}, object(), math.nan, b"5s",
]  # fmt: skip


def test_examples_in_docstrings_are_right():
    assert (0, True) == (doctest.testmod(durations).failed, doctest.testmod(durations).attempted > 0)


@pytest.mark.parametrize(("text", "seconds"), TEXTS)
def test_text_with_units_is_a_duration(text, seconds):
    assert seconds == check_seconds("timeout", text)


@given(st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=30_000)))
def test_timedelta_is_its_seconds(value):
    assert value.total_seconds() == check_seconds("timeout", value)


@pytest.mark.parametrize("value", NONSENSE)
def test_what_is_no_duration_is_refused_with_what_to_write(value):
    with pytest.raises(ConfigurationError, match=r"^timeout=.*: expected seconds as a number or None; a timedelta, or "):
        check_seconds("timeout", value)


@pytest.mark.parametrize("value", [-1, -0.1, "0s", 0, timedelta(seconds=-1), timedelta.min, -math.inf, -(10**400)])
def test_negative_duration_is_refused(value):
    with pytest.raises(ConfigurationError, match="expected more than zero seconds"):
        check_seconds("timeout", value)


@pytest.mark.parametrize("value", [1e300, 10**400, math.inf, timedelta.max, "99999999999d"])
def test_huge_duration_is_refused(value):
    with pytest.raises(ConfigurationError, match="at most those of 1000 years; None means without limit"):
        check_seconds("timeout", value)


def test_waiting_takes_what_has_passed_as_no_time_at_all():
    assert [None, 0.0, 0.0, 1.5, 60.0] == [wait_seconds(v) for v in (None, -5, timedelta(seconds=-1), 1.5, "1m")]
    with pytest.raises(ConfigurationError, match=r"timeout='soon': expected seconds"):
        wait_seconds("soon")


# Settings -----------------------------------------------------------------------------------------------------------


def test_every_setting_of_seconds_is_here():
    assert {"timeout", "backoff", "linger", "result_ttl", "submit_timeout", "start_timeout"} < set(DURATIONS)
    assert ["max_rss", "result_memory_bytes"] == SIZES


@pytest.mark.parametrize("name", DURATIONS)
def test_every_setting_of_seconds_takes_timedelta_and_text(name):
    assert [90.0, 90.0] == [check_setting(name, value) for value in (timedelta(seconds=90), "1m30s")]
    assert 90.0 == check_written(name, parse_text_in_file(name, "1m30s"))
    for text in ("1m30s", "90"):
        assert 90.0 == read_variables("media", {f"PROCJOBS_MEDIA_{name.upper()}": text})[name].value


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("text", ["5 parsecs", "-5s", "nan"])
def test_every_setting_of_seconds_refuses_nonsense_by_its_name(name, text):
    variable = f"PROCJOBS_{name.upper()}"
    with pytest.raises(ConfigurationError, match=f"environment variable {variable}={text}: {name}="):
        read_variables(None, {variable: text})


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_texts_in_python_too(name):
    texts = {"1G": 2**30, "512M": 2**29, "1GiB": 2**30, "1.5 g": 3 * 2**29, "8388608": 2**23, "8388608B": 2**23}
    assert texts == {text: check_setting(name, text) for text in texts}


@pytest.mark.parametrize("text", ["", "much", "1X", "-1G", "nan", "1GB", "1e3", "G"])
def test_text_that_is_no_size_is_refused(text):
    with pytest.raises(ConfigurationError):
        parse_size(text)
    with pytest.raises(ConfigurationError, match=f"^max_rss='{text}': "):
        check_setting("max_rss", text)


def test_workers_none_is_auto():
    assert {"workers": "auto"} == given_settings({"workers": None})
    assert {"workers": 3} == given_settings({"workers": None, "max_workers": 3})
    assert {} == given_settings({"workers": UNSET})


# Options ------------------------------------------------------------------------------------------------------------


def test_options_of_a_submission_take_timedelta_text_and_datetime():
    terms = Terms().but({"delay": timedelta(minutes=2), "expires": "1h", "key": "a", "unique": "1d", "timeout": "5s"})
    assert (120.0, 3600.0, 86_400.0) == (terms.delay, terms.expires, terms.unique)
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    assert moment.timestamp() == Terms().but({"at": moment}).at


@pytest.mark.parametrize(
    ("at", "said"),
    [(1.9e12, "is this one in milliseconds"), ("5s", "datetime$"), (timedelta(1), "datetime$"), (math.nan, "datetime$")],
)
def test_moment_that_is_none_is_refused(at, said):
    with pytest.raises(ConfigurationError, match=f"at=.*: expected a Unix time in seconds, or a datetime.*{said}|{said}"):
        Terms().but({"at": at})


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [("dealy", "delay"), ("att", "at"), ("expire", "expires"), ("keys", "key"), ("uniqe", "unique"), ("timout", "timeout"),
     ("cancel_on_disconect", "cancel_on_disconnect"), ("priorty", "priority")],
)  # fmt: skip
def test_misspelt_option_suggests_from_all_options(misspelt, meant):
    with pytest.raises(ConfigurationError, match=rf"unknown job option '{misspelt}' \(did you mean '{meant}'\?\)"):
        Terms().but({misspelt: 5})


def test_misspelt_setting_and_field_name_the_one_that_was_meant():
    with pytest.raises(TypeError, match=r"Pool\(\) has no setting 'timout' \(did you mean 'timeout'\?\); there are: aff"):
        procjobs.Pool("never-started", timout=5)
    with pytest.raises(TypeError, match=r"Pool\(\) has no 'priority': it is an option of jobs, pool.options\(priority="):
        procjobs.Pool("never-started", priority=5)
    with pytest.raises(TypeError, match=r"Queue\(\) has no field 'limt' \(did you mean 'limit'\?\)"):
        procjobs.Queue(limt=5)
    with pytest.raises(ConfigurationError, match=r"delay: this is of one submission"):
        procjobs.job(delay=5)
