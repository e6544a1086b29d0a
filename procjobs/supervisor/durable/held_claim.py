"""The claim of this supervisor to the jobs of its pool, as its recorders tell of it; see procjobs.store.claim."""

from __future__ import annotations

import json
import os
from typing import Final, NamedTuple

from procjobs.clock import NEVER, boottime
from procjobs.host.identity import identify
from procjobs.host.rundir import RunDir

_MARGIN: Final = 5.0
"""How long before others may take the jobs over this supervisor ends: its workers have to be killed by then. Seconds."""


class Claimant(NamedTuple):
    """Who claims the jobs: the name of the pool in the store, and JSON with the identity of its supervisor."""

    pool: str
    holder: str

    @classmethod
    def of_this_process(cls, pool: str, mark: str, directory: RunDir) -> Claimant:
        """Return the claimant that this process is; `mark` is in the environment of its pool's processes."""
        return cls(pool, json.dumps({**identify(os.getpid())._asdict(), "mark": mark, "directory": directory}))


class HeldClaim:
    """The claim; `owner` is the id of this supervisor, `epoch` is 0 until the store was opened.

    `file` is the locked file of an SQLite store. It stays open here, so that a recorder that dies gives nothing up.
    """

    def __init__(self, claimant: Claimant) -> None:
        self.claimant = claimant
        self.owner = os.urandom(16).hex()
        self.epoch = 0
        self.file: int | None = None
        self._lease = NEVER
        self._loss = ""

    def take(self, epoch: int, file: int | None) -> None:
        """Note that a recorder has claimed the jobs."""
        self.epoch = epoch
        if self.file is not None:
            os.close(self.file)
        self.file = file

    def renew(self, lease: float) -> None:
        """Note until when (CLOCK_BOOTTIME) the claim holds whatever happens."""
        self._lease = lease

    def lose(self, why: str) -> None:
        """Note that the jobs are another supervisor's."""
        self._loss = why

    @property
    def loss(self) -> str:
        """Why the jobs are, or may be, another supervisor's; empty while they are not."""
        if not self._loss and self._lease < NEVER and boottime() >= self._lease - _MARGIN:
            self._loss = "the store was not reached for too long, and another host may have taken its jobs over"
        return self._loss

    def ends_at(self, now: float) -> float:
        """Return when (monotonic) `loss` may be true; for a host that is suspended until then, when it wakes."""
        if self._loss:
            return now
        return now + self._lease - _MARGIN - boottime() if self._lease < NEVER else NEVER

    def close(self) -> None:
        """Let go of the file, after the last recorder has ended."""
        if self.file is not None:
            os.close(self.file)
            self.file = None
