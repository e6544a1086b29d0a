"""Limits of running jobs: soft timeouts, stalls, memory. Who is stopped, why it says so, and who is not."""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil
import pytest

import procjobs
from tests.process import jobs, limited_jobs

from ..conftest import wait_until

MIB = 2**20


@pytest.fixture
def pool_settings():
    """The workers have imported their jobs: importing counts as run time."""
    return {"preload": ["tests.process.limited_jobs"]}


@pytest.fixture
def one():
    """The same with one worker: importing counts as run time."""
    pool = procjobs.Pool(workers=1, preload=["tests.process.limited_jobs"])
    yield pool
    pool.stop()


def wait_for_time(seconds):
    deadline = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > deadline)


def stop_supervisor(pool, seconds):
    supervisor = pool.stats().supervisor_pid
    os.kill(supervisor, signal.SIGSTOP)
    wait_for_time(seconds)
    os.kill(supervisor, signal.SIGCONT)


# Soft timeouts ------------------------------------------------------------------------------------------------


def test_soft_timeout_lets_a_job_clean_up_and_return(one, tmp_path):
    job = one.options(soft_timeout=0.2, timeout=20).submit(limited_jobs.clean_up_after_soft_timeout, str(tmp_path / "x"))
    assert "cleaned up" == job.result(30)
    assert f"{job.id} 1" == (tmp_path / "x").read_text()
    assert ("succeeded", None) == (job.status().state, job.status().reason)


@pytest.mark.parametrize(
    "function", [limited_jobs.sleep, limited_jobs.sleep_in_asyncio, limited_jobs.wait_for_process], ids=lambda f: f.__name__
)
def test_soft_timeout_that_is_not_caught_is_the_end_of_the_job_but_not_of_its_worker(one, function):
    worker = one.submit(jobs.pid).result(30)
    job = one.options(soft_timeout=0.2).submit(function)
    with pytest.raises(procjobs.JobTimeout, match="soft_timeout") as caught:
        job.result(30)
    assert (job.id, 1) == (caught.value.job_id, caught.value.attempt)
    assert ("failed", "timeout") == (job.status().state, job.status().reason)
    assert 0.1 <= job.status().finished_at - job.status().started_at < 5
    assert worker == one.submit(jobs.pid).result(30)


def test_soft_timeout_that_is_ignored_leads_to_the_hard_one(one, tmp_path):
    job = one.options(soft_timeout=0.2, timeout=0.6).submit(limited_jobs.ignore_soft_timeout, str(tmp_path / "x"))
    with pytest.raises(procjobs.JobTimeout, match=r"timeout of 0\.6 s"):
        job.result(30)
    assert "ignored" == (tmp_path / "x").read_text()
    assert 0.5 <= job.status().finished_at - job.status().started_at < 5


def test_soft_timeout_in_c_code_arrives_when_that_returns(one, tmp_path):
    size = one.submit(limited_jobs.find_size).result(30)
    job = one.options(soft_timeout=1.0).submit(limited_jobs.call_c_code_of, size, str(tmp_path / "in C"))
    with pytest.raises(procjobs.JobTimeout, match="soft_timeout"):
        job.result(30)
    assert (tmp_path / "in C").exists()
    assert job.status().finished_at - job.status().started_at > 1.8


def test_attempt_that_ended_by_its_soft_timeout_is_a_timeout_in_the_history(one):
    job = one.options(soft_timeout=0.2, timeout=0.5, retries=1, backoff=0).submit(limited_jobs.soft_then_hard)
    with pytest.raises(procjobs.JobTimeout) as caught:
        job.result(30)
    assert ["timeout", "timeout"] == [attempt.reason for attempt in caught.value.history]


def test_soft_timeout_never_hits_the_following_job(one):
    """The soft timeouts come when the jobs end: some are hit, some are not, and those without one never are."""
    near = one.options(soft_timeout=0.004)
    handles = []
    for _ in range(400):
        handles.append((near.submit(limited_jobs.spin, 0.004), 0.004))
        handles.append((one.submit(limited_jobs.spin, 0.001), 0.001))
        handles.append((one.options(soft_timeout=5).submit(limited_jobs.spin, 0.0), 0.0))
    ends = [(job.exception(60), seconds) for job, seconds in handles]
    hit = sum(error is not None for error, seconds in ends if seconds == 0.004)
    assert [] == [error for error, seconds in ends if error is not None and seconds != 0.004]
    assert {procjobs.JobTimeout} == {type(error) for error, _ in ends if error is not None}
    assert hit > 0
    assert all(error.job_id == job.id for (job, _), (error, _) in zip(handles, ends, strict=True) if error is not None)
    assert 0 == one.stats().restarts


def test_soft_timeouts_of_tiny_jobs_sent_ahead_hit_nobody(pool):
    tiny = pool.options(soft_timeout=0.003)
    for job in [tiny.submit(jobs.add, n) for n in range(500)]:
        job.exception(30)
    handles = [tiny.submit(jobs.add, n) for n in range(6000)]
    ends = [job.exception(60) or job.result() for job in handles]
    late = [end for end in ends if isinstance(end, procjobs.JobTimeout)]
    assert len(late) < 60  # where the host took the CPU from a worker for 3 ms
    assert [(job.id, 1) for job, end in zip(handles, ends, strict=True) if end in late] == [
        (end.job_id, end.attempt) for end in late
    ]
    assert 0 == pool.stats().restarts


# Stalls -------------------------------------------------------------------------------------------------------


def test_job_that_does_nothing_is_stalled_and_tells_where(one):
    job = one.options(stall_timeout=0.4).submit(limited_jobs.sleep)
    with pytest.raises(procjobs.JobStalled, match=r"stall_timeout of 0\.4 s") as caught:
        job.result(30)
    assert "in sleep" in caught.value.stack
    assert ("failed", "stalled") == (job.status().state, job.status().reason)
    assert 0.3 <= job.status().finished_at - job.status().started_at < 5


@pytest.mark.parametrize(
    ("function", "argument", "result"),
    [
        (limited_jobs.call_c_code, None, None),
        (limited_jobs.compute_in_child, 2.5, "computed"),
        (limited_jobs.report_without_work, 2.5, "reported"),
        (limited_jobs.spin, 2.5, 2.5),
    ],
    ids=["C code with the GIL", "child that computes", "reports without CPU", "Python"],
)
def test_job_that_shows_any_sign_of_life_is_not_stalled(one, function, argument, result):
    job = one.options(stall_timeout=1.0).submit(function, argument)
    assert result in {None, job.result(60)}
    assert job.status().finished_at - job.status().started_at > 1.5


def test_stopped_job_is_stalled(one):
    job = one.options(stall_timeout=0.3, grace_period=5).submit(limited_jobs.stop_itself)
    with pytest.raises(procjobs.JobStalled):
        job.result(30)
    assert job.status().finished_at - job.status().started_at < 5


def test_stalled_job_is_retried_and_its_history_says_why(one):
    job = one.options(stall_timeout=0.2, retries=1, backoff=0).submit(limited_jobs.sleep)
    with pytest.raises(procjobs.JobStalled) as caught:
        job.result(30)
    assert [("stalled", 1), ("stalled", 2)] == [(a.reason, a.attempt) for a in caught.value.history]


def test_suspended_supervisor_kills_nobody_and_is_exact_again(pool, tmp_path):
    options = {"timeout": 1.9, "soft_timeout": 1.8, "stall_timeout": 1.7}
    handles = [pool.options(**options).submit(limited_jobs.sleep, 0.6) for _ in range(2)]
    wait_until(lambda: all(job.running() for job in handles))
    stop_supervisor(pool, 2.2)
    assert [0.6, 0.6] == [job.result(30) for job in handles]

    job = pool.options(**options).submit(jobs.wait_for_file, str(tmp_path / "go"), "done")
    wait_until(job.running)
    stop_supervisor(pool, 2.2)
    (tmp_path / "go").touch()
    assert "done" == job.result(30)

    handles = [pool.options(**{name: 0.3}).submit(limited_jobs.sleep) for name in ("timeout", "soft_timeout")]
    for job in handles:
        assert isinstance(job.exception(30), procjobs.JobTimeout)
        assert 0.2 <= job.status().finished_at - job.status().started_at < 5


def test_supervisor_that_is_suspended_while_it_is_busy_kills_nobody(one):
    done = threading.Event()

    def keep_it_busy():
        while not done.is_set():
            for _ in range(50):
                one.submit(jobs.add, 1)

    for _ in range(3):
        job = one.options(timeout=0.6, priority=1).submit(limited_jobs.sleep, 1.5)
        wait_until(job.running)
        done.clear()
        thread = threading.Thread(target=keep_it_busy)
        thread.start()
        wait_for_time(0.1)
        stop_supervisor(one, 1.1)
        done.set()
        thread.join()
        assert 1.5 == job.result(30)


# Memory -------------------------------------------------------------------------------------------------------


def test_job_over_its_memory_limit_is_killed_and_told_how_much_it_used(one):
    job = one.options(max_rss=64 * MIB).submit(limited_jobs.allocate, 200, "/nonexistent")
    with pytest.raises(procjobs.MemoryLimitExceeded, match=r"max_rss of 64\.0 MiB") as caught:
        job.result(20)
    assert 64 * MIB == caught.value.max_rss
    assert 64 * MIB < caught.value.used_bytes < 500 * MIB
    assert ("failed", "memory") == (job.status().state, job.status().reason)
    assert 3 == one.submit(jobs.add, 1, 2).result(30)


def test_memory_of_children_counts(one):
    job = one.options(max_rss=64 * MIB).submit(limited_jobs.allocate_in_child, 200)
    with pytest.raises(procjobs.MemoryLimitExceeded) as caught:
        job.result(20)
    assert 64 * MIB < caught.value.used_bytes < 300 * MIB


def test_job_below_its_memory_limit_is_left_alone(one, tmp_path):
    job = one.options(max_rss=256 * MIB).submit(limited_jobs.allocate, 100, str(tmp_path / "go"))
    wait_until(job.running)
    wait_for_time(0.8)
    (tmp_path / "go").touch()
    assert 100 * MIB == job.result(20)


@pytest.fixture
def fat_pool(tmp_path, monkeypatch):
    """A pool whose workers share 300 MB with their template."""
    (tmp_path / "fat_preload.py").write_text("data = bytearray(b'x') * (300 * 2**20)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = procjobs.Pool(workers=1, preload=["fat_preload"])
    yield pool
    pool.stop()


def test_memory_shared_with_the_template_is_not_the_jobs(fat_pool):
    limited = fat_pool.options(max_rss=80 * MIB)
    assert 0.7 == limited.submit(limited_jobs.sleep, 0.7).result(20)
    worker = fat_pool.submit(jobs.pid).result(20)
    assert psutil.Process(worker).memory_info().rss > 300 * MIB
    with pytest.raises(procjobs.MemoryLimitExceeded) as caught:
        limited.submit(limited_jobs.allocate, 150, "/nonexistent").result(20)
    assert 80 * MIB < caught.value.used_bytes < 300 * MIB


def test_memory_that_a_jobs_forks_share_with_it_is_not_counted_again(fat_pool, tmp_path):
    job = fat_pool.options(max_rss=80 * MIB).submit(limited_jobs.wait_with_forks, 3, str(tmp_path / "go"))
    wait_until((tmp_path / "go-ready").exists)
    wait_for_time(0.8)
    (tmp_path / "go").touch()
    assert "done" == job.result(20)


def test_worker_that_has_grown_is_replaced_between_jobs(one):
    limited = one.options(max_rss=100 * MIB)
    first = limited.submit(limited_jobs.grow, 10).result(20)
    second = limited.submit(limited_jobs.grow, 50).result(20)
    third = limited.submit(limited_jobs.grow, 1).result(20)
    assert first == second
    assert second != third
    assert 0 == one.stats().restarts


def test_workers_are_offered_to_the_oom_killer_and_nobody_else(one):
    own = limited_jobs.oom_score_adj()
    assert min(own + 500, 1000) == one.submit(limited_jobs.oom_score_adj).result(20)
    supervisor = psutil.Process(one.stats().supervisor_pid)
    workers = {worker.pid for worker in one.workers()}
    (template,) = (child.pid for child in supervisor.children() if child.pid not in workers)
    assert [own, own] == [limited_jobs.oom_score_adj(pid) for pid in (supervisor.pid, template)]


def test_what_is_left_running_by_an_earlier_job_does_not_count(one):
    kept = one.options(keep_children=True)
    kept.submit(limited_jobs.start_eater, 150).result(20)
    assert 0.7 == one.options(max_rss=80 * MIB).submit(limited_jobs.sleep, 0.7).result(20)
