"""`procjobs log`, and logs with a path of their own, which outlive their pools."""

from __future__ import annotations

import os
import stat

import pytest

import procjobs

from ..conftest import wait_until
from . import cli_jobs

pytest.importorskip("click")


def fail_and_speak(pool):
    failed = pool.submit(cli_jobs.fail, "no such film")
    assert failed.exception(30)
    pool.submit(cli_jobs.say, "hello").result(30)
    return failed


def test_log_shows_what_happened_to_the_pool_its_jobs_and_their_output(cli):
    pool = cli.pool()
    failed = fail_and_speak(pool)
    wait_until(lambda: "hello" in cli("log", "media").stdout)
    text = cli("log", "media").stdout
    assert f"pool media: supervisor {pool.stats().supervisor_pid} is ready" in text
    line = f" WARNING job {failed.id} tests.system.cli_jobs.fail failed (raised, attempt 1): ValueError: no such film\n"
    assert line in text
    warnings = cli("log", "media", "--warnings").stdout
    assert (True, False) == ("no such film" in warnings.splitlines()[-1], "hello" in warnings)
    assert warnings.splitlines()[0].partition(" WARNING ")[2].startswith(f"job {failed.id}")
    assert text.splitlines()[-1:] == cli("log", "media", "-n", "1").stdout.splitlines()
    assert f"{cli.base}/media/log" == cli.json("log", "media")["path"]


def test_log_goes_on_until_the_pool_ends(cli):
    pool = cli.pool()
    following = cli.begin("log", "media", "--follow")
    assert "is ready" in following.stdout.readline()
    fail_and_speak(pool)
    lines = iter(following.stdout.readline, "")
    assert any("no such film" in line for line in lines)
    pool.stop()
    assert 0 == following.wait(30)


def test_log_with_a_path_of_its_own_outlives_the_pool(cli, tmp_path):
    pool = cli.pool(log=f"{tmp_path}/{{pool}}.log")
    failed = fail_and_speak(pool)
    path = tmp_path / "media.log"
    assert str(path) == cli.json("log", "media")["path"]
    assert 0o600 == stat.S_IMODE(os.stat(path).st_mode)
    pool.stop()
    wait_until(lambda: not os.path.exists(f"{cli.base}/media"))
    assert failed.id in path.read_text()
    assert failed.id in cli("log", "media", PROCJOBS_LOG=str(path)).stdout
    done = cli("log", "media")
    assert 3 == done.returncode
    assert "procjobs: pool 'media' is not running, and has left no log" == done.stderr.splitlines()[0]


def test_log_that_cannot_be_written_is_an_error_of_one_line_and_starts_nothing(cli, tmp_path):
    with pytest.raises(procjobs.SupervisorError, match=r"log='.*/nowhere/media.log' cannot be written: No such file"):
        cli.pool(log=f"{tmp_path}/nowhere/media.log").stats()
    assert [] == cli.json("status")


def test_log_that_is_no_path_is_refused(cli):
    with pytest.raises(procjobs.ConfigurationError, match="log=7: expected the path of a file, or None"):
        cli.pool(log=7)
