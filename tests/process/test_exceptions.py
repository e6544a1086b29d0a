"""Exceptions of jobs that would end or cancel the caller, its loop or its iteration arrive wrapped."""

from __future__ import annotations

import argparse
import asyncio
import builtins
import concurrent.futures
import os
import re
import sys

import pytest

import procjobs
from tests.process import jobs

NAMES = [
    "StopIteration", "StopAsyncIteration", "KeyboardInterrupt", "SystemExit", "GeneratorExit", "BaseException",
    "BaseExceptionGroup", "asyncio.CancelledError", "concurrent.futures.CancelledError", "JobCancelled",
]  # fmt: skip


def make(name):
    if name == "BaseExceptionGroup":
        return BaseExceptionGroup("several", [KeyboardInterrupt()])
    if name == "JobCancelled":
        return procjobs.JobCancelled("of another job")
    if name.startswith("asyncio"):
        return asyncio.CancelledError("why")
    return concurrent.futures.CancelledError() if "." in name else getattr(builtins, name)("why")


def fail_with(name):
    raise make(name)


async def await_and_fail_with(name):
    await asyncio.sleep(0)
    raise make(name)


def wrapper_of(name):
    return RuntimeError if name.startswith("Stop") else procjobs.JobError


def check(error, name, job=None):
    assert (wrapper_of(name), type(make(name))) == (type(error), type(error.__cause__))
    assert re.search(rf"raised [\w.]*{name.rpartition('.')[2]}", str(error))
    assert "fail_with" in str(error.__cause__.__cause__), "the traceback of the worker"
    if job is not None and isinstance(error, procjobs.JobError):
        assert (job.id, 1) == (error.job_id, error.attempt)


@pytest.mark.parametrize("name", NAMES)
def test_caller_gets_it_wrapped_by_every_way(pool, name):
    job = pool.submit(fail_with, name)
    check(job.exception(30), name, job)
    with pytest.raises(wrapper_of(name)) as caught:
        job.result(30)
    check(caught.value, name, job)
    assert (False, "failed", "raised") == (job.cancelled(), job.status().state, job.status().reason)
    for chunksize in (1, 2):
        with pytest.raises(wrapper_of(name)):
            list(pool.map(fail_with, [name] * 4, chunksize=chunksize))
    with pytest.raises(wrapper_of(name)):
        list(pool.map(fail_with, [name], ordered=False))
    assert 0 == pool.stats().restarts


@pytest.mark.parametrize("name", NAMES)
def test_tasks_that_await_it_go_on(pool, name):
    async def main():
        loop = asyncio.get_running_loop()
        problems = []
        loop.set_exception_handler(lambda _loop, context: problems.append(context))
        for awaitable in (
            pool.run(fail_with, name),
            pool.submit(fail_with, name),
            loop.run_in_executor(pool, fail_with, name),
            asyncio.wrap_future(pool.submit(fail_with, name)),
            *([] if name.startswith("Stop") else [pool.run(await_and_fail_with, name)]),
        ):
            with pytest.raises(wrapper_of(name)) as caught:
                await asyncio.wait_for(awaitable, 30)
            check(caught.value, name)
        assert ([], 0) == (problems, asyncio.current_task().cancelling())
        return "went on"

    assert "went on" == asyncio.run(main())


@pytest.mark.parametrize("chunksize", [1, 3, "auto"])
def test_map_does_not_end_at_a_call_that_raises_stop_iteration(pool, chunksize):
    def first(items):
        return next(iter(items))

    with pytest.raises(RuntimeError, match="raised StopIteration"):
        list(pool.map(first, [[1]] * 50 + [[]] + [[1]] * 50, chunksize=chunksize))


# sys.exit ---------------------------------------------------------------------------------------------------------


def exit_with(code):
    sys.exit(code)


def parse_bad_arguments():
    argparse.ArgumentParser().parse_args(["--nope"])


class Unprintable:
    def __repr__(self):
        raise ValueError


@pytest.mark.parametrize(
    ("function", "args", "text"),
    [
        (exit_with, ("no such film",), r"sys\.exit\('no such film'\) at .*test_exceptions\.py:\d+$"),
        (exit_with, (0,), r"sys\.exit\(0\) at .*test_exceptions\.py:\d+$"),
        (exit_with, (None,), r"sys\.exit\(\) at .*test_exceptions\.py:\d+$"),
        (exit_with, (Unprintable(),), r"sys\.exit\(<Unprintable>\) at "),
        (parse_bad_arguments, (), r"sys\.exit\(2\) at .*argparse\.py:\d+$"),
    ],
)
def test_job_that_calls_sys_exit_has_failed_and_costs_no_worker(pool, function, args, text):
    before = {pool.submit(jobs.pid).result(30) for _ in range(20)}
    job = pool.options(retries=1, backoff=0, max_crashes=1).submit(function, *args)
    with pytest.raises(procjobs.JobError, match=f"the job called {text}") as caught:
        job.result(30)
    assert (procjobs.JobError, SystemExit, 2) == (type(caught.value), type(caught.value.__cause__), caught.value.attempt)
    status = job.status()
    assert ("failed", "raised", 2) == (status.state, status.reason, status.attempt)
    assert "the job called sys.exit" in status.error
    assert {pool.submit(jobs.pid).result(30) for _ in range(20)} <= before | {w.pid for w in pool.workers()}
    assert (0, 0) == (pool.stats().crashed, pool.stats().restarts)


def test_click_command_is_a_failed_job_that_says_so(pool):
    click = pytest.importorskip("click")

    def run():
        click.command()(lambda: click.echo("all done"))([])

    job = pool.submit(run)
    with pytest.raises(procjobs.JobError, match=r"the job called sys\.exit\(0\) at "):
        job.result(30)
    assert "all done\n" == pool.logs(job.id)


def test_os_exit_stays_a_crash(pool):
    with pytest.raises(procjobs.WorkerCrashed):
        pool.submit(os._exit, 0).result(30)
