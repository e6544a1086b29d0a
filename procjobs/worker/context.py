"""The functions for the code of jobs: `progress`, `track`, `current_job`."""

from __future__ import annotations

import _thread
import contextlib
import functools
import os
import struct
import threading
from _thread import get_ident
from collections.abc import Callable, Iterable, Iterator, Sized
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

from procjobs.errors import OutsideJob, PayloadError
from procjobs.shared.checkpoints import MAX_BYTES
from procjobs.shared.ids import to_text
from procjobs.shared.meta import unpack_meta
from procjobs.shared.scheduled import datetime_of, name_of
from procjobs.shared.table.progress_writer import ProgressWriter

if TYPE_CHECKING:
    from datetime import datetime

    from procjobs.shared.table.annex import Extras
    from procjobs.worker.own_checkpoints import OwnCheckpoints

T = TypeVar("T")


class JobContext:
    """The job that this process runs.

    `deadline` is the `time.monotonic()` at which it will be stopped, None without a timeout; `attempt` counts from 1.
    """

    __slots__ = ("_extras", "_id", "_is_stopping", "_meta", "_writer", "attempt", "deadline", "name")

    def __init__(
        self, writer: ProgressWriter, job_id: bytes, name: str, attempt: int, deadline: float | None,
        is_stopping: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._writer = writer
        self._extras: Extras | None = None
        self._meta: dict[str, Any] | None = None
        self._id = job_id
        self.name = name
        self.attempt = attempt
        self.deadline = deadline
        self._is_stopping = is_stopping

    @property
    def id(self) -> str:
        """The job's id, the same as `Job.id` where it was submitted."""
        return to_text(self._id)

    @property
    def cancelled(self) -> bool:
        """Whether this job is being stopped: cancelled, timed out, or its pool is ending.

        At the same moment JobCancelled, JobTimeout or JobStalled is raised in the job's thread; this is for its other
        threads, and for code that catches it. The job has the grace period to clean up.
        """
        return self._is_stopping()

    @property
    def meta(self) -> dict[str, Any]:
        """The dict that the submitter gave with `options(meta=...)`, {} if none was given.

        Raise OutsideJob if the job has ended, or the pool's directory was removed.
        """
        if self._meta is None:
            self._meta = unpack_meta(self._read_extras("meta").meta)
        return self._meta

    @property
    def schedule(self) -> str | None:
        """The name of the schedule that has made this job, None for other jobs. Raise OutsideJob as `meta` does."""
        return name_of(self._read_extras("schedule").schedule)

    @property
    def scheduled_for(self) -> datetime | None:
        """The time for which the schedule has made this job, an aware datetime in UTC; None for other jobs.

        It is that of the schedule's rule, whenever the job starts, and is the same in every attempt, and in jobs that repeat
        this one. Raise OutsideJob as `meta` does.
        """
        return datetime_of(self._read_extras("schedule").scheduled_for)

    def _read_extras(self, what: str) -> Extras:
        if self._extras is None:
            self._extras = self._writer.read_extras(self._id)
            if self._extras is None:
                text = f"the {what} of job {self.id} {self.name} cannot be read: the job, or its pool, has ended"
                raise OutsideJob(text)
        return self._extras

    @property
    def checkpoint(self) -> Any:
        """What the job has handed over last with `procjobs.checkpoint`, in an earlier attempt or in this one; else None.

        It is unpickled each time. Raise PayloadError if that fails.
        """
        own = _checkpoints
        data = own.load(self._id) if own is not None else None
        if data is None:
            return None
        from procjobs.host.payload import loads

        try:
            return loads(data)
        except Exception as error:
            text = f"the checkpoint of job {self.id} {self.name} could not be unpickled: {type(error).__name__}: {error}"
            raise PayloadError(text) from error

    def __repr__(self) -> str:
        return f"<JobContext {self.id} {self.name} attempt {self.attempt}>"


_Facts = tuple[bytes, str, int, float | None, Callable[[], bool]]

_facts: _Facts | None = None
"""The fields of a JobContext. It is made on demand, for few jobs ask for it, and to make one costs 0.6 us."""
_current: tuple[_Facts, JobContext] | None = None
_writer: ProgressWriter | None = None
_checkpoints: OwnCheckpoints | None = None
"""Those of this process, where it is a worker."""

# The worker runs jobs in its main thread. Of the other threads, those belong to the job that it has started itself, or
# through others of them; and those that run in a copy of its context. A thread that an earlier job has left does not.
_main: int = 0
_of_context: ContextVar[_Facts | None] = ContextVar("procjobs job", default=None)
_leaving = threading.Lock()
"""Held by other threads while they report: a job does not end, and another one begin, in the middle of that."""
_INFINITE: Final = float("inf")
_NO_NUMBERS: Final = frozenset({"bool", "bool_", "str", "bytes"})
_STARTED_FOR: Final = "_procjobs_started_for"
_NO_JOB: Final[_Facts] = (b"", "", 0, None, bool)
"""That of raw threads (`_thread`) which no job has started."""


def _job_of_thread() -> _Facts | None:
    """Return the job that the calling thread belongs to, None if it is none, or one that has ended."""
    facts = _facts
    if facts is None or get_ident() == _main:
        return facts
    of_context = _of_context.get()
    if of_context is not None:
        return facts if of_context is facts else None
    # A thread of a native library, which Python has not started, calls back for the job that runs.
    started_for = getattr(threading.current_thread(), _STARTED_FOR, facts)
    return facts if started_for is facts else None


def is_left_over() -> bool:
    """Return whether a job runs, and the calling thread is one of an earlier job."""
    return _facts is not None and _job_of_thread() is None


def follow_threads() -> None:
    """From now on, note of each thread for which job it is started. For the main thread of a worker."""
    global _main
    _main = get_ident()
    start, start_raw = threading.Thread.start, _thread.start_new_thread

    @functools.wraps(start)
    def start_for_job(thread: threading.Thread) -> None:
        setattr(thread, _STARTED_FOR, _job_of_thread())
        start(thread)

    @functools.wraps(start_raw)
    def start_raw_for_job(function: Callable[..., Any], args: tuple[Any, ...], *kwargs: dict[str, Any]) -> int:
        context = Context()
        context.run(_of_context.set, _job_of_thread() or _NO_JOB)
        return start_raw(context.run, (function, *args), *kwargs)

    threading.Thread.start = start_for_job  # type: ignore[assignment]
    _thread.start_new_thread = _thread.start_new = start_raw_for_job


def current_job() -> JobContext | None:
    """Return the job that this process is running, None outside a job.

    A child process of a job is outside, and so is a thread that an earlier job has left running.
    """
    global _current
    facts, current, writer = _job_of_thread(), _current, _writer
    if facts is None or writer is None:
        return None
    if current is None or current[0] is not facts:
        current = _current = facts, JobContext(writer, *facts)
    return current[1]


def progress(value: float, total: float | None = None, message: str | None = None, data: Any = None) -> None:
    """Report how far the job is; any process of the host reads it with `Pool.progress(job_id)`.

    `value` and `total` are in a unit of the job's choice: `progress(40, 100)`. Without a total, a float from 0.0 to 1.0 is
    the finished part: `progress(0.4)`, and `progress(1.0)` is all of it. Any other number, and an int always, is a count of
    things of which the total is not known: `progress(1)` is one thing. `message` is text for people; `data` any picklable
    object (None means no data). Raise TypeError for what is no number, ValueError for nan, infinity and a negative total.

    Never blocks: it writes some 200 bytes of shared memory; a long message or large data go into a file. Outside a job it
    does nothing, so that a function that reports can also be called directly; nor does it in a thread that an earlier job
    has left running. A thread that serves several jobs reports in a copy of the context of each:
    `executor.submit(contextvars.copy_context().run, function)`.
    """
    writer = _writer
    if writer is None:
        return
    dumped = None if data is None else _dump(data)
    if get_ident() == _main:
        _report(writer, value, total, message, dumped)
        return
    with _leaving:
        if _job_of_thread() is not None:
            _report(writer, value, total, message, dumped)


def _report(writer: ProgressWriter, value: float, total: float | None, message: str | None, data: bytes | None) -> None:
    if type(value) is not int or (total is not None and type(total) is not int):
        value, total = _to_numbers(value, total)
    if total is not None and total < 0:
        raise ValueError(f"progress({value!r}, {total!r}): a total is 0 or more, or None where it is not known")
    try:
        if message is None and data is None:
            writer.report(value, total)
        else:
            writer.report_more(value, total, message, data)
    except (struct.error, OverflowError):
        raise ValueError(f"progress({value!r}, {total!r}): the numbers are too large") from None


def _to_numbers(value: Any, total: Any) -> tuple[float, float | None]:
    """Return what was reported as numbers that can be written, a fraction with its total."""
    number = value if type(value) is float else _to_number(value, value, total)
    if total is not None:
        total = total if type(total) is float else _to_number(total, value, total)
        if not total < _INFINITE:
            raise ValueError(f"progress({value!r}, {total!r}): a total is a number, or None where it is not known")
    elif type(number) is float and 0.0 <= number <= 1.0:
        total = 1.0
    if not -_INFINITE < number < _INFINITE:
        raise ValueError(f"progress({value!r}): this is no progress; write progress(40, 100), or progress(0.4)")
    return number, total


def _to_number(given: Any, value: Any, total: Any) -> float:
    """Return a number of any type, such as numpy's, as an int or a float."""
    kind = type(given)
    if kind.__name__ not in _NO_NUMBERS:
        for method in ("__index__", "__float__"):
            with contextlib.suppress(TypeError, AttributeError):
                number: float = getattr(kind, method)(given)
                return number
    both = f"{value!r}" if total is None else f"{value!r}, {total!r}"
    raise TypeError(f"progress({both}): {given!r} is no number; write progress(40, 100), or progress(0.4) for 40 %")


def _dump(data: Any) -> bytes:
    from procjobs.host.payload import dump_inline  # a worker has it already; `import procjobs` goes without cloudpickle

    return dump_inline(data)


def checkpoint(data: Any) -> None:
    """Keep how far the job is, so that its next attempt goes on from there: it reads `current_job().checkpoint`.

    `data` is any picklable object, of at most 1 MiB as pickled; it takes the place of the one before. It is there after the
    death of this process, for a retry, and for `Pool.retry(id)`; with a store also for the next supervisor, whatever has
    become of this one: some 0.1 s after this call. It goes when the job has succeeded. Writes a file in memory: some 50 us.

    Raise PayloadError for data that cannot be pickled or is larger; OSError if the host has no room for it: then the
    checkpoint before is kept. Outside a job it does nothing, as `progress`.
    """
    own, facts = _checkpoints, _job_of_thread()
    if own is None or facts is None:
        return
    try:
        dumped = _dump(data)
    except Exception as error:
        raise PayloadError(f"the checkpoint of {facts[1]} could not be pickled: {type(error).__name__}: {error}") from error
    if len(dumped) > MAX_BYTES:
        raise PayloadError(
            f"the checkpoint of {facts[1]} has {len(dumped)} bytes, and {MAX_BYTES} are allowed. Write it to a file that "
            "lasts, and hand its path over"
        )
    if get_ident() == _main:
        own.save(facts[0], dumped)
        return
    with _leaving:
        if _job_of_thread() is facts:
            own.save(facts[0], dumped)


def keep_checkpoints(own: OwnCheckpoints) -> None:
    """Let the jobs of this process hand checkpoints over; the worker calls it, once."""
    global _checkpoints
    _checkpoints = own


def track(iterable: Iterable[T], total: float | None = None, message: str | None = None) -> Iterator[T]:
    """Yield the items, and report after each one how many have been worked on; `total` defaults to `len(iterable)`."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    progress(0, total, message)
    for count, item in enumerate(iterable, 1):
        yield item
        progress(count, total, message)


def enter_job(facts: _Facts, writer: ProgressWriter) -> None:
    """Make this the job of the functions above; the worker calls it."""
    global _facts, _writer
    _facts, _writer = facts, writer


def enter_context() -> None:
    """Note in the context of the calling thread that it is the job's; the worker calls it in the copy made for the job."""
    _of_context.set(_facts)


def leave_job() -> None:
    """Say that no job runs."""
    global _facts, _current, _writer
    if _thread._count():  # noqa: SLF001 - threading.active_count takes a lock, and does not see all of them
        with _leaving:
            _facts = _current = _writer = None
    else:
        _facts = _current = _writer = None


def _forget_in_child() -> None:
    """Be outside the job: a row has one writer, the process of the worker. Its children must not write there."""
    global _facts, _current, _writer, _checkpoints, _leaving
    _facts = _current = _writer = _checkpoints = None
    _leaving = threading.Lock()  # another thread may have held it


os.register_at_fork(after_in_child=_forget_in_child)
