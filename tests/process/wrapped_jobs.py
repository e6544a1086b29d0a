"""Wrappers, and the jobs inside of them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time

import procjobs
from tests.process.limited_jobs import write

trace = contextvars.ContextVar("trace", default=())


def note(text):
    trace.set((*trace.get(), text))


def own_trace():
    """Return which wrappers are around this job."""
    return trace.get()


async def own_trace_in_a_coroutine():
    await asyncio.sleep(0)
    return trace.get()


@contextlib.contextmanager
def outer(job):
    note(f"outer {job.name.rpartition('.')[2]} {job.attempt} {job is procjobs.current_job()}")
    yield


@contextlib.contextmanager
def inner(job):
    note("inner")
    yield


@contextlib.asynccontextmanager
async def in_loop(job):
    await asyncio.sleep(0)
    note("in the loop")
    yield


class Both:
    """A context manager of both kinds is an ordinary one."""

    def __init__(self, job):
        self.job = job

    def __enter__(self):
        note("both")

    def __exit__(self, *_):
        pass


class Named:
    """A place for a wrapper below the module."""

    wrapper = staticmethod(inner)


@contextlib.contextmanager
def refusing(job):
    raise PermissionError("the user has no quota")
    yield


@contextlib.contextmanager
def failing_at_the_end(job):
    yield
    raise ValueError("the commit failed")


@contextlib.contextmanager
def swallowing(job):
    with contextlib.suppress(ZeroDivisionError, PermissionError, procjobs.JobCancelled):
        yield


@contextlib.asynccontextmanager
async def swallowing_in_loop(job):
    with contextlib.suppress(ZeroDivisionError):
        yield


def no_manager(job):
    return 5


def divide():
    return 1 / 0


async def divide_in_a_coroutine():
    return 1 / 0


def sleep(path):
    write(path)
    time.sleep(600)  # job


@contextlib.contextmanager
def slow_at_the_end(job):
    """Take a while at the end, in which the job is interrupted: that must not cut it short."""
    if not job.name.endswith("end_at_once"):
        yield
        return
    failed = None
    try:
        yield
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        failed = error
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        time.sleep(0.01)  # job
    write(slow_at_the_end.path, repr(failed))


def end_at_once(path):
    slow_at_the_end.path = path
    write(path + ".begun")
