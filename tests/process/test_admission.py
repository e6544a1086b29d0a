"""Which jobs are run at all, and which wait for others: expires, key, cancel_on_disconnect, max_queued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

import procjobs
from tests.process import jobs
from tests.process.witnesses import alone, alone_and_die, alone_and_fail, alone_until, lines, note

from ..conftest import wait_until


def outcome(job):
    """Return what a job returned, or the type of what it raised."""
    try:
        return job.result(30)
    except Exception as error:  # noqa: BLE001 - it is the outcome
        return type(error)


def stop(pid):
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


# expires ----------------------------------------------------------------------------------------------


def test_job_that_has_not_started_when_it_expires_never_runs(tmp_path):
    trace = str(tmp_path / "trace")
    with procjobs.Pool(workers=1) as pool:
        running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"))
        wait_until(running.running)
        late = pool.options(expires=0.2).submit(note, trace, "late")
        kept = pool.options(expires=60).submit(note, trace, "kept")
        with pytest.raises(procjobs.JobExpired, match=late.id) as caught:
            late.result(30)
        assert (late.id, "expired") == (caught.value.job_id, late.status().state)
        assert (1, False) == (pool.stats().queued, running.done())
        (tmp_path / "go").touch()
        kept.result(30)
    assert ["kept"] == lines(trace)


def test_running_job_does_not_expire_and_neither_does_its_retry(pool, tmp_path):
    path = str(tmp_path / "runs")
    wait_until(lambda: pool.stats().idle == 2)  # a new worker may take longer to start than the jobs may wait
    running = pool.options(expires=1.0).submit(jobs.sleep, 1.5)
    retried = pool.options(expires=1.0, retries=1, backoff=2.6).submit(jobs.append_and_fail, path, 2)
    assert [1.5, 2] == [running.result(30), retried.result(30)]


def test_job_expires_while_paused_delayed_or_in_line_for_its_key(tmp_path):
    trace = str(tmp_path / "trace")
    with procjobs.Pool(workers=2) as pool:
        first = pool.options(key="k").submit(jobs.wait_for_file, str(tmp_path / "go"))
        wait_until(first.running)
        in_line = pool.options(key="k", expires=0.3).submit(note, trace, "in line")
        pool.submit(jobs.add, 1).result(30)
        assert procjobs.JobExpired is outcome(in_line)
        delayed = pool.options(delay=5.0, expires=0.1).submit(note, trace, "delayed")
        assert procjobs.JobExpired is outcome(delayed)
        pool.pause()
        paused = pool.options(expires=0.1).submit(note, trace, "paused")
        assert procjobs.JobExpired is outcome(paused)
        pool.resume()
        behind = pool.options(key="k").submit(note, trace, "behind")
        (tmp_path / "go").touch()
        behind.result(30)
        assert (0, 0) == (pool.stats().queued, pool.stats().scheduled)
    assert ["behind"] == lines(trace)


def test_tiny_job_that_was_sent_ahead_expires_too(tmp_path):
    trace = str(tmp_path / "trace")
    with procjobs.Pool(workers=1) as pool:
        for job in [pool.submit(note, str(tmp_path / "warm")) for _ in range(200)]:  # now it is known to be tiny
            job.result(30)
        (worker,) = pool.workers()
        stop(worker.pid)
        handles = [pool.options(expires=0.3).submit(note, trace, n) for n in range(10)]
        assert [procjobs.JobExpired] * 9 == [outcome(job) for job in handles[1:]]
        os.kill(worker.pid, signal.SIGCONT)
        assert outcome(handles[0]) in {None, procjobs.JobExpired}  # it had been given to the worker before
    assert lines(trace) in ([], ["0"])


# key --------------------------------------------------------------------------------------------------


def test_jobs_of_one_key_run_one_at_a_time_in_the_order_of_submission(tmp_path):
    trace = str(tmp_path / "trace")
    with procjobs.Pool(workers=4) as pool:
        handles = [pool.options(key="k").submit(alone, trace, n, 0.005, n) for n in range(40)]
        assert list(range(40)) == [job.result(30) for job in handles]
    assert [str(n) for n in range(40)] == lines(trace)


def test_jobs_of_other_keys_and_of_none_pass_those_in_line(tmp_path):
    trace = str(tmp_path / "trace")
    with procjobs.Pool(workers=2) as pool:
        first = pool.options(key="k").submit(alone_until, trace, "first", str(tmp_path / "go"))
        wait_until(first.running)
        in_line = [pool.options(key="k").submit(alone, trace, n) for n in range(100)]
        others = [pool.submit(jobs.add, n) for n in range(50)]
        others += [pool.options(key="another").submit(jobs.add, n) for n in range(50)]
        assert [*range(50), *range(50)] == [job.result(30) for job in others]
        assert (["first"], 100) == (lines(trace), pool.stats().queued)
        (tmp_path / "go").touch()
        for job in in_line:
            job.result(30)
    assert ["first", *map(str, range(100))] == lines(trace)


def test_higher_priority_goes_first_in_the_line_of_a_key(tmp_path):
    trace = str(tmp_path / "trace")
    with procjobs.Pool(workers=2) as pool:
        first = pool.options(key="k").submit(alone_until, trace, "first", str(tmp_path / "go"))
        wait_until(first.running)
        handles = []
        for n in range(12):
            handles.append(pool.options(key="k", priority=n % 3).submit(alone, trace, n))
            if n == 5:
                pool.submit(jobs.add, 1).result(30)  # those before are in line by now
        (tmp_path / "go").touch()
        for job in handles:
            job.result(30)
    assert ["first"] + [str(n) for p in (2, 1, 0) for n in range(p, 12, 3)] == lines(trace)


CLIENT = """
import procjobs, sys
from tests.process.witnesses import alone
with procjobs.Pool(sys.argv[1], workers=4, version=sys.argv[3]) as pool:
    for job in [pool.options(key="k", priority=n % 2).submit(alone, sys.argv[2], n, 0.003) for n in range(30)]:
        job.result(60)
"""


def test_at_most_one_of_a_key_runs_over_clients_generations_priorities_and_reloads(pool_name, tmp_path):
    trace = str(tmp_path / "trace")
    with procjobs.Pool(pool_name, workers=4) as pool:
        clients = [subprocess.Popen([sys.executable, "-c", CLIENT, pool_name, trace, str(n % 2)]) for n in range(4)]
        wait_until(lambda: len(lines(trace)) > 20)
        pool.reload()
        assert [0] * 4 == [client.wait(60) for client in clients]
    assert (120, 0) == (len(lines(trace)), sum("OVERLAPS" in line for line in lines(trace)))


@pytest.mark.parametrize(
    "end",
    [
        lambda pool, trace: outcome(pool.options(key="k").submit(alone_and_die, trace, "x")),
        lambda pool, trace: outcome(pool.options(key="k").submit(alone_and_fail, trace, "x")),
        lambda pool, trace: outcome(pool.options(key="k", timeout=0.1).submit(alone, trace, "x", 60)),
        lambda pool, trace: outcome(pool.options(key="k", retries=1, backoff=0.05).submit(alone_and_die, trace, "x")),
        lambda pool, trace: pool.options(key="k").submit(alone, trace, "x", 60).cancel(),
        lambda pool, trace: os.kill(running_on(pool, pool.options(key="k").submit(alone, trace, "x", 60)), signal.SIGKILL),
    ],
    ids=["crash", "exception", "timeout", "crash and retry", "cancel", "kill -9"],
)
def test_key_is_free_again_however_its_job_ended(pool, tmp_path, end):
    trace = str(tmp_path / "trace")
    first = pool.options(key="k").submit(alone, trace, "first", 0.1)
    end(pool, trace)
    last = [pool.options(key="k").submit(alone, trace, n, 0, n) for n in range(3)]
    assert [0, 1, 2] == [job.result(30) for job in last]
    first.result(30)
    assert not [line for line in lines(trace) if "OVERLAPS" in line]


def running_on(pool, job):
    wait_until(job.running)
    return wait_until(lambda: next((w.pid for w in pool.workers() if w.job_id == job.id), 0))


def test_key_is_free_while_its_job_waits_for_a_retry(pool, tmp_path):
    trace = str(tmp_path / "trace")
    retried = pool.options(key="k", retries=1, backoff=2.0).submit(alone_and_fail, trace, "retried")
    assert "other" == pool.options(key="k").submit(alone, trace, "other", 0, "other").result(30)
    assert ValueError is outcome(retried)
    assert ["retried", "other", "retried"] == lines(trace)


def test_jobs_in_line_can_be_cancelled_and_the_others_keep_their_order(pool, tmp_path):
    trace = str(tmp_path / "trace")
    first = pool.options(key="k").submit(alone_until, trace, "first", str(tmp_path / "go"))
    wait_until(first.running)
    handles = [pool.options(key="k").submit(alone, trace, n) for n in range(10)]
    pool.submit(jobs.add, 1).result(30)
    assert [True] * 5 == [pool.cancel(job.id) for job in handles[::2]]
    assert 5 == pool.stats().queued
    (tmp_path / "go").touch()
    for job in handles[1::2]:
        job.result(30)
    assert ["first", "1", "3", "5", "7", "9"] == lines(trace)
    assert 0 == pool.stats().queued


@pytest.mark.parametrize("key", ["x" * 100_000, "ключ 🗝", "\x00", "\ud800", "é" * 100, "e\u0301" * 67])
def test_any_text_is_a_key(pool, tmp_path, key):
    trace = str(tmp_path / "trace")
    handles = [pool.options(key=key).submit(alone, trace, n, 0.01, n) for n in range(5)]
    assert list(range(5)) == [job.result(30) for job in handles]


def test_long_keys_that_begin_alike_are_different(pool, tmp_path):
    first = pool.options(key="x" * 1000 + "a").submit(jobs.wait_for_file, str(tmp_path / "go"), "first")
    assert 1 == pool.options(key="x" * 1000 + "b").submit(jobs.add, 1).result(30)
    (tmp_path / "go").touch()
    assert "first" == first.result(30)


@pytest.mark.parametrize("key", ["", b"bytes", 5, ["list"], True])
def test_what_is_no_text_is_no_key(pool, key):
    with pytest.raises(procjobs.ConfigurationError, match="key="):
        pool.options(key=key)


def test_five_thousand_jobs_in_line_do_not_slow_the_others(pool, tmp_path, record_property):
    first = pool.options(key="k").submit(jobs.wait_for_file, str(tmp_path / "go"))
    wait_until(first.running)
    keyed = pool.options(key="k")
    in_line = [keyed.submit(jobs.add, n) for n in range(5000)]
    in_line[-1].wait_accepted(30)
    began = time.perf_counter()
    assert list(range(200)) == [pool.submit(jobs.add, n).result(30) for n in range(200)]
    beside = (time.perf_counter() - began) / 200
    (tmp_path / "go").touch()
    began = time.perf_counter()
    assert list(range(5000)) == [job.result(60) for job in in_line]
    each = (time.perf_counter() - began) / 5000
    record_property("seconds_beside_the_line", beside)
    record_property("seconds_for_each_in_line", each)
    print(f"beside the line {beside * 1e6:.0f} us a job, in line {each * 1e6:.0f} us a job")
    assert (True, True) == (beside < 0.1, each < 0.05)


# cancel_on_disconnect ---------------------------------------------------------------------------------


TIED = """
import procjobs, sys, os
from tests.process import jobs
pool = procjobs.Pool(sys.argv[1], workers=1)
options = pool.options(cancel_on_disconnect=True, retries=1, backoff=600)
state, go = sys.argv[2:4]
blocker = pool.submit(jobs.wait_for_file, go) if state == "queued" else None
job = options.submit(*((jobs.fail,) if state == "retrying" else (jobs.wait_for_file, go, "done")))
job.wait_accepted(30)
print(job.id, flush=True)
sys.stdin.readline()
if sys.argv[4] == "closes": pool.shutdown(wait=False); pool._link.connection.close()
elif sys.argv[4] == "exits": pass
os._exit(0)
"""


class Client:
    """A process that has submitted a job that is cancelled when nobody waits for it."""

    def __init__(self, pool_name, state, go, how):
        self.how = how
        arguments = [sys.executable, "-c", TIED, pool_name, state, go, how]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.job_id = self.process.stdout.readline().strip()

    def leave(self):
        if self.how == "is killed":
            self.process.kill()
        self.process.communicate("\n", timeout=30)


@pytest.mark.parametrize("how", ["is killed", "closes", "exits"])
@pytest.mark.parametrize("state", ["queued", "running", "retrying"])
def test_job_is_cancelled_when_its_client(pool_name, tmp_path, state, how):
    with procjobs.Pool(pool_name, workers=1) as pool:
        client = Client(pool_name, state, str(tmp_path / "go"), how)
        if state == "retrying":
            wait_until(lambda: pool.stats().scheduled == 1)
        else:
            wait_until(lambda: pool.status(client.job_id).state == state)
        client.leave()
        wait_until(lambda: pool.status(client.job_id).state == "cancelled")
        (tmp_path / "go").touch()
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        assert (0, 0) == (pool.stats().queued, pool.stats().scheduled)


@pytest.mark.parametrize("how", ["is killed", "closes"])
@pytest.mark.parametrize("state", ["queued", "running"])
def test_job_goes_on_while_another_process_waits_for_it(pool_name, tmp_path, state, how):
    with procjobs.Pool(pool_name, workers=1) as pool:
        client = Client(pool_name, state, str(tmp_path / "go"), how)
        wait_until(lambda: pool.status(client.job_id).state == state)
        watched = pool.job(client.job_id)
        pool.stats()
        pool._link.connect().request("logs", id=client.job_id.replace("-", ""))  # what was sent before it has been read
        client.leave()
        with procjobs.Pool(pool_name) as other:  # its hello is read after the end of the client
            other._link.connect().request("logs", id=client.job_id.replace("-", ""))
            assert state == other.status(client.job_id).state
        (tmp_path / "go").touch()
        assert "done" == watched.result(30)


def test_job_is_cancelled_when_the_last_who_waits_has_left_too(pool_name, tmp_path):
    with procjobs.Pool(pool_name, workers=1) as pool:
        client = Client(pool_name, "running", str(tmp_path / "go"), "is killed")
        waits = procjobs.Pool(pool_name)
        watched = waits.job(client.job_id)
        waits._link.connect().request("logs", id=client.job_id.replace("-", ""))
        client.leave()
        waits._link.connection.close()
        wait_until(lambda: pool.status(client.job_id).state == "cancelled")
        assert procjobs.PoolClosed is outcome(watched)
        waits.shutdown()


def test_many_tied_jobs_of_a_killed_client_are_cancelled_and_no_others(pool_name, tmp_path):
    text = (
        "import procjobs, sys, os\nfrom tests.process import jobs\npool = procjobs.Pool(sys.argv[1], workers=2)\n"
        "tied = pool.options(cancel_on_disconnect=True)\n"
        "for n in range(500): a = tied.submit(jobs.wait_for_file, sys.argv[2]); b = pool.submit(jobs.add, n)\n"
        "b.wait_accepted(30); os.kill(os.getpid(), 9)"
    )
    with procjobs.Pool(pool_name, workers=2) as pool:
        subprocess.run([sys.executable, "-c", text, pool_name, str(tmp_path / "never")], check=False)
        wait_until(lambda: pool.stats().finished == 1000)
        counts = [len(pool.jobs(state, 2000)) for state in ("cancelled", "succeeded")]
        assert [500, 500] == counts


# max_queued -------------------------------------------------------------------------------------------


def test_full_queue_says_how_full_and_when_to_come_again(tmp_path):
    with procjobs.Pool(workers=2, max_queued=30) as pool:
        for job in [pool.submit(jobs.sleep, 0.2) for _ in range(6)]:
            job.result(30)
        pool.pause()
        waiting = [pool.submit(jobs.sleep, 0.2) for _ in range(30)]
        with pytest.raises(procjobs.QueueFull, match="30 jobs waiting") as caught:
            pool.submit(jobs.add, 1)
        assert (30, 30) == (caught.value.queued, caught.value.max_queued)
        assert caught.value.retry_after in {3, 4}  # 30 x 0.2 s / 2
        for job in waiting:
            job.cancel()
        pool.resume()


def test_first_job_already_tells_about_when_to_come_again():
    with procjobs.Pool(workers=1, max_queued=10) as pool:
        pool.submit(jobs.sleep, 0.5).result(30)
        pool.pause()
        waiting = [pool.submit(jobs.sleep, 0.5) for _ in range(10)]
        with pytest.raises(procjobs.QueueFull) as caught:
            pool.submit(jobs.add, 1)
        assert 5 <= caught.value.retry_after < 60  # ten jobs of 0.5 s, or a little more
        for job in waiting:
            job.cancel()
        pool.resume()


def test_supervisor_refuses_with_the_same_words_when_clients_race(pool_name):
    one = procjobs.Pool(pool_name, workers=1, max_queued=20)
    two = procjobs.Pool(pool_name, workers=1, max_queued=20)
    one.pause()
    two.connect()
    supervisor = one.stats().supervisor_pid
    stop(supervisor)
    handles, refused = [], []

    def submit(pool):
        try:
            handles.append([pool.submit(jobs.add, n) for n in range(15)])
        except procjobs.QueueFull as error:
            refused.append(error)

    threads = [threading.Thread(target=submit, args=(pool,)) for pool in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    os.kill(supervisor, signal.SIGCONT)
    assert (2, []) == (len(handles), refused)  # neither could see what the other had sent
    one.resume()
    errors = [error for job in handles[0] + handles[1] if (error := job.exception(30)) is not None]
    assert 10 == len(errors)
    for error in errors:
        assert isinstance(error, procjobs.QueueFull)
        assert (20, 20, 1) == (error.queued, error.max_queued, error.retry_after)
    one.shutdown()
    two.shutdown()
