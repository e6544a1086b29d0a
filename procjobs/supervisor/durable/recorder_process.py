"""The recorder process of a pool with a store: started, replaced when it dies, ended with the pool."""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Final

from procjobs.host import process
from procjobs.host.loop import READ, WRITE, Loop
from procjobs.shared.recorder_wire import Open, pack_batch
from procjobs.shared.wire import WireError
from procjobs.supervisor.durable.recorder_link import RecorderLink

if TYPE_CHECKING:
    from procjobs.supervisor.durable.held_claim import HeldClaim
    from procjobs.supervisor.durable.store_health import StoreHealth
    from procjobs.supervisor.log import Log

_MIN_LIFETIME: Final = 1.0
"""A recorder that lives shorter is not replaced at once."""
_RESTART_PAUSE: Final = 1.0
_END_TIMEOUT: Final = 6.0
"""How long a recorder may take to end: longer than it tries to reach a database that is away."""


class RecorderState(Enum):
    """What the recorder is about.

    ABSENT   Entered at the beginning and when the process has ended. There is no process; one is started when the pause
             after the last one is over. Left by `start`.
    OPENING  Entered when a process has been started. It was sent OPEN, and events, and has not said yet that it could open
             the database. Left by `on_opened`, and by its end.
    OPEN     Entered when it has said so. The database knows this supervisor. Left by the end of the process.
    """

    ABSENT = "absent"
    OPENING = "opening"
    OPEN = "open"


class RecorderSource:
    """The loop hands this out when the recorder has said something, or takes more."""

    __slots__ = ()


class RecorderProcess:
    """The one recorder that runs, if one does; `claim` is what those before it have left to it."""

    def __init__(self, loop: Loop, health: StoreHealth, log: Log, claim: HeldClaim) -> None:
        self.claim = claim
        self.state = RecorderState.ABSENT
        self._loop = loop
        self._health = health
        self._log = log
        self._link: RecorderLink | None = None
        self._started_at = self._starts_at = 0.0

    @property
    def has_opened(self) -> bool:
        """Whether any recorder of this supervisor has opened the database."""
        return bool(self.claim.epoch)

    def next_deadline(self) -> float | None:
        """Return when a recorder is to be started; None while there is one."""
        return self._starts_at if self._link is None else None

    def start_if_due(self, now: float, opening: Callable[[], Open]) -> bool:
        """Start a recorder if there is none and the pause is over; return whether there is a new one.

        `opening` returns the event that it begins with.
        """
        if self._link is not None or self._starts_at > now:
            return False
        self._started_at = now
        self._starts_at = now + _RESTART_PAUSE
        try:
            self._link = RecorderLink(self._loop, RecorderSource())
        except (OSError, ValueError) as error:
            self._health.set_problem(f"its recorder could not be started: {error}")
            return False
        self.state = RecorderState.OPENING
        self._health.note_heard(now)
        file = self.claim.file
        self._link.send(pack_batch([opening()], 0, descriptors=int(file is not None)), file)
        return True

    def on_opened(self) -> bool:
        """Note that the recorder has opened the database; return whether it is the first time that this one says so."""
        if self.state is not RecorderState.OPENING:
            return False
        self.state = RecorderState.OPEN
        return True

    def kill(self, why: str) -> None:
        """Kill a recorder that does nothing any more; another one is started when it has ended."""
        if self._link is not None:
            self._log.write_warning(f"the recorder (pid {self._link.pid}) is killed: {why}")
            process.kill_process(self._link.pid, 9)

    def send(self, next_batch: Callable[[], tuple[bytes, int | None] | None]) -> None:
        """Send batches for as long as the recorder takes them and there are any."""
        link = self._link
        while link is not None and not link.stream.ended and not link.rest and (batch := next_batch()):
            link.send(*batch)

    def read(self, events: int, act_on: Callable[[int, bytes, int | None], None]) -> None:
        """Give each frame of the recorder to `act_on`; nonsense ends that process, and another one is started."""
        link = self._link
        if link is None:
            return
        if events & WRITE:
            link.flush()
        if not events & READ or link.stream.ended:
            return
        try:
            for kind, raw, fd in link.stream.read():
                act_on(kind, raw, fd)
        except (WireError, LookupError, TypeError, ValueError, struct.error) as error:
            self.kill(f"it sent nonsense: {error!r}")
            link.stream.ended = True
        if link.stream.ended:
            self._loop.remove(link.socket.fileno())  # its end is noticed by SIGCHLD

    def on_exit(self, exited: process.Exit) -> bool:
        """Note the end of a process; return whether it was the recorder, which is started again."""
        if self._link is None or self._link.pid != exited.pid:
            return False
        how = f"signal {exited.signal}, exit code {exited.code}"
        self._log.write_warning(f"the recorder (pid {exited.pid}) has ended: {how}")
        self._drop_link()
        self._starts_at = self._loop.now
        if self._loop.now - self._started_at < _MIN_LIFETIME:
            self._starts_at += _RESTART_PAUSE
            self._health.set_problem(
                f"its recorder ends as soon as it is started (exit code {exited.code}); see the pool's log"
            )
        return True

    def _drop_link(self) -> None:
        self.state = RecorderState.ABSENT
        if self._link is not None:
            self._link.close()
            self._link = None

    def close(self) -> None:
        """Let the recorder write everything that it was sent, and end."""
        link = self._link
        if link is not None:
            self._drop_link()
            if not process.wait_for_child(link.pid, _END_TIMEOUT):
                process.kill_process(link.pid, 9)
                process.wait_for_child(link.pid, _END_TIMEOUT)
        self.claim.close()
