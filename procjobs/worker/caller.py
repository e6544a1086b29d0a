"""What a worker takes over from the process that has submitted a job, before it loads the job's function."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

_UNKNOWN: Final = ""


class CallerOfJob:
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
