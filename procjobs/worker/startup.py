"""The start of a worker: a process that was forked from the template a moment ago becomes one that jobs can run in."""

from __future__ import annotations

import base64
import contextlib
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from procjobs.host import payload, process, streams, titles
from procjobs.shared.wire import limit_text
from procjobs.worker import ending, wrappers
from procjobs.worker.context import current_job, follow_threads
from procjobs.worker.exceptions import OWN_FILES, format_line, format_traceback

_MAX_PROBLEM_BYTES: Final = 32_000

OWN_FILES.add(__file__)


class WorkerSetup(NamedTuple):
    """The facts that all workers of a template share.

    `initializer`, `finalizer`, `database`: base64 of a pickled call, or None; `wrappers`: names, or base64 of a pickled
    function where the name is empty.
    """

    table_fd: int
    rows_offset: int
    directory: str
    initializer: str | None
    nice: int
    record_arguments: bool = False
    database: str | None = None
    finalizer: str | None = None
    wrappers: tuple[tuple[str, str], ...] = ()


def settle_in(setup: WorkerSetup, slot: int, stdout: int, stderr: int, stack: int) -> None:
    """Undo everything that is for templates only, and make this process responsible for the processes that jobs start."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    process.be_nice(setup.nice)
    process.set_title(f"procjobs-{slot}")
    titles.show_title(f"procjobs: worker {slot} of {os.path.basename(setup.directory)}")
    process.become_subreaper()
    process.offer_to_oom_killer()
    _redirect_output(stdout, stderr)
    offer_stacks(stack)
    _set_up_logging()
    follow_threads()
    ending.forget_inherited()
    if "numpy.random" in sys.modules:  # random reseeds itself after a fork; numpy would repeat itself in every worker
        sys.modules["numpy.random"].seed()
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "default_generator"):
        torch.default_generator.seed()


def _redirect_output(stdout: int, stderr: int) -> None:
    """Send the output to the supervisor, line by line."""
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    streams.line_buffer_c_output()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def offer_stacks(stack: int) -> None:
    """Write the stack into this pipe whenever the supervisor asks for it; see procjobs.supervisor.workers.stacks.

    Called again, it puts back what a job has changed of it.
    """
    faulthandler.disable()
    faulthandler.enable(file=2)
    faulthandler.unregister(process.STACK_SIGNAL)
    faulthandler.register(process.STACK_SIGNAL, file=stack, all_threads=True)

    def dump_stack(_number: int, _frame: object) -> None:
        faulthandler.dump_traceback(file=stack, all_threads=True)
        os.write(stack, process.STACK_END)

    signal.signal(process.TELL_SIGNAL, dump_stack)


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


def initialize(setup: WorkerSetup) -> str:
    """Connect the database, call the user's initializer, find the wrappers; return the problem, empty if there is none."""
    steps = [(f"the {what} failed", _caller_of(pickled)) for what, pickled in (
        ("database", setup.database), ("initializer", setup.initializer)
    ) if pickled is not None]  # fmt: skip
    steps += [
        (f"the wrapper {name or 'of the pool'} cannot be used", partial(_add_wrapper, name, pickled))
        for name, pickled in setup.wrappers
    ]
    for problem, step in steps:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - the edge around the user's initializer
            return limit_text(f"{problem}: {format_line(error)}\n{format_traceback(error)}", _MAX_PROBLEM_BYTES)
    return ""


def _caller_of(pickled: str) -> Callable[[], Any]:
    def call() -> Any:
        function, args = payload.loads(base64.b64decode(pickled))
        return function(*args)

    return call


def _add_wrapper(name: str, pickled: str) -> None:
    wrappers.add_wrapper(wrappers.find_wrapper(name) if name else payload.loads(base64.b64decode(pickled)))


def exit_status(request: SystemExit) -> int:
    """Return the status that the interpreter would end with."""
    if request.code is None:
        return 0
    if isinstance(request.code, int):
        return request.code & 0xFF
    print(request.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
    return 1
