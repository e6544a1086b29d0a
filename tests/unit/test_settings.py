"""Settings from files, variables and arguments: what holds, where it came from, and what is refused in which words."""

from __future__ import annotations

import contextlib
import doctest
import inspect
import os
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import procjobs
from procjobs.errors import ConfigurationError
from procjobs.host.hostinfo import CpuFacts, MemoryFacts
from procjobs.host.sizing import Footprint
from procjobs.settings import environment, keys
from procjobs.settings import file as settings_file
from procjobs.settings.keys import SETTINGS, check_setting, parse_setting
from procjobs.settings.plan import given_settings, make_plan
from procjobs.shared.config import NICE, UNSET, ClientSettings, JobOptions, PoolSettings

WEB_1 = ["web-1.example.org", "web-1"]
FILE = """
[default]
nice = 5
timeout = 30

[default.hosts."web-*"]
nice = 6
result_ttl = 60

[pool.media]
workers = [2, 8]
preload = ["numpy", "jobs"]
max_rss = "500M"
timeout = "none"

[pool.media.hosts."web-*"]
workers = 6
retries = 1

[pool.media.hosts."*"]
workers = 5
retries = 2
linger = 1.5

[pool.media.hosts."web-1"]
workers = 7

[pool.thumbs]
nice = 0
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory in which only the files of the test can be found."""
    monkeypatch.delenv(settings_file.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def plan(place):
    """Write a settings file and return what it makes of a pool."""

    def plan(text, name="media", *, hosts=WEB_1, variables=None, file_name="procjobs.toml", **arguments):
        (place / file_name).write_text(text)
        return make_plan(name, arguments, hosts=hosts, variables=variables or {})

    return plan


def refused(make, *arguments, **more):
    with pytest.raises(ConfigurationError) as caught:
        make(*arguments, **more)
    return str(caught.value)


# What holds ---------------------------------------------------------------------------------------------------------


def test_without_a_file_everything_is_the_default(place):
    plan = make_plan("media", {}, variables={})
    assert {} == plan.origins
    assert ("auto", NICE, (), None) == tuple(plan.values[name] for name in ("workers", "nice", "preload", "timeout"))
    made = plan.for_supervisor()
    assert made == PoolSettings(workers=made.workers, sources=made.sources).validated()
    assert {"workers"} == made.sources.keys()


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (WEB_1, {"workers": 7, "retries": 1, "linger": 1.5, "nice": 6, "result_ttl": 60.0, "timeout": None}),
        (["web-2"], {"workers": 6, "retries": 1, "linger": 1.5, "nice": 6, "result_ttl": 60.0}),
        (["WEB-2"], {"workers": 6, "retries": 1}),
        (["db-1"], {"workers": 5, "retries": 2, "nice": 5, "result_ttl": 3600.0, "max_rss": 500 * 2**20}),
    ],
)
def test_setting_is_taken_from_the_most_specific_table_that_has_it(plan, hosts, expected):
    made = plan(FILE, hosts=hosts)
    assert expected == {name: made.values[name] for name in expected}


def test_every_setting_knows_where_it_came_from(plan, place):
    made = plan(FILE, variables={"PROCJOBS_RETRIES": "4"}, grace_period=1.0)
    path = place / "procjobs.toml"
    origins = {
        name: made.origin(name) for name in ("workers", "nice", "timeout", "retries", "grace_period", "max_queued")
    }
    assert {
        "workers": ("file", f'{path} [pool.media.hosts.web-1]'),
        "nice": ("file", f'{path} [default.hosts."web-*"]'),
        "timeout": ("file", f"{path} [pool.media]"),
        "retries": ("environment", "PROCJOBS_RETRIES"),
        "grace_period": ("argument", "argument"),
        "max_queued": ("default", "default"),
    } == origins  # fmt: skip


def test_table_of_one_pool_is_not_another_ones(plan):
    assert ("auto", 0) == tuple(plan(FILE, "thumbs").values[name] for name in ("workers", "nice"))
    assert ("auto", 6) == tuple(plan(FILE, "other").values[name] for name in ("workers", "nice"))


def test_defaults_hold_for_private_pools_too(plan):
    assert ("auto", 6, ()) == tuple(plan(FILE, None).values[name] for name in ("workers", "nice", "preload"))


def test_argument_beats_environment_beats_file_beats_default(plan):
    variables = {"PROCJOBS_NICE": "7"}
    text = "[pool.media]\nnice = 8"
    nices = [
        plan(text, variables=variables, nice=9),
        plan(text, variables=variables),
        plan(text),
        plan(""),
    ]
    assert [9, 7, 8, NICE] == [made.values["nice"] for made in nices]
    assert ["argument", "environment", "file", "default"] == [made.origin("nice").kind for made in nices]


def test_argument_that_is_the_default_beats_the_file_all_the_same(plan):
    assert (10, None, "auto") == tuple(
        plan("[pool.media]\nnice = 3\ntimeout = 5\nworkers = 2", nice=10, timeout=None, workers="auto").values[name]
        for name in ("nice", "timeout", "workers")
    )


@pytest.mark.parametrize(
    "text",
    ["[tool.procjobs.pool.media]\nnice = 3", "[tool]\nprocjobs.pool.media.nice = 3",
     '["tool"."procjobs".pool.media]\nnice = 3', "tool = { procjobs = { pool = { media = { nice = 3 } } } }",
     "[tool . procjobs]\npool.media.nice=3"],
)  # fmt: skip
def test_project_file_may_have_the_tables(plan, text, place):
    made = plan(text, file_name="pyproject.toml")
    assert 3 == made.values["nice"]
    assert f"{place}/pyproject.toml [tool.procjobs.pool.media]" == made.origin("nice").where


# Where the file is --------------------------------------------------------------------------------------------------


def test_file_is_looked_for_upward_and_the_nearest_counts(place, monkeypatch):
    below = place / "a" / "b"
    below.mkdir(parents=True)
    (place / "procjobs.toml").touch()
    monkeypatch.chdir(below)
    assert str(place / "procjobs.toml") == settings_file.find_file()
    (place / "a" / "pyproject.toml").write_text("[tool.procjobs.default]\nnice = 1")
    assert str(place / "a" / "pyproject.toml") == settings_file.find_file()
    (place / "a" / "procjobs.toml").touch()
    assert str(place / "a" / "procjobs.toml") == settings_file.find_file()


@pytest.mark.parametrize(
    "text",
    ["", "[tool.other]\nprocjobs = 3", '[project]\ndependencies = ["procjobs"]', "[tool]\nx = 1", "[tool]\nx = "],
)
def test_project_file_without_the_table_is_passed_by(place, monkeypatch, text):
    (place / "a").mkdir()
    (place / "a" / "pyproject.toml").write_text(text)
    (place / "procjobs.toml").touch()
    monkeypatch.chdir(place / "a")
    assert str(place / "procjobs.toml") == settings_file.find_file()


def test_variable_names_the_file_and_the_null_device_none(place, monkeypatch):
    (place / "procjobs.toml").touch()
    (place / "other.toml").touch()
    expected_by_name = {"other.toml": str(place / "other.toml"), os.devnull: None, "": str(place / "procjobs.toml")}
    for named, expected in expected_by_name.items():
        monkeypatch.setenv(settings_file.VARIABLE, named)
        assert expected == settings_file.find_file()
    monkeypatch.setenv(settings_file.VARIABLE, "/nowhere/x.toml")
    assert "PROCJOBS_CONFIG=/nowhere/x.toml: there is no such file" == refused(make_plan, "media", {})


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_file_that_a_stranger_left_where_everybody_may_write_is_passed_by(place):
    path = place / "procjobs.toml"
    path.write_text("[default]\nnice = 3")
    os.chown(path, 65534, 65534)
    assert str(path) == settings_file.find_file()
    place.chmod(0o1777)
    assert settings_file.find_file() is None


def test_directory_that_was_removed_has_no_file(place, monkeypatch):
    gone = place / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert settings_file.find_file() is None


def test_file_is_read_again_when_it_has_changed_and_only_then(plan, place, monkeypatch):
    assert 3 == plan("[pool.media]\nnice = 3").values["nice"]
    reads = []
    read = settings_file._read_bytes
    monkeypatch.setattr(settings_file, "_read_bytes", lambda path: reads.append(path) or read(path))
    assert 3 == make_plan("media", {}, variables={}).values["nice"]
    assert [] == reads
    assert 4 == plan("[pool.media]\nnice = 4").values["nice"]


# What is wrong in a file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pool.media]\nworkres = 6", "[pool.media] has an unknown setting 'workres'; did you mean 'workers'?"),
        ('[pool.media.hosts."web-*"]\nworker = 6', "[pool.media.hosts.\"web-*\"] has an unknown setting 'worker'; did you"),
        ("[pool.media]\nhost.x.workers = 6", "[pool.media] has an unknown setting 'host'; did you mean 'hosts'?"),
        ("[defaults]\nnice = 1", "[defaults] is not known; did you mean 'default'?"),
        ("[media]\nnice = 1", "[media] is not known; there are: default, pool"),
        ("[pools.media]\nnice = 1", "[pools] is not known; did you mean 'pool'?"),
        ("nice = 1", "nice stands outside of a table: for all pools it belongs under [default]"),
        ("[pool]\nnice = 1", "[pool] nice: for all pools it belongs under [default], for one under [pool.NAME]"),
        ("pool = 3", "[pool] is not a table"),
        ("[pool]\nmedia = 3", "[pool.media] is not a table"),
        ("default = 3", "[default] is not a table"),
        ("[pool.media]\nhosts = 3", "[pool.media] hosts is not a table: hosts are named as in [pool.NAME.hosts.\"web-*\"]"),
        ("[pool.media.hosts]\nworkers = 3", "[pool.media.hosts.workers] is not a table"),
        ("[pool.media.hosts.web-1.example.org]\nnice = 1",
         "[pool.media.hosts.web-1] example: a host's name with dots stands in quotes, as in hosts.\"web-1.example.org\""),
        ('[pool."-"]\nnice = 1', "[pool.-] '-' cannot be the name of a pool"),
        ("[pool.media]\nnice = 99", "[pool.media] nice=99: expected 0 to 19"),
        ('[pool.media]\nnice = "5"', "[pool.media] nice='5': expected a whole number"),
        ("[pool.media]\nnice = 1.5", "[pool.media] nice=1.5: expected a whole number"),
        ("[pool.media]\nnice = true", "[pool.media] nice=True: expected a whole number"),
        ("[pool.media]\nnice = 1979-05-27", "[pool.media] nice=datetime.date(1979, 5, 27): expected a whole number"),
        ("[pool.media]\nworkers = 0", "[pool.media] workers=0: expected 1 to 512"),
        ('[pool.media]\nworkers = "many"', "[pool.media] workers='many': expected a number, \"auto\", or a pair (least, "),
        ("[pool.media]\nworkers = [8, 2]", "[pool.media] workers=[8, 2]: the least is more than the most"),
        ('[pool.media]\ntimeout = "soon"', "[pool.media] timeout='soon': expected seconds as a number or \"none\""),
        ("[pool.media]\ntimeout = nan", "[pool.media] timeout=nan: expected seconds as a number or \"none\""),
        ('[pool.media]\nmax_rss = "much"', "[pool.media] 'much' is no size: give bytes, or 300M, or 2G"),
        ('[pool.media]\npreload = "numpy"', "[pool.media] preload='numpy': expected names of modules, such as ['numpy', "),
        ("[pool.media]\nreserve = -1", "[pool.media] reserve=-1: expected 0 to"),
        ("[pool.media]\nworkers = 3\nreserve = 1", "[pool.media] workers and reserve contradict each other: a reserve is "),
        ("[pool.media]\nname = 'x'", "[pool.media] has an unknown setting 'name'; "),
        ("[pool.media]\ndirectory = '/x'", "[pool.media] has an unknown setting 'directory'; there are: "),
        ("nice = ", "is not valid TOML: Invalid value (at end of document)"),
        ("[pool.media]\nnice = 1\nnice = 2", "is not valid TOML: Cannot overwrite a value (at "),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_told_with_file_table_key_and_what_is_allowed(plan, place, text, said):
    assert refused(plan, text).startswith(f"{place}/procjobs.toml{' ' if said.startswith('is') else ': '}{said}")


def test_mistake_in_another_pools_table_is_told_too_and_others_are_counted(plan):
    said = refused(plan, "[pool.thumbs]\nnice = 99\n[pool.x]\nnice = -1\nqueue = 3")
    assert said.endswith("[pool.thumbs] nice=99: expected 0 to 19 (and 2 more; `procjobs check` lists them)")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "is not valid TOML: 'utf-8' codec"),
        (lambda path: path.write_bytes(b"#" * (2**20 + 1)), "is larger than 1048576 bytes: is it the right one?"),
        (lambda path: path.write_text("x = " + "[" * 5000), "is not valid TOML: "),
    ],
)
def test_file_that_cannot_be_read_is_refused_and_nothing_hangs(place, make, said):
    make(place / "procjobs.toml")
    assert f"{place}/procjobs.toml {said}" in refused(make_plan, "media", {}, variables={})


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_file_without_permission_is_told(place):
    (place / "procjobs.toml").touch(0)
    assert "cannot be read: Permission denied" in refused(make_plan, "media", {}, variables={})


def test_settings_of_several_places_that_contradict_each_other_are_told_with_their_places(plan, place):
    said = refused(plan, "[pool.media]\ntimeout = 5", variables={"PROCJOBS_MEDIA_SOFT_TIMEOUT": "9"})
    where = f"(soft_timeout from PROCJOBS_MEDIA_SOFT_TIMEOUT, timeout from {place}/procjobs.toml [pool.media])"
    assert f"soft_timeout=9 must come before timeout=5 {where}" == said


# Variables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PROCJOBS_WORKERS": "4"}, {"workers": 4}),
        ({"PROCJOBS_WORKERS": "4", "PROCJOBS_MEDIA_2_WORKERS": "2-6"}, {"workers": (2, 6)}),
        ({"PROCJOBS_MEDIA_2_WORKERS": "auto", "PROCJOBS_WORKERS": "4"}, {"workers": "auto"}),
        ({"PROCJOBS_MEDIA_WORKERS": "4", "PROCJOBS_THUMBS_NICE": "nonsense"}, {}),
        ({"PROCJOBS_PRELOAD": "numpy,jobs"}, {"preload": ("numpy", "jobs")}),
        ({"PROCJOBS_MAX_RSS": "2G", "PROCJOBS_STRICT": "1"}, {"max_rss": 2**31, "strict": True}),
        ({"PROCJOBS_TIMEOUT": "none", "PROCJOBS_RESULT_TTL": "0.5"}, {"timeout": None, "result_ttl": 0.5}),
        ({"PROCJOBS_SOFT_TIMEOUT": "5"}, {"soft_timeout": 5.0}),
        ({"PROCJOBS_VERSION": "12", "PROCJOBS_RESERVE": "3"}, {"version": "12", "reserve": 3}),
        ({"PROCJOBS_THREADS": "2", "PROCJOBS_AFFINITY": "0,2-3"}, {"threads": 2, "affinity": (0, 2, 3)}),
        ({"PROCJOBS_THREADS": "none", "PROCJOBS_AFFINITY": "spread"}, {"threads": None, "affinity": "spread"}),
        ({"PROCJOBS_CONFIG": "/x", "PROCJOBS_POOL": "ab", "PROCJOBS_SOMETHING": "1", "HOME": "/"}, {}),
    ],
)
def test_variables_are_read_for_all_pools_and_for_one(variables, expected):
    found = environment.read_variables("media-2", variables)
    assert expected == {name: variable.value for name, variable in found.items()}


def test_variable_whose_name_could_be_both_is_for_all_pools():
    assert ["soft_timeout"] == list(environment.read_variables("soft", {"PROCJOBS_SOFT_TIMEOUT": "5"}))


@pytest.mark.parametrize("pool", ["able", "zoo"])
def test_variable_for_the_pool_comes_before_the_one_for_all(pool):
    found = environment.read_variables(pool, {"PROCJOBS_NICE": "1", f"PROCJOBS_{pool.upper()}_NICE": "2"})
    assert 2 == found["nice"].value


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PROCJOBS_NICE": "99"}, "environment variable PROCJOBS_NICE=99: nice=99: expected 0 to 19"),
        ({"PROCJOBS_NICE": ""}, "environment variable PROCJOBS_NICE=: nice='': expected a whole number"),
        (
            {"PROCJOBS_STRICT": "maybe"},
            "environment variable PROCJOBS_STRICT=maybe: strict='maybe': expected true or false",
        ),
        (
            {"PROCJOBS_MEDIA_WORKERS": "x"},
            "environment variable PROCJOBS_MEDIA_WORKERS=x: workers='x': expected a number,",
        ),
        ({"PROCJOBS_MAX_RSS": "1X"}, "environment variable PROCJOBS_MAX_RSS=1X: '1X' is no size"),
        ({"PROCJOBS_WORKRES": "4"}, "environment variable PROCJOBS_WORKRES: did you mean PROCJOBS_WORKERS?"),
        (
            {"PROCJOBS_MEDIA_WORKER": "4"},
            "environment variable PROCJOBS_MEDIA_WORKER: did you mean PROCJOBS_MEDIA_WORKERS?",
        ),
    ],
)
def test_variable_that_cannot_be_is_told_with_its_name(variables, said):
    assert refused(environment.read_variables, "media", variables).startswith(said)


# Arguments, and all that there is -----------------------------------------------------------------------------------


def test_settings_are_derived_from_the_classes_of_the_configuration():
    named = {field.name for owner in (PoolSettings, JobOptions, ClientSettings) for field in fields(owner)}
    assert named - {"job_defaults", "origins", "sources", "name"} == set(SETTINGS)
    for name, setting in SETTINGS.items():
        assert name == "workers" or setting.default == check_setting(name, setting.default)


def test_every_argument_of_a_pool_that_is_a_setting_can_be_told_from_one_not_given():
    """Else it would always win over a settings file. A new one in procjobs.shared.config has UNSET as default in Pool."""
    parameters = inspect.signature(procjobs.Pool.__init__).parameters
    others = {"self", "name", "max_workers", "initializer", "initargs", "finalizer", "database", "directory", "schedules"}
    assert [] == [name for name, p in parameters.items() if name in SETTINGS and p.default is not UNSET]
    assert [] == [name for name, p in parameters.items() if name not in {*SETTINGS, *others}]
    assert "<as configured>" in str(inspect.signature(procjobs.Pool))


def test_every_setting_is_in_the_documentation():
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    if not page.exists():
        pytest.skip("tests of the installed package have no documentation")
    assert [] == [name for name in SETTINGS if f"`{name}`" not in page.read_text()]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"workers": 3, "max_workers": 3}, "workers and max_workers contradict each other: give one of them"),
        ({"max_workers": 0}, "max_workers=0: expected 1 to 512"),
        ({"workers": "x"}, "workers='x': expected a number"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, said):
    assert refused(given_settings, {"max_workers": None, **arguments}).startswith(said)


def test_number_of_workers_and_a_reserve_contradict_each_other_only_in_one_place(plan):
    assert "workers and reserve contradict" in refused(plan, "", workers=3, reserve=1)
    assert 1 == plan("[default]\nreserve = 1", workers=3).values["reserve"]
    assert 1 == plan("[pool.media]\nreserve = 1", workers="auto").values["reserve"]


def test_reserve_and_niceness_reach_the_size(plan):
    facts = CpuFacts(16, 16, ()), MemoryFacts(2**40, 2**40, None, None), Footprint()
    assert 14 == plan("").choose_size(*facts).workers
    assert 12 == plan("[pool.media]\nnice = 0").choose_size(*facts).workers
    assert 10 == plan("[pool.media]\nreserve = 6").choose_size(*facts).workers
    assert 16 == plan("", None).choose_size(*facts).workers


# What somebody who attaches asks for --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "running", "asked"),
    [
        pytest.param({"file": "nice = 3"}, "argument", {}, id="an operator's argument is to override the file"),
        pytest.param({"file": "nice = 3"}, "environment", {}, id="and so is his variable"),
        pytest.param({"file": "nice = 3"}, "file", {"nice": 3}, id="the file has changed since"),
        pytest.param({"file": "nice = 3"}, "default", {"nice": 3}, id="there was no file then"),
        pytest.param({"env": "3"}, "file", {"nice": 3}, id="a variable is more than the file"),
        pytest.param({"env": "3"}, "argument", {}, id="and less than an argument"),
        pytest.param({"argument": 3}, "argument", {"nice": 3}, id="an argument is always heard"),
        pytest.param({"argument": 10}, "default", {"nice": 10}, id="also when it is the default"),
        pytest.param({}, "argument", {}, id="what was not asked for is not missed"),
    ],
)
def test_what_comes_from_a_weaker_place_than_what_holds_is_not_asked_for(plan, mine, running, asked):
    variables = {"PROCJOBS_NICE": mine["env"]} if "env" in mine else {}
    arguments = {"nice": mine["argument"]} if "argument" in mine else {}
    made = plan(f"[pool.media]\n{mine.get('file', '')}", variables=variables, **arguments)
    origins = {} if running == "default" else {"nice": running}
    assert asked == made.asked_of(PoolSettings(workers=(1, 1), nice=7, origins=origins))


def test_workers_that_are_left_to_the_host_are_not_asked_for(plan):
    assert {} == plan("[pool.media]\nworkers = 'auto'").asked_of(PoolSettings(workers=(1, 1)))
    assert {"workers": (4, 4)} == plan("[pool.media]\nworkers = 4").asked_of(PoolSettings(workers=(1, 1)))


def test_settings_of_another_release_are_understood():
    text = {**PoolSettings(workers=(1, 2)).to_json(), "invented_later": 3}
    assert PoolSettings(workers=(1, 2)) == PoolSettings.from_json(text)
    del text["origins"]
    assert {} == PoolSettings.from_json(text).origins


# Nonsense -----------------------------------------------------------------------------------------------------------

names = st.sampled_from(["default", "pool", "hosts", "media", "web-*", *SETTINGS])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=4), inner),
    max_leaves=12,
)


@given(document=st.dictionaries(st.sampled_from(["default", "pool", "x"]), anything))
def test_no_document_is_a_crash(document):
    file = settings_file.parse_document("/x.toml", document, "")
    for table in file.tables:
        for name, value in table.values.items():
            assert value == check_setting(name, value)


@given(name=st.sampled_from(sorted(SETTINGS)), text=st.text(max_size=12))
def test_no_text_of_a_variable_is_a_crash(name, text):
    with contextlib.suppress(ConfigurationError):
        assert parse_setting(name, text) == check_setting(name, parse_setting(name, text))


@pytest.mark.parametrize("module", [keys, environment, settings_file])
def test_examples_in_docstrings_are_right(module):
    result = doctest.testmod(module)
    assert (0, True) == (result.failed, result.attempted > 0)
