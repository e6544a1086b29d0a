"""What a worker takes over from the process that has submitted a job, before it loads the job's function."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

_UNKNOWN: Final = ""
_REASONS: Final = {
    "managers.py": "A proxy of a multiprocessing manager works as long as its manager does, and this one has ended",
    "resource_sharer.py": (
        "A handle, such as the end of a pipe, is handed over once, by the process that has submitted the job: that has "
        "ended, or an earlier attempt has taken it"
    ),
}
"""By the file of multiprocessing in which the unpickling of an argument has failed."""


class _Caller:
    """The process whose jobs this worker can load just now: that of the last job.

    A description is the JSON of a CALLER frame (procjobs.client.connection.caller): where this process looks for modules
    beside its own path, and the key with which the managers of multiprocessing know their own.
    """

    def __init__(self) -> None:
        self._present: dict[str, Any] = {}
        self._own_key: Any = None

    def become(self, description: dict[str, Any]) -> None:
        """Take over a description; nothing is done where the last job had an equal one."""
        if description is self._present:
            return
        before, self._present = self._present, description
        key = description.get("authkey", _UNKNOWN)
        if key != before.get("authkey", _UNKNOWN):
            self._set_key(key)
        first, last = description.get("first", []), description.get("last", [])
        if first or last:
            added = {*first, *last}
            sys.path[:] = [*first, *(entry for entry in sys.path if entry not in added), *last]
            importlib.invalidate_caches()  # the files may have been written a moment ago

    def _set_key(self, key: str) -> None:
        from multiprocessing import process  # here: it takes a millisecond, and most applications do without

        present = process.current_process()
        if self._own_key is None:
            self._own_key = present.authkey
        present.authkey = bytes.fromhex(key) if key else self._own_key


_caller = _Caller()


def become_caller(description: dict[str, Any]) -> None:
    """Let the code of a job find what its caller finds, and know its caller's key."""
    _caller.become(description)


_NO_ATTRIBUTE: Final = "Can't get attribute"


def explain_loading(error: BaseException) -> str:
    """Return what is probably behind an error that came while a call was unpickled."""
    trace = error.__traceback__
    while trace is not None:
        folder, _, name = trace.tb_frame.f_code.co_filename.rpartition("/")
        if folder.endswith("multiprocessing") and name in _REASONS:
            return _REASONS[name]
        trace = trace.tb_next
    if isinstance(error, AttributeError) and str(error).startswith(_NO_ATTRIBUTE):
        return (
            "The workers loaded that module before it had this name, or it was made at run time: reload() has all jobs "
            "run the files as they are now; what was made at run time goes along from __main__ or as a closure"
        )
    return "Can the worker import what they are made of?"
