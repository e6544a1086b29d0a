"""`procjobs schedules`, `run-now`, `pause` and `resume` of a schedule, `check` of a file, and `serve` without a client."""

from __future__ import annotations

import json
import os
import signal

import pytest

import procjobs

from ..conftest import wait_until
from . import cli_jobs

pytest.importorskip("click")
SAY = procjobs.ScheduledCall("say", cli_jobs.say, args=["hello"], every="1h")
FAIL = procjobs.ScheduledCall("fail", cli_jobs.fail, args=["no"], every="1d", overlap="allow")


def one(cli, name, *arguments):
    return next(schedule for schedule in cli.json("schedules", *arguments) if schedule["name"] == name)


# Looking ----------------------------------------------------------------------------------------------------------


def test_schedules_are_listed_with_their_next_and_last_runs(cli):
    pool = cli.pool(schedules=[SAY, FAIL])
    pool.run_now("fail").exception(30)
    wait_until(lambda: one(cli, "fail", "media")["last_state"] == "failed")
    done = cli("schedules", "media", "--next", "3", TZ="Asia/Tokyo")
    assert 0 == done.returncode, done.stderr
    lines = done.stdout.splitlines()
    assert "NAME STATE NEXT LAST RESULT LATE SKIPPED MISSED CALL WHEN" == " ".join(lines[0].split())
    assert 1 + 3 + 3 == len(lines)
    assert lines[1].startswith("fail declared 20")
    assert " JST failed " in lines[1]
    assert lines[1].endswith(" tests.system.cli_jobs.fail Every day")
    assert lines[4].endswith(" tests.system.cli_jobs.say  Every hour")
    assert ["JST"] * 2 == [line.split()[-1] for line in lines[2:4]]


def test_schedules_as_json_have_all_fields(cli):
    cli.pool(schedules=[SAY])
    say = one(cli, "say", "media", "--next", "2")
    expected = {"pool": "media", "call": "tests.system.cli_jobs.say", "rule": "every", "is_declared": True}
    assert expected == {key: say[key] for key in expected}
    assert 2 == len(say["next_at"])
    assert all(moment.endswith(":00:00.000+00:00") for moment in say["next_at"])


def test_schedules_of_all_pools_are_listed_with_their_pools(cli):
    cli.pool(schedules=[SAY])
    cli.pool("other", schedules=[FAIL])
    cli.pool("none")
    assert {("media", "say"), ("other", "fail")} == {(s["pool"], s["name"]) for s in cli.json("schedules")}
    assert cli("schedules").stdout.startswith("POOL  NAME STATE ")


def test_pools_without_schedules_say_so(cli):
    assert "there are no schedules\n" == cli("schedules").stdout
    cli.pool()
    assert "pool media has no schedules\n" == cli("schedules", "media").stdout
    assert [] == cli.json("schedules", "media")
    assert 3 == cli("schedules", "other").returncode


# Controlling ------------------------------------------------------------------------------------------------------


def test_run_now_prints_the_id_of_the_job(cli):
    pool = cli.pool(schedules=[SAY])
    done = cli("run-now", "media", "say")
    assert (0, "") == (done.returncode, done.stderr)
    assert "HELLO" == pool.result(done.stdout.strip(), 30)
    document = cli.json("run-now", "media", "say")
    assert ("media", "say", "HELLO") == (document["pool"], document["schedule"], pool.result(document["id"], 30))


def test_run_now_waits_for_the_job_and_prints_its_result(cli):
    cli.pool(schedules=[SAY, FAIL])
    done = cli("run-now", "media", "say", "--wait")
    assert (0, "HELLO\n") == (done.returncode, done.stdout)
    done = cli("run-now", "media", "fail", "--wait")
    assert (1, "") == (done.returncode, done.stdout)
    assert "ValueError: no" in done.stderr
    lines = [json.loads(line) for line in cli("run-now", "--json", "media", "say", "--wait").stdout.splitlines()]
    assert "succeeded" == lines[-1]["state"]


def test_paused_schedule_makes_no_jobs_until_it_is_resumed(cli):
    cli.pool(schedules=[SAY])
    done = cli("pause", "media", "say")
    said = "schedule say of pool media makes no jobs until `procjobs resume media say`\n"
    assert (0, said) == (done.returncode, done.stdout)
    assert (True, []) == tuple(one(cli, "say", "media")[key] for key in ("is_paused", "next_at"))
    assert "say  paused, declared - " in cli("schedules", "media").stdout
    assert not cli.json("status", "media")["paused"]
    assert {"pool": "media", "schedule": "say", "paused": False} == cli.json("resume", "media", "say")
    assert one(cli, "say", "media")["next_at"]


@pytest.mark.parametrize("command", ["run-now", "pause", "resume"])
def test_unknown_schedule_is_told_with_those_that_there_are(cli, command):
    cli.pool(schedules=[SAY])
    done = cli(command, "media", "sya")
    assert (4, "") == (done.returncode, done.stdout)
    assert "procjobs: pool 'media' has no schedule 'sya' (did you mean 'say'?)" in done.stderr
    assert "hint: `procjobs schedules` lists the schedules of all running pools" in done.stderr


def test_shell_completes_names_of_schedules(cli):
    cli.pool(schedules=[SAY, FAIL])
    line = "procjobs run-now media s"
    answer = cli(_PROCJOBS_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD="3")
    assert "plain,say\n" == answer.stdout


# The settings file ------------------------------------------------------------------------------------------------

JOBS = """
import os
import procjobs

def leave(path):
    with open(path, "a") as file:
        file.write(f"{procjobs.current_job().scheduled_for}\\n")
"""


@pytest.fixture
def app(cli, tmp_path):
    """Return a function that writes a settings file for commands that run in this directory, which has a module too."""
    (tmp_path / "schedapp.py").write_text(JOBS)

    def app(text):
        (tmp_path / "procjobs.toml").write_text(text)
        cli.environment["PROCJOBS_CONFIG"] = f"{tmp_path}/procjobs.toml"
        return tmp_path

    return app


def leaving(place, name="leaving", every=1):
    return f'[pool.media.schedules.{name}]\ncall = "schedapp:leave"\nargs = ["{place}/left"]\nevery = {every}\n'


def test_check_shows_schedules_imports_their_functions_and_starts_no_pool(cli, app, tmp_path):
    (tmp_path / "schedpool.py").write_text("import procjobs\npool = procjobs.Pool('media')\nprint('x')\ndef run(): ...")
    place = app(leaving(tmp_path) + '[pool.media.schedules.other]\ncall = "schedpool:run"\nafter = "1h"\n')
    done = cli("check", cwd=place)
    expected = """
SCHEDULE CALL           WHEN                                 FROM
leaving  schedapp:leave Every second                         [pool.media.schedules.leaving]
other    schedpool:run  1 hour after the end of the run before [pool.media.schedules.other]
"""
    assert (0, expected.split()) == (done.returncode, done.stdout[done.stdout.index("SCHEDULE") :].split("\n\n")[0].split())
    assert not os.path.exists(f"{cli.base}/media")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("schedapp:leve", "ImportError: module 'schedapp' has no 'leve', which a schedule of the settings file calls"),
        ("no_such_module_at_all:run", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("schedapp:os", "ImportError: schedapp:os is no function, and a schedule of the settings file calls it"),
        ("ending:run", "its import has ended the process, with exit code 7"),
    ],
)
def test_check_says_what_is_wrong_with_a_function(cli, app, tmp_path, call, said):
    (tmp_path / "ending.py").write_text("import os; os._exit(7)")
    place = app(f'[pool.media.schedules.x]\ncall = "{call}"\nevery = 1\n')
    done = cli("check", cwd=place)
    line = f"{place}/procjobs.toml [pool.media.schedules.x] call='{call}': {said}\n1 problem\n"
    assert (1, True) == (done.returncode, done.stdout.endswith(line)), done.stdout


def test_check_tells_of_times_in_utc_where_the_host_has_another_zone(cli, app, tmp_path):
    pytest.importorskip("cronsim")
    text = '[pool.media.schedules.x]\ncall = "schedapp:leave"\ncron = "30 2 * * *"\n'
    place = app(text)
    where = f"{place}/procjobs.toml [pool.media.schedules.x]"
    note = f"note: {where} has no tz: its times are UTC, and this host is in Asia/Tokyo. "
    assert note in cli("check", cwd=place, TZ="Asia/Tokyo").stdout
    assert 1 == len(json.loads(cli("check", "--json", cwd=place, TZ="Asia/Tokyo").stdout)["notes"])
    assert "note:" not in cli("check", cwd=place, TZ="UTC").stdout
    assert "note:" not in cli("check", cwd=app(f'{text}tz = "UTC"\n'), TZ="Asia/Tokyo").stdout


@pytest.fixture
def serve(cli, tmp_path):
    """Start `procjobs serve media` where the module of the application is."""

    def serve(*arguments):
        process = cli.begin("serve", "media", "-w", "1", *arguments, PYTHONPATH=str(tmp_path))
        wait_until(lambda: process.poll() is not None or os.path.exists(f"{cli.base}/media/socket"))
        return process

    return serve


def log_of(cli):
    """Return the log of the pool, empty while it has none: it was killed, and the next one makes it anew."""
    try:
        with open(f"{cli.base}/media/log") as log:
            return log.read()
    except FileNotFoundError:
        return ""


def left(tmp_path):
    path = tmp_path / "left"
    return path.read_text().splitlines() if path.exists() else []


def test_served_pool_runs_the_schedules_of_the_file_without_any_client(cli, app, serve, tmp_path):
    app(leaving(tmp_path))
    process = serve()
    wait_until(lambda: len(left(tmp_path)) > 1)
    (shown,) = cli.json("schedules", "media")
    assert ("schedapp.leave", True) == (shown["call"], shown["is_declared"])
    assert len(set(left(tmp_path))) == len(left(tmp_path))
    process.send_signal(signal.SIGHUP)  # the template that is loaded anew declares them again
    count = len(left(tmp_path))
    wait_until(lambda: "takes over from generation" in log_of(cli))
    wait_until(lambda: len(left(tmp_path)) > count + 1)
    assert ["leaving"] == [schedule["name"] for schedule in cli.json("schedules", "media")]
    process.send_signal(signal.SIGTERM)
    assert 0 == process.wait(30)


def test_schedule_of_a_preloaded_module_comes_before_the_one_of_the_file(cli, app, serve, tmp_path):
    (tmp_path / "deco.py").write_text(
        f"import procjobs, schedapp\n@procjobs.schedule('leaving', every=3600)\ndef own(): schedapp.leave('{tmp_path}')\n"
    )
    app(leaving(tmp_path))
    process = serve("--preload", "deco")
    wait_until(lambda: cli.json("schedules", "media"))
    (shown,) = cli.json("schedules", "media")
    assert ("deco.own", "Every hour") == (shown["call"], shown["text"])
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert "schedule 'leaving' is the one that a module of preload declares" in err


@pytest.mark.parametrize(
    ("line", "said"),
    [('catch_up = "all"', 'catch_up="all" needs a store: '), ('queue = "mail"', "queue='mail': pool 'media' has no queue ")],
)
def test_served_pool_refuses_a_schedule_that_it_cannot_keep(cli, app, tmp_path, line, said):
    place = app(f"{leaving(tmp_path)}{line}\n")
    done = cli("serve", "media")
    where = f"{place}/procjobs.toml [pool.media.schedules.leaving]"
    assert (2, True) == (done.returncode, f"{where} {said}" in done.stderr), done
    assert not os.path.exists(f"{cli.base}/media")


def test_schedule_that_the_file_no_longer_has_is_gone_after_the_next_start(cli, app, serve, tmp_path):
    store = ("--store", f"sqlite:///{tmp_path}/jobs.db")
    app(leaving(tmp_path))
    process = serve(*store)
    wait_until(lambda: left(tmp_path))
    process.kill()
    process.wait(30)
    app("[pool.media.schedules]\n")
    process = serve(*store)
    wait_until(lambda: "schedule 'leaving' is taken out" in log_of(cli), dump=lambda: log_of(cli))
    assert "pool media has no schedules\n" == cli("schedules", "media").stdout
    process.send_signal(signal.SIGTERM)
    assert 0 == process.wait(30)
