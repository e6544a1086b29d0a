"""Absence: a supervisor that was stopped for longer than all deadlines, and clients that are."""

from __future__ import annotations

import ast
import contextlib
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

import procjobs
from procjobs.host import rundir
from procjobs.shared import wire
from tests.process import jobs
from tests.process.witnesses import call

from ..conftest import wait_until
from .test_named import greeted, run_script


@contextlib.contextmanager
def stopped(pid, seconds):
    """Stop a process for so long."""
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + seconds
    try:
        yield
        wait_until(lambda: time.monotonic() > until)
    finally:
        os.kill(pid, signal.SIGCONT)


LIMITS = {
    "timeout": {"timeout": 1.0},
    "soft_timeout": {"soft_timeout": 1.0},
    "stall_timeout": {"stall_timeout": 1.0},
}


@pytest.mark.parametrize("options", LIMITS.values(), ids=LIMITS)
def test_job_that_ended_while_the_supervisor_was_stopped_is_not_charged_with_its(options, tmp_path):
    with procjobs.Pool(workers=2) as pool:
        handles = [pool.options(**options).submit(jobs.wait_for_file, str(tmp_path / "go"), n) for n in range(2)]
        wait_until(lambda: all(job.running() for job in handles))
        with stopped(pool.stats().supervisor_pid, 2.0):
            (tmp_path / "go").touch()
        assert [0, 1] == [job.result(30) for job in handles]
        assert 0 == pool.stats().restarts


@pytest.mark.parametrize("options", [{"timeout": 1.0}, {"soft_timeout": 1.0}], ids=["timeout", "soft_timeout"])
def test_job_has_a_second_left_when_the_supervisor_comes_back(options, tmp_path):
    with procjobs.Pool(workers=1) as pool:
        job = pool.options(**options).submit(jobs.wait_for_file, str(tmp_path / "go"), "done")
        wait_until(job.running)
        with stopped(pool.stats().supervisor_pid, 2.0):
            pass
        late = pool.submit(jobs.add, 1)
        late.wait_accepted(30)  # it is back
        (tmp_path / "go").touch()
        assert "done" == job.result(30)


def test_supervisor_that_is_stopped_in_the_midst_of_its_work_kills_nobody(pool_name, tmp_path):
    over = threading.Event()

    def keep_busy():
        with procjobs.Pool(pool_name) as pool:
            while not over.is_set():
                for job in [pool.submit(jobs.add, n) for n in range(500)]:
                    job.result(60)

    with procjobs.Pool(pool_name, workers=4) as pool:
        busy = threading.Thread(target=keep_busy)
        busy.start()
        wait_until(lambda: pool.stats().finished > 200)
        limited = pool.options(timeout=1.2, priority=1)
        handles = [limited.submit(jobs.wait_for_file, str(tmp_path / "go"), n) for n in range(3)]
        wait_until(lambda: all(job.running() for job in handles))
        with stopped(pool.stats().supervisor_pid, 2.0):
            (tmp_path / "go").touch()
        over.set()
        busy.join()
        assert [0, 1, 2] == [job.result(30) for job in handles]


def log_of(pool):
    with open(rundir.RunDir(rundir.find_base(), pool._link.directory.name).log) as file:
        return file.read()


def test_worker_that_got_ready_while_the_supervisor_was_stopped_is_kept(tmp_path):
    def initialize(folder):
        open(f"{folder}/began-{os.getpid()}", "w").close()
        jobs.wait_for_file(f"{folder}/go")

    with procjobs.Pool(workers=2, start_timeout=1.5, initializer=initialize, initargs=(str(tmp_path),)) as pool:
        wait_until(lambda: len(list(tmp_path.glob("began-*"))) == 2)
        with stopped(pool.stats().supervisor_pid, 2.5):
            (tmp_path / "go").touch()
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        wait_until(lambda: pool.stats().idle == 2)
        assert (2, 0, None) == (len(list(tmp_path.glob("began-*"))), pool.stats().restarts, pool.stats().problem)


def test_preload_that_ended_while_the_supervisor_was_stopped_is_kept(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    (folder / "slow_preload.py").write_text(
        f"import os, time\nopen({str(tmp_path / 'began')!r}, 'a').write('x')\n"
        f"while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\ndef it(): return 'it'\n"  # job
    )
    with procjobs.Pool(workers=1, start_timeout=1.5, preload=["slow_preload"]) as pool:
        wait_until((tmp_path / "began").exists)
        with stopped(pool.stats().supervisor_pid, 2.5):
            (tmp_path / "go").touch()
        assert "it" == pool.submit(call, "slow_preload", "it").result(30)
        assert ("x", None) == ((tmp_path / "began").read_text(), pool.stats().problem)


def test_job_that_ends_in_its_grace_period_while_the_supervisor_is_stopped_is_no_crash(tmp_path):
    def end_gracefully(path, go):
        try:
            jobs.wait_for_file(path + ".never")
        finally:
            jobs.wait_for_file(go)
            with open(path, "w") as file:
                file.write("cleaned up")

    path = tmp_path / "path"
    with procjobs.Pool(workers=1, grace_period=1.0) as pool:
        job = pool.options(timeout=0.3).submit(end_gracefully, str(path), str(tmp_path / "go"))
        wait_until(lambda: [w.state for w in pool.workers()] == ["stopping"])
        wait_until(lambda: "was here" in log_of(pool))  # and is interrupted now
        with stopped(pool.stats().supervisor_pid, 2.0):
            (tmp_path / "go").touch()
            wait_until(path.exists)
        with pytest.raises(procjobs.JobTimeout):
            job.result(30)
    assert "cleaned up" == path.read_text()


def test_client_that_comes_while_the_supervisor_is_stopped_finds_it_after_its_linger(pool_name):
    with procjobs.Pool(pool_name, workers=1, linger=1.0) as pool:
        supervisor = pool.stats().supervisor_pid
    script = None
    with stopped(supervisor, 2.5):
        text = "import procjobs, sys; p = procjobs.Pool(sys.argv[1]); print(p.submit(pow, 2, 5).result(30)); p.stop()"
        script = run_script(text, pool_name)
        directory = rundir.RunDir(rundir.find_base(), pool_name)
        wait_until(lambda: len(os.listdir(f"/proc/{script.pid}/fd")) > 3 or script.poll() is not None)
        assert os.path.exists(directory.socket)
    assert ("32\n", "") == script.communicate(timeout=60)


def test_nothing_is_decided_by_the_wall_clock_but_what_has_a_time_of_day():
    allowed = {
        "client/connection/submission.py",  # at=
        "client/facts.py",  # the last point of a chart, which is of now
        "client/finding.py",  # how old an id is, which has the time of day in it
        "client/job.py",  # shown as submitted_at until the table has it
        "cli/tasks.py",  # since when a runner waits for its database
        "cli/bars.py",  # how long a job has been running, beside the time at which it began
        "cli/history.py",  # --since
        "cli/listing.py",
        "client/outbox.py",  # shown as submitted_at, and at=
        "cli/sampling.py",
        "host/process_list.py",  # shown as started_at
        "host/footprints.py",  # when a run ended, as people read it in the file
        "shared/ids.py",
        "shared/records.py",
        "shared/table/progress_writer.py",  # when a job was begun, and has reported
        "store/journal.py",  # times that a database keeps across reboots: unique until, not before
        "store/questions.py",
        "store/repetition.py",  # submitted at
        "store/rescue.py",
        "store/retention.py",  # kept until
        "store/pull_table.py",  # shown as put_at
        "store/schedule_rows.py",  # when a schedule was made, and a period run
        "supervisor/clients/admission.py",  # shown as submitted_at; not before, of a job of another boot
        "supervisor/clients/hand_over.py",  # times that the next supervisor reads in a file
        "supervisor/clients/unique_keys.py",  # unique for so long, also across restarts
        "supervisor/code_version.py",  # whether a source file was changed after that
        "supervisor/durable/checkpoint_events.py",  # saved at
        "supervisor/durable/durable_jobs.py",  # what the database is told of
        "supervisor/durable/start_events.py",  # started at
        "supervisor/durable/store_health.py",  # shown as "unavailable since"
        "supervisor/pending_hooks.py",  # shown to hooks as finished_at
        "supervisor/publisher.py",  # shown as started_at, scaled_at
        "supervisor/registry.py",  # shown as ended_at, and in the history
        "supervisor/schedules/kept_calls.py",  # expires so long after the time that a run is for
        "supervisor/schedules/service.py",  # schedules are times of day
        "supervisor/trend.py",  # the points of a chart
        "web/dashboard/look.py",  # "2 minutes ago"
        "web/job_routes.py",  # how long a job has been waiting, for the pause until a page asks again
    }
    root = pathlib.Path(procjobs.__file__).parent
    calls = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "wall"
    }
    assert set() == calls - allowed


# Clients ----------------------------------------------------------------------------------------------


LARGE = """
import procjobs, sys, numpy
from tests.process import jobs
pool = procjobs.Pool(sys.argv[1])
handles = [pool.submit(jobs.echo, numpy.full(40_000 if n % 2 else 4_000, n)) for n in range(int(sys.argv[2]))]
handles[-1].wait_accepted(30)
print("sent", flush=True)
sys.stdin.readline()
print(sum(int(job.result(60)[-1]) for job in handles), flush=True)
pool.shutdown()
"""


def test_stopped_client_with_thousands_of_large_results_blocks_nobody(pool_name):
    count = 2000
    with procjobs.Pool(pool_name, workers=2, result_memory_bytes=20_000_000) as pool:
        pool.pause()
        client = subprocess.Popen(
            [sys.executable, "-c", LARGE, pool_name, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert "sent\n" == client.stdout.readline()
        os.kill(client.pid, signal.SIGSTOP)
        wait_until(lambda: psutil.Process(client.pid).status() == psutil.STATUS_STOPPED)
        pool.resume()
        began = time.perf_counter()
        assert [n * 2 for n in range(100)] == [pool.submit(jobs.add, n, n).result(30) for n in range(100)]
        assert np.array_equal(np.ones(100_000), pool.submit(jobs.echo, np.ones(100_000)).result(30))
        print(f"{time.perf_counter() - began:.2f} s beside a stopped client")
        wait_until(lambda: pool.stats().finished == count + 101)
        os.kill(client.pid, signal.SIGCONT)
        assert f"{sum(range(count))}\n" == client.communicate("\n", timeout=60)[0]


def is_broken(write):
    """Tell whether nobody has the reading end of a pipe."""
    poll = select.poll()
    poll.register(write, 0)
    return bool(poll.poll(0))


def test_client_that_is_killed_in_the_middle_of_a_frame_costs_only_that_frame(pool_name, tmp_path):
    with procjobs.Pool(pool_name, workers=1) as pool:
        directory = rundir.RunDir(rundir.find_base(), pool_name)
        whole = wire.frame(wire.Frame.SUBMIT, b"x" * 500, descriptors=1)
        for length in (1, 7, 8, 9, 60, 507):
            stranger = greeted(directory)
            read, write = os.pipe()
            os.write(write, b"?")
            socket.send_fds(stranger, [whole[:length]], [read])
            os.close(read)
            stranger.close()
            assert 3 == pool.submit(jobs.add, 1, 2).result(30)
            wait_until(lambda write=write: is_broken(write))  # nobody holds what was passed
            os.close(write)
        assert "bug" not in log_of(pool)


KILLED = """
import procjobs, sys, os, threading
from tests.process import jobs
pool = procjobs.Pool(sys.argv[1])
handles = [pool.submit(jobs.add, n, 1000) for n in range(200)]
handles[-1].wait_accepted(30)
print(*(job.id for job in handles), flush=True)
def send():
    while True: pool.submit(jobs.echo, b"x" * 30_000)
threads = [threading.Thread(target=send, daemon=True) for _ in range(2)]
for thread in threads: thread.start()
sys.stdin.readline()
"""


def test_results_of_a_client_that_was_killed_while_it_sent_are_kept_by_id(pool_name):
    with procjobs.Pool(pool_name, workers=2) as pool:
        client = subprocess.Popen(
            [sys.executable, "-c", KILLED, pool_name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        ids = client.stdout.readline().split()
        wait_until(lambda: pool.stats().finished > 300)
        client.kill()
        client.communicate()
        assert [n + 1000 for n in range(200)] == [pool.job(job_id).result(30) for job_id in ids]
        assert "bug" not in log_of(pool)
