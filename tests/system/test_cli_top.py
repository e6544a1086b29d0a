"""`procjobs top`: on a terminal with keys, and in a pipe."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from ..conftest import wait_until
from . import cli_jobs

pytest.importorskip("click")
LEFT = "\x1b[?1049l"  # the alternate screen is left


@pytest.fixture
def busy(cli, tmp_path):
    """A pool with a running job and a waiting job."""
    pool = cli.pool()
    first = pool.options(name="film.mp4").submit(cli_jobs.wait_for, str(tmp_path / "never"))
    wait_until(lambda: first.status().progress)
    second = pool.options(name="waits").submit(cli_jobs.wait_for, str(tmp_path / "never"))
    second.wait_accepted(30)
    yield pool, first, second
    first.cancel()
    second.cancel()


@pytest.fixture
def top(cli, busy):
    terminal = cli.terminal("top", "--interval", "0.2")
    terminal.wait_for("pool media", "running", "1 busy", "1 queued", "film.mp4", "━", "25% waiting", "waits", "q quit")
    return terminal


def test_q_ends_it_and_the_terminal_is_as_it_was(top):
    top.press("q")
    assert 0 == top.wait()
    assert top.raw.rstrip().endswith("\x1b[?25h") or LEFT in top.raw
    assert top.before == top.settings()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_terminal_is_restored_when_it_is_ended_by_a_signal(top, number):
    assert top.before != top.settings()
    top.process.send_signal(number)
    assert 128 + number == top.wait()
    assert (True, top.before) == (LEFT in top.raw, top.settings())


def test_terminal_is_restored_by_ctrl_c(top):
    top.press("\x03")
    assert 130 == top.wait()
    assert (True, top.before) == (LEFT in top.raw, top.settings())


def test_end_of_the_pool_ends_top_with_a_message(top, busy):
    busy[0].stop()
    assert 3 == top.wait()
    assert (True, top.before) == (LEFT in top.raw, top.settings())
    assert top.text.rstrip().endswith("procjobs: pool 'media' has ended")


def test_c_cancels_the_job_that_is_selected(top, busy):
    _, first, second = busy
    top.press("\x1b[B")
    top.wait_for("waits")
    top.press("c")
    top.wait_for(f"job {second.id} is cancelled")
    assert ("cancelled", "running") == (second.status().state, first.status().state)


def test_p_pauses_and_resumes(top, busy):
    top.press("p")
    top.wait_for("the pool is paused", "pool media  paused")
    assert busy[0].stats().paused
    top.press("p")
    top.wait_for("the pool starts jobs again", "pool media  running")
    assert not busy[0].stats().paused


def test_plus_and_minus_change_the_number_of_workers(top, busy):
    top.press("+")
    top.wait_for("workers 2: 2 busy")
    top.press("-")
    top.wait_for("the pool has 1 workers now")


def test_plus_and_minus_change_the_maximum_of_a_pool_that_scales(cli):
    pool = cli.pool(workers=(1, 2))
    terminal = cli.terminal("top", "--interval", "0.1")
    terminal.wait_for("workers 1 of 1-2: 0 busy, 1 idle")
    terminal.press("+")
    terminal.wait_for("the pool has 1 to 3 workers now")
    terminal.wait_for("of 1-3")
    assert (1, 3) == (pool.stats().least, pool.stats().most)
    terminal.press("q")
    terminal.wait()


def test_ctrl_z_does_not_leave_the_shell_on_the_screen_of_a_picture(top):
    # A process without a shell above it is not stopped by the key in any case (setpgid(2), orphaned groups).
    status = Path(f"/proc/{top.process.pid}/status").read_text()
    ignored = int(re.search(r"SigIgn:\t(\w+)", status)[1], 16)
    assert ignored & 1 << (signal.SIGTSTP - 1)


def test_unknown_key_shows_a_message(top):
    top.press("x")
    top.wait_for("the key 'x' has no action")


def test_top_does_not_keep_a_pool_alive(cli):
    pool = cli.pool(linger=0.3)
    terminal = cli.terminal("top", "--interval", "0.1")
    terminal.wait_for("pool media")
    terminal.press("+")  # it has been connected once
    terminal.wait_for("the pool has 2 workers now")
    pool.shutdown()
    assert 3 == terminal.wait()


def test_picture_in_a_pipe_is_plain(cli, busy):
    done = cli("top", "media", "--interval", "0.1")
    assert (0, "", False) == (done.returncode, done.stderr, "\x1b" in done.stdout)
    assert "film.mp4" in done.stdout
    assert 1 == done.stdout.count("pool media")


def test_json_is_a_line_for_each_sample(cli, busy):
    done = cli("top", "--json", "--count", "2", "--interval", "0.1")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [("media", 1, 1)] * 2 == [(line["pool"], line["busy"], line["queued"]) for line in lines]
    assert busy[1].id == lines[0]["worker_list"][0]["job"]["id"]


def test_one_of_several_pools_has_to_be_named(cli, busy):
    cli.pool("another")
    done = cli("top")
    assert (2, "name one of another, media" in done.stderr) == (done.returncode, True)
