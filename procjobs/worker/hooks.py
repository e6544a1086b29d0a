"""The process that calls hooks: forked by a template, it makes one call after the other and tells how each ended.

Its socket carries one JSON object a message: {"hook", "record"} from the supervisor, and {"problem": text}, empty where the
call succeeded, back. The supervisor kills a call that takes too long, and has another process forked. At the end of the
socket this process ends.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import importlib
import inspect
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

from procjobs.host import payload, process, titles
from procjobs.shared.hook_names import PICKLED
from procjobs.shared.records import JobStatus
from procjobs.shared.wire import limit_text
from procjobs.worker.exceptions import format_line, format_traceback
from procjobs.worker.startup import initialize

if TYPE_CHECKING:
    from procjobs.worker.startup import WorkerSetup

MAX_MESSAGE_BYTES: Final = 512 * 1024
_MAX_PROBLEM_BYTES: Final = 8 * 1024


def run_hooks(setup: WorkerSetup, fd: int) -> NoReturn:
    """Call hooks in this freshly forked process until the supervisor closes its socket, and end the process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    process.be_nice(setup.nice)
    process.set_title("procjobs-hooks")
    titles.show_title(f"procjobs: hooks of {os.path.basename(setup.directory)}")
    try:
        with socket.socket(fileno=fd) as sock:
            problem = initialize(setup)
            while message := sock.recv(MAX_MESSAGE_BYTES):
                problem = problem or _call(json.loads(message))
                sock.send(json.dumps({"problem": problem}).encode())
                problem = initialize(setup) if problem.startswith("the initializer") else ""
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        _flush()
        os._exit(0)


def _call(request: dict[str, Any]) -> str:
    """Make a call; return what went wrong, empty if nothing did."""
    try:
        record = JobStatus(**request["record"])
        result = _find(request["hook"])(record)
        if inspect.iscoroutine(result):
            import asyncio  # here, because most hooks are ordinary functions

            asyncio.run(result)
    except BaseException as error:  # noqa: BLE001 - the edge around the user's hook, SystemExit among what it raises
        return limit_text(f"{format_line(error)}\n{format_traceback(error)}", _MAX_PROBLEM_BYTES)
    finally:
        _flush()
    return ""


@functools.cache
def _find(hook: str) -> Callable[[JobStatus], Any]:
    """Return the function of a hook, which is imported or unpickled when it is first called."""
    if hook.startswith(PICKLED):
        return payload.loads(base64.b64decode(hook.removeprefix(PICKLED)))  # type: ignore[no-any-return]
    module, _, name = hook.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
