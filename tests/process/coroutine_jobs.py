"""Jobs that are coroutine functions."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import time
from pathlib import Path

import procjobs
from tests.process.jobs import wait_for_file


async def add(a, b=0):
    await asyncio.sleep(0)
    return a + b


async def fail(text="no"):
    await asyncio.sleep(0)
    raise ValueError(text)


async def fail_once(text="first"):
    await asyncio.sleep(0)
    if procjobs.current_job().attempt == 1:
        raise ValueError(text)
    return procjobs.current_job().attempt


async def leave(code):
    await asyncio.sleep(0)
    sys.exit(code)


async def return_generator():
    return (item for item in ())


class Adder:
    def __init__(self, base):
        self.base = base

    async def __call__(self, number):
        await asyncio.sleep(0)
        return self.base + number

    async def add(self, number):
        return await self(number)

    @classmethod
    async def make_and_add(cls, base, number):
        return await cls(base)(number)


@procjobs.job(retries=3, name="decorated")
async def name_of_job():
    await asyncio.sleep(0)
    return procjobs.current_job().name


def returns_a_coroutine():
    return add(1)


async def report_in_tasks(path):
    """Report from a task of its own, and wait until that was seen."""

    async def report():
        procjobs.progress(3, 4, "here")
        return procjobs.current_job().id

    job_id = await asyncio.create_task(report())
    await asyncio.to_thread(wait_for_file, path)
    return job_id


async def facts_about_loop():
    loop = asyncio.get_running_loop()
    return id(loop), loop.get_debug(), vars(sys.modules["__main__"]).setdefault("seen_loops", []).append(loop)


async def leave_task_behind(path):
    """Return while a task still waits, which is to be cancelled before the job is seen as finished."""
    asyncio.create_task(_tell_end(path))  # noqa: RUF006 - that nobody holds it is what is tested
    await asyncio.sleep(0)


async def _tell_end(path):
    try:
        await asyncio.sleep(600)
    finally:
        Path(path).write_text("cancelled")


async def catch_timeout(started):
    """Clean up asynchronously where the timeout arrives, and return what was seen there."""
    try:
        Path(started).touch()
        await asyncio.sleep(600)
    except procjobs.JobTimeout as error:
        await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            await asyncio.sleep(0.01)
        return type(error), error.job_id, error.attempt, asyncio.current_task().cancelling(), error


async def time_out_in_group(path):
    """Wait in a task group, whose tasks are to have ended when the timeout comes through."""
    ended = []

    async def wait():
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0)
            ended.append("ended")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(wait())
            group.create_task(wait())
    except procjobs.JobTimeout:
        Path(path).write_text(" ".join(ended))
        raise


async def time_out_in_group_body(path):
    async with asyncio.timeout(300), asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(600))
        try:
            await asyncio.gather(asyncio.sleep(600), asyncio.sleep(600))
        finally:
            Path(path).write_text("body left")


async def time_out_among_handlers():
    """Await within what would keep any failure from the job."""
    while True:
        try:
            await asyncio.sleep(600)
        except (OSError, TimeoutError):
            return "taken for a failure of the network"
        except Exception as error:  # noqa: BLE001 - that it is none is what is tested
            return repr(error)


async def compute(path):
    """Never await anything."""
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            pass
    except procjobs.JobTimeout:
        Path(path).write_text("interrupted")
        raise


async def compute_in_task():
    """Compute in another task until long after the soft timeout, then let the loop go on."""

    async def compute():
        job = procjobs.current_job()
        while time.monotonic() < job.deadline - 59.0:  # the timeout is 60 s
            pass
        return "computed"

    task = asyncio.create_task(compute())
    try:
        await asyncio.sleep(600)
    except procjobs.JobTimeout:
        return await task


async def ignore_timeout(path):
    try:
        await asyncio.sleep(600)
    except procjobs.JobTimeout:
        Path(path).write_text("ignored")
    await asyncio.sleep(600)


async def sleep(seconds):
    await asyncio.sleep(seconds)
    return seconds


async def tell_and_wait(path):
    Path(f"{path}.new").write_text(str(os.getpid()))
    os.replace(f"{path}.new", path)
    await asyncio.sleep(600)


async def submit_more(number):
    """Call other jobs from within: a private pool of its own."""
    with procjobs.Pool(workers=1) as pool:
        return await pool.run(add, number, 1)


partial_add = functools.partial(functools.partial(add, 1), b=2)
