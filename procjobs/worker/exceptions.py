"""Exceptions of jobs as text, of bounded size. The exceptions are the users', so nothing in them is relied on."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Final

from procjobs.shared.wire import MAX_FRAME_BYTES, MAX_INLINE_BYTES, limit_text

MAX_TRACEBACK_BYTES: Final = 16 * 1024
MAX_MESSAGE_BYTES: Final = 4096
_MAX_NAME_LETTERS: Final = 200

OWN_FILES: Final[set[str]] = set()
"""The files whose frames come before those of the job. The modules that call a job add theirs."""

# JSON may make six bytes of one, and all of it has to fit into a frame beside the inline part of a payload.
assert 6 * (MAX_TRACEBACK_BYTES + 3 * MAX_MESSAGE_BYTES) + MAX_INLINE_BYTES < MAX_FRAME_BYTES


def name_type(error: BaseException) -> str:
    """Return the name of an exception's type, with its module unless that is obvious."""
    kind = type(error)
    name = kind.__qualname__[-_MAX_NAME_LETTERS:]
    is_obvious = kind.__module__ in {"builtins", "__main__"}
    return name if is_obvious else f"{kind.__module__[-_MAX_NAME_LETTERS:]}.{name}"


def format_message(error: BaseException) -> str:
    """Return the message of an exception; that of SystemExit says which call of sys.exit it was, and where."""
    text = _describe_exit(error) if isinstance(error, SystemExit) else _message_of(error)
    return limit_text(text, MAX_MESSAGE_BYTES)


def _describe_exit(error: SystemExit) -> str:
    try:
        code = "" if error.code is None else repr(error.code)
    except Exception:  # noqa: BLE001 - as in _message_of
        code = f"<{type(error.code).__name__}>"
    trace = _skip_own(error.__traceback__)
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"the job called sys.exit({code}){where}"


def format_line(error: BaseException) -> str:
    """Return `Type: message`."""
    return limit_text(f"{name_type(error)}: {_message_of(error)}", MAX_MESSAGE_BYTES - 1024)


def format_traceback(error: BaseException | None) -> str:
    """Return the traceback from the job's first frame on; empty without an exception."""
    if error is None:
        return ""
    try:
        text = "".join(traceback.format_exception(type(error), error, _skip_own(error.__traceback__)))
    except Exception:  # noqa: BLE001 - as in _message_of
        text = f"{name_type(error)} (its traceback cannot be formatted)"
    return limit_text(text, MAX_TRACEBACK_BYTES)


def _skip_own(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the job's first frame on."""
    while trace is not None and trace.tb_frame.f_code.co_filename in OWN_FILES:
        trace = trace.tb_next
    return trace


def _message_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a __str__ that fails is the user's, and must not take the worker down
        return "<its text cannot be had: __str__ failed>"
