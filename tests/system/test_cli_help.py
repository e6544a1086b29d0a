"""`procjobs --help`, `demo`, `doctor`, and the command line without its packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import pytest

import procjobs as package

from ..conftest import wait_until
from .conftest import PROGRAM, ROOT, stop_process

click = pytest.importorskip("click")
from procjobs.cli.app import COMMANDS, procjobs  # noqa: E402

ALL = [name for section in COMMANDS.values() for name in section]


def test_help_lists_every_command_and_the_exit_codes(cli):
    done = cli("--help")
    assert 0 == done.returncode
    assert all(f"  {name} " in done.stdout for name in ALL)
    assert "3    the pool is not running" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_json_and_a_help_text(name):
    command = procjobs.get_command(None, name)
    assert "--json" in [option for parameter in command.params for option in parameter.opts]
    assert command.help
    assert command.short_help.endswith(".")
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert [] == [option.name for option in options if not option.help]


def test_bare_name_of_the_program_asks_for_help(cli):
    done = cli()
    assert (0, cli("--help").stdout, "") == (done.returncode, done.stdout, done.stderr)


def test_command_that_does_not_exist_is_a_wrong_command_line_with_a_guess(cli):
    done = cli("stat")
    assert (2, "") == (done.returncode, done.stdout)
    said = "procjobs: there is no command 'stat'; did you mean start or status?"
    assert f"{said}\n  hint: see `procjobs --help`\n" == done.stderr


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_missing_packages_are_named_with_the_command_that_installs_them(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; from procjobs.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    expected = f"procjobs: the command line needs {missing}: pip install 'procjobs[cli]'\n"
    assert (1, "", expected) == (done.returncode, done.stdout, done.stderr)


def test_closed_pipe_is_no_failure(cli):
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [*PROGRAM, "doctor"]
    with open(write_end, "wb") as gone:
        streams = {"stdout": gone, "stderr": subprocess.PIPE}
        done = subprocess.run(command, cwd=ROOT, env=cli.environment, text=True, check=False, **streams)
    assert (0, "") == (done.returncode, done.stderr)


def test_demo_shows_every_kind_of_end_and_exits_with_0(cli):
    done = cli("demo", "--json")
    ends = {job["name"]: (job["state"], job["reason"]) for job in json.loads(done.stdout)["jobs"]}
    assert ("failed", "crashed") == ends["crash"]
    assert ("failed", "timeout") == ends["hang, timeout 2 s"]
    assert {"succeeded", "failed"} == {state for state, _ in ends.values()}
    assert (0, "") == (done.returncode, done.stderr)


def verdicts(document):
    return {(check["check"], check["verdict"]) for check in document["checks"]}


def test_doctor_finds_no_problem_on_a_healthy_host(cli):
    document = cli.json("doctor")
    assert (True, {"ok"}) == (document["ok"], {verdict for check, verdict in verdicts(document) if check != "limits"})
    assert not os.path.exists(cli.base)


def test_doctor_warns_of_the_directory_of_a_killed_supervisor(cli):
    os.kill(cli.pool().stats().supervisor_pid, 9)
    wait_until(lambda: "killed" == cli.json("status")[0]["state"])
    document = cli.json("doctor")
    assert ("pools", "warn") in verdicts(document)
    assert "procjobs start media" in next(check["advice"] for check in document["checks"] if check["verdict"] == "warn")


def test_doctor_fails_where_a_supervisor_does_not_answer(cli):
    go_on = stop_process(cli.pool().stats().supervisor_pid)
    try:
        done = cli("doctor")
    finally:
        go_on()
    assert (1, True) == (done.returncode, "fail pools      media: the supervisor of pool 'media'" in done.stdout)


def test_doctor_fails_where_a_pool_cannot_run_jobs(cli):
    pool = cli.pool()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", package.PoolDegraded)
        degraded = cli.pool("degraded", preload=["no_such_module_at_all"])
        wait_until(lambda: degraded.stats().problem)
    done = cli("doctor")
    assert 1 == done.returncode
    assert "degraded cannot run jobs" in done.stdout
    assert f"media: supervisor {pool.stats().supervisor_pid} answers" in done.stdout
    assert 1 == cli("doctor", "--json").returncode
    degraded.stop()


def test_doctor_fails_if_the_directory_cannot_be_used(cli):
    done = cli("doctor", "--directory", "/proc/nothing")
    assert (1, True) == (done.returncode, "fail directory" in done.stdout)


def test_doctor_warns_of_a_directory_that_other_users_may_enter(cli):
    cli.pool()
    os.chmod(cli.base, 0o755)
    document = cli.json("doctor")
    assert ("directory", "warn") in verdicts(document)
