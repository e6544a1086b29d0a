"""Whatever is killed with -9: acknowledged jobs run, ended jobs do not run again, handles get their results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

import procjobs
from procjobs.client import launcher
from procjobs.host import rundir
from procjobs.host.process import wait_for_pidfd
from tests.process import jobs

from ..conftest import wait_until
from .conftest import recorder_of, submit_again


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def kill_all(pool):
    """Kill supervisor, recorder, templates and workers at one moment, as nearly as that can be done."""
    supervisor = psutil.Process(pool.stats().supervisor_pid)
    everybody = [supervisor, *supervisor.children(recursive=True)]
    for process in everybody:
        process.suspend()
    descriptors = [os.pidfd_open(process.pid) for process in everybody]
    for process in everybody:
        process.kill()
    for descriptor in descriptors:
        assert wait_for_pidfd(descriptor, 30)
        os.close(descriptor)


def lines(path):
    return path.read_text().split() if path.exists() else []


def kill_supervisor(pool):
    kill(pool.stats().supervisor_pid)


def kill_recorder(pool):
    kill(recorder_of(pool))


def test_a_run_that_the_store_does_not_know_is_counted_after_a_stop_that_finds_the_supervisor_killed(
    started, store, tmp_path, pool_name
):
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started()
    supervisor, recorder = pool.stats().supervisor_pid, recorder_of(pool)
    job = pool.options(delay=1.0).submit(jobs.append_line_and_wait, str(trace), "running", str(go))
    job.wait_accepted(30)
    os.kill(recorder, signal.SIGSTOP)  # it hears nothing of the run
    wait_until(lambda: lines(trace))
    pool.shutdown(wait=False)  # or it would start a successor
    descriptor = os.pidfd_open(supervisor)
    kill(supervisor)
    kill(recorder)
    assert wait_for_pidfd(descriptor, 30)
    os.close(descriptor)
    directory = rundir.RunDir(rundir.find_base(), pool_name)
    assert launcher.wait_for_end(directory, 30)  # as the end of a stop() does
    assert not os.path.exists(directory.table)
    go.touch()
    assert "running" == started().job(job.id).result(60)
    assert [(2, 1)] == store.rows("SELECT attempt, cut_off FROM procjobs_jobs WHERE id = :id", id=job.id)


@pytest.mark.parametrize("strike", [kill_supervisor, kill_all], ids=["supervisor", "all"])
def test_jobs_of_a_killed_pool_are_run_and_their_handles_answered(started, store, tmp_path, strike):
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=1)
    done = pool.submit(jobs.append_line, str(trace), "done")
    done.result(30)
    running = pool.submit(jobs.append_line_and_wait, str(trace), "running", str(go))
    waiting = [pool.submit(jobs.append_line, str(trace), n) for n in range(50)]
    late = pool.options(delay=0.2).submit(jobs.append_line, str(trace), "late", os.urandom(100_000))
    late.wait_accepted(30)
    wait_until(lambda: "running" in lines(trace))
    strike(pool)
    go.touch()
    assert "running" == running.result(60)
    assert [*range(50), "late"] == [job.result(60) for job in [*waiting, late]]
    assert {"done": 1, "running": 2, "late": 1} == {name: lines(trace).count(name) for name in ("done", "running", "late")}
    assert [1] * 50 == [lines(trace).count(str(n)) for n in range(50)]
    assert [(1, "cut off"), (2, "succeeded")] == store.attempts(running)
    assert [(1,)] == store.rows("SELECT cut_off FROM procjobs_jobs WHERE id = :id", id=running.id)


def test_killed_recorder_is_replaced_and_nothing_is_lost_or_run_twice(started, store, tmp_path):
    trace = tmp_path / "trace"
    pool = started()
    supervisor = pool.stats().supervisor_pid
    handles = []
    for _ in range(6):
        handles += [pool.submit(jobs.append_line, str(trace), len(handles) + n) for n in range(60)]
        kill_recorder(pool)
    assert list(range(360)) == [job.result(60) for job in handles]
    assert supervisor == pool.stats().supervisor_pid
    assert list(map(str, range(360))) == sorted(lines(trace), key=int)
    assert {"succeeded": 360} == store.states()
    assert [(360,)] == store.rows("SELECT count(*) FROM procjobs_attempts WHERE outcome = 'succeeded'")


def test_another_process_gets_the_result_of_a_job_whose_submitter_died_with_the_pool(started, pool_name, store, tmp_path):
    trace, go = tmp_path / "trace", tmp_path / "go"
    program = textwrap.dedent(f"""
        import os, procjobs
        from tests.process import jobs
        pool = procjobs.Pool({pool_name!r}, store={store.url!r}, workers=1)
        done = pool.submit(jobs.echo, "before")
        done.result(30)
        job = pool.submit(jobs.append_line_and_wait, {str(trace)!r}, "after", {str(go)!r})
        job.wait_accepted(30)
        print(done.id, job.id, pool.stats().supervisor_pid, flush=True)
        os.kill(os.getpid(), 9)
    """)
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stdout
    done_id, job_id, supervisor = told.split()
    wait_until(lambda: lines(trace))
    kill(int(supervisor))
    go.touch()
    pool = started(workers=1)
    assert "before" == pool.job(done_id).result(30)
    assert "after" == pool.job(job_id).result(30)
    assert ["after", "after"] == lines(trace)
    status = pool.status(done_id)
    assert ("succeeded", 1) == (status.state, status.attempt)
    with pytest.raises(procjobs.UnknownJob):
        pool.job("01890a5d-ac96-774b-bcce-b302099a8057")


def test_attempts_before_the_kill_count(started, store, tmp_path):
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=1)
    job = pool.options(retries=2, backoff=0).submit(_fail_twice_then_wait, str(trace), str(go))
    wait_until(lambda: store.attempts(job)[2:] == [(3, "running")])
    wait_until(lambda: len(lines(trace)) == 3)
    kill_all(pool)
    go.touch()
    assert isinstance(job.exception(60), ValueError)
    assert ["1", "2", "3", "4"] == lines(trace)
    assert [(1, "raised"), (2, "raised"), (3, "cut off"), (4, "raised")] == store.attempts(job)


def _fail_twice_then_wait(trace, go):
    attempt = procjobs.current_job().attempt
    jobs.append_line(trace, attempt)
    if attempt == 3:
        jobs.wait_for_file(go)
    raise ValueError(attempt)


def test_job_that_is_interrupted_again_and_again_is_quarantined(started, store, tmp_path):
    trace, never = tmp_path / "trace", tmp_path / "never"
    pool = started(workers=1)
    job = pool.submit(jobs.append_line_and_wait, str(trace), "x", str(never))
    job.wait_accepted(30)
    store.write("UPDATE procjobs_jobs SET cut_off = 9")
    wait_until(lambda: lines(trace))
    wait_until(lambda: store.states() == {"running": 1})
    kill_all(pool)
    with pytest.raises(procjobs.JobQuarantined, match="10 times"):
        job.result(60)
    assert ["x"] == lines(trace)


def test_a_stopped_pool_goes_on_when_it_is_started_again(started, store, tmp_path):
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=1, grace_period=0.1)
    running = pool.submit(jobs.append_line_and_wait, str(trace), "running", str(go))
    waiting = pool.submit(jobs.append_line, str(trace), "waiting")
    waiting.wait_accepted(30)
    wait_until(lambda: lines(trace))
    pool.stop()
    with pytest.raises(procjobs.PoolClosed, match="the store keeps it"):
        waiting.result(30)
    assert {"queued": 2} == store.states()
    go.touch()
    pool = started(workers=1)
    assert ["running", "waiting"] == [pool.job(job.id).result(30) for job in (running, waiting)]
    assert ["running", "running", "waiting"] == lines(trace)
    assert [(1, "stopped"), (2, "succeeded")] == store.attempts(running)


def test_job_that_has_ended_and_is_sent_again_does_not_run_again(started, store, tmp_path):
    """Its client has not heard of it: the supervisor was killed between the commit and its answer."""
    trace = str(tmp_path / "trace")
    pool = started(workers=1)
    done = pool.submit(jobs.append_line, trace, "ran")
    large = pool.submit(jobs.echo, os.urandom(100_000))
    assert "ran" == done.result(30)
    data = large.result(30)
    pool.stop()
    pool = started(workers=1)
    for job, fn, args, result in ((done, jobs.append_line, (trace, "ran"), "ran"), (large, jobs.echo, (b"",), data)):
        assert result == submit_again(pool, job, fn, *args).result(30)
        assert result == pool.job(job.id).result(30)
    assert 1 == pool.submit(jobs.add, 1).result(30)
    wait_until(lambda: 0 == pool.stats().queued)
    assert ["ran"] == lines(tmp_path / "trace")
    assert {"succeeded": 3} == store.states()


def test_job_whose_submission_is_committed_when_the_pool_is_stopping_waits(started, store):
    pool = started(workers=1)
    recorder = psutil.Process(recorder_of(pool))
    recorder.suspend()
    job = pool.submit(jobs.add, 1)
    with ThreadPoolExecutor(1) as thread:
        stopped = thread.submit(pool.stop)
        wait_until(lambda: not os.path.exists(pool._link.directory.socket))
        recorder.resume()
        with pytest.raises(procjobs.PoolClosed, match="the store keeps it until"):
            job.result(30)
        stopped.result(30)
    assert [("", "queued")] == store.rows("SELECT owner, state FROM procjobs_jobs")
    assert 1 == started(workers=1).job(job.id).result(30)


def test_jobs_that_wait_in_the_store_are_loaded_in_windows(started, store, tmp_path):
    trace = tmp_path / "trace"
    pool = started(workers=1)
    pool.pause()
    last = [pool.submit(jobs.append_line, str(trace), n) for n in range(300)][-1]
    urgent = pool.options(priority=1).submit(jobs.append_line, str(trace), "urgent")
    urgent.wait_accepted(30)
    last_id = last.id
    pool.stop()
    assert {"queued": 301} == store.states()
    # No job is prefetched: a worker may read the second of two while the first is reclaimed.
    pool = started(workers=1, max_queued=20, max_jobs_per_worker=1000)
    assert 299 == pool.job(last_id).result(60)
    wait_until(lambda: store.states() == {"succeeded": 301})
    assert ["urgent", *map(str, range(300))] == lines(trace)


def test_waiting_jobs_can_be_cancelled_in_the_store(started, store, tmp_path):
    pool = started(workers=1)
    pool.pause()
    handles = [pool.submit(jobs.append_line, str(tmp_path / "trace"), n) for n in range(50)]
    handles[-1].wait_accepted(30)
    pool.stop()
    pool = started(workers=1, max_queued=5)
    pool.pause()
    wait_until(lambda: pool.stats().queued)
    assert pool.cancel(handles[-1].id)
    assert not pool.cancel(handles[-1].id)
    with pytest.raises(procjobs.UnknownJob):
        pool.cancel("01890a5d-ac96-774b-bcce-b302099a8057")
    pool.resume()
    wait_until(lambda: store.states() == {"succeeded": 49, "cancelled": 1})


def test_function_that_is_gone_ends_its_job_with_a_payload_error(started, store, tmp_path):
    pool = started(workers=1)
    pool.pause()
    job = pool.submit(jobs.add, 1)
    job.wait_accepted(30)
    pool.stop()
    ((function,),) = store.rows("SELECT function FROM procjobs_kinds")
    gone = bytes(function).replace(b"tests.process.jobs", b"tests.process.gone")
    store.write("UPDATE procjobs_kinds SET function = :function", function=gone)
    pool = started(workers=1)
    with pytest.raises(procjobs.PayloadError, match="could not be unpickled in the worker"):
        pool.job(job.id).result(30)
    assert {"failed": 1} == store.states()


def test_limits_of_a_queue_hold_for_rescued_jobs(started, store, tmp_path):
    """And where the pool does not have the queue any more, one of its jobs runs at a time."""
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=3, queues={"q": procjobs.Queue(limit=2)})
    waiting = [pool.options(queue="q").submit(jobs.append_line_and_wait, str(trace), n, str(go)) for n in range(5)]
    for job in waiting:
        job.wait_accepted(30)
    wait_until(lambda: [(2, 3)] == [(queue.running, queue.held) for queue in pool.queues()])
    pool.stop()
    again = started(workers=3)
    wait_until(lambda: [(1, 4)] == [(queue.running, queue.held) for queue in again.queues()])
    go.touch()
    assert list(range(5)) == [again.job(job.id).result(30) for job in waiting]
    assert [("q", 5)] == store.rows("SELECT queue, count(*) FROM procjobs_jobs GROUP BY queue")
