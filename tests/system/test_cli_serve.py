"""`procjobs serve`: a pool in the foreground, for systemd and containers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import uuid

import pytest

import procjobs
from procjobs.host import rundir
from procjobs.shared.table import layout

from ..conftest import wait_until
from . import cli_jobs

pytest.importorskip("click")


@pytest.fixture
def serve(cli, tmp_path):
    """Start `procjobs serve media`, and return when it is ready."""

    def serve(*arguments, address=None):
        address = address or str(tmp_path / "notify")
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
            manager.bind(address.replace("@", "\0"))
            manager.settimeout(30)
            process = cli.begin("serve", "media", *arguments, NOTIFY_SOCKET=address)
            assert b"READY=1" == manager.recv(100)
        return process

    return serve


def test_manager_is_notified_when_the_pool_is_ready_and_the_pool_is_the_started_process(cli, serve):
    process = serve("-w", "2")
    pool = cli.pool(workers="auto", linger=10.0)
    assert process.pid == pool.stats().supervisor_pid
    assert "HELLO" == pool.submit(cli_jobs.say, "hello").result(30)
    assert pool.submit(os.getenv, "NOTIFY_SOCKET").result(30) is None


def test_manager_may_have_an_abstract_address(cli, serve):
    serve(address=f"@procjobs-{uuid.uuid4().hex}")


def test_workers_are_there_before_the_first_client(cli, serve):
    serve("-w", "2")
    wait_until(lambda: 2 == len([worker for worker in cli.json("workers", "media") if worker["state"] == "idle"]))


def test_sigterm_lets_running_jobs_end_and_the_exit_code_is_0(cli, serve, tmp_path):
    process = serve("-w", "1", "--grace-period", "600")
    pool = cli.pool(workers="auto", linger=10.0)
    job = pool.submit(cli_jobs.wait_for, str(tmp_path / "come"))
    wait_until(lambda: job.status().progress)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: pool.stats().draining)
    with pytest.raises(procjobs.PoolClosed):
        pool.submit(cli_jobs.say, "too late").result(30)
    (tmp_path / "come").touch()
    assert "it came" == job.result(30)
    assert 0 == process.wait(30)
    assert not os.path.exists(f"{cli.base}/media")


def test_second_sigterm_ends_everything_at_once(cli, serve, tmp_path):
    process = serve("-w", "1", "--grace-period", "600")
    pool = cli.pool(workers="auto", linger=10.0)
    job = pool.submit(cli_jobs.hang_stubbornly, str(tmp_path / "begun"))
    wait_until((tmp_path / "begun").exists)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: pool.stats().draining)
    process.send_signal(signal.SIGTERM)
    assert 0 == process.wait(30)
    assert job.exception(30)


def test_log_and_output_of_jobs_go_to_standard_error(cli, serve):
    process = serve("-w", "1")
    job = cli.pool(workers="auto", linger=10.0).submit(cli_jobs.say, "hello")
    assert "HELLO" == job.result(30)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert "" == out
    assert f"pool media: supervisor {process.pid} is ready\n" in err
    assert f"[{job.id} tests.system.cli_jobs.say] hello\n" in err
    assert "stopping: the pool was drained\n" in err


def test_pool_stays_when_nobody_uses_it(cli, serve):
    process = serve()
    with cli.pool(workers="auto", linger=10.0) as pool:
        lingers = pool._link.connection.welcome["settings"]["linger"]
    assert lingers > 50 * 365 * 86_400
    assert process.poll() is None


def test_sighup_loads_the_code_again(cli, serve):
    process = serve("-w", "1")
    wait_until(lambda: [w for w in cli.json("workers", "media") if w["state"] == "idle"])
    (before,) = cli.json("workers", "media")
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: [w for w in cli.json("workers", "media") if w["generation"] > before["generation"]])
    assert process.poll() is None


def test_pool_that_cannot_start_exits_with_a_failure(cli):
    done = cli("serve", "media", "--directory", "/dev/null")
    assert (5, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("procjobs: no directory for the pool's socket and table can be used: /dev/null: ")


def test_directory_that_takes_no_files_is_a_failure_and_no_endless_loop(cli):
    # Of the process itself: also root can neither make a file there nor change its mode.
    done = cli("serve", "media", "--directory", "/proc/self/fdinfo")
    assert (5, "") == (done.returncode, done.stdout)


def test_supervisor_that_fails_exits_with_a_failure(cli, serve):
    process = serve("-w", "1", "--result-ttl", "0.2")
    pool = cli.pool(workers="auto", linger=10.0)
    with open(rundir.RunDir(cli.base, "media").table, "r+b") as table:
        rows_offset = pool._link.table._rows_offset
        pool.submit(cli_jobs.say, "hello").result(30)
        pool.submit(cli_jobs.say, "hello").result(30)
        table.seek(layout.BUCKETS_OFFSET)
        table.write(bytes(rows_offset - layout.BUCKETS_OFFSET))  # the chains: nothing in the table can be relied on
    _, err = process.communicate(timeout=30)
    assert (1, True) == (process.returncode, "somebody has overwritten the table" in err)


def test_ctrl_c_on_a_terminal_drains(cli):
    terminal = cli.terminal("serve", "media")
    terminal.wait_for("is ready")
    terminal.press("\x03")
    assert 0 == terminal.wait()
    assert "stopping: the pool was drained" in terminal.text


def test_signals_that_the_starter_has_blocked_reach_a_served_pool(cli, serve):
    blocked = {signal.SIGCHLD, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        process = serve("-w", "1")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    pool = cli.pool(workers="auto", linger=10.0)
    with pytest.raises(procjobs.WorkerCrashed):
        pool.submit(os._exit, 3).result(30)
    process.send_signal(signal.SIGTERM)
    assert 0 == process.wait(30)
