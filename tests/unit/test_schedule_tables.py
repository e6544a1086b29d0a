"""Schedules in a settings file: what is taken, and what is said of the rest."""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime

import pytest

import procjobs
from procjobs.client.scheduling import join_declared
from procjobs.errors import ConfigurationError, SettingsDiffer
from procjobs.host import payload
from procjobs.schedules.named import NamedFunction
from procjobs.settings.file import SettingsFile, parse_document
from procjobs.settings.plan import make_plan
from procjobs.shared.function_names import function_name

NIGHTLY = """
[pool.media.schedules.nightly]
call = "json:dumps"
args = [{a = 1}]
kwargs = {indent = 2}
every = "1h"
timeout = "20m"
max_rss = "2G"
retries = 2
jitter = "1m"
expires = 600
"""


def read(text, prefix=""):
    document = tomllib.loads(text)
    return parse_document("/srv/procjobs.toml", document["tool"]["procjobs"] if prefix else document, prefix)


def plan(text, pool="media", hosts=("web-1.example.org", "web-1"), **given):
    return make_plan(pool, given, file=read(text), variables={}, hosts=hosts)


def problem(table, header="[pool.media.schedules.nightly]"):
    (said,) = read(f"{header}\n{table}").problems
    return said.removeprefix("/srv/procjobs.toml: ")


def test_table_becomes_a_schedule_with_its_call_and_options():
    (one,) = plan(NIGHTLY).schedules.values()
    call = one.call
    assert ("nightly", [{"a": 1}], {"indent": 2}) == (call.schedule.name, list(call.args), call.kwargs)
    assert ("Every hour", 60.0, 600.0) == (call.schedule.rule.explain(), call.schedule.jitter, call.schedule.expires)
    assert {"timeout": "20m", "max_rss": 2 * 2**30, "retries": 2} == call.options
    assert "/srv/procjobs.toml [pool.media.schedules.nightly]" == one.where


def test_schedules_of_a_project_are_below_its_tool_table():
    found = read('[tool.procjobs.pool.media.schedules.x]\ncall = "json:dumps"\n', "tool.procjobs.")
    assert "procjobs.toml: [tool.procjobs.pool.media.schedules.x] expected exactly one of cron=, every=" in found.problems[0]


def test_table_of_a_host_replaces_the_schedule_as_a_whole_and_adds_others():
    text = f"""{NIGHTLY}
[pool.media.hosts."web-*".schedules.nightly]
call = "json:loads"
every = 60
[pool.media.hosts."web-1".schedules.own]
call = "json:loads"
after = 60
"""
    found = plan(text).schedules
    assert {"nightly": "json:loads", "own": "json:loads"} == {name: one.target for name, one in found.items()}
    assert {} == found["nightly"].call.options
    elsewhere = plan(text, hosts=("db-1",)).schedules
    assert {"nightly": "json:dumps"} == {name: one.target for name, one in elsewhere.items()}
    assert plan(text, pool="other").schedules is None
    assert plan(text, pool=None).schedules is None


def test_empty_table_declares_that_there_are_none():
    assert plan("[pool.media.schedules]").schedules == {}
    assert "" == plan("[pool.media]\nnice = 3").schedules_digest != plan("[pool.media.schedules]").schedules_digest


def test_other_schedules_are_other_code():
    before = plan(NIGHTLY).schedules_digest
    assert before == plan(NIGHTLY, timeout=5).schedules_digest
    assert before != plan(NIGHTLY.replace("600", "601")).schedules_digest


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("every = 3", 'call is missing: the function as "module:function", such as "app.jobs:make_report"'),
        ('call = "jobs"\nevery = 3', "call='jobs' is no \"module:function\", such as \"app.jobs:make_report\""),
        ('call = "jobs:make report"\nevery = 3', "call='jobs:make report' is no \"module:function\""),
        ("call = 3\nevery = 3", "call=3: expected \"module:function\""),
        ('call = "a:b"', "expected exactly one of cron=, every=, after= and at=, got none of them"),
        ('call = "a:b"\nevery = 3\nafter = 3', "expected exactly one of cron=, every=, after= and at=, got every="),
        ('call = "a:b"\nevery = 0', "every=0: expected more than zero seconds"),
        ('call = "a:b"\nevery = 3\nargs = "x"', "args='x': expected a list, such as [\"daily\", 7]"),
        ('call = "a:b"\nevery = 3\nkwargs = [1]', "kwargs=[1]: expected a table, such as {size = 256}"),
        ('call = "a:b"\nat = "2027-01-01"', "at='2027-01-01': expected a date with a time, without quotes: 2027-"),
        ('call = "a:b"\nat = 2027-01-01', "at=datetime.date(2027, 1, 1): expected a date with a time, without"),
        ('call = "a:b"\nevery = 3\nretires = 3', "has an unknown key 'retires'; did you mean 'retries'?"),
        ('call = "a:b"\nevery = 3\ndelay = 3', "delay= is nothing for a schedule: a schedule says itself when"),
        ('call = "a:b"\nevery = 3\ntimeout = "x"', "timeout='x': expected seconds as a number or \"none\""),
        ('call = "a:b"\nevery = 3\nkeep_children = 1', "keep_children=1: expected true or false"),
        ('call = "a:b"\nevery = 3\noverlap = "never"', "overlap='never': expected"),
        ('call = "a:b"\nevery = 3\ntz = "Europe/Berlin"', "tz='Europe/Berlin' is for cron= and for at=, and this is every="),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_file_and_table(table, said):
    assert problem(table).startswith(f"[pool.media.schedules.nightly] {said}")


def test_unknown_zone_is_told_with_the_one_that_was_probably_meant():
    pytest.importorskip("cronsim")
    said = problem('call = "a:b"\ncron = "@daily"\ntz = "Europe/Berln"')
    assert "tz='Europe/Berln': no such time zone; did you mean 'Europe/Berlin'" in said


def test_every_unknown_key_is_told():
    found = read('[pool.media.schedules.x]\ncall = "a:b"\nevry = 3\nretires = 2').problems
    assert 2 == len(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[pool.media.schedules]\ncall = "a:b"', "[pool.media.schedules] call: a schedule has a name, and is a table: ["),
        ("[pool.media]\nschedules = 3", "[pool.media.schedules] is not a table: a schedule has a name, as in [pool"),
        ('[schedules.x]\ncall = "a:b"', "[schedules] belongs to a pool: [pool.NAME.schedules.nightly]"),
        ('[default.schedules.x]\ncall = "a:b"', "[default.schedules] is for all pools, and a schedule belongs to one: ["),
        ('[default.hosts.web.schedules.x]\ncall = "a:b"', "[default.hosts.web.schedules] is for all pools"),
        ('[pool.media.schedule.x]\ncall = "a:b"', "[pool.media] has an unknown setting 'schedule'; did you mean"),
        ('[pool.media.schedules."a/b"]\ncall = "a:b"\nevery = 3', '[pool.media.schedules."a/b"] expected a name'),
    ],
)  # fmt: skip
def test_tables_in_other_places_are_told_where_they_belong(text, said):
    (found,) = read(text).problems
    assert found.startswith(f"/srv/procjobs.toml: {said}")


def test_date_of_the_file_is_that_moment():
    (one,) = plan('[pool.media.schedules.x]\ncall = "a:b"\nat = 2027-01-01T02:30:00+01:00').schedules.values()
    assert int(datetime(2027, 1, 1, 1, 30, tzinfo=UTC).timestamp()) * 10**6 == one.call.schedule.rule.next_after(0)


def test_none_lifts_a_limit_as_in_the_other_tables():
    (one,) = plan('[pool.media.schedules.x]\ncall = "a:b"\nevery = 3\ntimeout = "none"\nexpires = "none"').schedules.values()
    assert ({"timeout": None}, None) == (one.call.options, one.call.schedule.expires)


def test_wishes_that_the_settings_do_not_meet_are_told():
    table = 'call = "a:b"\nevery = 3\ncatch_up = "all"\nqueue = "mial"'
    text = f"[pool.media.schedules.x]\n{table}\n[pool.media.queues.mail]\nlimit = 1"
    store, queue = plan(text).describe_misfits()
    assert store.startswith('/srv/procjobs.toml [pool.media.schedules.x] catch_up="all" needs a store: ')
    assert "[pool.media.schedules.x] queue='mial': pool 'media' has no queue 'mial': did you mean 'mail'?" in queue
    assert 1 == len(plan(text, store="sqlite:////tmp/x.db").describe_misfits())


# The functions ----------------------------------------------------------------------------------------------------


def test_named_function_arrives_as_the_function_itself_and_is_not_imported_before(monkeypatch, tmp_path):
    (tmp_path / "only_over_there.py").write_text("def make(): return 'made'")
    named = NamedFunction("only_over_there:make")
    assert "only_over_there.make" == function_name(named)
    pickled = payload.dump_function(named)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "made" == payload.loads(pickled)()
    assert json.dumps is payload.loads(payload.dump_function(NamedFunction("json:dumps")))


def test_function_that_is_not_there_is_named():
    with pytest.raises(ImportError, match="module 'json' has no 'dmps', which a schedule of the settings file calls"):
        NamedFunction("json:dmps")()
    with pytest.raises(ModuleNotFoundError):
        NamedFunction("no_such_module_at_all:x")()


# Beside those of the pool -----------------------------------------------------------------------------------------


def test_argument_takes_the_place_of_the_schedule_of_the_file_and_it_is_said():
    of_file = plan(NIGHTLY + '[pool.media.schedules.other]\ncall = "a:b"\nevery = 3\n').schedules
    mine = procjobs.ScheduledCall("nightly", print, every=5)
    where = r"/srv/procjobs.toml \[pool.media.schedules.nightly\] is not used"
    with pytest.warns(SettingsDiffer, match=rf"<Pool media>: schedule 'nightly' is the one of Pool\(.*\); {where}"):
        joined = join_declared("<Pool media>", of_file, (mine,))
    assert (of_file["other"].call, mine) == joined


def test_process_declares_nothing_where_neither_file_nor_pool_say_anything():
    assert join_declared("<Pool media>", None, None) is None
    assert () == join_declared("<Pool media>", None, ())
    assert () == join_declared("<Pool media>", {}, None)


def test_invalid_schedule_keeps_the_pool_from_starting():
    with pytest.raises(ConfigurationError, match=r"/srv/procjobs.toml: \[pool.media.schedules.x\] call is missing"):
        plan("[pool.media.schedules.x]\nevery = 3")
    assert plan("[pool.media]\nnice = 1", pool="media").schedules is None
    assert make_plan("media", {}, file=SettingsFile("", (), ()), variables={}).schedules is None
