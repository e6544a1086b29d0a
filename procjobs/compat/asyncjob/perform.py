"""Handing a job over, and what a worker does with it."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Iterator
from typing import Any, Final

from procjobs.compat.asyncjob.progress import asyncjobs_progress_status, tracker_for_job
from procjobs.compat.asyncjob.starting import running
from procjobs.compat.asyncjob.trackers.memory import MemoryProgressTracker
from procjobs.errors import PayloadError
from procjobs.host import payload
from procjobs.worker.context import current_job

_log: Final = logging.getLogger("tgext.asyncjob")
_ACCEPTED_WITHIN: Final = 30.0


def asyncjob_perform(what: Any, /, *args: Any, **params: Any) -> str:
    """Have `what(*args, **params)` run in the background, and return its uid: the id of the pool's job.

    Functions, lambdas, closures, bound methods and callable objects will do. Those of a module find their globals in that
    module as the worker imports it; what they close over, and the arguments, are copied. Raise PayloadError for what
    cannot be copied, NotStarted before `start_async_worker()`.
    """
    from procjobs.client import orm_arguments as attached
    from procjobs.client.connection.kinds import function_name

    worker = running()
    if not callable(what):
        raise TypeError(f"{what!r} cannot be called; asyncjob_perform() takes a function and its arguments")
    if attached.ORM in sys.modules:
        attached.refuse(what, args, params)
    name = function_name(what)
    tracker = asyncjobs_progress_status._tracker  # noqa: SLF001 - the original's name for it, used by tests
    foreign = None if tracker is None or isinstance(tracker, MemoryProgressTracker) else tracker
    job = worker.pool.options(name=name).submit(
        _run, _dump(name, (what, args, params)), None if foreign is None else _dump("the progress tracker", foreign)
    )
    # Another web worker may ask for its progress right now, and what nobody knows is taken for finished.
    job.wait_accepted(_ACCEPTED_WITHIN)
    if foreign is not None:
        foreign.track(job.id)
        # Whatever ends the job, also before it was tracked, ends this.
        job.add_done_callback(lambda _done: foreign.remove(job.id))
    return job.id


def _dump(what: str, value: Any) -> bytes:
    try:
        return payload.dump_by_module(value)
    except Exception as error:
        raise PayloadError(f"{what} cannot be sent to a worker, which is another process: {error}") from error


def _run(call: bytes, tracker: bytes | None) -> None:
    """Run a job in its worker; what it returns is of no interest, as in the original."""
    job = current_job()
    assert job is not None
    with tracker_for_job(None if tracker is None else _load_tracker(tracker)), _logged(job.id):
        what, args, params = payload.loads(call)
        what(*args, **params)


@functools.lru_cache(maxsize=1)
def _load_tracker(pickled: bytes) -> Any:
    """Return a tracker; it keeps its connection from job to job."""
    return payload.loads(pickled)


@contextlib.contextmanager
def _logged(uid: str) -> Iterator[None]:
    try:
        yield
    except Exception:
        _log.exception("Exception in async job %s", uid)
        raise
