"""Control characters of jobs on a terminal: shown, not obeyed; in a pipe, and with --raw, they are passed on."""

from __future__ import annotations

import concurrent.futures

import pytest

from procjobs.shared.visible import visible
from tests.system import cli_jobs
from tests.system.cli_jobs import EVIL

from ..conftest import wait_until

CALL = "tests.system.cli_jobs:attack"
SHOWN = r"\x1b]0;title\x07\x1b[2J\x9b31m\u202eevil"
ORDERS = ("\x1b]0;", "\x07", "\x1b[2J", "\x9b", "\u202e")


def obeyed(terminal):
    return [order for order in ORDERS if order in terminal.raw]


@pytest.fixture
def ended(cli):
    """A pool with a store and two jobs that have ended, in success and in failure."""
    pool = cli.pool(store=f"sqlite:///{cli.base}/../jobs.db", workers=1)
    jobs = [pool.options(name=EVIL).submit(cli_jobs.attack, how=how) for how in ("return", "raise")]
    concurrent.futures.wait(jobs, 30)
    wait_until(lambda: [] != pool.history(state="failed"))
    return jobs


@pytest.mark.parametrize(
    ("command", "number", "code", "is_whole"),
    [
        (["logs"], 0, 0, True), (["logs", "-f"], 0, 0, True),
        (["watch"], 0, 0, True), (["watch"], 1, 1, True),
        (["status"], 0, 0, False), (["status"], 1, 0, False),
    ],
    ids=str,
)  # fmt: skip
def test_ended_job_does_not_command_the_terminal(cli, ended, command, number, code, is_whole):
    terminal = cli.terminal(*command, ended[number].id, columns=200)
    assert code == terminal.wait()
    assert [] == obeyed(terminal)
    assert (SHOWN if is_whole else "evil") in terminal.text


@pytest.mark.parametrize("command", [["jobs", "media"], ["history", "media"], ["jobs"], ["top", "media"]], ids=str)
def test_list_does_not_command_the_terminal(cli, ended, command):
    terminal = cli.terminal(*command, columns=200)
    if command[0] == "top":
        terminal.wait_for("evil")
        terminal.press("q")
    assert 0 == terminal.wait()
    assert {"\x1b[2J"} >= set(obeyed(terminal)) if command[0] == "top" else [] == obeyed(terminal)
    assert "evil" in terminal.text


@pytest.mark.parametrize("command", [["logs"], ["watch"]], ids=str)
def test_terminal_gets_them_with_raw_and_a_pipe_always(cli, ended, command):
    terminal = cli.terminal(*command, "--raw", ended[0].id)
    assert 0 == terminal.wait()
    assert list(ORDERS) == obeyed(terminal)
    piped = cli(*command, ended[0].id)
    assert (0, EVIL + "\n") == (piped.returncode, piped.stdout)


def test_traceback_of_a_failed_job_is_raw_in_a_pipe(cli, ended):
    assert EVIL in cli("watch", ended[1].id).stderr


@pytest.mark.parametrize("pool", [[], ["-p", "media"]], ids=["private", "named"])
@pytest.mark.parametrize("how", ["return", "raise"])
def test_run_does_not_let_its_job_command_the_terminal(cli, pool, how):
    cli.pool()
    terminal = cli.terminal("run", *pool, CALL, "--kw", f"how={how}", columns=200)
    assert int(how == "raise") == terminal.wait()
    assert [] == obeyed(terminal)
    assert 2 <= terminal.text.count(SHOWN)  # the output, and the result or the traceback


@pytest.mark.parametrize("pool", [[], ["-p", "media"]], ids=["private", "named"])
def test_run_passes_everything_on_with_raw_and_in_a_pipe(cli, pool):
    cli.pool()
    terminal = cli.terminal("run", "--raw", *pool, CALL, columns=200)
    assert 0 == terminal.wait()
    assert list(ORDERS) == obeyed(terminal)
    piped = cli("run", *pool, CALL)
    assert (EVIL + "\n", EVIL + "\n") == (piped.stdout, piped.stderr)


def test_watch_follows_a_running_job_without_obeying_it(cli, tmp_path):
    job = cli.pool().options(name=EVIL).submit(cli_jobs.attack, str(tmp_path / "go"))
    wait_until(job.progress)
    terminal = cli.terminal("watch", job.id, columns=200)
    terminal.wait_for("25%", "evil")
    (tmp_path / "go").touch()
    assert 0 == terminal.wait()
    assert [] == obeyed(terminal)


def test_service_on_a_terminal_shows_the_output_of_its_jobs_without_obeying_it(cli):
    terminal = cli.terminal("serve", "media", "--workers", "1", columns=200)
    terminal.wait_for("is ready")
    assert 0 == cli("run", "-p", "media", CALL).returncode
    terminal.wait_for(SHOWN)
    assert 0 == cli("stop", "media").returncode
    assert 0 == terminal.wait()
    assert [] == obeyed(terminal)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain äöü 漢字 \N{GRINNING FACE}\n\ttab", "plain äöü 漢字 \N{GRINNING FACE}\n\ttab"),
        ("10%\r20%\r\n", "10%\n20%\n"),
        ("\x1b[31m\x7f\x9b\x00\b", r"\x1b[31m\x7f\x9b\x00\x08"),
        ("a\u2066b\u200f", r"a\u2066b\u200f"),
    ],
)
def test_what_is_visible(text, shown):
    assert shown == visible(text) == visible(visible(text))
