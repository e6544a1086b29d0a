"""The worker process.

1. It runs one job at a time, in its main thread. It reads one job, runs it, sends the answer, and only then reads on, so
   what it has not read can be given to another worker.
2. Before anything of a job is run or unpickled, it marks in the job's row that it has begun it.
3. It leads a session of its own: whatever a job starts can be ended with it.
4. It ends when the supervisor closes its pipe, and is killed by the kernel when the supervisor dies.
5. An answer is sent whole or not at all; a worker that cannot send it ends.
"""

from __future__ import annotations

import base64
import contextlib
import faulthandler
import json
import logging
import os
import signal
import socket
import sys
import traceback
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from procjobs.clock import NEVER, monotonic
from procjobs.errors import JobTimeout
from procjobs.host import descriptors, observe, payload, process
from procjobs.shared.coroutines import is_coroutine_function
from procjobs.shared.ids import to_text
from procjobs.shared.states import Reason
from procjobs.shared.table.progress_writer import ProgressWriter
from procjobs.shared.wire import (
    FINISHED_FRAME,
    JOB,
    JOB_ASIDE,
    MAX_FRAME_BYTES,
    MAX_INLINE_BYTES,
    MAX_JOB_BYTES,
    MAX_PACKET_BYTES,
    U64,
    Frame,
    Outcome,
    frame,
    limit_text,
    parse_json,
)
from procjobs.worker import context
from procjobs.worker.context import current_job, enter_job, leave_job

if TYPE_CHECKING:
    from procjobs.worker.awaiting import AwaitedJob

_MAX_TRACEBACK_BYTES: Final = 16 * 1024
_MAX_MESSAGE_BYTES: Final = 4096
_END_CHILDREN_SECONDS: Final = 5.0
_QUICKEST_FORK: Final = 20e-6
"""In less than this no job starts a process (a fork takes 100 us and more); to look for one costs 1.1 us."""
_RETURNED, _NO_REASON = int(Outcome.RETURNED), int(Reason.NONE)
_ON_THE_WAY: Final = {__file__}
"""The files of the frames between this module's and the job's own."""
# JSON may make six bytes of one, and all of it has to fit into a frame beside the inline part of a payload.
assert 6 * (_MAX_TRACEBACK_BYTES + 3 * _MAX_MESSAGE_BYTES) + MAX_INLINE_BYTES < MAX_FRAME_BYTES


class WorkerSetup(NamedTuple):
    """What every worker of a template has in common; `initializer`, `database`: base64 of a pickled call, or None."""

    table_fd: int
    rows_offset: int
    directory: str
    initializer: str | None
    nice: int
    database: str | None = None


class _Kind:
    """Name, limits and function of a kind of jobs; the function is unpickled when it is first called.

    `awaits` says of the function that was loaded last whether it is a coroutine function.
    """

    __slots__ = ("awaits", "function", "keeps_children", "measures", "name", "pickled", "records", "soft_timeout", "timeout")

    def __init__(self, description: dict[str, Any], pickled: bytes) -> None:
        self.name: str = description["name"]
        self.timeout: float | None = description["timeout"]
        self.soft_timeout: float | None = description["soft_timeout"]
        self.keeps_children: bool = description["keep_children"]
        self.measures: bool = description["measures"]
        self.records: bool = description.get("records", False)
        self.pickled = pickled
        self.function: Any = None
        self.awaits = False

    def load_call(self, inline: bytes, received: payload.Received | None) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Return (function, args, kwargs); runs whatever code their unpickling runs."""
        if self.pickled and self.function is None:
            self.function = payload.loads(self.pickled)
            self.awaits = is_coroutine_function(self.function)
        call = payload.loads(inline) if received is None else received.load()
        if self.pickled:
            return (self.function, *call)
        self.awaits = is_coroutine_function(call[0])
        return call  # type: ignore[no-any-return]


_Answer = tuple[int, int, float, bytes, bytes, int | None]
"""What a job has come to: outcome, reason, seconds, JSON (of a failure), inline part of the payload, its descriptor."""


class _Unpicklable(Exception):
    """What could not be pickled or unpickled, with the error that said so as its cause."""


class Worker:
    """Runs the jobs that come in, until there are no more."""

    def __init__(self, setup: WorkerSetup, slot: int, jobs: int, side: socket.socket, answers: int) -> None:
        self._jobs = jobs
        self._side = side
        self._answers = answers
        self._directory = setup.directory
        self._slot = slot
        self._pid = os.getpid()
        self._writer = ProgressWriter(setup.table_fd, setup.rows_offset, setup.directory)
        self._kinds: dict[int, _Kind] = {}
        self._kept_children = observe.own_children() if process.has_children() else set()
        self._may_interrupt_at = NEVER
        self._awaited: AwaitedJob | None = None
        self._received: payload.Received | None = None  # until the answer is sent: 100 MB take 6 ms to give back
        self._streams = sys.stdout, sys.stderr
        self._nice = setup.nice
        self._yields = not self._nice
        self._meter = observe.Meter()
        signal.signal(process.SOFT_SIGNAL, self._on_soft_timeout)

    def run(self) -> None:
        """Read a job, run it, answer; return when the supervisor closes the pipe."""
        write_all(self._answers, frame(Frame.READY, U64.pack(observe.own_rss())))
        while message := os.read(self._jobs, MAX_PACKET_BYTES):
            if message != JOB_ASIDE:
                self._run_job(message, None)
                continue
            message, fds, _ = descriptors.receive(self._side, MAX_JOB_BYTES, descriptors.ROOM_FOR_ONE)
            self._run_job(message, fds[0] if fds else None)

    def _run_job(self, message: bytes, fd: int | None) -> None:
        job_id, number, row, attempt, json_length, function_length = JOB.unpack_from(message)
        self._writer.begin(row, job_id, attempt)
        position = JOB.size
        if json_length:
            description = parse_json(message[position : position + json_length])
            position += json_length
            self._learn_kind(number, description, message[position : position + function_length])
            position += function_length
        kind = self._kinds[number]
        if not self._yields:
            self._yields = process.try_yield_as_group(self._nice)
        if kind.records:
            self._meter.begin()
        started = monotonic()
        enter_job((job_id, kind.name, attempt, kind.timeout and started + kind.timeout, self._is_stopping), self._writer)
        if kind.soft_timeout is not None:
            self._may_interrupt_at = started + kind.soft_timeout / 2
        try:
            answer = self._attempt(job_id, attempt, kind, message[position:], fd, started)
            self._may_interrupt_at = NEVER
        except JobTimeout as error:  # the soft timeout came between two lines of this module; it comes once
            answer = self._describe_exception(job_id, attempt, error, monotonic() - started)
        finally:
            leave_job()
        if os.getpid() != self._pid:
            os._exit(0)  # the job forked and came back in both processes: there is one answer, and it is the worker's
        self._flush_output()
        outcome, reason, seconds, text, inline, result_fd = answer
        if seconds > _QUICKEST_FORK and process.has_children():
            self._end_children(kind)
        rss_bytes = observe.own_rss() if kind.measures else 0
        if kind.records:
            text = _with_usage(text, self._meter.usage(seconds))
        length = FINISHED_FRAME.size + len(text) + len(inline)
        head = length, Frame.FINISHED, result_fd is not None, 0, job_id
        answer_frame = FINISHED_FRAME.pack(*head, outcome, reason, attempt, seconds, rss_bytes, len(text)) + text + inline
        self._send(answer_frame, result_fd)
        self._received = None

    def _attempt(
        self, job_id: bytes, attempt: int, kind: _Kind, inline: bytes, fd: int | None, started: float
    ) -> _Answer:
        """Run the job and return its answer, whatever it raises, but for SystemExit."""
        try:
            return self._call(kind, inline, fd, started)
        except _Unpicklable as error:
            text = json.dumps({"message": str(error), "traceback": _format(error.__cause__)}).encode()
            return Outcome.UNPICKLABLE, Reason.PAYLOAD, monotonic() - started, text, b"", None
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 - the edge around the user's job: everything it raises is its answer
            return self._describe_exception(job_id, attempt, error, monotonic() - started)

    def _on_soft_timeout(self, _number: int, frame: FrameType | None) -> None:
        """Raise JobTimeout in the job; one that was sent for the job before is too early for this one, and ignored."""
        if monotonic() >= self._may_interrupt_at and os.getpid() == self._pid:
            self._may_interrupt_at = NEVER
            job = current_job()
            assert job is not None
            error = JobTimeout(
                f"job {job.id} {job.name} ran longer than its soft_timeout (attempt {job.attempt})",
                job_id=job.id,
                attempt=job.attempt,
            )
            if self._awaited is None:
                raise error
            self._awaited.interrupt(error, frame)

    def _flush_output(self) -> None:
        with contextlib.suppress(Exception):  # the job has closed or replaced them
            sys.stdout.flush()
            sys.stderr.flush()
        sys.stdout, sys.stderr = self._streams

    def _end_children(self, kind: _Kind) -> None:
        """End what the job has started and not ended, or note that it is to be kept.

        Helpers of multiprocessing serve later jobs too, and end with the worker by themselves.
        """
        if kind.keeps_children:
            self._kept_children |= observe.own_children()
        else:
            process.end_children(self._kept_children | _multiprocessing_helpers(), _END_CHILDREN_SECONDS)

    def _learn_kind(self, number: int, description: dict[str, Any], function: bytes) -> None:
        if description.get("forget"):
            self._kinds.clear()
        self._kinds[number] = _Kind(description, function)

    def _is_stopping(self) -> bool:
        return self._writer.is_stopping(self._slot)

    def _call(self, kind: _Kind, inline: bytes, fd: int | None, started: float) -> _Answer:
        try:
            if fd is not None:
                self._received = payload.Received(inline, fd)
            function, args, kwargs = kind.load_call(inline, self._received)
        except JobTimeout:
            raise
        except Exception as error:
            raise _Unpicklable(
                f"the function or the arguments of {kind.name} could not be unpickled in the worker: {_line(error)}. "
                "Can the worker import what they are made of?"
            ) from error
        if context.surroundings is None:
            return self._perform(kind, function, args, kwargs, started)
        answer = None
        try:
            with context.surroundings():
                try:
                    answer = self._perform(kind, function, args, kwargs, started)
                finally:
                    self._may_interrupt_at = NEVER  # the soft limit is the job's own, and is over before the commit
        except BaseException:
            if answer is not None and answer[-1] is not None:
                os.close(answer[-1])
            raise
        return answer

    def _perform(
        self, kind: _Kind, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], started: float
    ) -> _Answer:
        if not kind.awaits:
            return self._answer_with(kind, function(*args, **kwargs), started)
        from procjobs.worker import awaiting  # with asyncio, which ordinary functions do without

        _ON_THE_WAY.update(awaiting.FILES)
        job = awaiting.AwaitedJob(lambda: function(*args, **kwargs))
        self._awaited = job
        try:
            return job.run(lambda result: self._answer_with(kind, result, started), context.async_surroundings)
        finally:
            self._awaited = None

    def _answer_with(self, kind: _Kind, result: Any, started: float) -> _Answer:
        seconds = monotonic() - started
        try:
            result_inline, result_fd = payload.dump(result, self._directory, (result,))
        except JobTimeout:
            raise
        except Exception as error:
            raise _Unpicklable(
                f"the result of {kind.name}, of type {type(result).__name__}, could not be pickled: {_line(error)}"
            ) from error
        return _RETURNED, _NO_REASON, seconds, b"", result_inline, result_fd

    def _describe_exception(self, job_id: bytes, attempt: int, error: BaseException, seconds: float) -> _Answer:
        details = {
            "type": _type_name(error),
            "message": limit_text(_text(error), _MAX_MESSAGE_BYTES),
            "traceback": _format(error),
        }
        try:
            inline, fd = payload.dump(error, self._directory)
        except Exception as pickling:  # noqa: BLE001 - the account of the failure goes without the exception itself
            details["unpicklable"] = _line(pickling)
            inline, fd = b"", None
        is_own = isinstance(error, JobTimeout) and (error.job_id, error.attempt) == (to_text(job_id), attempt)
        text = json.dumps(details).encode()
        return Outcome.RAISED, Reason.TIMEOUT if is_own else Reason.RAISED, seconds, text, inline, fd

    def _send(self, answer: bytes, fd: int | None) -> None:
        if fd is not None:
            try:
                socket.send_fds(self._side, [b"\0"], [fd])
            finally:
                os.close(fd)
        write_all(self._answers, answer)


def _with_usage(text: bytes, usage: dict[str, float]) -> bytes:
    """Return the JSON of an answer with what the attempt has used, which is all that a success has to say."""
    added = json.dumps(usage).encode()
    return text[:-1] + b", " + added[1:] if text else added


def write_all(fd: int, data: bytes) -> None:
    """Write to a pipe; a signal handler may cut a write short."""
    while data := data[os.write(fd, data) :]:
        pass


def _type_name(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__[-200:]
    return name if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__[-200:]}.{name}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception whose __str__ fails is the user's, and must not take the worker down
        return "<its text cannot be had: __str__ failed>"


def _line(error: BaseException) -> str:
    return limit_text(f"{_type_name(error)}: {_text(error)}", _MAX_MESSAGE_BYTES - 1024)


def _format(error: BaseException | None) -> str:
    """Return the traceback from the first frame that is the job's."""
    if error is None:
        return ""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in _ON_THE_WAY:
        trace = trace.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, trace))
    except Exception:  # noqa: BLE001 - see _text
        text = f"{_type_name(error)} (its traceback cannot be formatted)"
    return limit_text(text, _MAX_TRACEBACK_BYTES)


def run_worker(setup: WorkerSetup, slot: int, fds: list[int]) -> NoReturn:
    """Run a worker in this freshly forked process, and end the process.

    `fds`: its pipe with jobs, the socket beside, its pipe for answers, its standard output and error, and where it tells its
    stack; see procjobs.supervisor.workers.worker_link.
    """
    status = 1
    try:
        jobs, side, answers = fds[0], socket.socket(fileno=fds[1]), fds[2]
        _settle_in(setup, slot, fds[3:])
        if _initialize(setup, answers):
            Worker(setup, slot, jobs, side, answers).run()
            status = 0
    except SystemExit as request:
        status = _exit_status(request)
    except (BrokenPipeError, ConnectionResetError):
        status = 0  # the supervisor is gone
    except BaseException:  # noqa: BLE001 - the end of the process: there is nobody above to tell but standard error
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status)


def _settle_in(setup: WorkerSetup, slot: int, fds: list[int]) -> None:
    """Undo what belongs to the template only, and make this process answerable for whatever its jobs start."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if setup.nice:
        os.nice(setup.nice)
    process.set_title(f"procjobs-{slot}")
    process.become_subreaper()
    process.offer_to_oom_killer()
    stdout, stderr, stack = fds
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    process.line_buffer_c_output()
    faulthandler.enable(file=2)
    faulthandler.register(process.STACK_SIGNAL, file=stack, all_threads=True)

    def tell(_number: int, _frame: object) -> None:
        faulthandler.dump_traceback(file=stack, all_threads=True)
        os.write(stack, process.STACK_END)

    signal.signal(process.TELL_SIGNAL, tell)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    _set_up_logging()
    if "numpy.random" in sys.modules:  # random reseeds itself after a fork; numpy would repeat itself in every worker
        sys.modules["numpy.random"].seed()


def _set_up_logging() -> None:
    """Give every log record a `job_id`, and log to standard error from INFO on unless the preload has set up logging."""
    make_record = logging.getLogRecordFactory()

    def make_with_job(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        job = current_job()
        record.job_id = job.id if job is not None else "-"
        return record

    logging.setLogRecordFactory(make_with_job)
    if not logging.root.handlers:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")


def _multiprocessing_helpers() -> set[int]:
    """Return the pids of the processes that the multiprocessing package keeps beside this one."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    return {getattr(tracker, "_pid", None) or 0, getattr(server, "_forkserver_pid", None) or 0} - {0}


def _initialize(setup: WorkerSetup, answers: int) -> bool:
    for what, pickled in (("database", setup.database), ("initializer", setup.initializer)):
        if pickled is None:
            continue
        try:
            function, args = payload.loads(base64.b64decode(pickled))
            function(*args)
        except Exception as error:  # noqa: BLE001 - the edge around the user's initializer
            text = f"the {what} failed: {_line(error)}\n{_format(error)}"
            write_all(answers, frame(Frame.INIT_FAILED, limit_text(text, 32_000).encode()))
            return False
    return True


def _exit_status(request: SystemExit) -> int:
    """Return the status that the interpreter would end with."""
    if request.code is None:
        return 0
    if isinstance(request.code, int):
        return request.code & 0xFF
    print(request.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
    return 1
