"""The supervisor is killed with -9: what it had not acknowledged runs under its successor, and nothing runs twice."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import psutil
import pytest

import procjobs
from procjobs.client import launcher
from procjobs.client.connection import unacknowledged
from procjobs.client.connection.sender import FrameSender
from procjobs.client.connection.state import ConnectionState
from procjobs.client.link import PoolLink
from procjobs.errors import SupervisorError
from procjobs.shared.wire import Frame
from tests.process import jobs

from ..conftest import _descriptors, wait_until

LARGE = b"x" * 200_000


@pytest.fixture(params=["named", "private"])
def any_name(request, pool_name):
    return pool_name if request.param == "named" else None


@contextlib.contextmanager
def started(name, **settings):
    """Return a pool; it is stopped at the end, not awaited, so that a test that fails does not hang."""
    pool = procjobs.Pool(name, **settings)
    try:
        pool.connect()
        yield pool
    finally:
        pool.stop()


def is_taken(pool, job):
    try:
        return bool(pool._link.table.status(job.raw_id))
    except procjobs.UnknownJob:
        return False


def stop_supervisor(pool):
    """Stop the supervisor so that it takes nothing more; return its pid."""
    pid = pool._link.connect().welcome["pid"]
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return pid


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def lines(path):
    return path.read_text().split() if path.exists() else []


def ends(handles):
    """Return for each handle its result, or the type of its exception."""
    return [job.result() if job.exception(60) is None else type(job.exception()) for job in handles]


@contextlib.contextmanager
def gap(pool, supervisor):
    """Kill the supervisor, and keep the pool from reaching a successor meanwhile."""
    connection = pool._link.connection
    with pool._link.exclusive.lock:
        kill(supervisor)
        wait_until(lambda: connection.lost)
        yield


def swallow(connection, *kinds):
    """Let the connection overlook frames, as if the supervisor had been killed before it sent them."""
    take = connection._take
    connection._take = lambda kind, raw: None if kind in kinds else take(kind, raw)
    if Frame.FINISHED in kinds:
        connection._take_answer = lambda raw, has_descriptor: None


def test_submissions_that_were_not_taken_run_once_and_in_order(any_name, tmp_path):
    trace = tmp_path / "trace"

    def closure(value):
        return jobs.append_line(str(trace), value)

    with started(any_name, workers=1) as pool:
        pool.submit(jobs.add, 1).result(30)
        supervisor = stop_supervisor(pool)
        late = pool.options(delay=4).submit(jobs.append_line, str(trace), "late")
        handles = []
        for n in range(0, 60, 3):
            handles.append(pool.submit(jobs.append_line, str(trace), n))
            handles.append(pool.submit(jobs.append_line, str(trace), n + 1, LARGE))
            handles.append(pool.submit(closure, n + 2))
        kill(supervisor)
        assert list(range(60)) == ends(handles)
        assert "late" == late.result(30)
        assert [*map(str, range(60)), "late"] == lines(trace)
        assert set() == unacknowledged._retained
        assert 0 == pool._link.connection.unaccepted()


def test_jobs_that_were_acknowledged_are_lost_and_do_not_run_again(any_name, tmp_path):
    trace, go = tmp_path / "trace", str(tmp_path / "go")
    with started(any_name, workers=1) as pool:
        running = pool.submit(jobs.append_line_and_wait, str(trace), "running", go)
        wait_until(lambda: lines(trace))
        waiting = pool.submit(jobs.append_line, str(trace), "waiting")
        waiting.wait_accepted(30)
        supervisor = stop_supervisor(pool)
        again = [pool.submit(jobs.append_line, str(trace), n) for n in range(20)]
        kill(supervisor)
        assert [procjobs.SupervisorLost] * 2 == ends([running, waiting])
        assert list(range(20)) == ends(again)
        assert ["running", *map(str, range(20))] == lines(trace)


def test_job_that_was_taken_without_an_acknowledgement_runs_again_only_if_it_had_not_begun(any_name, tmp_path):
    trace, go = tmp_path / "trace", str(tmp_path / "go")
    with started(any_name, workers=1) as pool:
        pool.submit(jobs.add, 1).result(30)
        swallow(pool._link.connection, Frame.ACCEPTED, Frame.FINISHED)
        done = pool.submit(jobs.append_line, str(trace), "done")
        running = pool.submit(jobs.append_line_and_wait, str(trace), "running", go)
        waiting = pool.submit(jobs.append_line, str(trace), "waiting", LARGE)
        cancelled = pool.submit(jobs.append_line, str(trace), "cancelled")
        wait_until(lambda: len(lines(trace)) == 2 and is_taken(pool, cancelled))
        assert {job.raw_id for job in pool._link.connection.outstanding()} == {
            job.raw_id for job in (done, running, waiting, cancelled)
        }
        assert pool._link.connection.unaccepted() == 4
        pool._link.connection.requests.post_cancel(cancelled.raw_id)
        wait_until(lambda: pool.status(cancelled.id).state == "cancelled")
        kill(pool._link.connection.welcome["pid"])
        lost = procjobs.SupervisorLost
        assert [lost, lost, "waiting", lost] == ends([done, running, waiting, cancelled])
        assert ["done", "running", "waiting"] == lines(trace)


@pytest.mark.parametrize("part", ["state", "progress"])
def test_row_that_the_kill_has_torn_counts_as_begun(tmp_path, part):
    trace, go = tmp_path / "trace", str(tmp_path / "go")
    with started(None, workers=1) as pool:
        running = pool.submit(jobs.wait_for_file, go)
        wait_until(running.running)
        swallow(pool._link.connection, Frame.ACCEPTED)
        torn, whole = (pool.submit(jobs.append_line, str(trace), n) for n in range(2))
        wait_until(lambda: is_taken(pool, whole))
        supervisor = stop_supervisor(pool)
        row, _ = pool._link.table._find(torn.raw_id)
        offset = pool._link.table._rows_offset + (row - 1) * 512 + (8 if part == "state" else 280 + 100)
        with open(pool._link.directory.table, "r+b") as file:
            file.seek(offset)
            file.write(b"torn")
        kill(supervisor)
        assert [procjobs.SupervisorLost, 1] == ends([torn, whole])
        assert ["1"] == lines(trace)


def test_job_is_lost_where_its_worker_cannot_be_named(tmp_path, monkeypatch):
    with started(None, workers=1) as pool:
        running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"))
        wait_until(running.running)
        swallow(pool._link.connection, Frame.ACCEPTED)
        job = pool.submit(jobs.append_line, str(tmp_path / "trace"), "x")
        wait_until(lambda: is_taken(pool, job))
        monkeypatch.setattr(pool._link.table, "worker_pids", lambda: [0])
        kill(pool._link.connection.welcome["pid"])
        assert [procjobs.SupervisorLost] == ends([job])
    assert [] == lines(tmp_path / "trace")


def test_two_clients_at_once_have_one_successor(pool_name, tmp_path):
    trace = tmp_path / "trace"
    with started(pool_name, workers=2) as one, started(pool_name) as two:
        for pool in (one, two):
            pool.submit(jobs.add, 1).result(30)
        supervisor = stop_supervisor(one)
        handles = [pool.submit(jobs.append_line, str(trace), n) for n in range(30) for pool in (one, two)]
        kill(supervisor)
        assert [n for n in range(30) for _ in "ab"] == ends(handles)
        assert {str(n): 2 for n in range(30)} == Counter(lines(trace))
        assert one._link.connection.welcome["pid"] == two._link.connection.welcome["pid"] != supervisor


def test_wait_accepted_returns_when_the_successor_has_the_job(any_name, tmp_path):
    go = str(tmp_path / "go")
    with started(any_name, workers=1) as pool:
        pool.submit(jobs.add, 1).result(30)
        supervisor = stop_supervisor(pool)
        handles = [pool.submit(jobs.wait_for_file, go, n) for n in range(3)]
        with pytest.raises(TimeoutError):
            handles[2].wait_accepted(0.05)
        waiter = threading.Thread(target=handles[2].wait_accepted, args=(30,))
        waiter.start()
        kill(supervisor)
        handles[2].wait_accepted(30)
        assert pool._link.connection.welcome["pid"] != supervisor
        assert [n.status().state in {"queued", "running"} for n in handles] == [True] * 3
        assert pool.status(handles[2].id).submitted_at
        waiter.join(30)
        assert not waiter.is_alive()
        (tmp_path / "go").touch()
        assert [0, 1, 2] == ends(handles)


def kill_while_stopping(pool, supervisor):
    """Stop a pool whose supervisor is killed before it can act on that."""
    stopping = threading.Thread(target=pool.stop)
    stopping.start()
    wait_until(lambda: pool._link.closed)
    kill(supervisor)
    stopping.join(60)


def test_handles_of_a_pool_that_is_stopped_get_pool_closed_however_its_supervisor_ends(any_name, tmp_path):
    with started(any_name, workers=1) as pool:
        begun = pool.submit(jobs.report_and_wait, str(tmp_path / "never"), 1, 2)
        begun.wait_accepted(30)
        wait_until(lambda: begun.progress() is not None)
        supervisor = stop_supervisor(pool)
        unread = [pool.submit(jobs.pid) for _ in range(3)]
        kill_while_stopping(pool, supervisor)
        for job in (begun, *unread):
            with pytest.raises(procjobs.PoolClosed, match="the pool was stopped before job"):
                job.result(30)


def test_wait_accepted_of_a_pool_that_is_stopped_raises_pool_closed(pool_name):
    with started(pool_name, workers=1) as pool:
        pool.submit(jobs.pid).result(30)
        supervisor = stop_supervisor(pool)
        job, raised = pool.submit(jobs.pid), []

        def wait():
            try:
                job.wait_accepted(60)
            except procjobs.ProcjobsError as error:
                raised.append(type(error))

        waiting = threading.Thread(target=wait)
        waiting.start()
        wait_until(pool._link.connection.lifecycle.news.is_awaited)
        kill_while_stopping(pool, supervisor)
        waiting.join(60)
        assert [procjobs.PoolClosed] == raised


def test_wait_accepted_waits_for_the_successor(tmp_path, monkeypatch):
    move, stopped = PoolLink.move_to_successor, []

    def move_to_stopped(link, waiting, kept):
        link.connect()
        stopped.append(stop_supervisor(pool))
        move(link, waiting, kept)

    monkeypatch.setattr(PoolLink, "move_to_successor", move_to_stopped)
    with started(None, workers=1) as pool:
        supervisor = stop_supervisor(pool)
        job = pool.submit(jobs.add, 1, 2)
        before = pool._link.connection
        waiter = threading.Thread(target=job.wait_accepted, args=(30,))
        waiter.start()
        kill(supervisor)
        wait_until(lambda: before.lifecycle.state is ConnectionState.ENDED)
        try:
            waiter.join(0.1)
            assert waiter.is_alive()
        finally:
            os.kill(stopped[0], signal.SIGCONT)
        waiter.join(30)
        assert not waiter.is_alive()
        assert 3 == job.result(30)


def test_wait_accepted_raises_when_the_job_is_lost(tmp_path, monkeypatch):
    with started(None, workers=1) as pool:
        supervisor = stop_supervisor(pool)
        job = pool.submit(jobs.add, 1)
        monkeypatch.setattr(launcher, "reach", refuse)
        caught = []

        def wait():
            try:
                job.wait_accepted(30)
            except procjobs.ProcjobsError as error:
                caught.append(type(error))

        waiter = threading.Thread(target=wait)
        waiter.start()
        kill(supervisor)
        waiter.join(30)
        monkeypatch.undo()
        with pytest.raises(procjobs.SupervisorLost, match="not be sent to a successor: no more of them") as lost:
            job.result(30)
        assert isinstance(lost.value.__cause__, SupervisorError)
        assert [procjobs.SupervisorLost] == caught


def refuse(*_args, **_kwargs):
    raise SupervisorError("no more of them")


def test_cancelled_in_the_gap_does_not_run(any_name, tmp_path):
    trace = tmp_path / "trace"
    with started(any_name, workers=1) as pool:
        supervisor = stop_supervisor(pool)
        handles = [pool.submit(jobs.append_line, str(trace), n, LARGE) for n in range(5)]
        assert handles[1].cancel()
        with gap(pool, supervisor):
            assert handles[3].cancel()
        assert [0, 2, 4] == ends([handles[0], handles[2], handles[4]])
        assert handles[1].cancelled()
        assert handles[3].cancelled()
    assert ["0", "2", "4"] == lines(trace)


def test_cancel_after_the_gap_reaches_the_successor(any_name, tmp_path):
    trace, go = tmp_path / "trace", str(tmp_path / "go")
    with started(any_name, workers=1) as pool:
        supervisor = stop_supervisor(pool)
        running = pool.submit(jobs.append_line_and_wait, str(trace), "running", go)
        waiting = pool.submit(jobs.append_line, str(trace), "waiting")
        kill(supervisor)
        wait_until(lambda: lines(trace))
        assert waiting.cancel()
        assert running.cancel()
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
    assert ["running"] == lines(trace)


@pytest.mark.parametrize("count", [1, 50])
def test_shutdown_in_the_gap_ends_every_handle(any_name, tmp_path, count):
    trace = tmp_path / "trace"
    for _ in range(3):
        pool = procjobs.Pool(any_name, workers=1)
        supervisor = stop_supervisor(pool)
        handles = [pool.submit(jobs.append_line, str(trace), n) for n in range(count)]
        with gap(pool, supervisor):
            closer = threading.Thread(target=pool.shutdown)
            closer.start()
        closer.join(30)
        assert not closer.is_alive()
        assert [] == [job for job in handles if not job.done()]
        for n, end in enumerate(ends(handles)):
            assert end in {n, procjobs.SupervisorLost}
            assert lines(trace).count(str(n)) == (end == n)
        trace.unlink(missing_ok=True)


def test_shutdown_before_the_successor_is_reached_is_the_cause(any_name):
    pool = procjobs.Pool(any_name, workers=1)
    supervisor = stop_supervisor(pool)
    job = pool.submit(jobs.add, 1)
    with gap(pool, supervisor):
        pool.shutdown(wait=False)
    with pytest.raises(procjobs.SupervisorLost, match="The job has not run") as caught:
        job.result(30)
    assert isinstance(caught.value.__cause__, procjobs.PoolClosed)
    pool.shutdown()


def test_stop_in_the_gap_ends_every_handle(any_name):
    pool = procjobs.Pool(any_name, workers=1)
    supervisor = stop_supervisor(pool)
    handles = [pool.submit(jobs.add, n) for n in range(20)]
    kill(supervisor)
    pool.stop()
    assert [] == [job for job in handles if not job.done()]


def test_successor_that_is_killed_in_turn_has_a_successor(any_name, tmp_path, monkeypatch):
    trace = tmp_path / "trace"
    rounds = iter([stop_and_kill, stop_and_kill, stop_and_kill])
    move = PoolLink.move_to_successor

    def move_and_lose(link, waiting, kept):
        link.exclusive.run(lose, link, waiting, kept)

    def lose(link, waiting, kept):
        link.connect()
        next(rounds, keep)(pool, lambda: move(link, waiting, kept))

    monkeypatch.setattr(PoolLink, "move_to_successor", move_and_lose)
    with started(any_name, workers=1) as pool:
        supervisor = stop_supervisor(pool)
        handles = [pool.submit(jobs.append_line, str(trace), n, LARGE if n % 3 == 0 else b"") for n in range(30)]
        kill(supervisor)
        assert list(range(30)) == ends(handles)
        assert next(rounds, None) is None
    assert [str(n) for n in range(30)] == lines(trace)
    assert set() == unacknowledged._retained


def stop_and_kill(pool, send):
    supervisor = stop_supervisor(pool)
    send()
    kill(supervisor)


def keep(_pool, send):
    send()


def test_successor_that_is_killed_while_it_is_sent_to_has_a_successor(tmp_path, monkeypatch):
    trace = tmp_path / "trace"
    with started(None, workers=1) as pool:
        supervisor = stop_supervisor(pool)
        handles = [pool.submit(jobs.append_line, str(trace), n) for n in range(10)]
        lost = set()

        def submit(sender, submission, route, submit=FrameSender.submit):
            connection = pool._link.connection
            pid = connection.welcome["pid"]
            if pid != supervisor and not lost and connection.unaccepted() == 4:
                lost.add(stop_supervisor(pool))
                kill(pid)
                wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
            submit(sender, submission, route)

        monkeypatch.setattr(FrameSender, "submit", submit)
        kill(supervisor)
        results = ends(handles)
        assert 1 == len(lost)
        begun = [n for n in range(10) if results[n] is procjobs.SupervisorLost]  # by the first successor's worker
        assert set(begun) <= {0, 1, 2, 3}
        assert [n for n in range(10) if n not in begun] == [n for n in results if n is not procjobs.SupervisorLost]
        assert max(Counter(lines(trace)).values()) == 1


def test_thread_that_submits_when_the_supervisor_is_killed_goes_on(tmp_path):
    trace = tmp_path / "trace"
    data = b"x" * 30_000
    with started(None, workers=1, submit_timeout=30) as pool:
        supervisor = stop_supervisor(pool)
        handles = []
        submitter = threading.Thread(
            target=lambda: handles.extend(pool.submit(jobs.append_line, str(trace), n, data) for n in range(100))
        )
        submitter.start()
        wait_until(lambda: pool._link.connection.unaccepted() and pool._link.connection.sender.is_busy)
        kill(supervisor)
        submitter.join(30)
        assert list(range(100)) == ends(handles)
        assert {str(n): 1 for n in range(100)} == Counter(lines(trace))


def test_callback_of_a_lost_job_can_submit(any_name, tmp_path):
    with started(any_name, workers=2) as pool:
        running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"))
        further = []
        running.add_done_callback(lambda _: further.append(pool.submit(jobs.add, 20, 3)))
        wait_until(running.running)
        supervisor = stop_supervisor(pool)
        again = pool.submit(jobs.add, 1, 2)
        kill(supervisor)
        assert 3 == again.result(30)
        wait_until(lambda: further)
        assert 23 == further[0].result(30)


def test_job_that_expires_before_there_is_a_successor_never_runs(pool_name, tmp_path):
    trace = tmp_path / "trace"
    with started(pool_name, workers=1) as pool, started(pool_name) as other:
        supervisor = stop_supervisor(pool)
        brief = pool.options(expires=0.05).submit(jobs.append_line, str(trace), "brief")
        long = pool.options(expires=60).submit(jobs.append_line, str(trace), "long")
        with gap(pool, supervisor):
            assert 3 == other.submit(jobs.add, 1, 2).result(30)  # the successor has an idle worker for whatever comes
            deadline = time.monotonic() + 0.06
            wait_until(lambda: time.monotonic() > deadline)
        with pytest.raises(procjobs.JobExpired, match=brief.id):
            brief.result(30)
        assert "long" == long.result(30)
    assert ["long"] == lines(trace)


def test_descriptors_are_kept_for_so_many_jobs_and_the_others_are_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(unacknowledged, "_MAX_RETAINED", 2)
    trace = tmp_path / "trace"
    with started(None, workers=1) as pool:
        supervisor = stop_supervisor(pool)
        handles = [pool.submit(jobs.append_line, str(trace), n, LARGE if n % 2 else b"") for n in range(8)]
        kill(supervisor)
        lost = procjobs.SupervisorLost
        assert [0, 1, 2, 3, 4, lost, 6, lost] == ends(handles)
    assert ["0", "1", "2", "3", "4", "6"] == lines(trace)


def test_child_forked_in_the_gap_keeps_nothing_and_its_pool_works(pool_name, tmp_path):
    trace = tmp_path / "trace"
    with started(pool_name, workers=1) as pool:
        supervisor = stop_supervisor(pool)
        handles = [pool.submit(jobs.append_line, str(trace), n, LARGE) for n in range(5)]
        with gap(pool, supervisor):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    kept = [target for target in _descriptors().values() if "memfd:procjobs" in target]
                    status = 0 if not kept and pool.submit(jobs.add, 1, 2).result(30) == 3 else 2
                finally:
                    os._exit(status)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert list(range(5)) == ends(handles)
    assert [str(n) for n in range(5)] == lines(trace)


def test_jobs_of_a_pool_that_nobody_holds_any_more_run(pool_name, tmp_path):
    trace = tmp_path / "trace"
    pool = procjobs.Pool(pool_name, workers=1)
    supervisor = stop_supervisor(pool)
    for n in range(5):
        pool.submit(jobs.append_line, str(trace), n)
    del pool
    gc.collect()
    kill(supervisor)
    wait_until(lambda: len(lines(trace)) == 5)
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "procjobs-receiver"])


SCRIPT = """
import procjobs, sys, os, signal
from tests.process import jobs
pool = procjobs.Pool(sys.argv[1], workers=1) if sys.argv[1] else procjobs.Pool(workers=1)
supervisor = pool.stats().supervisor_pid
os.kill(supervisor, signal.SIGSTOP)
handles = [pool.submit(jobs.append_line, sys.argv[2], n) for n in range(50)]
os.kill(supervisor, signal.SIGKILL)
"""


def test_interpreter_that_ends_in_the_gap_ends_quietly(any_name, tmp_path):
    for _ in range(3):
        command = [sys.executable, "-W", "error", "-c", SCRIPT, any_name or "", str(tmp_path / "trace")]
        done = subprocess.run(command, timeout=60, capture_output=True, text=True, check=False)
        assert (0, "") == (done.returncode, done.stderr)
    assert max(Counter(lines(tmp_path / "trace")).values(), default=0) <= 3


@pytest.mark.parametrize("seed", range(3))
def test_supervisor_killed_at_any_moment_costs_results_but_nothing_runs_twice(any_name, tmp_path, seed):
    trace = tmp_path / "trace"
    chance = random.Random(seed)
    handles, refused, finished = {}, [], threading.Event()
    pool = procjobs.Pool(any_name, workers=2)

    def submit_all_the_time():
        n = 0
        while not finished.is_set():
            if sum(not job.done() for job in list(handles.values())[-500:]) > 300:
                finished.wait(0.001)
                continue
            n += 1
            options = [pool, pool.options(delay=0.002)][n % 10 == 0]
            try:
                handles[n] = options.submit(jobs.append_line, str(trace), n, LARGE if n % 20 == 0 else b"")
            except procjobs.SupervisorLost:
                refused.append(n)

    submitter = threading.Thread(target=submit_all_the_time)
    submitter.start()
    try:
        for _ in range(15):
            before = len(handles)
            wait_until(lambda before=before: len(handles) > before + 50)
            deadline = time.monotonic() + chance.random() * 0.05
            wait_until(lambda deadline=deadline: time.monotonic() > deadline)
            connection = pool._link.connection
            with contextlib.suppress(ProcessLookupError):
                kill(connection.welcome["pid"])
            wait_until(lambda connection=connection: pool._link.connection is not connection)
    finally:
        finished.set()
        submitter.join(30)
    results = dict(zip(handles, ends(handles.values()), strict=True))
    pool.stop()
    runs = Counter(lines(trace))
    lost = [n for n in results if results[n] is procjobs.SupervisorLost]
    assert {} == {n: end for n, end in results.items() if end != n and end is not procjobs.SupervisorLost}
    assert [] == [n for n in results if n not in lost and runs[str(n)] != 1]
    assert [] == [n for n in (*lost, *refused) if runs[str(n)] > 1]
    assert len(lost) < len(results)


@pytest.mark.parametrize("call", ["submit", "watch"])
def test_call_that_loses_several_supervisors_in_a_row_is_made_over_the_next_one(pool_name, tmp_path, monkeypatch, call):
    url = f"sqlite:///{tmp_path}/jobs.db"
    pool = procjobs.Pool(pool_name, workers=1, store=url)
    kept = pool.submit(jobs.add, 1, 2)
    assert 3 == kept.result(30)
    begin, left = FrameSender._begin, [3]

    def begin_without_a_supervisor(sender):
        connection = pool._link.connection
        if left[0] and threading.current_thread() is threading.main_thread() and connection.sender is sender:
            left[0] -= 1
            os.kill(connection.welcome["pid"], signal.SIGKILL)
            wait_until(lambda: not psutil.pid_exists(connection.welcome["pid"]))
        begin(sender)

    if call == "submit":
        pool.submit(jobs.add, 0, 0).result(30)
        monkeypatch.setattr(FrameSender, "_begin", begin_without_a_supervisor)
        assert 9 == pool.submit(jobs.echo, 9).result(30)  # a function that is new: it is described first
    else:
        monkeypatch.setattr(FrameSender, "_begin", begin_without_a_supervisor)
        assert 3 == pool.job(kept.id).result(30)
    assert [0] == left
    pool.shutdown()
