"""The process that a private pool belongs to: the pool ends with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER
from procjobs.host import process

if TYPE_CHECKING:
    from procjobs.host.loop import Loop

_LOOK_INTERVAL: Final = 0.5


class Owner:
    """Tells once that the owner has ended. Where the kernel cannot tell its end, it is looked at again and again."""

    def __init__(self, loop: Loop, pid: int | None) -> None:
        """A named pool has no owner: `pid` is None."""
        self._loop = loop
        self._watched = None if pid is None else process.watch(pid)
        self._looks_at = NEVER if pid is None else loop.now  # an owner that ended before is noticed at the first look

    def listen(self, on_end: Callable[[], None]) -> None:
        """Have the loop hand out `on_end` when the owner ends."""
        if self._watched is not None and self._watched.fd >= 0:
            self._loop.add(self._watched.fd, on_end)
            self._looks_at = NEVER

    def next_deadline(self) -> float:
        """Return when the owner is to be looked at."""
        return self._looks_at

    def is_found_ended(self, now: float) -> bool:
        """Return whether a look that was due finds that the owner has ended."""
        if now < self._looks_at:
            return False
        self._looks_at = now + _LOOK_INTERVAL
        return self._watched is None or self._watched.has_ended()

    def forget(self) -> None:
        """Let go of the owner."""
        self._looks_at = NEVER
        if self._watched is not None:
            self._loop.remove(self._watched.fd)
            self._watched.close()
            self._watched = None
