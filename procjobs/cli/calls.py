"""Calls on the command line: from `MODULE:FUNCTION` to a function, and from a finished job to its output."""

from __future__ import annotations

import importlib
import json
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from procjobs.cli import screen, text
from procjobs.cli.problems import FAILED, OK, USAGE, Problem
from procjobs.errors import JobError, RemoteTraceback

if TYPE_CHECKING:
    from procjobs.client.job import Job
    from procjobs.shared.records import JobStatus


def load_function(target: str) -> Callable[..., Any]:
    """Return the function that `module:function` names; raise Problem if there is no such function."""
    module_name, colon, path = target.partition(":")
    if not colon or not path or not all(part.isidentifier() for part in (*module_name.split("."), *path.split("."))):
        raise Problem(f"{target!r} is not MODULE:FUNCTION", "such as `math:factorial`", USAGE)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        if not isinstance(error, ModuleNotFoundError):
            screen.remark(traceback.format_exc().rstrip())
        hint = "modules of the current directory are found" if isinstance(error, ModuleNotFoundError) else ""
        raise Problem(f"{module_name} cannot be imported: {type(error).__name__}: {error}", hint, USAGE) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise Problem(f"{module_name} has no {path}", _suggest(found, part), USAGE)
        found = getattr(found, part)
    if not callable(found):
        raise Problem(f"{target} is not a function but {type(found).__name__}", "", USAGE)
    return found  # type: ignore[no-any-return]  # callable() does not tell mypy what it returns


def _suggest(found: Any, part: str) -> str:
    import difflib

    close = difflib.get_close_matches(part, [name for name in dir(found) if not name.startswith("_")], 3)
    return f"there is {', '.join(close)}" if close else ""


def show_outcome(job: Job[Any], status: JobStatus, pool: str, *, as_json: bool, is_raw: bool) -> int:
    """Write the result or the failure of a job that has ended; return the exit code. `is_raw` is as in `screen.writer`."""
    error: BaseException | None
    try:
        error = job.exception()
    except JobError as cancelled:
        error = cancelled
    value = None if error is not None else job.result()
    if as_json:
        screen.write_json({**screen.job_document(status, pool), "result": _for_json(value), "exception": _describe(error)})
    elif error is None:
        show_value(value, is_raw=is_raw)
    else:
        show_failure(error, status, is_raw=is_raw)
    return OK if error is None else FAILED


def show_value(value: Any, *, is_raw: bool) -> None:
    """Write a result: text as it is, nothing for None, any other object pretty-printed."""
    if isinstance(value, str):
        screen.write(value, is_raw=is_raw)
    elif value is not None:
        screen.write(_pretty(value), is_raw=is_raw)


def _pretty(value: Any) -> str:
    """Return a result as text, or what it is where its own code cannot say that."""
    import pprint

    try:
        return pprint.pformat(value, width=100, sort_dicts=False)
    except Exception as error:  # noqa: BLE001 - the edge around the code of the result's class
        kind = type(value).__name__
        if isinstance(value, int):
            return f"<an integer of {value.bit_length()} bits: hex() in the job makes a text of it>"
        return text.one_line(f"<a result of type {kind}, whose repr() raises {type(error).__name__}: {_said(error)}>")


def _for_json(value: Any) -> Any:
    """Return a result, as a text where JSON has nothing for it: NaN, a circle, an object whose repr() raises."""
    try:
        json.dumps(value, default=repr, allow_nan=False)
    except Exception:  # noqa: BLE001 - as above
        return _pretty(value)
    return value


def _said(error: BaseException) -> str:
    """Return the message of an error, whose code is a job's, too."""
    try:
        return str(error)
    except Exception as problem:  # noqa: BLE001 - as above
        return f"(its message cannot be shown: str() raises {type(problem).__name__})"


def show_failure(error: BaseException, status: JobStatus, *, is_raw: bool) -> None:
    """Write the failure of a job to standard error: its traceback or stack if there is one, and one line."""
    trace = _trace_of(error)
    if trace:
        screen.remark(trace.rstrip(), is_raw=is_raw)
    message = _said(error) if isinstance(error, JobError) else f"{type(error).__name__}: {_said(error)}"
    ended = text.state(status) if status.done else "is lost"
    screen.remark(f"procjobs: job {status.id} {text.one_line(status.name)} {ended}: {text.one_line(message)}")


def _trace_of(error: BaseException) -> str:
    cause = error.__cause__
    while cause is not None and not isinstance(cause, RemoteTraceback):
        cause = cause.__cause__
    if cause is not None:
        return cause.text
    return getattr(error, "stderr", None) or getattr(error, "stack", None) or ""


def _describe(error: BaseException | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {"type": type(error).__name__, "message": _said(error), "traceback": _trace_of(error) or None}
