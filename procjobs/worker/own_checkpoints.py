"""A worker's side of the checkpoints of its jobs: it writes them, and tells the supervisor."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final

from procjobs.clock import monotonic
from procjobs.shared import checkpoints
from procjobs.shared.wire import Frame, frame

INTERVAL: Final = 0.02
"""A supervisor that was told of a checkpoint looks once more after twice this time: the next ones need not be told."""


class OwnCheckpoints:
    """Writes the checkpoints of the job that runs."""

    def __init__(self, directory: str, tell: Callable[[bytes], None]) -> None:
        """`tell` sends a frame to the supervisor."""
        self._directory = directory
        self._tell = tell
        self._told = b"", 0.0
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def save(self, job_id: bytes, data: bytes) -> None:
        """Keep a checkpoint; raise OSError where there is no room. A process that the job has forked keeps none.

        The supervisor is told of the first one before it is there, so that it is removed whenever this process dies.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            told_id, told_at = self._told
            if told_id != job_id:
                self._tell(frame(Frame.CHECKPOINT, job_id))
            checkpoints.save(self._directory, job_id, data)
            now = monotonic()
            if told_id != job_id or now - told_at >= INTERVAL:
                self._tell(frame(Frame.CHECKPOINT, job_id))
                self._told = job_id, now

    def load(self, job_id: bytes) -> bytes | None:
        """Return the last checkpoint of a job, None if there is none."""
        return checkpoints.load(self._directory, job_id)
