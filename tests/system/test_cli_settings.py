"""`procjobs host` and `check`, and the effect of settings files on `start` and `serve`."""

from __future__ import annotations

import json
import os
import signal

import pytest

from procjobs.host import footprints, hostinfo, sizing
from procjobs.host.observe import WorkerPeaks
from procjobs.settings.plan import host_names

from ..conftest import wait_until
from . import cli_jobs

pytest.importorskip("click")
FILE = """
[default]
nice = 12

[pool.media]
workers = [1, 3]
preload = ["json", "fractions"]
max_rss = "500M"
timeout = "none"

[pool.media.hosts."{host}"]
workers = 2

[pool.thumbs]
reserve = 1
strict = true

[pool.thumbs.hosts."*"]
workers = 1
"""


@pytest.fixture
def app(tmp_path, cli):
    """Return a function that writes a settings file into the directory where commands run."""
    cli.environment.pop("PROCJOBS_CONFIG", None)

    def app(text=FILE, name="procjobs.toml"):
        (tmp_path / name).write_text(text.replace("{host}", host_names()[0]))
        return tmp_path

    return app


# check ------------------------------------------------------------------------------------------------------------


def test_check_shows_the_settings_of_each_pool_and_their_origins(cli, app):
    done = cli("check", cwd=app(), PROCJOBS_MEDIA_RETRIES="3")
    own = host_names()[0]
    expected = f"""\
file: {app()}/procjobs.toml
host: {", ".join(host_names())}

pool media
SETTING VALUE           FROM
workers 2               [pool.media.hosts.{own}]
nice    12              [default]
preload json, fractions [pool.media]
timeout none            [pool.media]
retries 3               PROCJOBS_MEDIA_RETRIES
max_rss 500 M           [pool.media]

pool thumbs
SETTING VALUE FROM
workers 1     [pool.thumbs.hosts."*"]
nice    12    [default]
reserve 1     [pool.thumbs] (not used: workers is not auto)
strict  true  [pool.thumbs]

every other pool
SETTING VALUE FROM
nice    12    [default]

all is well
"""
    assert (0, expected, "") == (done.returncode, done.stdout, done.stderr)


def test_check_shows_the_same_on_a_terminal(cli, app):
    cli.environment["PROCJOBS_CONFIG"] = f"{app()}/procjobs.toml"
    terminal = cli.terminal("check", columns=80)
    assert 0 == terminal.wait()
    assert "max_rss 500 M           [pool.media]" in terminal.text
    assert terminal.text.endswith("all is well\n")


def test_check_as_json_has_files_values_and_kinds_of_places(cli, app):
    done = cli("check", "--json", cwd=app(), PROCJOBS_LINGER="2")
    document = json.loads(done.stdout)
    assert 0 == done.returncode
    assert (True, [], f"{app()}/procjobs.toml") == tuple(document[key] for key in ("ok", "problems", "file"))
    assert ["media", "thumbs", None] == [pool["pool"] for pool in document["pools"]]
    rows = {row["setting"]: row for row in document["pools"][0]["settings"]}
    where = f"{app()}/procjobs.toml [pool.media]"
    assert {"setting": "max_rss", "value": 500 * 2**20, "from": where, "kind": "file"} == rows["max_rss"]
    assert ("environment", "PROCJOBS_LINGER") == (rows["linger"]["kind"], rows["linger"]["from"])
    assert "max_queued" not in rows


def test_check_all_shows_the_defaults(cli, app):
    assert "max_queued           100000          default\n" in cli("check", "--all", cwd=app()).stdout


def test_check_lists_all_errors_and_exits_with_1(cli, app):
    place = app("[default]\nnce = 1\n[pool.media]\nworkers = 0\n")
    expected = f"""\
{place}/procjobs.toml: [default] has an unknown setting 'nce'; did you mean 'nice'?
{place}/procjobs.toml: [pool.media] workers=0: expected 1 to 512
2 problems
"""
    done = cli("check", cwd=place)
    assert (1, True, "") == (done.returncode, done.stdout.endswith(expected), done.stderr)
    done = cli("check", "--json", cwd=place)
    document = json.loads(done.stdout)
    assert (1, False, 2, []) == (done.returncode, document["ok"], len(document["problems"]), document["pools"])


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PROCJOBS_NICE": "99"}, "environment variable PROCJOBS_NICE=99: nice=99: expected 0 to 19"),
        ({"PROCJOBS_WORKRES": "2"}, "environment variable PROCJOBS_WORKRES: did you mean PROCJOBS_WORKERS?"),
        ({"PROCJOBS_CONFIG": "/nowhere.toml"}, "PROCJOBS_CONFIG=/nowhere.toml: there is no such file"),
    ],
)
def test_check_finds_errors_in_variables(cli, app, variables, said):
    done = cli("check", cwd=app(), **variables)
    assert (1, True) == (done.returncode, done.stdout.endswith(f"{said}\n1 problem\n"))


def test_check_finds_settings_that_contradict_each_other_across_tables(cli, app):
    done = cli("check", cwd=app("[default]\ntimeout = 5\n[pool.media]\nsoft_timeout = 9\n"))
    assert 1 == done.returncode
    assert "soft_timeout=9 must come before timeout=5 (soft_timeout from " in done.stdout


def test_check_takes_the_name_of_a_file(cli, app):
    place = app("[pool.media]\nnice = 99", "other.toml")
    done = cli("check", "other.toml", cwd=place)
    assert (1, True) == (done.returncode, f"{place}/other.toml: [pool.media] nice=99: expected 0 to 19\n" in done.stdout)
    done = cli("check", "missing.toml", cwd=place)
    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("procjobs: there is no file 'missing.toml'\n")


def test_check_without_a_file_names_the_searched_places(cli, tmp_path):
    done = cli("check", cwd=tmp_path)
    assert 0 == done.returncode
    assert "file: none; procjobs.toml and [tool.procjobs] of pyproject.toml are looked for here and in the" in done.stdout
    assert done.stdout.endswith("every pool\nnothing is set\n\nall is well\n")


# host -------------------------------------------------------------------------------------------------------------


def test_host_shows_facts_rules_the_size_in_words_and_the_settings(cli, app):
    done = cli("host", "--pool", "media", cwd=app())
    lines = {line.partition(":")[0]: line for line in done.stdout.splitlines()}
    cpus = hostinfo.read_cpu_facts()
    assert (0, "") == (done.returncode, done.stderr)
    assert f"host:    {', '.join(host_names())}" == lines["host"]
    assert f"cpus:    {cpus.logical} on the host" in lines["cpus"]
    assert "worker:  64.0 M each, until a worker of the pool has been measured" == lines["worker"]
    assert "; memory would allow " in lines["auto"]
    assert f"pool:    media: workers=2, by [pool.media.hosts.{host_names()[0]}]" == lines["pool"]
    assert "preload json, fractions [pool.media]" in done.stdout


def test_host_as_json_has_the_numbers(cli, tmp_path):
    done = cli("host", "--json", cwd=tmp_path, PROCJOBS_RESERVE="0")
    document = json.loads(done.stdout)
    facts = hostinfo.read_cpu_facts()
    assert (facts.logical, hostinfo.usable_cpus(facts)) == (document["cpus"]["logical"], document["cpus"]["usable"])
    assert hostinfo.usable_cpus(facts) == document["auto"]["workers"]
    assert document["auto"]["explanation"].startswith(f"{document['auto']['workers']} worker")
    assert [{"setting": "reserve", "value": 0, "from": "PROCJOBS_RESERVE", "kind": "environment"}] == document["settings"]


def test_host_uses_the_memory_that_workers_took_in_earlier_runs(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    peaks = WorkerPeaks()
    peaks.add(20 * 2**20, 2**50 + 20 * 2**20, 0)
    peaks.worker_bytes = 2**49
    footprints.remember("media", peaks)
    done = cli("host", "-p", "media", cwd=tmp_path, XDG_STATE_HOME=str(tmp_path))
    assert "524288 G each, beside 20.0 M that all share: the highest use of one worker in the pool's last run" in done.stdout
    assert "memory would allow none, but one there must be\n" in done.stdout


def test_host_shows_the_number_of_workers_of_a_running_pool(cli, tmp_path):
    pool = cli.pool(workers=1)
    pool.submit(cli_jobs.say, "hello").result(30)
    (tmp_path / "procjobs").mkdir()
    small = {"worker_bytes": 2**20, "shared_bytes": 0}
    (tmp_path / "procjobs" / "media.json").write_text(json.dumps({"runs": [small]}))
    done = cli("host", "-p", "media", cwd=tmp_path)
    assert "running: 1 worker; settings take effect at the next start, `procjobs resize` at once\n" in done.stdout
    assert "that the pool has already" in done.stdout
    document = json.loads(cli("host", "-p", "media", "--json", cwd=tmp_path, XDG_STATE_HOME=str(tmp_path)).stdout)
    numbers, held_bytes = document["memory"], document["memory"]["held_bytes"]
    facts = hostinfo.MemoryFacts(**{field: numbers[field] for field in hostinfo.MemoryFacts._fields})
    footprint = sizing.Footprint(**document["footprint"])
    assert held_bytes > 2**20
    assert sizing.fitting_workers(facts, footprint, held_bytes=held_bytes) == document["auto"]["memory_workers"]


def test_host_with_a_broken_file_is_one_line_and_a_hint(cli, app):
    place = app("nice = ")
    done = cli("host", cwd=place)
    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith(f"procjobs: {place}/procjobs.toml is not valid TOML: ")
    assert "  hint: `procjobs check` lists all errors\n" in done.stderr


# start and serve --------------------------------------------------------------------------------------------------


def settings_of(cli):
    """Return the settings with which the running pool was started."""
    with cli.pool(workers="auto", linger=10.0) as pool:
        return pool._link.connect().welcome["settings"]


def test_start_uses_the_file_and_an_option_overrides_it(cli, app):
    assert 0 == cli("start", "media", "--nice", "15", cwd=app()).returncode
    running = settings_of(cli)
    assert ([2, 2], 15, 500 * 2**20) == (running["workers"], running["nice"], running["job_defaults"]["max_rss"])
    assert ("file", "argument", "argument") == tuple(running["origins"][name] for name in ("workers", "nice", "linger"))


def test_serve_uses_the_file_and_the_environment(cli, app):
    process = cli.begin("serve", "media", PROCJOBS_CONFIG=f"{app()}/procjobs.toml", PROCJOBS_MEDIA_RETRIES="4")
    wait_until(lambda: cli("status", "media").returncode == 0)
    running = settings_of(cli)
    assert ([2, 2], 12, 4) == (running["workers"], running["nice"], running["job_defaults"]["retries"])
    assert running["linger"] > 50 * 365 * 86_400
    process.send_signal(signal.SIGTERM)
    assert 0 == process.wait(30)


@pytest.mark.parametrize("command", [["start", "media"], ["serve", "media"], ["submit", "-p", "media", "os:getpid"]])
def test_command_that_would_start_a_pool_refuses_a_broken_file_and_starts_nothing(cli, app, command):
    done = cli(*command, cwd=app("[pool.media]\nworkres = 2"))
    assert (2, "") == (done.returncode, done.stdout)
    assert "[pool.media] has an unknown setting 'workres'; did you mean 'workers'?" in done.stderr
    assert not os.path.exists(f"{cli.base}/media")


def test_commands_that_look_at_pools_do_not_mind_a_broken_file(cli, app):
    pool = cli.pool()
    done = cli("status", "media", cwd=app("nice = "))
    assert (0, "") == (done.returncode, done.stderr)
    pool.stop()


def test_doctor_fails_where_the_settings_file_is_broken(cli, app):
    place = app("[pool.media]\nnice = 99")
    done = cli("doctor", cwd=place)
    assert 1 == done.returncode
    assert f"fail settings   {place}/procjobs.toml: [pool.media] nice=99: expected 0 to 19\n" in done.stdout
