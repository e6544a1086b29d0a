"""`procjobs start`, `stop`, `drain`, `pause`, `resume`, `resize`, `reload`, `cancel`."""

from __future__ import annotations

import contextlib
import json
import os

import pytest

import procjobs

from ..conftest import wait_until
from . import cli_jobs

pytest.importorskip("click")


def open_files(pid):
    targets = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            targets.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return targets


def answer(done):
    return done.returncode, done.stdout, done.stderr


def test_started_pool_stays_until_it_is_stopped(cli):
    pid = cli.json("start", "media", "-w", "2")["supervisor_pid"]
    wait_until(lambda: 2 == cli.json("status", "media")["workers"])
    assert pid == cli.json("status", "media")["supervisor_pid"]
    again = cli("start", "media")
    assert (1, "") == (again.returncode, again.stdout)
    assert f"pool 'media' is running already, supervisor {pid}\n  hint: " in again.stderr
    assert (0, "pool media has ended\n", "") == answer(cli("stop", "media"))
    assert 3 == cli("status", "media").returncode


def test_start_reports_a_pool_whose_code_does_not_load(cli):
    done = cli("start", "media", "--preload", "no_such_module_at_all")
    assert (1, "") == (done.returncode, done.stdout)
    assert "procjobs: pool 'media' is running and cannot run jobs: preload of 'no_such_module_at_all' failed" in done.stderr
    assert "degraded" == cli.json("status", "media")["state"]


def test_invalid_pool_name_is_a_wrong_command_line(cli):
    done = cli("start", "my/pool")
    assert (2, True) == (done.returncode, "'my/pool' cannot be the name of a pool" in done.stderr)


def test_paused_pool_starts_jobs_when_it_is_resumed(cli):
    pool = cli.pool()
    assert (0, True) == (cli("pause", "media").returncode, pool.stats().paused)
    job = pool.submit(cli_jobs.say, "hello")
    assert ("paused", 1) == tuple(cli.json("status", "media")[key] for key in ("state", "queued"))
    assert {"pool": "media", "paused": False} == cli.json("resume", "media")
    assert "HELLO" == job.result(30)


def test_resize_changes_the_number_of_workers(cli):
    pool = cli.pool()
    assert (0, "pool media has 3 workers\n", "") == answer(cli("resize", "media", "3"))
    wait_until(lambda: 3 == pool.stats().workers)
    assert {"pool": "media", "workers": [1, 2]} == cli.json("resize", "media", "1-2")
    done = cli("resize", "media", "many")
    assert (2, True) == (done.returncode, "'many' is no number of workers" in done.stderr)


def test_status_of_a_scaling_pool_shows_its_limits_and_its_last_change_of_size(cli):
    pool = cli.pool(workers=(1, 3))
    wait_until(lambda: pool.stats().idle == 1)
    assert "workers:  1: 0 busy, 1 idle, scales from 1 to 3\n" in cli("status", "media").stdout
    cli("resize", "media", "2-5")
    wait_until(lambda: pool.stats().idle == 2)
    shown = cli("status", "media").stdout
    assert "workers:  2: 0 busy, 2 idle, scales from 2 to 5\nsize:     1 -> 2 workers: resized to 2 to 5 (" in shown
    document = cli.json("status", "media")
    assert (2, 5, "1 -> 2 workers: resized to 2 to 5") == tuple(document[key] for key in ("least", "most", "scaling"))


def test_pool_is_started_with_the_given_threads_and_cpus(cli):
    cpu = min(os.sched_getaffinity(0))
    options = ("--workers", "1-2", "--threads", "3", "--affinity", str(cpu), "--worker-idle", "5")
    assert 0 == cli("start", "media", *options).returncode
    with procjobs.Pool("media", directory=cli.base, threads=3, affinity=[cpu], worker_idle=5.0, strict=True) as pool:
        assert [cpu] == pool.submit(cli_jobs.affinity).result(30)
    for option, wrong in (("--threads", "many"), ("--affinity", "0-x"), ("--affinity", "everywhere")):
        done = cli("start", "other", option, wrong)
        assert (2, True) == (done.returncode, f"'{wrong}'" in done.stderr), done.stderr
    done = cli("start", "other", "--affinity", "9999")
    assert (2, True) == (done.returncode, "may not use CPU 9999" in done.stderr), done.stderr


def test_drain_waits_for_the_last_job(cli, tmp_path):
    pool = cli.pool()
    job = pool.submit(cli_jobs.wait_for, str(tmp_path / "come"))
    wait_until(lambda: job.status().progress)
    late = cli("drain", "media", "--wait", "--timeout", "0.1")
    assert (1, True) == (late.returncode, "has not ended within 0.1 s: 1 job is left" in late.stderr)
    assert "draining" == cli.json("status", "media")["state"]
    draining = cli.begin("drain", "media", "--wait")
    wait_until(lambda: any("pidfd" in target for target in open_files(draining.pid)))
    (tmp_path / "come").touch()
    out, _ = draining.communicate(timeout=30)
    assert (0, "pool media has ended\n", "it came") == (draining.returncode, out, job.result(30))


def test_stop_now_gives_running_jobs_no_grace_period(cli, tmp_path):
    pool = cli.pool(grace_period=600)
    job = pool.submit(cli_jobs.hang_stubbornly, str(tmp_path / "begun"))
    wait_until((tmp_path / "begun").exists)
    assert 0 == cli("stop", "media", "--now").returncode
    assert job.exception(30)


def test_reload_that_fails_says_why_and_exits_with_1(cli, tmp_path, monkeypatch):
    module = tmp_path / "fragile_module.py"
    module.write_text("answer = 42\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = cli.pool(preload=["fragile_module"])
    assert "HELLO" == pool.submit(cli_jobs.say, "hello").result(30)
    assert (0, "pool media has loaded its code again\n", "") == answer(cli("reload", "media"))
    module.write_text("answer = 1 / 0\n")
    done = cli("reload", "media")
    assert (1, True) == (done.returncode, "ZeroDivisionError" in done.stderr)
    assert "HELLO" == pool.submit(cli_jobs.say, "hello").result(30)


def test_exit_code_of_cancel_shows_whether_a_job_was_cancelled(cli, tmp_path):
    pool = cli.pool()
    running = pool.submit(cli_jobs.wait_for, str(tmp_path / "never"))
    wait_until(lambda: running.status().progress)
    assert (0, f"job {running.id} is cancelled\n", "") == answer(cli("cancel", running.id))
    done = cli("cancel", running.id, "--json")
    assert (1, [False]) == (done.returncode, [document["cancelled"] for document in json.loads(done.stdout)])


def test_commands_of_an_operator_start_no_generation_of_code(cli, tmp_path):
    pool = cli.pool()
    assert "HELLO" == pool.submit(cli_jobs.say, "hello").result(30)
    (before,) = pool.workers()
    assert 0 == cli("pause", "media", cwd=tmp_path).returncode
    pool.reload()  # begins the next generation
    wait_until(lambda: [before.generation + 1] == [worker.generation for worker in pool.workers()])


def test_retry_runs_a_job_again(cli, tmp_path):
    pool = cli.pool()
    failed = pool.submit(cli_jobs.fail, "no")
    assert failed.exception(30)
    done = cli("retry", failed.id)
    assert done.stdout.startswith(f"job {failed.id} runs again as ")
    assert failed.id == pool.status(done.stdout.split()[-1]).retry_of
    waiting = pool.options(delay=600).submit(cli_jobs.fail, "no")
    waiting.wait_accepted(30)
    refused = cli("retry", waiting.id, "--json")
    assert 1 == refused.returncode
    assert "is scheduled" in json.loads(refused.stdout)[0]["problem"]


def test_history_retries_what_did_not_succeed(cli, tmp_path):
    pool = cli.pool(store=f"sqlite:///{tmp_path}/jobs.db")
    failed = pool.options(meta={"user": 7}).submit(cli_jobs.fail, "no")
    assert failed.exception(30)
    assert pool.options(meta={"user": 8}).submit(cli_jobs.fail, "no").exception(30)
    done = cli("history", "media", "--meta", "user=7", "--retry", "--json")
    (document,) = json.loads(done.stdout)
    assert (failed.id, failed.id) == (document["retry_of"], pool.job(document["id"]).status().retry_of)
    assert 2 == cli("history", "media", "--meta", "nonsense").returncode
