"""Two supervisors, one store: no job runs in both, and no answer contradicts the database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile

import psutil
import pytest

import procjobs
from procjobs.host.process import wait_for_pidfd
from procjobs.supervisor.durable import held_claim
from procjobs.supervisor.durable.held_claim import Claimant, HeldClaim
from tests.process import jobs

from ..conftest import wait_until
from .conftest import recorder_of
from .test_rescue import kill, kill_all, kill_recorder, lines


@pytest.fixture
def elsewhere(pool_name, store):
    """Return a function that opens the pool a second time, with a runtime directory of its own."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="pj") as directory, contextlib.ExitStack() as stack:

        def start():
            pool = procjobs.Pool(pool_name, store=store.url, workers=2, directory=f"{directory}/run")
            stack.callback(pool.stop)
            return pool

        yield start


def is_alive(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def refused(pool):
    return "in use by" in (pool.stats().store or "")


def test_second_supervisor_gets_nothing_while_the_first_one_runs(started, elsewhere, store, tmp_path):
    trace, go = tmp_path / "trace", tmp_path / "go"
    first = started()
    running = [first.submit(jobs.append_line_and_wait, str(trace), n, str(go)) for n in range(2)]
    waiting = [first.submit(jobs.append_line, str(trace), n) for n in range(2, 12)]
    waiting[-1].wait_accepted(30)
    wait_until(lambda: len(lines(trace)) == 2)
    second = elsewhere()
    for _ in range(3):
        kill_recorder(first)
        wait_until(lambda: first.stats().store == "available")
        wait_until(lambda: refused(second), dump=lambda: str(second.stats()))
    go.touch()
    assert list(range(12)) == [job.result(30) for job in [*running, *waiting]]
    assert list(range(12)) == sorted(map(int, lines(trace)))
    assert {"succeeded": 12} == store.states()
    assert refused(second)


def test_second_supervisor_takes_over_when_the_first_one_has_ended(started, elsewhere, store, tmp_path):
    trace, go = tmp_path / "trace", tmp_path / "go"
    first = started(workers=1)
    job = first.submit(jobs.append_line_and_wait, str(trace), "job", str(go))
    job.wait_accepted(30)
    wait_until(lambda: lines(trace))
    second = elsewhere()
    wait_until(lambda: refused(second))
    supervisor = psutil.Process(first.stats().supervisor_pid)
    worker = psutil.Process(job.status().worker_pid)
    supervisor.suspend()  # so that no successor is started before the second one has seen its end
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_until(lambda: len(lines(trace)) == 2, timeout=60)
    assert not is_alive(worker)
    go.touch()
    wait_until(lambda: store.states() == {"succeeded": 1})
    assert [(1, "cut off"), (2, "succeeded")] == store.attempts(job)
    wait_until(lambda: refused(first) or refused(second))  # the second one, or a successor of the first
    if refused(first):
        second.stop()
    assert "job" == job.result(60)
    assert ["job", "job"] == lines(trace)


def test_run_that_the_store_has_not_heard_of_is_counted_by_a_second_supervisor(started, elsewhere, store, tmp_path):
    """Its START died with the recorder; the table in the directory of the first supervisor shows that it had begun."""
    trace, go = tmp_path / "trace", tmp_path / "go"
    first = started(workers=1)
    first.pause()
    job = first.submit(jobs.append_line_and_wait, str(trace), "job", str(go))
    job.wait_accepted(30)
    second = elsewhere()
    wait_until(lambda: refused(second))
    os.kill(recorder_of(first), signal.SIGSTOP)
    first.resume()
    wait_until(lambda: lines(trace))
    kill_all(first)
    wait_until(lambda: len(lines(trace)) == 2, timeout=60)
    go.touch()
    wait_until(lambda: store.states() == {"succeeded": 1})
    assert [(1, "cut off"), (2, "succeeded")] == store.attempts(job)
    assert [(1,)] == store.rows("SELECT cut_off FROM procjobs_jobs")
    wait_until(lambda: refused(first) or refused(second))
    if refused(first):
        second.stop()
    assert "job" == job.result(60)


def test_supervisor_that_has_lost_its_claim_kills_its_runs_and_ends(started, store, tmp_path):
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=1)
    job = pool.submit(jobs.append_line_and_wait, str(trace), "job", str(go))
    job.wait_accepted(30)
    wait_until(lambda: lines(trace))
    supervisor = psutil.Process(pool.stats().supervisor_pid)
    worker = psutil.Process(job.status().worker_pid)
    others = [*worker.children(), supervisor]
    store.write("UPDATE procjobs_claims SET epoch = epoch + 1, owner = 'another'")
    wait_until(lambda: not any(map(is_alive, [worker, *others])))
    assert not job.done()
    go.touch()  # the successor finds that the supervisor in the claim has ended, whatever is its owner
    assert "job" == job.result(60)
    assert [(1, "cut off"), (2, "succeeded")] == store.attempts(job)


def is_logged(pool, job):
    with open(pool._link.directory.log) as log:
        return f"job {job.id} {job.name} is fenced" in log.read()


def test_end_of_a_job_that_is_another_ones_is_not_told(started, store, tmp_path):
    """The run is dropped, and the handle gets what the store has in the end."""
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=1)
    job = pool.submit(jobs.append_line_and_wait, str(trace), "job", str(go))
    job.wait_accepted(30)
    wait_until(lambda: store.states() == {"running": 1})
    store.write("UPDATE procjobs_jobs SET owner = '', epoch = 0, state = 'queued', attempt = 7")
    go.touch()
    assert "job" == job.result(60)
    assert [("succeeded", 8)] == store.rows("SELECT state, attempt FROM procjobs_jobs")
    assert ["job", "job"] == lines(trace)
    assert is_logged(pool, job)


def test_start_of_a_job_that_is_another_ones_is_stopped(started, store, tmp_path):
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=1)
    blocking = pool.submit(jobs.wait_for_file, str(go))
    job = pool.submit(jobs.ignore_every_end_and_sleep, str(trace))
    job.wait_accepted(30)
    store.write("UPDATE procjobs_jobs SET owner = 'another', epoch = 0 WHERE id = :id", id=job.id)
    go.touch()
    blocking.result(30)
    wait_until(lambda: is_logged(pool, job))
    if trace.exists() and trace.read_text():  # it came so far
        pid = int(trace.read_text())
        wait_until(lambda: not psutil.pid_exists(pid))
    assert not job.done()
    assert 1 == pool.submit(jobs.add, 1).result(30)


# A recorder whose connection hangs ---------------------------------------------------------------------------


def test_recorder_that_says_nothing_is_replaced(started):
    pool = started(workers=1)
    recorder = recorder_of(pool)
    os.kill(recorder, signal.SIGSTOP)
    assert 1 == pool.submit(jobs.add, 1).result(60)
    assert recorder != recorder_of(pool)


@pytest.mark.parametrize("store", ["postgres_url"], indirect=True)
def test_recorder_whose_server_process_is_stopped_is_replaced(started, store):
    pool = started(workers=1)
    pool.submit(jobs.add, 1).result(30)
    own = "SELECT pid FROM pg_stat_activity WHERE application_name = 'procjobs' AND datname = current_database()"
    ((backend,),) = store.rows(own)
    os.kill(backend, signal.SIGSTOP)
    try:
        assert 2 == pool.submit(jobs.add, 2).result(60)
    finally:
        os.kill(backend, signal.SIGCONT)


# The file of an SQLite store ---------------------------------------------------------------------------------


def path_of(store):
    return store.url.removeprefix("sqlite:///")


@pytest.mark.parametrize("store", ["sqlite_url"], indirect=True)
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_file_is_one_store_however_it_is_reached(started, store, tmp_path, link):
    link(path_of(store), tmp_path / "other.db")
    first = started()
    assert 1 == first.submit(jobs.add, 1).result(30)
    with procjobs.Pool(workers=1, store=f"sqlite:///{tmp_path}/other.db") as second:
        wait_until(lambda: refused(second))
    assert 2 == first.submit(jobs.add, 2).result(30)


def remove(path):
    for suffix in ("", "-wal", "-shm"):
        os.rename(path + suffix, f"{path}{suffix}.gone")


def put_back(path):
    for suffix in ("", "-wal", "-shm"):
        os.rename(f"{path}{suffix}.gone", path + suffix)


def replace(path):
    with open(path, "rb") as file, open(f"{path}.copy", "wb") as copy:
        copy.write(file.read())
    os.rename(f"{path}.copy", path)


def overwrite(path):
    with open(path, "r+b") as file:
        file.write(b"garbage!" * 3000)


def cut_off(path):
    os.truncate(path, 0)


def remove_log(path):
    os.unlink(f"{path}-wal")


@pytest.mark.parametrize("store", ["sqlite_url"], indirect=True)
@pytest.mark.parametrize("harm", [remove, replace])
def test_nothing_is_acknowledged_in_a_file_that_others_will_not_find(started, store, harm):
    pool = started(workers=1)
    assert 1 == pool.submit(jobs.add, 1).result(30)
    harm(path_of(store))
    job = pool.submit(jobs.add, 2)
    wait_until(lambda: "was removed or replaced" in (pool.stats().store or ""), dump=lambda: str(pool.stats()))
    with pytest.raises(TimeoutError):
        job.wait_accepted(0.1)
    assert not job.done()
    if harm is remove:
        put_back(path_of(store))
        assert 2 == job.result(30)


@pytest.mark.parametrize("store", ["sqlite_url"], indirect=True)
@pytest.mark.parametrize("harm", [replace, overwrite, cut_off, remove_log])
def test_what_was_acknowledged_in_a_damaged_file_is_there_after_a_kill(started, store, harm):
    """The pages that are still in the write-ahead log repair the file; where they do not, nothing is acknowledged."""
    pool = started(workers=1)
    before = [pool.submit(jobs.add, n) for n in range(5)]
    assert list(range(5)) == [job.result(30) for job in before]
    harm(path_of(store))
    acknowledged = []
    for n in range(5, 10):
        job = pool.submit(jobs.add, n)
        with contextlib.suppress(TimeoutError):
            job.wait_accepted(1.0)
            acknowledged.append((n, job.id))
    kill_all(pool)
    pool = started(workers=1)
    assert [n for n, _ in acknowledged] == [pool.job(job_id).result(30) for _, job_id in acknowledged]


@pytest.mark.parametrize("store", ["sqlite_url"], indirect=True)
def test_file_that_was_removed_is_noticed_while_nothing_happens(started, store):
    pool = started(workers=1)
    pool.submit(jobs.add, 1).result(30)
    remove(path_of(store))
    wait_until(lambda: "was removed or replaced" in pool.stats().store)


# Cancellations -----------------------------------------------------------------------------------------------


def test_job_that_was_cancelled_by_id_does_not_run_after_a_kill(started, store, tmp_path):
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=1)
    blocking = pool.submit(jobs.wait_for_file, str(go))
    waiting = pool.submit(jobs.append_line, str(trace), "cancelled")
    waiting.wait_accepted(30)
    assert pool.cancel(waiting.id)
    kill(pool.stats().supervisor_pid)
    go.touch()
    blocking.result(60)
    with pytest.raises(procjobs.JobCancelled):
        waiting.result(30)
    assert [] == lines(trace)


def test_running_job_that_was_cancelled_is_not_started_again_after_a_kill(started, store, tmp_path):
    pool = started(workers=1, grace_period=60.0)
    job = pool.submit(jobs.ignore_every_end_and_sleep, str(tmp_path / "pid"))
    job.wait_accepted(30)
    wait_until((tmp_path / "pid").exists)
    assert pool.cancel(job.id)
    kill(pool.stats().supervisor_pid)
    with pytest.raises(procjobs.JobCancelled):
        pool.job(job.id).result(60)
    assert [("cancelled", "cancelled", 1)] == store.rows("SELECT state, reason, attempt FROM procjobs_jobs")


def hold_up(pool):
    """Stop the supervisor before it reads what comes now."""
    supervisor = pool.stats().supervisor_pid
    os.kill(supervisor, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(supervisor).status() == psutil.STATUS_STOPPED)
    return supervisor


def cancel_handle(pool, trace):
    job = pool.submit(jobs.append_line, trace, "cancelled")
    job.wait_accepted(30)
    supervisor = hold_up(pool)
    assert job.cancel()
    return supervisor, job.id


def cancel_handle_before_it_was_read(pool, trace):
    supervisor = hold_up(pool)
    job = pool.submit(jobs.append_line, trace, "cancelled")
    assert job.cancel()
    return supervisor, None


def cancel_task(pool, trace):
    """As `await pool.run()` that is cancelled."""

    async def run():
        task = asyncio.create_task(pool.run(jobs.append_line, trace, "cancelled"))
        while not store_has_all(pool):
            await asyncio.sleep(0.01)
        supervisor = hold_up(pool)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return supervisor, None

    return asyncio.run(run())


def store_has_all(pool):
    return pool._link.connection.unaccepted() == 0 and pool.stats().queued == 1


@pytest.mark.parametrize("cancel", [cancel_handle, cancel_handle_before_it_was_read, cancel_task])
def test_cancellation_that_the_supervisor_has_not_read_goes_to_its_successor(started, store, tmp_path, cancel):
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=1)
    blocker = pool.submit(jobs.wait_for_file, str(go), "blocker")
    blocker.wait_accepted(30)
    wait_until(lambda: pool.stats().busy == 1)
    supervisor, job_id = cancel(pool, str(trace))
    os.kill(supervisor, signal.SIGKILL)
    go.touch()
    assert "blocker" == blocker.result(60)
    assert 3 == pool.submit(jobs.add, 1, 2).result(60)
    if job_id is not None:
        wait_until(lambda: [("cancelled",)] == store.rows("SELECT state FROM procjobs_jobs WHERE id = :id", id=job_id))
    wait_until(lambda: not pool._link.connection._entries.handles)  # it was confirmed, and nothing waits
    assert [] == lines(trace)
    assert not set(store.states()) - {"succeeded", "cancelled"}


def test_job_that_was_stopped_with_its_pool_and_cancelled_does_not_run_with_the_next(started, store, tmp_path):
    """The supervisor reads the cancellation behind the end of the job: it was about to keep it for the next start."""
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=1)
    blocker = pool.submit(jobs.wait_for_file, str(go), "blocker")
    waiting = pool.submit(jobs.append_line, str(trace), "cancelled")
    waiting.wait_accepted(30)
    wait_until(lambda: pool.stats().busy == 1)
    supervisor = hold_up(pool)
    pool._link.connection.requests.post("stop")
    assert waiting.cancel()
    assert blocker.cancel()
    os.kill(supervisor, signal.SIGCONT)
    pool._link.connection.wait_for_end(60)
    go.touch()
    assert 3 == started(workers=1).submit(jobs.add, 1, 2).result(60)
    wait_until(lambda: store.states() == {"cancelled": 2, "succeeded": 1})
    assert [] == lines(trace)


def test_job_that_a_stop_has_ended_is_cancelled_in_the_next_pool(started, store, tmp_path):
    """The stop has ended the job before the process cancels it, which has not read that yet."""
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=1)
    pool.submit(jobs.wait_for_file, str(go), "blocker")
    waiting = pool.submit(jobs.append_line, str(trace), "cancelled")
    waiting.wait_accepted(30)
    connection, held = pool._link.connection, []
    take = connection._take_answer
    connection._take_answer = lambda *answer: held.append(answer)
    supervisor = os.pidfd_open(pool.stats().supervisor_pid)
    connection.requests.post("stop")
    assert wait_for_pidfd(supervisor, 30)
    os.close(supervisor)
    assert waiting.cancel()
    for answer in held:
        take(*answer)
    go.touch()
    assert 3 == pool.submit(jobs.add, 1, 2).result(60)
    wait_until(lambda: [("cancelled",)] == store.rows("SELECT state FROM procjobs_jobs WHERE id = :id", id=waiting.id))
    assert [] == lines(trace)


# The lease ---------------------------------------------------------------------------------------------------


def test_claim_whose_lease_is_over_counts_as_lost(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(held_claim, "boottime", lambda: now)
    claim = HeldClaim(Claimant("pool", "{}"))
    assert ("", float("inf")) == (claim.loss, claim.ends_at(7.0))
    claim.renew(now + 30)
    assert ("", 7.0 + 25) == (claim.loss, claim.ends_at(7.0))
    now += 24.9
    assert not claim.loss
    claim.renew(now + 30)
    now += 10
    assert not claim.loss
    now += 3600  # the host was suspended, and the monotonic clock stood still
    assert "another host may have taken its jobs over" in claim.loss
    assert 7.0 == claim.ends_at(7.0)
