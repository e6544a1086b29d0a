"""Progress in the pool's shared memory: every process of the host reads it there."""

from __future__ import annotations

import threading
from typing import Any


class MemoryProgressTracker:
    """The tracker that is used unless another one is given.

    Jobs report to the pool's shared memory without it. It has only entries that a program makes by hand in this process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, tuple[Any, Any]] = {}

    def track(self, entryid: str) -> None:
        """Enter a job that has not reported yet."""
        self.set_progress(entryid, -1, None)

    def remove(self, entryid: str) -> None:
        """Forget a job."""
        with self._lock:
            self._entries.pop(entryid, None)

    def set_progress(self, entryid: str, value: Any, message: Any) -> None:
        """Note how far a job is."""
        with self._lock:
            self._entries[entryid] = (value, message)

    def get_progress(self, entryid: str) -> tuple[Any, Any] | None:
        """Return (value, message), None for a job that is not here."""
        with self._lock:
            return self._entries.get(entryid)
