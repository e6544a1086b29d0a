"""What a job leaves in its worker never meets the next one."""

from __future__ import annotations

import os

import pytest

import procjobs
from tests.process import jobs, left_jobs
from tests.process.left_jobs import LEAVE_THREADS, PUT_BACK

from ..conftest import wait_until


@pytest.fixture
def pool_settings():
    """One worker, so that each job runs after the one before it."""
    return {"workers": 1}


def outcome(job):
    return job.exception(30) or job.result()


@pytest.mark.parametrize("kind", PUT_BACK)
def test_next_job_finds_what_the_first_one_found(pool, kind):
    leave, look = PUT_BACK[kind]
    pids = {pool.submit(jobs.pid).result(30)}
    before = pool.submit(look).result(30)
    for _ in range(3):
        assert not isinstance(outcome(pool.submit(leave)), procjobs.ProcjobsError)
        pids.add(pool.submit(jobs.pid).result(30))
        job = pool.submit(look)
        assert before == outcome(job) or look is left_jobs.outlive
    if look is left_jobs.output:
        expected = ["größe ✓", "on standard error", "WARNING look: logged", "of a program", "and its error"]
        assert sorted(expected) == sorted(pool.logs(job.id).splitlines())
    assert (0, 0) == (pool.stats().crashed, pool.stats().restarts)
    may_be_replaced = {"hard limits", "niceness", "files in their place"}
    assert 1 == len(pids) or kind in may_be_replaced


@pytest.mark.parametrize("leave", [left_jobs.wrap_stdout, left_jobs.keep_wrapped_stdout, left_jobs.close_streams])
def test_very_next_job_prints(pool, leave):
    for _ in range(3):
        outcome(pool.submit(leave))
        job = pool.submit(left_jobs.collect_and_say)
        assert "said" == job.result(30)
        assert "hello\n" == pool.logs(job.id)


QUICK_LOOKS = {
    "umask": left_jobs.write_file,
    "another directory": os.getcwd,
    "context": left_jobs.context,
    "alarm of a failed job": left_jobs.timers,
    "ignored SIGCHLD": left_jobs.false_status,
    "replaced streams": left_jobs.output,
    "closed streams": left_jobs.output,
    "timers that go off": left_jobs.outlive,
}


@pytest.mark.parametrize("kind", QUICK_LOOKS)
def test_kind_of_quick_jobs_that_has_never_left_anything_is_looked_at_all_the_same(pool, kind):
    look = QUICK_LOOKS[kind]
    before = pool.submit(look).result(30)
    for _ in range(3):
        for _ in range(100):
            pool.submit(left_jobs.leave, None).result(30)
        outcome(pool.submit(left_jobs.leave, kind))
        after = pool.submit(look).result(30)
        assert before == after
    assert (0, 0) == (pool.stats().crashed, pool.stats().restarts)


def test_initializer_decides_what_each_job_finds(tmp_path):
    def initialize():
        left_jobs.set_context()
        os.chdir(tmp_path)
        os.umask(0o027)
        left_jobs.limit("RLIMIT_CORE", 0)
        import signal

        signal.signal(signal.SIGUSR2, left_jobs.handler)

    def change():
        left_jobs.TENANT.set("bob")
        import decimal
        import signal

        decimal.getcontext().prec = 7
        os.umask(0)
        os.chdir("/")
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    with procjobs.Pool(workers=1, initializer=initialize) as pool:
        looks = left_jobs.context, os.getcwd, left_jobs.write_file, left_jobs.all_handlers, left_jobs.limits
        before = [pool.submit(look).result(30) for look in looks]
        assert [("alice", "0.333"), str(tmp_path), "0o100640"] == before[:3]
        pool.submit(change).result(30)
        assert before == [pool.submit(look).result(30) for look in looks]


def test_coroutines_have_a_context_of_their_own(pool):
    async def leave():
        left_jobs.set_context()

    async def look():
        return left_jobs.context()

    pool.submit(leave).result(30)
    assert (None, "0.3333333333333333333333333333") == pool.submit(look).result(30)


# Descriptors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "job", [left_jobs.close_everything, left_jobs.close_each_that_is_open, left_jobs.cover_everything]
)
def test_job_that_closes_the_pipes_of_its_worker_is_told_so_and_nothing_is_written_into_its_files(pool, tmp_path, job):
    others = [pool.submit(jobs.add, n) for n in range(5)]
    closing = pool.submit(job, str(tmp_path))
    others += [pool.submit(jobs.add, n) for n in range(5, 10)]
    with pytest.raises(procjobs.WorkerCrashed, match="the job closed the worker's descriptors"):
        closing.result(30)
    assert list(range(10)) == [other.result(30) for other in others]
    assert {0} == {os.path.getsize(path) for path in tmp_path.iterdir()}


def test_job_that_closes_low_descriptors_is_answered_and_its_worker_replaced(pool, tmp_path):
    before = pool.submit(jobs.pid).result(30)
    assert "the answer" == pool.submit(left_jobs.close_as_daemons_do, str(tmp_path)).result(30)
    assert before != pool.submit(jobs.pid).result(30)
    assert {0} == {os.path.getsize(path) for path in tmp_path.iterdir()}
    assert (0, 0) == (pool.stats().crashed, pool.stats().restarts)


@pytest.mark.parametrize("kind", ["jobs", "answers", "side"])
def test_job_that_closes_one_pipe_of_its_worker_harms_nobody_else(pool, kind):
    behind = [pool.submit(jobs.add, n) for n in range(3)]
    closing = pool.submit(left_jobs.close_pipe, kind)
    behind += [pool.submit(jobs.add, n) for n in range(3, 6)]
    if kind == "jobs":
        assert kind == closing.result(30)
    else:
        with pytest.raises(procjobs.WorkerCrashed, match="descriptors"):
            closing.result(30)
    assert list(range(6)) == [other.result(30) for other in behind]
    assert [1] * 6 == [other.status().attempt for other in behind]


def test_worker_that_is_replaced_costs_no_job_that_was_sent_ahead(pool, tmp_path):
    for _ in range(200):
        pool.submit(jobs.add, 1).result(30)  # now the pool knows that they are tiny
    handles = []
    for n in range(300):
        handles.append(pool.submit(jobs.add, n))
        if n % 100 == 50:
            pool.submit(left_jobs.close_as_daemons_do, str(tmp_path))
    assert list(range(300)) == [handle.result(60) for handle in handles]
    assert {1} == {handle.status().attempt for handle in handles}
    assert (0, 0) == (pool.stats().crashed, pool.stats().restarts)


# Threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", LEAVE_THREADS)
def test_thread_that_was_left_over_reports_nothing_as_the_next_job(pool, tmp_path, leave):
    pool.submit(leave, str(tmp_path / "stop")).result(30)
    job = pool.submit(left_jobs.wait_with_progress, str(tmp_path / "go"))
    wait_until(lambda: job.progress() is not None)
    seen = {(job.progress().value, job.progress().message) for _ in range(2000)}
    (tmp_path / "go").touch()
    assert [] == job.result(30)
    (tmp_path / "stop").touch()
    assert {(1.0, "mine")} == seen


def test_thread_that_was_left_over_does_not_disturb_many_quick_jobs(pool, tmp_path):
    pool.submit(left_jobs.leave_thread, str(tmp_path / "stop")).result(30)
    handles = [pool.submit(jobs.add, n) for n in range(500)]
    assert list(range(500)) == [handle.result(60) for handle in handles]
    assert {None} == {handle.progress() for handle in handles}
    (tmp_path / "stop").touch()


@pytest.mark.parametrize("how", ["thread", "raw", "to_thread", "nested", "kept executor"])
def test_threads_of_a_job_report_for_it(pool, how):
    for _ in range(3):
        job = pool.submit(left_jobs.report_from_threads, how)
        assert job.id == job.result(30)
        assert (3.0, "tests.process.left_jobs.report_from_threads") == (job.progress().value, job.progress().message)
