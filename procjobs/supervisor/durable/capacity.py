"""How far a store may be behind: the bounds of the events that wait for it, and the refusals of what it has no room for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from procjobs.shared.recorder_wire import MAX_STORED_BYTES

if TYPE_CHECKING:
    from procjobs.supervisor.durable.durability import Rejection
    from procjobs.supervisor.durable.store_health import StoreHealth
    from procjobs.supervisor.durable.uncommitted import UncommittedEvents

_MAX_BEHIND: Final = 1000
"""The most submissions that wait for a database that cannot be reached."""
_MAX_BYTES: Final = 256 * 2**20
"""The most bytes of payloads and answers that wait for a commit."""
_MAX_ANSWERS: Final = 5000
"""The most answers that wait for a commit before no more jobs are started."""


class StoreCapacity:
    """Says what the store of a pool can take now."""

    def __init__(self, pool: str, events: UncommittedEvents, health: StoreHealth) -> None:
        self._pool = pool
        self._events = events
        self._health = health

    @property
    def takes_jobs(self) -> bool:
        """Whether the store is not too far behind."""
        is_far_behind = bool(self._health.problem) and self._events.submissions >= _MAX_BEHIND
        return not is_far_behind and self._events.bytes < _MAX_BYTES

    @property
    def is_too_far_behind(self) -> bool:
        """Whether no more jobs should start, since their answers could not be kept."""
        return self._events.answers >= _MAX_ANSWERS or self._events.bytes >= _MAX_BYTES

    def rejection(self, fd: int | None) -> Rejection | None:
        """Return why no job can be taken now, None if one can."""
        if fd is not None and (size := os.fstat(fd).st_size) > MAX_STORED_BYTES:
            text = (
                f"the arguments of this job, of {size} bytes, are larger than what the store keeps ({MAX_STORED_BYTES} "
                "bytes). Write them to a file, and give the job its path"
            )
            return "PayloadError", text, {}
        if self.takes_jobs:
            return None
        why = self._health.describe() or "it is slow"
        text = (
            f"the store of pool {self._pool!r} is behind: {self._events.submissions} submissions wait for it already "
            f"({why}). Try again later"
        )
        return "StoreUnavailable", text, {}
