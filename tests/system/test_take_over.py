"""`procjobs serve` beside a pool that clients have started: it takes the pool over, and no job is lost or runs twice."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import time

import pytest

import procjobs
from procjobs.client import launcher, takeover
from procjobs.host import rundir

from ..conftest import wait_until
from . import cli_jobs
from .conftest import stop_process

pytest.importorskip("click")
# A served pool lingers for ever, whatever its clients have set; they are told when they come to it.
pytestmark = pytest.mark.filterwarnings("ignore::procjobs.SettingsDiffer")


class Errors:
    """The standard error of a program, as it comes."""

    def __init__(self, process):
        self._fd = process.stderr.fileno()
        self.text = ""

    def wait_for(self, pattern):
        deadline = time.monotonic() + 30
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, f"waited in vain for {pattern!r} in\n{self.text}"
            if select.select([self._fd], [], [], 0.05)[0]:
                data = os.read(self._fd, 65536)
                assert data, f"{pattern!r} never came:\n{self.text}"
                self.text += data.decode()
        return self.text


@pytest.fixture(params=["memory", "store"])
def store(request, tmp_path):
    """The settings of the pool's store."""
    return None if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
def serve(cli, store):
    def serve(*arguments, **environment):
        kept = ["--store", store] if store else []
        return cli.begin("serve", "media", "-w", "2", *kept, *arguments, **environment)

    return serve


def begun(directory, count):
    wait_until(lambda: count == len([name for name in os.listdir(directory) if name.startswith("begun")]))


def lines(path):
    return path.read_text().split() if path.exists() else []


def note_run(path, word):
    with open(path, "a") as file:
        file.write(f"{word}\n")
    return word


def begin_and_wait(directory, word):
    note_run(f"{directory}/runs", word)
    cli_jobs.touch(f"{directory}/begun-{word}")
    cli_jobs.wait_for(f"{directory}/go")
    return word


def taking_over(cli, serve, store, directory):
    """Return a pool with one running job, that job, and the process of `serve` that waits for its end."""
    pool = cli.pool(workers=1, store=store)
    running = pool.submit(begin_and_wait, str(directory), "running")
    begun(directory, 1)
    process = serve()
    Errors(process).wait_for("waits for 1 running job")
    return pool, running, process


def test_pool_of_clients_is_taken_over_with_the_jobs_that_it_has(cli, serve, store, tmp_path):
    pool = cli.pool(workers=1, store=store)
    before = pool.stats().supervisor_pid
    running = pool.submit(begin_and_wait, str(tmp_path), "running")
    begun(tmp_path, 1)
    waiting = [pool.submit(note_run, str(tmp_path / "runs"), f"w{n}") for n in range(5)]
    large = pool.submit(len, b"x" * 300_000)
    delayed = pool.options(delay=0.01, retries=1).submit(note_run, str(tmp_path / "runs"), "delayed")
    waiting[-1].wait_accepted(30)
    process = serve()
    errors = Errors(process)
    errors.wait_for(rf"process {before}: it waits for 1 running job")
    late = pool.submit(note_run, str(tmp_path / "runs"), "late")
    late.wait_accepted(30)
    (tmp_path / "go").touch()
    assert "running" == running.result(30)
    assert [f"w{n}" for n in range(5)] == [job.result(30) for job in waiting]
    assert (300_000, "delayed", "late") == (large.result(30), delayed.result(30), late.result(30))
    assert process.pid == pool.stats().supervisor_pid
    assert sorted(["running", "delayed", "late", *(f"w{n}" for n in range(5))]) == sorted(lines(tmp_path / "runs"))
    assert [] == [name for name in os.listdir(cli.base) if not name.startswith((".procjobs", "media"))]
    assert not os.path.exists(rundir.RunDir(cli.base, "media").waiting)
    process.send_signal(signal.SIGTERM)
    assert 0 == process.wait(30)


def test_jobs_of_a_client_that_has_gone_are_taken_over_too(cli, serve, store, tmp_path):
    pool = cli.pool(workers=1, store=store)
    pool.submit(begin_and_wait, str(tmp_path), "running")
    pool.submit(note_run, str(tmp_path / "runs"), "orphan").wait_accepted(30)
    begun(tmp_path, 1)
    pool._link.connection.close()
    process = serve()
    Errors(process).wait_for("waits for 1 running job")
    (tmp_path / "go").touch()
    wait_until(lambda: ["running", "orphan"] == lines(tmp_path / "runs"))
    assert process.poll() is None


def test_schedules_of_a_client_that_has_gone_are_taken_over_where_they_were(cli, serve, store, tmp_path):
    pool = cli.pool(workers=1, store=store)
    pool.schedule("tick", note_run, args=(str(tmp_path / "runs"), "tick"), every=1, meta={"for": "all"})
    pool.schedule("paused", note_run, args=(str(tmp_path / "runs"), "paused"), every=1)
    pool.pause("paused")
    wait_until(lambda: lines(tmp_path / "runs").count("tick") > 1)
    early = lines(tmp_path / "runs").count("paused")  # before it was paused
    pool._link.schedules.forget("tick")
    pool._link.schedules.forget("paused")
    pool._link.connection.close()
    process = serve()
    Errors(process).wait_for("is ready")
    count = len(lines(tmp_path / "runs"))
    wait_until(lambda: len(lines(tmp_path / "runs")) > count + 1)
    found = {info.name: info for info in pool.schedules()}
    assert {"tick": False, "paused": True} == {name: info.is_paused for name, info in found.items()}
    wait_until(lambda: {"for": "all"} == pool.status(pool.schedules()[1].last_job_id).meta)
    assert early == lines(tmp_path / "runs").count("paused")


def test_served_pool_is_not_served_twice(cli, serve):
    first = serve()
    Errors(first).wait_for("is ready")
    done = cli("serve", "media")
    assert (1, "") == (done.returncode, done.stdout)
    assert f"pool 'media' is running already, served by process {first.pid}" in done.stderr
    assert first.poll() is None


def test_idle_pool_is_taken_over_at_once(cli, serve, store):
    pool = cli.pool(workers=1, store=store)
    process = serve()
    wait_until(lambda: process.pid == pool.submit(os.getppid).result(30))


def test_serve_that_is_killed_while_it_waits_leaves_the_pool_as_it_was(cli, serve, store, tmp_path):
    pool, running, process = taking_over(cli, serve, store, tmp_path)
    before = pool.stats().supervisor_pid
    process.kill()
    process.wait()
    (tmp_path / "go").touch()
    after = pool.submit(note_run, str(tmp_path / "runs"), "after")
    assert ("running", "after") == (running.result(30), after.result(30))
    assert before == pool.stats().supervisor_pid


def test_supervisor_that_is_killed_during_the_take_over_has_serve_as_its_successor(cli, serve, store, tmp_path):
    pool, running, process = taking_over(cli, serve, store, tmp_path)
    before = pool.stats().supervisor_pid
    os.kill(before, signal.SIGKILL)
    (tmp_path / "go").touch()
    after = pool.submit(note_run, str(tmp_path / "runs"), "after")
    assert "after" == after.result(30)
    assert [None, "running"] == [running.exception(30), running.result()] if store else running.exception(30)
    assert 1 == lines(tmp_path / "runs").count("after")
    # Whoever was first has the pool now; if it was this client, it was asked to hand over in turn.
    wait_until(lambda: process.pid == pool.stats().supervisor_pid)


def test_waiting_jobs_survive_a_successor_that_is_killed_before_it_has_them(cli, store, tmp_path):
    pool = cli.pool(workers=1, store=store)
    pool.submit(begin_and_wait, str(tmp_path), "running")
    begun(tmp_path, 1)
    waiting = pool.options(key="one", unique=True).submit(note_run, str(tmp_path / "runs"), "waiting")
    assert 0 == cli("drain", "media", "--hand-over").returncode
    (tmp_path / "go").touch()
    assert "waiting" == waiting.result(30)  # this client has started a supervisor
    assert ["running", "waiting"] == lines(tmp_path / "runs")


def test_nothing_runs_twice_and_nothing_is_lost_while_clients_submit(cli, serve, store, tmp_path):
    pool = cli.pool(workers=2, store=store)
    jobs = [pool.submit(note_run, str(tmp_path / "runs"), f"a{n}") for n in range(300)]
    process = serve()
    errors = Errors(process)
    count = 0
    while process.pid != pool.stats().supervisor_pid:
        jobs.append(pool.submit(note_run, str(tmp_path / "runs"), f"b{count}"))
        count += 1
        with contextlib.suppress(TimeoutError):
            jobs[-1].result(0.02)
        assert process.poll() is None, errors.text
    jobs.append(pool.submit(note_run, str(tmp_path / "runs"), "last"))
    assert len(jobs) == len({job.result(30) for job in jobs}) == len(lines(tmp_path / "runs"))


def test_job_that_fails_during_the_take_over_is_tried_again_by_the_successor(cli, serve, store, tmp_path):
    pool = cli.pool(workers=1, store=store)
    job = pool.options(retries=2, backoff=0.01).submit(fail_once, str(tmp_path))
    begun(tmp_path, 1)
    process = serve()
    Errors(process).wait_for("waits for 1 running job")
    (tmp_path / "go").touch()
    assert 2 == job.result(30)
    assert process.pid == pool.stats().supervisor_pid


def fail_once(directory):
    attempt = procjobs.current_job().attempt
    if attempt == 1:
        cli_jobs.touch(f"{directory}/begun-it")
        cli_jobs.wait_for(f"{directory}/go")
        raise ValueError("once")
    return attempt


def test_second_serve_is_refused_while_the_first_one_waits(cli, serve, tmp_path):
    pool = cli.pool(workers=1)
    running = pool.submit(begin_and_wait, str(tmp_path), "running")
    begun(tmp_path, 1)
    first = serve()
    Errors(first).wait_for("waits for 1 running job")
    done = cli("serve", "media")
    assert (1, "") == (done.returncode, done.stdout)
    assert f"cannot be taken over: process {first.pid} is taking the pool over already" in done.stderr
    (tmp_path / "go").touch()
    assert "running" == running.result(30)
    wait_until(lambda: first.pid == pool.stats().supervisor_pid)


def test_stopped_supervisor_is_told_as_one_that_does_not_answer(cli, monkeypatch):
    pool = cli.pool(workers=1)
    resume = stop_process(pool.stats().supervisor_pid)
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "START_TIMEOUT", 0.0)
        patch.setattr(takeover, "_LOOK_INTERVAL", 0.05)
        try:
            with pytest.raises(procjobs.SupervisorError, match=r"does not answer.*Is its supervisor stopped"):
                takeover.take_lock(rundir.RunDir(cli.base, "media"), lambda _pid, _running: None)
        finally:
            resume()
    assert "after" == pool.submit(str, "after").result(30)


def test_serve_that_is_killed_at_any_moment_costs_no_job(cli, tmp_path):
    """Without a store. What is killed has not begun to serve: a supervisor that is killed loses what runs."""
    pool = cli.pool(workers=1)
    jobs = [pool.submit(note_run, str(tmp_path / "runs"), f"a{n}") for n in range(100)]
    for moment in range(8):
        process = cli.begin("serve", "media", "-w", "1")
        with contextlib.suppress(TimeoutError):
            jobs[-1].result(0.05 * moment)
        if process.poll() is not None or "procjobs-super" in _comm(process.pid):
            break
        process.kill()
        process.wait()
        jobs += [pool.submit(note_run, str(tmp_path / "runs"), f"b{moment}-{n}") for n in range(20)]
    assert len(jobs) == len({job.result(60) for job in jobs}) == len(lines(tmp_path / "runs"))


def _comm(pid):
    with open(f"/proc/{pid}/comm") as file:
        return file.read()


def test_waiting_jobs_have_their_code_and_environment_after_a_take_over(cli, serve, tmp_path, monkeypatch):
    """Those of a client that has changed both since the pool began: by a reload, and by a directory on its path."""
    late = tmp_path / "late"
    late.mkdir()
    (late / "imported_late.py").write_text("def job(): return 'found'")
    pool = cli.pool(workers=1)
    running = pool.submit(begin_and_wait, str(tmp_path), "running")
    begun(tmp_path, 1)
    monkeypatch.setenv("STRIPE_KEY", "new")
    pool.reload()
    monkeypatch.syspath_prepend(late)
    import imported_late

    waiting = [pool.submit(os.getenv, "STRIPE_KEY"), pool.submit(imported_late.job)]
    waiting[-1].wait_accepted(30)
    process = serve()
    Errors(process).wait_for("waits for 1 running job")
    (tmp_path / "go").touch()
    assert "running" == running.result(30)
    assert ["new", "found"] == [job.result(30) for job in waiting]
    assert process.pid == pool.stats().supervisor_pid
