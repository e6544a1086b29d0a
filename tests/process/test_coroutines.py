"""Jobs that are coroutine functions: run in a loop of their own, with everything that other jobs have."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import traceback

import pytest

import procjobs

from ..conftest import wait_until
from . import coroutine_jobs, jobs


@pytest.fixture
def one():
    """A pool whose soft timeouts find the modules imported."""
    pool = procjobs.Pool(workers=1, preload=["tests.process.coroutine_jobs"])
    yield pool
    pool.stop()


def call_of_lambda():
    async def inner(number):
        return await coroutine_jobs.add(number, 1)

    return inner


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (coroutine_jobs.add, (1, 2), 3),
        (coroutine_jobs.partial_add, (), 3),
        (coroutine_jobs.Adder(1).add, (2,), 3),
        (coroutine_jobs.Adder.make_and_add, (1, 2), 3),
        (coroutine_jobs.Adder(1), (2,), 3),
        (functools.partial(coroutine_jobs.Adder(1), 2), (), 3),
        (call_of_lambda(), (2,), 3),
        (coroutine_jobs.name_of_job, (), "decorated"),
    ],
)
def test_whatever_is_a_coroutine_function_is_awaited(one, function, args, expected):
    assert [expected] * 2 == [one.submit(function, *args).result(30) for _ in range(2)]
    assert expected == asyncio.run(one.run(function, *args))


@pytest.mark.parametrize("chunksize", [1, 3, "auto"])
def test_map_awaits_each_item(one, chunksize):
    assert [n + 1 for n in range(10)] == list(one.map(coroutine_jobs.add, range(10), [1] * 10, chunksize=chunksize))


def test_coroutine_function_that_is_too_large_to_be_sent_once_is_awaited(one):
    ballast = os.urandom(300_000)

    async def measure(number):
        return len(ballast) + number

    assert [300_001, 300_002] == [one.submit(measure, number).result(30) for number in (1, 2)]


def test_exception_of_a_coroutine_is_the_jobs_and_its_traceback_begins_with_the_coroutine(one):
    job = one.submit(coroutine_jobs.fail, "why")
    with pytest.raises(ValueError, match="why") as caught:
        job.result(30)
    text = str(caught.value.__cause__)
    assert "in fail" in text
    assert "asyncio" not in text.replace("asyncio.sleep", "")
    assert "awaiting.py" not in text
    assert ("failed", "raised") == (job.status().state, job.status().reason)


def test_retry_is_a_new_coroutine(one):
    assert 2 == one.options(retries=1, backoff=0).submit(coroutine_jobs.fail_once).result(30)


def test_coroutine_that_exits_has_failed_as_others_do(one):
    with pytest.raises(procjobs.JobError, match=r"the job called sys\.exit\(7\) at .*coroutine_jobs\.py:35") as caught:
        one.submit(coroutine_jobs.leave, 7).result(30)
    assert (7, 0) == (caught.value.__cause__.code, one.stats().restarts)


def test_arguments_and_results_that_do_not_fit_are_named(one):
    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        one.submit(coroutine_jobs.add, 1, c=2).result(30)
    with pytest.raises(procjobs.PayloadError, match="of type generator, could not be pickled"):
        one.submit(coroutine_jobs.return_generator).result(30)


@pytest.mark.filterwarnings("ignore:coroutine")
def test_ordinary_function_that_returns_a_coroutine_is_told(one):
    with pytest.raises(procjobs.PayloadError, match="returns_a_coroutine, of type coroutine, could not be pickled"):
        one.submit(coroutine_jobs.returns_a_coroutine).result(30)


def test_job_knows_itself_and_reports_in_all_of_its_tasks(one, tmp_path):
    job = one.submit(coroutine_jobs.report_in_tasks, str(tmp_path / "seen"))
    progress = wait_until(job.progress)
    assert (3, 4, "here") == (progress.value, progress.total, progress.message)
    (tmp_path / "seen").touch()
    assert job.id == job.result(30)


def test_each_job_has_a_fresh_loop_without_debug(one):
    first, second = (one.submit(coroutine_jobs.facts_about_loop).result(30) for _ in range(2))
    assert first[0] != second[0]
    assert [False, False] == [first[1], second[1]]


def test_tasks_that_a_job_leaves_behind_are_cancelled_before_it_is_seen_as_finished(one, tmp_path):
    one.submit(coroutine_jobs.leave_task_behind, str(tmp_path / "end")).result(30)
    assert "cancelled" == (tmp_path / "end").read_text()


def test_ordinary_functions_do_not_load_asyncio():
    with procjobs.Pool(workers=1) as pool:
        assert not pool.submit(jobs.has_loaded, "asyncio").result(30)
        assert 3 == pool.submit(coroutine_jobs.add, 1, 2).result(30)
        assert pool.submit(jobs.has_loaded, "asyncio").result(30)


# Ended from outside ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["cancel", "cancelled task", "timeout", "SIGKILL"])
def test_coroutine_that_waits_is_ended_like_any_job(one, tmp_path, way):
    started = tmp_path / "started"

    async def cancel_the_task():
        task = asyncio.create_task(one.run(coroutine_jobs.tell_and_wait, str(started)))
        while not started.exists():
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    if way == "cancelled task":
        asyncio.run(cancel_the_task())
    else:
        limits = {"timeout": 1.0} if way == "timeout" else {}
        job = one.options(**limits).submit(coroutine_jobs.tell_and_wait, str(started))
        if way != "timeout":
            pid = int(wait_until(lambda: started.exists() and started.read_text()))
            one.cancel(job.id) if way == "cancel" else os.kill(pid, signal.SIGKILL)
        expected = {"cancel": procjobs.JobCancelled, "SIGKILL": procjobs.WorkerCrashed}.get(way, procjobs.JobTimeout)
        with pytest.raises(expected):
            job.result(30)
    assert 3 == one.submit(coroutine_jobs.add, 1, 2).result(30)


# Soft timeouts ------------------------------------------------------------------------------------------------------


def test_soft_timeout_arrives_where_the_coroutine_awaits_and_can_be_caught(one, tmp_path):
    job = one.options(soft_timeout=1.0).submit(coroutine_jobs.catch_timeout, str(tmp_path / "started"))
    kind, job_id, attempt, cancelling, error = job.result(30)
    assert issubclass(kind, procjobs.JobTimeout)
    assert (job.id, 1, 0) == (job_id, attempt, cancelling)
    assert procjobs.JobTimeout is type(error)
    assert ("succeeded", None) == (job.status().state, job.status().reason)


@pytest.mark.parametrize("function", [coroutine_jobs.time_out_in_group, coroutine_jobs.time_out_in_group_body])
def test_soft_timeout_goes_through_task_groups_whose_tasks_have_ended_then(one, tmp_path, function):
    worker = one.submit(jobs.pid).result(30)
    job = one.options(soft_timeout=1.0).submit(function, str(tmp_path / "seen"))
    with pytest.raises(procjobs.JobTimeout, match="soft_timeout") as caught:
        job.result(30)
    assert procjobs.JobTimeout is type(caught.value)
    assert (job.id, 1) == (caught.value.job_id, caught.value.attempt)
    assert ("failed", "timeout") == (job.status().state, job.status().reason)
    assert (tmp_path / "seen").read_text() in {"ended ended", "body left"}
    assert worker == one.submit(jobs.pid).result(30)


def test_soft_timeout_is_no_failure_for_those_in_between(one):
    with pytest.raises(procjobs.JobTimeout, match="soft_timeout") as caught:
        one.options(soft_timeout=1.0).submit(coroutine_jobs.time_out_among_handlers).result(30)
    assert isinstance(caught.value, TimeoutError)


def test_traceback_of_a_soft_timeout_shows_where_the_coroutine_was(one):
    with pytest.raises(procjobs.JobTimeout) as caught:
        one.options(soft_timeout=1.0).submit(coroutine_jobs.sleep, 600).result(30)
    text = "".join(traceback.format_exception(caught.value))
    assert "await asyncio.sleep(seconds)" in text
    assert "CancelledError" not in text


def test_soft_timeout_interrupts_a_coroutine_that_computes(one, tmp_path):
    with pytest.raises(procjobs.JobTimeout, match="soft_timeout"):
        one.options(soft_timeout=1.0).submit(coroutine_jobs.compute, str(tmp_path / "seen")).result(30)
    assert "interrupted" == (tmp_path / "seen").read_text()


def test_soft_timeout_waits_for_a_task_that_computes_and_spares_it(one):
    assert "computed" == one.options(soft_timeout=0.2, timeout=60).submit(coroutine_jobs.compute_in_task).result(30)


def test_soft_timeout_that_a_coroutine_ignores_leads_to_the_hard_one(one, tmp_path):
    job = one.options(soft_timeout=0.5, timeout=2.0).submit(coroutine_jobs.ignore_timeout, str(tmp_path / "seen"))
    with pytest.raises(procjobs.JobTimeout, match=r"timeout of 2 s"):
        job.result(30)
    assert "ignored" == (tmp_path / "seen").read_text()


def test_soft_timeouts_that_come_at_the_end_of_coroutines_hit_nothing_else(one):
    """The soft timeouts come when the jobs end: each is a result or a JobTimeout, and the worker lives on."""
    worker = one.submit(jobs.pid).result(30)
    near = one.options(soft_timeout=0.004)
    handles = [near.submit(coroutine_jobs.sleep, 0.0038 + n % 40 * 0.00001) for n in range(200)]
    for handle in handles:
        error = handle.exception(60)
        assert error is None or type(error) is procjobs.JobTimeout, repr(error)
    assert worker == one.submit(jobs.pid).result(30)


def test_coroutine_can_use_a_pool_of_its_own(one):
    assert 8 == one.submit(coroutine_jobs.submit_more, 7).result(30)
