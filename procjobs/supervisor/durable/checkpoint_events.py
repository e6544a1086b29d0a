"""Which checkpoints the store is sent, and when: the last one of each job, one at a time.

A job may hand over thousands in a second, and a database takes some tens. So the next one of a job is sent when the one
before is committed. The worker tells of a checkpoint at most every 20 ms; what came after it is seen by one more look.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from procjobs.clock import NEVER, wall
from procjobs.shared import checkpoints
from procjobs.shared.recorder_wire import Checkpoint
from procjobs.supervisor.durable.uncommitted import Entry

if TYPE_CHECKING:
    from procjobs.supervisor.durable.uncommitted import UncommittedEvents
    from procjobs.supervisor.job import SupervisedJob

_LOOK_INTERVAL: Final = 0.05


class CheckpointEvents:
    """Puts checkpoints among the events for the recorder."""

    def __init__(self, directory: str, events: UncommittedEvents) -> None:
        self._directory = directory
        self._events = events
        self._sent: dict[SupervisedJob, tuple[Any, int]] = {}  # what its file was, and the number of the event
        self._looks: dict[SupervisedJob, float] = {}

    def note(self, job: SupervisedJob, now: float) -> None:
        """Send a checkpoint of which a worker tells, now or when the one before is committed."""
        self._looks.pop(job, None)
        self._looks[job] = now + _LOOK_INTERVAL
        self._send(job)

    def finish(self, job: SupervisedJob, *, has_succeeded: bool) -> None:
        """Send the last checkpoint of a job that ends; nobody goes on from it if the job has succeeded."""
        self._looks.pop(job, None)
        if has_succeeded:
            self._events.append(Entry(Checkpoint(job.id, 0.0, b"")))
        else:
            self._send(job, at_once=True)
        self._sent.pop(job, None)

    def next_deadline(self) -> float:
        """Return when to look for another checkpoint."""
        return next(iter(self._looks.values()), NEVER)

    def advance(self, now: float) -> None:
        """Look for the checkpoints that came after those that were told."""
        while self._looks and self.next_deadline() <= now:
            job = next(iter(self._looks))
            del self._looks[job]
            if not self._send(job):
                self._looks[job] = now + _LOOK_INTERVAL

    def _send(self, job: SupervisedJob, *, at_once: bool = False) -> bool:
        """Send a checkpoint that is new; return False if the one before is not committed yet."""
        known, number = self._sent.get(job, (None, 0))
        if not at_once and not self._events.is_committed(number):
            return False
        try:
            status = os.stat(checkpoints.path_of(self._directory, job.id))
        except OSError:
            return True
        present = status.st_ino, status.st_mtime_ns
        if present != known and (data := checkpoints.load(self._directory, job.id)) is not None:
            self._events.append(Entry(Checkpoint(job.id, wall(), data), size=len(data)))
            self._sent[job] = present, self._events.last_number
        return True
