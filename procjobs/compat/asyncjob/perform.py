"""Handing a job over, and running it in a worker."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import Any, Final

from procjobs import current_job
from procjobs.compat import pickling
from procjobs.compat.asyncjob.current import running
from procjobs.compat.asyncjob.progress import asyncjobs_progress_status, tracker_for_job
from procjobs.compat.asyncjob.session_objects import refuse_session_objects
from procjobs.compat.asyncjob.trackers.memory import MemoryProgressTracker

_log: Final = logging.getLogger("tgext.asyncjob")
_ACCEPTED_WITHIN: Final = 30.0


def asyncjob_perform(what: Any, /, *args: Any, **params: Any) -> str:
    """Have `what(*args, **params)` run in the background, and return its uid: the id of the pool's job.

    Functions, lambdas, closures, bound methods and callable objects will do. Those of a module find their globals in that
    module as the worker imports it; the arguments, and the values that they close over, are copied. Raise PayloadError if
    one cannot be copied, NotStarted before `start_async_worker()`.
    """
    worker = running()
    if not callable(what):
        raise TypeError(f"{what!r} cannot be called; asyncjob_perform() takes a function and its arguments")
    name = _name_of(what)
    refuse_session_objects(name, what, args, params)
    tracker = asyncjobs_progress_status._tracker  # noqa: SLF001 - the original's name for it, used by tests
    foreign = None if tracker is None or isinstance(tracker, MemoryProgressTracker) else tracker
    job = worker.pool.options(name=name).submit(
        _run,
        pickling.dump(name, (what, args, params)),
        None if foreign is None else pickling.dump("the progress tracker", foreign),
    )
    # Another web worker may ask for its progress right now, and a job that nobody knows is taken for finished.
    job.wait_accepted(_ACCEPTED_WITHIN)
    if foreign is not None:
        foreign.track(job.id)
        # Called however the job ends, even if it has ended before it was tracked.
        job.add_done_callback(lambda _done: foreign.remove(job.id))
    return job.id


def _name_of(what: Any) -> str:
    """Return the name under which the pool would show a job of this function."""
    if not hasattr(what, "__qualname__") and (inner := getattr(what, "func", None)) is not None:  # functools.partial
        return _name_of(inner)
    name = getattr(what, "__qualname__", None) or type(what).__qualname__
    module = getattr(what, "__module__", None) or type(what).__module__
    return name if module in {"__main__", None} else f"{module}.{name}"


def _run(call: bytes, tracker: bytes | None) -> None:
    """Run a job in its worker; its result is dropped, as in the original."""
    job = current_job()
    assert job is not None
    with tracker_for_job(None if tracker is None else _load_tracker(tracker)), _logged(job.id):
        what, args, params = pickling.load(call)
        what(*args, **params)


@functools.lru_cache(maxsize=1)
def _load_tracker(pickled: bytes) -> Any:
    """Return a tracker; it keeps its connection from job to job."""
    return pickling.load(pickled)


@contextlib.contextmanager
def _logged(uid: str) -> Iterator[None]:
    try:
        yield
    except Exception:
        _log.exception("Exception in async job %s", uid)
        raise
