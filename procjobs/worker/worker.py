"""The worker process.

1. It runs one job at a time, in its main thread. It reads one job, runs it, sends the answer, and only then reads on. So
   the supervisor can give unread jobs to another worker.
2. Before any code of a job is run or unpickled, the worker marks in the job's row that it has begun it.
3. It leads a session of its own: everything that a job starts can be ended with it.
4. It ends when the supervisor closes its pipe, and is killed by the kernel when the supervisor dies.
5. An answer is sent whole or not at all; a worker that cannot send it ends.
6. Each job finds what the initializer has left (`baseline`). Where that cannot be put back, the worker ends after it.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import json
import os
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

from procjobs.clock import NEVER, monotonic
from procjobs.errors import JobTimeout
from procjobs.host import descriptors, observe, payload, process
from procjobs.host.descriptors import Descriptor
from procjobs.shared.coroutines import is_coroutine_function
from procjobs.shared.ids import to_text
from procjobs.shared.states import Reason
from procjobs.shared.table.progress_writer import ProgressWriter
from procjobs.shared.wire import (
    FINISHED_FRAME,
    JOB,
    JOB_ASIDE,
    MAX_JOB_BYTES,
    MAX_PACKET_BYTES,
    NO_PIPES_STATUS,
    U64,
    Frame,
    Outcome,
    frame,
    limit_text,
    parse_json,
)
from procjobs.worker import ending, scheduled_time, wrappers
from procjobs.worker.argument_text import ArgumentRecorder
from procjobs.worker.baseline import FIRST, QUICK, Baseline
from procjobs.worker.caller import become_caller, explain_loading
from procjobs.worker.children import Children
from procjobs.worker.context import current_job, enter_context, enter_job, keep_checkpoints, leave_job
from procjobs.worker.exceptions import (
    MAX_MESSAGE_BYTES,
    OWN_FILES,
    format_line,
    format_message,
    format_traceback,
    name_type,
)
from procjobs.worker.interruption import INTERRUPTIONS, Interruptions
from procjobs.worker.loaded_files import LOADED_FILES
from procjobs.worker.own_checkpoints import OwnCheckpoints
from procjobs.worker.own_descriptors import apart_from_standard
from procjobs.worker.startup import WorkerSetup, exit_status, initialize, settle_in

_CLEAN_UP_SHARE: Final = 0.8
"""The part of the grace period after which the children of a job that was stopped are killed, and the worker goes on."""
_QUICKEST_FORK: Final = 20e-6
"""In less than this no job starts a process (a fork takes 100 us and more); to look for one costs 1.1 us."""
_RETURNED, _NO_REASON = int(Outcome.RETURNED), int(Reason.NONE)

OWN_FILES.add(__file__)


class _Kind:
    """Name, limits and function of a kind of jobs; the function is unpickled when it is first called.

    `awaits` says whether the function that was loaded last is a coroutine function, `looks` after how many more
    jobs everything is looked at that they may have left.
    """

    __slots__ = (
        "awaits", "caller", "function", "grace_period", "keeps_children", "looks", "measures", "name", "pickled", "records",
        "soft_timeout", "timeout",
    )  # fmt: skip

    def __init__(self, description: dict[str, Any], pickled: bytes) -> None:
        self.name: str = description["name"]
        self.timeout: float | None = description["timeout"]
        self.soft_timeout: float | None = description["soft_timeout"]
        self.grace_period: float = description["grace_period"]
        self.keeps_children: bool = description["keep_children"]
        self.measures: bool = description["measures"]
        self.records: bool = description.get("records", False)
        self.caller: dict[str, Any] = description["caller"]
        self.pickled = pickled
        self.function: Any = None
        self.awaits = False
        self.looks = FIRST

    def load_call(self, inline: bytes, received: payload.Received | None) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Return (function, args, kwargs); their unpickling may run any code."""
        if self.pickled and self.function is None:
            with scheduled_time.kept():
                self.function = payload.loads(self.pickled)
            self.awaits = is_coroutine_function(self.function)
        call = payload.loads(inline) if received is None else received.load()
        if self.pickled:
            return (self.function, *call)
        self.awaits = is_coroutine_function(call[0])
        return call  # type: ignore[no-any-return]


_Answer = tuple[int, int, float, bytes, bytes, Descriptor | None]
"""The end of an attempt: outcome, reason, seconds, JSON (of a failure), inline part of the payload, its descriptor."""


_LOST: Final = -1
"""In the place of a descriptor that this process had no room for: earlier jobs have left files open."""


class NoPipesError(Exception):
    """The job has closed the pipes of its worker, or has opened files in their place: an answer would go into these."""


class _Unpicklable(Exception):
    """Something could not be pickled or unpickled; its cause is the error of that."""


class Worker:
    """Runs the jobs that come in, until there are no more."""

    def __init__(
        self, setup: WorkerSetup, slot: int, *, jobs: int, side: socket.socket, answers: int, stack: int
    ) -> None:
        self._jobs = jobs
        self._side = side
        self._answers = answers
        self._directory = setup.directory
        self._pid = os.getpid()
        self._writer = ProgressWriter(setup.table_fd, setup.rows_offset, setup.directory, slot)
        self._kinds: dict[int, _Kind] = {}
        self._children = Children()
        self._interruptions = Interruptions(self._writer, slot)
        self._threads = _thread._count()  # noqa: SLF001 - as in context.py
        self._received: payload.Received | None = None  # until the answer is sent: 100 MB take 6 ms to give back
        self._nice = setup.nice
        self._yields = not self._nice
        self._recorder = ArgumentRecorder(setup.directory) if setup.record_arguments else None
        self._meter = observe.Meter()
        self._baseline = Baseline(answers=answers, side=side.fileno(), others=(jobs, stack, setup.table_fd), stack=stack)
        keep_checkpoints(OwnCheckpoints(setup.directory, self._tell))

    def run(self) -> None:
        """Read a job, run it, answer; return when the supervisor closes the pipe, or this process is spent.

        Raise NoPipesError after a job for which there can be no answer.
        """
        write_all(self._answers, frame(Frame.READY, U64.pack(observe.own_rss())))
        while message := os.read(self._jobs, MAX_PACKET_BYTES):
            if message != JOB_ASIDE:
                is_spent = self._run_job(message, None)
            else:
                message, fds, is_lost = descriptors.receive(self._side, MAX_JOB_BYTES, descriptors.ROOM_FOR_ONE)
                is_spent = self._run_job(message, fds[0] if fds else _LOST if is_lost else None)
            if is_spent:
                return

    def _run_job(self, message: bytes, fd: int | None) -> bool:
        """Run a job and answer it; return whether the worker is spent, since not everything could be put back."""
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
        if self._recorder is not None:
            self._recorder.begin(row, job_id)
        interruptions = self._interruptions
        deadline = kind.timeout and started + kind.timeout
        enter_job((job_id, kind.name, attempt, deadline, interruptions.is_stopping), self._writer)
        interruptions.soft_at = NEVER if kind.soft_timeout is None else started + kind.soft_timeout / 2
        answer: _Answer | None = None
        try:
            answer = self._baseline.run(self._attempt, job_id, attempt, kind, message[position:], fd, started)
            interruptions.is_open = False
            lost, answer = self._clean_up(kind, answer)
        except BaseException as error:  # noqa: BLE001 - a signal handler raised it between two lines of this module
            interruptions.is_open = False
            self._baseline.disarm()
            if answer is None:
                answer = self._describe_exception(job_id, attempt, error, monotonic() - started)
            lost, answer = self._clean_up(kind, answer)
        self._send(job_id, attempt, kind, answer, lost)
        self._received = None
        return bool(lost)

    def _clean_up(self, kind: _Kind, answer: _Answer) -> tuple[str, _Answer]:
        """Put back what the job has changed, and end what it has started; return what is lost, and the answer to send."""
        if os.getpid() != self._pid:
            os._exit(0)  # the job forked and came back in both processes: the worker's process gives the one answer
        file = answer[-1]
        self._baseline.streams.flush()
        if file is not None:
            answer = answer[0], answer[1], answer[2], answer[3], answer[4], apart_from_standard(file)
        thoroughly = kind.looks > 0 or answer[2] > QUICK or answer[0] != _RETURNED
        has_left, lost = self._baseline.put_back(thoroughly=thoroughly)
        if has_left:
            kind.looks = 4 * FIRST
        elif kind.looks:
            kind.looks -= 1
        leave_job()
        patience = 0.0
        if self._interruptions.order is not None:
            patience = self._interruptions.forget_order(kind.grace_period * _CLEAN_UP_SHARE)
            if _thread._count() > self._threads:  # noqa: SLF001 - as in context.py
                lost = lost or "a thread of a job that was stopped"
        if answer[2] > _QUICKEST_FORK and process.has_children():
            self._children.end(are_kept=kind.keeps_children and not patience, patience=patience)
        return lost, answer

    def _attempt(
        self, job_id: bytes, attempt: int, kind: _Kind, inline: bytes, fd: int | None, started: float
    ) -> _Answer:
        """Run the job and return its answer; any exception is an answer, too."""
        enter_context()
        try:
            return self._call(kind, inline, fd, started)
        except _Unpicklable as error:
            text = json.dumps({"message": str(error), "traceback": format_traceback(error.__cause__)}).encode()
            return Outcome.UNPICKLABLE, Reason.PAYLOAD, monotonic() - started, text, b"", None
        except BaseException as error:  # noqa: BLE001 - the edge around the user's job: everything it raises is its answer
            self._interruptions.print_unless_own(error)
            return self._describe_exception(job_id, attempt, error, monotonic() - started)

    def _learn_kind(self, number: int, description: dict[str, Any], function: bytes) -> None:
        if description.get("forget"):
            self._kinds.clear()
        self._kinds[number] = _Kind(description, function)

    def _tell(self, data: bytes) -> None:
        """Send a frame while a job runs, unless it has opened files in the place of the worker's pipes."""
        with self._interruptions.postponed():  # half a frame would be the end of this worker
            if self._baseline.descriptors.can_answer(with_file=False):
                write_all(self._answers, data)

    def _call(self, kind: _Kind, inline: bytes, fd: int | None, started: float) -> _Answer:
        try:
            if fd == _LOST:
                raise OSError(errno.EMFILE, descriptors.out_of_descriptors("worker"))
            if fd is not None:
                self._received = payload.Received(inline, fd)
            become_caller(kind.caller)
            function, args, kwargs = kind.load_call(inline, self._received)
        except Exception as error:
            raise _Unpicklable(
                f"the function or the arguments of {kind.name} could not be unpickled in the worker: {format_line(error)}. "
                f"{explain_loading(error)}"
            ) from error
        if self._recorder is not None:
            self._recorder.write(args, kwargs)
        if not wrappers.around_jobs:
            return self._perform(kind, function, args, kwargs, started)
        return self._perform_within(kind, lambda: self._perform(kind, function, args, kwargs, started), started)

    def _perform_within(self, kind: _Kind, perform: Callable[[], _Answer], started: float) -> _Answer:
        """Perform a job within the wrappers; it returns None, as a function does, where one swallows its exception."""
        job, made = current_job(), []
        assert job is not None

        def perform_and_note() -> _Answer:
            made.append(perform())
            return made[0]

        try:
            answer = wrappers.call_within(job, perform_and_note)
        except BaseException:
            for _, _, _, _, _, file in made:
                if file is not None:
                    file.close()
            raise
        return self._answer_with(kind, None, started) if answer is None else answer

    def _perform(
        self, kind: _Kind, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], started: float
    ) -> _Answer:
        interruptions = self._interruptions
        try:
            interruptions.is_open = True
            if interruptions.has_word:
                interruptions.raise_postponed()
            if not kind.awaits:
                return self._answer_with(kind, function(*args, **kwargs), started)
            return self._await(kind, lambda: function(*args, **kwargs), started)
        finally:
            interruptions.is_open = False

    def _await(self, kind: _Kind, call: Callable[[], Awaitable[Any]], started: float) -> _Answer:
        from procjobs.worker import awaiting  # with asyncio, which ordinary functions do without

        OWN_FILES.update(awaiting.FILES)
        job = awaiting.AwaitedJob(call)
        with self._interruptions.given_to(job):
            return job.run(lambda result: self._answer_with(kind, result, started), wrappers.around_coroutines)

    def _answer_with(self, kind: _Kind, result: Any, started: float) -> _Answer:
        if self._interruptions.order is not None:
            raise self._interruptions.order
        seconds = monotonic() - started
        try:
            result_inline, result_file = payload.dump(result, self._directory, (result,))
        except INTERRUPTIONS:
            raise
        except Exception as error:
            raise _Unpicklable(
                f"the result of {kind.name}, of type {type(result).__name__}, could not be pickled: "
                f"{limit_text(payload.explain_result(result, error), MAX_MESSAGE_BYTES)}"
            ) from error
        return _RETURNED, _NO_REASON, seconds, b"", result_inline, result_file

    def _describe_exception(self, job_id: bytes, attempt: int, error: BaseException, seconds: float) -> _Answer:
        details = {
            "type": name_type(error),
            "message": format_message(error),
            "traceback": format_traceback(error),
        }
        try:
            inline, file = payload.dump(error, self._directory)
        except Exception as pickling:  # noqa: BLE001 - the account of the failure goes without the exception itself
            details["unpicklable"] = format_line(pickling)
            inline, file = b"", None
        is_own = isinstance(error, JobTimeout) and (error.job_id, error.attempt) == (to_text(job_id), attempt)
        text = json.dumps(details).encode()
        return Outcome.RAISED, Reason.TIMEOUT if is_own else Reason.RAISED, seconds, text, inline, file

    def _send(self, job_id: bytes, attempt: int, kind: _Kind, answer: _Answer, lost: str) -> None:
        outcome, reason, seconds, text, inline, file = answer
        rss_bytes = observe.own_rss() if kind.measures else 0
        if kind.records:
            text = _with_usage(text, self._meter.usage(seconds))
        length = FINISHED_FRAME.size + len(text) + len(inline)
        head = length, Frame.FINISHED, file is not None, 0, job_id
        data = FINISHED_FRAME.pack(*head, outcome, reason, attempt, seconds, rss_bytes, len(text)) + text + inline
        if lost:
            data = frame(Frame.SPENT, lost.encode()) + data
            if not self._baseline.descriptors.can_answer(with_file=file is not None):
                raise NoPipesError
        if file is not None:
            with file:
                socket.send_fds(self._side, [b"\0"], [file.fileno()])
        write_all(self._answers, LOADED_FILES.frames() + data)


def _with_usage(text: bytes, usage: dict[str, float]) -> bytes:
    """Return the JSON of an answer with the usage of the attempt added; the JSON of a success has nothing else."""
    added = json.dumps(usage).encode()
    return text[:-1] + b", " + added[1:] if text else added


def write_all(fd: int, data: bytes) -> None:
    """Write to a pipe; a signal handler may cut a write short."""
    while data := data[os.write(fd, data) :]:
        pass


def run_worker(setup: WorkerSetup, slot: int, fds: list[int]) -> NoReturn:
    """Run a worker in this freshly forked process, and end the process.

    `fds`: its pipe with jobs, the socket beside, its pipe for answers, its standard output and error, and the pipe for its
    stack; see procjobs.supervisor.workers.worker_link.
    """
    status = 1
    try:
        jobs, side, answers, stack = (descriptors.move_up(fd) for fd in (*fds[:3], fds[5]))
        settle_in(setup, slot, stdout=fds[3], stderr=fds[4], stack=stack)
        if problem := initialize(setup):
            write_all(answers, frame(Frame.INIT_FAILED, problem.encode()))
        else:
            Worker(setup, slot, jobs=jobs, side=socket.socket(fileno=side), answers=answers, stack=stack).run()
            ending.finish(setup.finalizer)
            status = 0
    except NoPipesError:
        status = NO_PIPES_STATUS
    except SystemExit as request:
        status = exit_status(request)
    except (BrokenPipeError, ConnectionResetError):
        status = 0  # the supervisor is gone
    except BaseException:  # noqa: BLE001 - the end of the process: standard error is all that is left to tell
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status)
