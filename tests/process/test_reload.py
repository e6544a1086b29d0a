"""Reload: new code for what has not begun, the old one for what runs, and nobody loses a job."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest

import procjobs
from procjobs.host import rundir
from tests.process import jobs
from tests.process.witnesses import call

from ..conftest import wait_until


def version(pool, code):
    return pool.submit(call, code.name, "version").result(30)


def log_of(pool):
    with open(rundir.RunDir(rundir.find_base(), pool._link.directory.name).log) as file:
        return file.read()


def stop(pid):
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


def in_threads(*calls):
    """Run calls side by side and return what each returned or raised."""
    outcomes = [None] * len(calls)

    def run(n, function):
        try:
            outcomes[n] = function()
        except Exception as error:  # noqa: BLE001 - it is the outcome
            outcomes[n] = error

    threads = [threading.Thread(target=run, args=(n, function)) for n, function in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


def templates(pool):
    workers = {worker.pid for worker in pool.workers()}
    found = set()
    for child in psutil.Process(pool.stats().supervisor_pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() == "procjobs-templ":
                found.add(child.pid)
    return found - workers


def test_jobs_after_a_reload_run_the_new_code(code):
    with procjobs.Pool(workers=2, preload=[code.name]) as pool:
        assert "one" == version(pool, code)
        code.write("two")
        assert "one" == version(pool, code)
        pool.reload()
        assert {"two"} == {version(pool, code) for _ in range(10)}


def test_reload_reads_modules_anew_that_only_jobs_import(code):
    with procjobs.Pool(workers=1) as pool:
        assert "one" == version(pool, code)
        code.write("two")
        assert "one" == version(pool, code)  # a worker imports a module once
        pool.reload()
        assert "two" == version(pool, code)


def test_sighup_reloads_too(code, pool_name):
    with procjobs.Pool(pool_name, workers=1, preload=[code.name]) as pool:
        assert "one" == version(pool, code)
        code.write("two")
        os.kill(pool.stats().supervisor_pid, signal.SIGHUP)
        wait_until(lambda: version(pool, code) == "two")


def test_running_job_ends_on_the_old_code_and_waiting_ones_run_the_new(code, tmp_path):
    go = str(tmp_path / "go")
    with procjobs.Pool(workers=2, preload=[code.name]) as pool:
        running = [pool.submit(call, code.name, "wait", go) for _ in range(2)]
        wait_until(lambda: all(job.running() for job in running))
        waiting = [pool.submit(call, code.name, "version") for _ in range(5)]
        code.write("two")
        pool.reload()
        assert [False] * 7 == [job.done() for job in running + waiting]
        (tmp_path / "go").touch()
        assert ["one"] * 2 + ["two"] * 5 == [job.result(30) for job in running + waiting]


def test_retry_runs_the_new_code(code, tmp_path):
    with procjobs.Pool(workers=1, preload=[code.name]) as pool:
        retried = pool.options(retries=1, backoff=0).submit(call, code.name, "wait_and_fail_on_one", str(tmp_path / "go"))
        wait_until(retried.running)
        code.write("two")
        pool.reload()
        (tmp_path / "go").touch()
        assert ("two", 2) == (retried.result(30), retried.status().attempt)


def test_job_that_waits_for_its_retry_runs_the_new_code(code, tmp_path):
    (tmp_path / "go").touch()
    with procjobs.Pool(workers=1, preload=[code.name]) as pool:
        options = pool.options(retries=1, backoff=1.5)
        retried = options.submit(call, code.name, "wait_and_fail_on_one", str(tmp_path / "go"))
        wait_until(lambda: pool.stats().scheduled == 1)
        code.write("two")
        pool.reload()
        assert "two" == retried.result(30)


def test_delayed_jobs_and_jobs_in_line_for_their_key_run_the_new_code(code, tmp_path):
    with procjobs.Pool(workers=2, preload=[code.name]) as pool:
        first = pool.options(key="k").submit(call, code.name, "wait", str(tmp_path / "go"))
        in_line = [pool.options(key="k").submit(call, code.name, "version") for _ in range(3)]
        wait_until(first.running)
        pool.submit(jobs.add, 1).result(30)  # the other worker has passed them by: they are in line
        delayed = [pool.options(delay=delay).submit(call, code.name, "version") for delay in (1, 5, 20, 60)]
        code.write("two")
        pool.reload()
        still_delayed = next(job for job in delayed if job.status().state == "scheduled")  # on a slow host not the first
        (tmp_path / "go").touch()
        assert ["one", "two", "two", "two"] == [job.result(30) for job in [first, *in_line]]
        assert "two" == still_delayed.result(90)
        for job in delayed:
            job.cancel()


def test_reload_of_a_paused_pool(code):
    with procjobs.Pool(workers=1, preload=[code.name]) as pool:
        pool.pause()
        waiting = [pool.submit(call, code.name, "version") for _ in range(3)]
        code.write("two")
        pool.reload()
        wait_until(lambda: {2} == {worker.generation for worker in pool.workers()})
        assert [False] * 3 == [job.done() for job in waiting]
        pool.resume()
        assert ["two"] * 3 == [job.result(30) for job in waiting]


def test_old_template_and_workers_are_gone_after_a_reload(code, tmp_path):
    with procjobs.Pool(workers=2, preload=[code.name]) as pool:
        running = pool.submit(call, code.name, "wait", str(tmp_path / "go"))
        wait_until(lambda: running.running() and pool.stats().idle == 1)
        workers, template = {worker.pid for worker in pool.workers()}, templates(pool)
        code.write("two")
        pool.reload()
        assert "two" == version(pool, code)
        (busy,) = (worker.pid for worker in pool.workers() if worker.job_id == running.id)
        wait_until(lambda: [psutil.pid_exists(pid) for pid in sorted(workers)] == [pid == busy for pid in sorted(workers)])
        (tmp_path / "go").touch()
        assert "one" == running.result(30)
        wait_until(lambda: not any(psutil.pid_exists(pid) for pid in workers | template))
        wait_until(lambda: [2, 2] == [worker.generation for worker in pool.workers()])
        wait_until(lambda: len(templates(pool)) == 1)


FAILURES = {
    "raises": ("raise RuntimeError('the licence is missing')", "the licence is missing"),
    "exits": ("import sys; sys.exit(5)", "SystemExit: 5"),
    "is no Python": ("def :", "SyntaxError"),
    "crashes": ("import os; os.kill(os.getpid(), 11)", "signal 11"),
    "leaves": ("import os; os._exit(3)", "exit code 3"),
}


@pytest.mark.parametrize(("also", "told"), FAILURES.values(), ids=FAILURES)
def test_preload_that_fails_keeps_the_old_code_and_is_told(code, tmp_path, also, told):
    with procjobs.Pool(workers=1, preload=[code.name]) as pool:
        running = pool.submit(call, code.name, "wait", str(tmp_path / "go"))
        waiting = pool.submit(call, code.name, "version")
        wait_until(running.running)
        code.write("two", also)
        with pytest.raises(procjobs.ReloadFailed, match=told):
            pool.reload()
        (tmp_path / "go").touch()
        assert ["one"] * 3 == [running.result(30), waiting.result(30), version(pool, code)]
        wait_until(lambda: (None, 1, 1) == (pool.stats().problem, len(templates(pool)), len(pool.workers())))
        code.write("three")
        pool.reload()
        assert "three" == version(pool, code)


def test_traceback_of_a_failed_reload_names_the_line(code):
    with procjobs.Pool(workers=1, preload=[code.name]) as pool:
        assert "one" == version(pool, code)
        code.write("two", "raise RuntimeError('here')")
        with pytest.raises(procjobs.ReloadFailed, match=rf'{code.name}\.py", line 2'):
            pool.reload()


def test_preload_that_hangs_is_given_up_after_the_start_timeout(code):
    with procjobs.Pool(workers=1, start_timeout=1.0, preload=[code.name]) as pool:
        assert "one" == version(pool, code)
        code.write("two", "import time; time.sleep(600)")  # job
        with pytest.raises(procjobs.ReloadFailed, match="not ended after 1 s"):
            pool.reload()
        assert "one" == version(pool, code)
        wait_until(lambda: len(templates(pool)) == 1)


def test_reload_mends_a_pool_whose_preload_fails(code):
    code.write("broken", "raise RuntimeError('no licence')")
    with pytest.warns(procjobs.PoolDegraded, match="no licence"):
        pool = procjobs.Pool(workers=1, preload=[code.name])
        waiting = pool.submit(call, code.name, "version")
        wait_until(lambda: pool.stats().problem)
        code.write("two")
        pool.reload()
        assert "two" == waiting.result(30)
        wait_until(lambda: pool.stats().problem is None)
        pool.shutdown()


def test_preloaded_module_that_starts_a_thread_after_the_change_is_left_to_the_workers(code):
    with procjobs.Pool(workers=1, preload=[code.name]) as pool:
        assert "one" == version(pool, code)
        code.write("two", "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()")
        pool.reload()
        assert "two" == version(pool, code)
        assert "starts a thread" in log_of(pool)


def test_interpreter_that_has_gone_fails_the_reload(code, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with procjobs.Pool(workers=1, preload=[code.name]) as pool:
        assert "one" == version(pool, code)
        python.unlink()
        with pytest.raises(procjobs.ReloadFailed, match="could not be started"):
            pool.reload()
        assert "one" == version(pool, code)


def test_two_clients_reload_at_once(code, pool_name):
    with procjobs.Pool(pool_name, workers=2, preload=[code.name]) as one, procjobs.Pool(pool_name) as two:
        for n in range(5):
            code.write(f"version {n}")
            assert [None] * 4 == in_threads(one.reload, two.reload, one.reload, two.reload)
            assert f"version {n}" == version(one, code)


def test_reload_that_begins_during_another_loads_what_is_there_then(code, tmp_path, pool_name):
    begun, go = tmp_path / "begun", tmp_path / "go"
    with procjobs.Pool(pool_name, workers=1, preload=[code.name]) as one:
        two = procjobs.Pool(pool_name, workers=1, preload=[code.name])
        assert ["one", "one"] == [version(one, code), version(two, code)]
        code.write("two", f"open({str(begun)!r}, 'w').close(); jobs_go = {str(go)!r}\nimport os\n"
                          "import time\nwhile not os.path.exists(jobs_go): time.sleep(0.01)")  # fmt: skip  # job
        first = threading.Thread(target=one.reload)
        first.start()
        wait_until(begun.exists)
        code.write("three")
        second = threading.Thread(target=two.reload)
        second.start()
        wait_until(lambda: two._link.connection.requests._replies)
        go.touch()
        first.join(30)
        second.join(30)
        assert ["three", "three"] == [version(one, code), version(two, code)]
        two.shutdown()


def test_reload_with_clients_of_two_generations(code, pool_name, tmp_path):
    old = procjobs.Pool(pool_name, workers=2, preload=[code.name], version="1")
    new = procjobs.Pool(pool_name, workers=2, preload=[code.name], version="2")
    running = [pool.submit(call, code.name, "wait", str(tmp_path / "go")) for pool in (old, new)]
    wait_until(lambda: all(job.running() for job in running))
    code.write("two")
    old.reload()
    (tmp_path / "go").touch()
    assert ["one", "one"] == [job.result(30) for job in running]
    assert ["two", "two"] == [version(old, code), version(new, code)]
    wait_until(lambda: len(templates(new)) == 2, dump=lambda: log_of(new))
    old.shutdown()
    new.shutdown()


def test_failed_reload_tells_every_client_that_waits(code, pool_name):
    old = procjobs.Pool(pool_name, workers=1, preload=[code.name], version="1")
    new = procjobs.Pool(pool_name, workers=1, preload=[code.name], version="2")
    assert ["one", "one"] == [version(old, code), version(new, code)]
    code.write("two", "raise RuntimeError('broken')")
    for error in in_threads(old.reload, new.reload, old.reload):
        assert isinstance(error, procjobs.ReloadFailed)
        assert "broken" in str(error)
    assert ["one", "one"] == [version(old, code), version(new, code)]
    old.shutdown()
    new.shutdown()


def test_other_clients_go_on_without_reconnecting(code, pool_name):
    settings = {"workers": 1, "preload": [code.name]}
    with procjobs.Pool(pool_name, **settings) as one, procjobs.Pool(pool_name, **settings) as two:
        assert "one" == version(two, code)
        connection = two._link.connection
        code.write("two")
        one.reload()
        assert "two" == version(two, code)
        assert (connection, False) == (two._link.connection, connection.lost)


def test_client_of_the_same_version_that_attaches_after_a_reload_joins_the_new_generation(code, pool_name):
    with procjobs.Pool(pool_name, workers=1, preload=[code.name], version="1") as one:
        code.write("two")
        one.reload()
        with procjobs.Pool(pool_name, workers=1, preload=[code.name], version="1") as two:
            assert ["two", "two"] == [version(two, code), version(one, code)]
            wait_until(lambda: {2} == {worker.generation for worker in two.workers()})
            wait_until(lambda: len(templates(two)) == 1)


def test_forked_child_of_a_client_from_before_the_reload_joins_the_new_generation(code, pool_name):
    with procjobs.Pool(pool_name, workers=1, preload=[code.name]) as pool:
        code.write("two")
        pool.reload()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, f"{version(pool, code)} {len(templates(pool))}".encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert b"two 1" == os.read(read, 100)
        os.close(read)
        os.close(write)


LEAVES = """
import procjobs, sys, os, threading
pool = procjobs.Pool(sys.argv[1], workers=1, preload=[sys.argv[2]], version="of this client alone")
pool._link.connect().requests.post("reload")
os._exit(0) if sys.argv[3] == "at once" else pool.shutdown()
"""


@pytest.mark.parametrize("how", ["at once", "in order"])
def test_client_that_leaves_right_after_it_asked_for_a_reload(code, pool_name, how):
    with procjobs.Pool(pool_name, workers=1, preload=[code.name]) as pool:
        assert "one" == version(pool, code)
        code.write("two")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        for _ in range(3):
            subprocess.run([sys.executable, "-c", LEAVES, pool_name, code.name, how], check=True, env=environment)
        wait_until(lambda: version(pool, code) == "two")
        pool.reload()
        wait_until(lambda: len(templates(pool)) == 1, dump=lambda: log_of(pool))


def test_every_tiny_job_runs_exactly_once_through_many_reloads(code, tmp_path):
    trace = str(tmp_path / "trace")
    handles = []
    with procjobs.Pool(workers=2, preload=[code.name]) as pool:
        for n in range(6):
            handles += [pool.submit(jobs.append_name, trace, f"{n}.{m} ") for m in range(600)]
            code.write(f"version {n}")
            pool._link.connect().requests.post("reload")
            handles += [pool.submit(jobs.append_name, trace, f"{n}.{m} ") for m in range(600, 1200)]
        pool.reload()
        assert {"version 5"} == {version(pool, code) for _ in range(4)}
        for job in handles:
            job.result(60)
        assert 0 == pool.stats().restarts
    counts = collections.Counter((tmp_path / "trace").read_text().split())
    assert (7200, {1}) == (len(counts), set(counts.values()))


def test_tiny_jobs_that_lie_before_a_worker_run_the_new_code(code, tmp_path):
    with procjobs.Pool(workers=1, preload=[code.name]) as pool:
        for job in [pool.submit(call, code.name, "version") for _ in range(200)]:  # now the pool knows that it is tiny
            job.result(30)
        (worker,) = pool.workers()
        stop(worker.pid)
        waiting = [pool.submit(call, code.name, "version") for _ in range(10)]
        waiting[-1].wait_accepted(30)
        code.write("two")
        pool.reload()
        os.kill(worker.pid, signal.SIGCONT)
        assert ["two"] * 10 == [job.result(30) for job in waiting]


@pytest.mark.filterwarnings("ignore::procjobs.PoolDegraded")
def test_template_that_is_killed_during_a_reload_costs_nothing(code):
    with procjobs.Pool(workers=2, preload=[code.name]) as pool:
        for n in range(8):
            wait_until(lambda: len(templates(pool)) == 1)
            (template,) = wait_until(lambda: len(found := templates(pool)) == 1 and found)
            code.write(f"version {n}")
            os.kill(template, signal.SIGKILL)  # both templates start together, from one specification
            pool.reload()
            assert f"version {n}" == version(pool, code)
            wait_until(lambda: len(templates(pool)) == 1)


def test_lost_template_of_superseded_code_is_not_started_again(code, tmp_path):
    with procjobs.Pool(workers=2, preload=[code.name]) as pool:
        running = pool.submit(call, code.name, "wait", str(tmp_path / "go"))
        wait_until(running.running)
        (old,) = wait_until(lambda: len(found := templates(pool)) == 1 and found)
        code.write("two")
        pool.reload()
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(old))
        assert "two" == version(pool, code)
        wait_until(lambda: len(templates(pool)) == 1)
        (tmp_path / "go").touch()
        assert "one" == running.result(30)


@pytest.mark.filterwarnings("ignore::procjobs.CodeDiffers")  # the mended file is not the one that was loaded again
def test_pool_whose_new_code_breaks_later_forks_no_workers_of_the_old_one(code, tmp_path):
    with pytest.warns(procjobs.PoolDegraded), procjobs.Pool(workers=2, preload=[code.name]) as pool:
        running = pool.submit(call, code.name, "wait", str(tmp_path / "go"))
        wait_until(running.running)
        (old,) = wait_until(lambda: len(found := templates(pool)) == 1 and found)
        code.write("two")
        pool.reload()
        (idle,) = wait_until(lambda: [w.pid for w in pool.workers() if (w.generation, w.state) == (2, "idle")])
        (new,) = templates(pool) - {old}
        code.write("three", "raise RuntimeError('broken')")
        os.kill(new, signal.SIGKILL)
        wait_until(lambda: pool.stats().problem)
        os.kill(idle, signal.SIGKILL)
        before = pool.stats()
        wait_until(lambda: idle not in {worker.pid for worker in pool.workers()})
        waiting = pool.submit(call, code.name, "version")
        wait_until(lambda: log_of(pool).count("broken") >= 1)
        assert [running.id] == [worker.job_id for worker in pool.workers()], before
        code.write("four")
        (tmp_path / "go").touch()
        assert ["one", "four"] == [running.result(30), waiting.result(80)]  # after the back-off


# Pause, resume, drain ---------------------------------------------------------------------------------


STEER = "import procjobs, sys; getattr(procjobs.Pool(sys.argv[1]), sys.argv[2])()"


def steer(pool_name, call):
    subprocess.run([sys.executable, "-c", STEER, pool_name, call], check=True, timeout=60)


def test_pool_is_paused_and_resumed_from_another_process(pool_name, tmp_path):
    with procjobs.Pool(pool_name, workers=1) as pool:
        running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "done")
        wait_until(running.running)
        steer(pool_name, "pause")
        waiting = [pool.submit(jobs.add, n) for n in range(3)]
        (tmp_path / "go").touch()
        assert "done" == running.result(30)
        wait_until(lambda: (1, 3) == (pool.stats().idle, pool.stats().queued))
        steer(pool_name, "resume")
        assert [0, 1, 2] == [job.result(30) for job in waiting]


def test_paused_pool_starts_no_tiny_job_either_that_lies_before_a_worker(tmp_path):
    with procjobs.Pool(workers=1) as pool:
        for job in [pool.submit(jobs.append_name, str(tmp_path / "warm"), "x") for _ in range(200)]:
            job.result(30)
        (worker,) = pool.workers()
        stop(worker.pid)
        waiting = [pool.submit(jobs.append_name, str(tmp_path / "trace"), "x") for _ in range(10)]
        waiting[-1].wait_accepted(30)
        pool.pause()
        os.kill(worker.pid, signal.SIGCONT)
        assert (10, 0) == (pool.stats().queued, pool.stats().busy)
        assert not (tmp_path / "trace").exists()
        pool.resume()
        for job in waiting:
            job.result(30)
    assert "x" * 10 == (tmp_path / "trace").read_text()


def test_drained_pool_takes_no_more_and_ends_when_all_it_has_is_done(pool_name, tmp_path):
    pool = procjobs.Pool(pool_name, workers=1)
    supervisor = pool.stats().supervisor_pid
    running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "running")
    queued = pool.submit(jobs.add, 1)
    delayed = pool.options(delay=1.0).submit(jobs.add, 2)
    retried = pool.options(retries=1, backoff=0.1).submit(jobs.append_and_fail, str(tmp_path / "runs"), 2)
    wait_until(running.running)
    steer(pool_name, "drain")
    with pytest.raises(procjobs.PoolClosed, match="takes no more jobs"):
        pool.submit(jobs.add, 3).result(30)
    (tmp_path / "go").touch()
    assert ["running", 1, 2, 2] == [job.result(30) for job in (running, queued, delayed, retried)]
    wait_until(lambda: not psutil.pid_exists(supervisor))
    assert 5 == pool.submit(jobs.add, 2, 3).result(30)  # by a new supervisor
    pool.stop()


def test_paused_pool_that_is_drained_ends_after_it_was_resumed(pool_name):
    with procjobs.Pool(pool_name, workers=1) as pool:
        supervisor = pool.stats().supervisor_pid
        pool.pause()
        waiting = pool.submit(jobs.add, 1)
        waiting.wait_accepted(30)
        steer(pool_name, "drain")
        assert not waiting.done()
        steer(pool_name, "resume")
        assert 1 == waiting.result(30)
        wait_until(lambda: not psutil.pid_exists(supervisor))
