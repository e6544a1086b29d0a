"""`procjobs health` and `kinds`: exit codes for probes, and how the jobs of each kind have fared."""

from __future__ import annotations

import pytest

from ..conftest import wait_until
from . import cli_jobs
from .conftest import stop_process

pytest.importorskip("click")


def test_pool_that_is_well_has_exit_code_0(cli):
    cli.pool()
    done = cli("health", "media", "--max-wait", "60")
    assert (0, "pool media is healthy\n", "") == (done.returncode, done.stdout, done.stderr)
    assert (True, []) == (cli.json("health", "media")["healthy"], cli.json("health", "media")["problems"])


def test_degraded_pool_has_exit_code_1_and_says_why(cli):
    with pytest.warns(Warning, match="no_such_module"):
        pool = cli.pool(preload=["no_such_module"])
        wait_until(lambda: pool.stats().problem)
        done = cli("health", "media")
        assert (1, True) == (done.returncode, done.stdout.startswith("pool media is not healthy: degraded: preload of"))
        assert 0 == cli("status", "media").returncode
        wait_until(lambda: pool.stats().problem)
        pool.stop()


def test_pool_whose_jobs_wait_for_too_long_has_exit_code_1(cli, tmp_path):
    pool, come = cli.pool(), tmp_path / "come"
    running = pool.submit(cli_jobs.wait_for, str(come))
    wait_until(running.running)
    waiting = pool.submit(cli_jobs.echo, 1)
    wait_until(lambda: pool.stats().oldest_waiting > 1.0)
    done = cli("health", "media", "--max-wait", "0.5s")
    assert (1, True) == (done.returncode, done.stdout.startswith("pool media is not healthy: a job has waited "))
    assert 0 == cli("health", "media", "--max-wait", "1h").returncode
    assert "oldest:   a job has waited " in cli("status", "media").stdout
    come.touch()
    waiting.result(30)
    wait_until(lambda: 0 == cli("health", "media", "--max-wait", "0").returncode)


def test_draining_pool_has_exit_code_1(cli, tmp_path):
    pool, come = cli.pool(), tmp_path / "come"
    wait_until(pool.submit(cli_jobs.wait_for, str(come)).running)
    pool.drain()
    done = cli("health", "media")
    assert (1, "pool media is not healthy: draining: it takes no more jobs\n") == (done.returncode, done.stdout)
    come.touch()


def test_supervisor_that_does_not_answer_has_exit_code_5(cli):
    resume = stop_process(cli.pool().stats().supervisor_pid)
    try:
        done = cli("health", "media")
        assert (5, "") == (done.returncode, done.stdout)
        assert "is stopped and does not answer\n  hint: see " in done.stderr
    finally:
        resume()


def test_kinds_are_listed_with_their_times(cli):
    pool = cli.pool()
    assert "pool media has run no job\n" == cli("kinds", "media").stdout
    pool.submit(cli_jobs.fail, "no").exception(30)
    for _ in range(2):
        pool.submit(cli_jobs.echo, 1).result(30)
    wait_until(lambda: 2 == sum(kind.succeeded for kind in pool.kinds()))
    heads, first, second = (line.split() for line in cli("kinds", "media").stdout.splitlines())
    assert ["NAME", "SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "RETRIED", "RAN", "WAITED"] == heads
    assert ["tests.system.cli_jobs.echo", "2", "0", "0", "0", "0"] == first[:6]
    assert ["tests.system.cli_jobs.fail", "0", "1", "0", "0", "0"] == second[:6]
    (echo, _) = cli.json("kinds", "media")
    assert 2 == sum(echo["seconds"]["counts"])
