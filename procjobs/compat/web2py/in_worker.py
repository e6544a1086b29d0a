"""What a worker process of the pool does for a task. The process runs one task, and ends.

In web2py the application's models are executed first, as for a request, and the function is found among the tasks of their
Scheduler, or in their namespace. Elsewhere the function comes along.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from procjobs import JobCancelled, JobTimeout
from procjobs.compat.web2py.alias import install
from procjobs.compat.web2py.context import Storage, find_current
from procjobs.compat.web2py.names import CLEAROUT, COMPLETED, FAILED

_MAX_OUTPUT: Final = 4 * 1024 * 1024
"""Characters of output that are kept of a task, the last ones."""


class Web2py(NamedTuple):
    """What the worker needs to be the web2py that the loop runs in."""

    options: Any
    """The options of web2py's command line."""
    is_aliased: bool


class Call(NamedTuple):
    """A task, as it goes to the worker."""

    application: str
    name: str
    function: Callable[..., Any] | None
    args: str
    vars: str
    marks: dict[str, Any]
    """The items of W2P_TASK: id, uuid, run_id."""
    web2py: Web2py | None


class Report(NamedTuple):
    """How a task ended, as it comes back."""

    status: str
    result: str | None
    """JSON."""
    output: str
    traceback: str | None


def run_task(call: Call) -> Report:
    """Run a task and report. What its clients get to see is in the report; only an interruption is raised."""
    output = _Capture(sys.stdout)
    with contextlib.redirect_stdout(output):
        try:
            result = json.dumps(_perform(call))
        except (JobTimeout, JobCancelled):
            raise
        except BaseException:  # noqa: BLE001 - of the task's own: SystemExit is a failure too
            return Report(FAILED, None, output.text(), traceback.format_exc())
        return Report(COMPLETED, result, output.text(), None)


def after_clear(text: str) -> str:
    """Return what is left of an output: the text after the last `!clear!`."""
    return text.rpartition(CLEAROUT)[2]


def _perform(call: Call) -> Any:
    marks = Storage(call.marks)
    function = call.function if call.web2py is None else _find_in_web2py(call, call.web2py, marks)
    if not callable(function):
        raise NameError(  # noqa: TRY004 - as in the original
            f"name {call.name!r} not found in scheduler's environment"
        )
    find_current().W2P_TASK = marks
    return function(*json.loads(call.args), **json.loads(call.vars))


def _find_in_web2py(call: Call, web2py: Web2py, marks: Storage) -> Any:
    """Execute the models of the application, and return the function."""
    if web2py.is_aliased:
        install()
    from gluon.settings import global_settings
    from gluon.shell import env, parse_path_info

    global_settings.cmd_options = web2py.options
    application, controller, _ = parse_path_info(call.application)
    namespace = env(a=application, c=controller, import_models=True, extra_request={"is_scheduler": True})
    namespace["W2P_TASK"] = marks
    known = getattr(getattr(find_current(), "_scheduler", None), "tasks", None)
    return (known or namespace).get(call.name)


class _Capture(io.TextIOBase):
    """Standard output that is kept, and passed on at once: the pool reads it while the task runs."""

    def __init__(self, below: Any) -> None:
        self._kept: list[str] = []
        self._length = 0
        self._below = below

    @property
    def encoding(self) -> Any:  # type: ignore[override]
        """Return the encoding of the stream below."""
        return self._below.encoding

    @property
    def buffer(self) -> Any:
        """Return the bytes of the stream below; what is written to these is passed on, and not kept."""
        return self._below.buffer

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of the stream below."""
        return int(self._below.fileno())

    def write(self, text: str) -> int:
        """Keep a text, and pass it on."""
        self._kept.append(text)
        self._length += len(text)
        if self._length > 2 * _MAX_OUTPUT or CLEAROUT in text:
            self._kept = [self.text()]
            self._length = len(self._kept[0])
        self._below.write(text)
        self._below.flush()
        return len(text)

    def flush(self) -> None:
        """Flush the stream below."""
        self._below.flush()

    def text(self) -> str:
        """Return the output of the task."""
        return after_clear("".join(self._kept))[-_MAX_OUTPUT:]
