"""Jobs that wait for other jobs of their pool. Pure.

1. A job waits as long as one of its waits has a job without an answer: for the core, a wait ends with the last of its jobs.
   Its owner, which knows more, may end it before.
2. Waits end with the attempt that began them.
3. A job that is waited for can tell in no time whether it is: almost none are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from procjobs.dispatch.model import Job, SlotState


class Wait:
    """One wait: a running job, the `waiter`, goes on when any of `awaited` has ended. Its `owner` has told of it."""

    __slots__ = ("awaited", "number", "owner", "waiter")

    def __init__(self, waiter: Job, owner: Any, number: int) -> None:
        self.waiter = waiter
        self.owner = owner
        self.number = number
        self.awaited: dict[Job, None] = {}


class RefusedWait(NamedTuple):
    """A wait that would never end: the jobs that its owner is not to wait for, and why not, in words."""

    owner: Any
    waiter: Job
    awaited: tuple[Job, ...]
    why: str


class Waits:
    """All waits of a pool, by waiter and by awaited job. `is_changed` says that one may have become one without an end."""

    def __init__(self) -> None:
        self.of: dict[Job, list[Wait]] = {}
        self.awaited: dict[Job, list[Wait]] = {}
        self.is_changed = False
        self._by_number: dict[tuple[Any, int], Wait] = {}

    def __len__(self) -> int:
        """Return how many jobs wait."""
        return len(self.of)

    def newest_first(self) -> list[Wait]:
        """Return all waits."""
        return list(reversed(self._by_number.values()))

    def begin(self, waiter: Job, awaited: Iterable[Job], owner: Any, number: int) -> None:
        """Note that a running job waits for any of some unfinished ones; a number that is known has further ones."""
        wait = self._by_number.get((owner, number))
        if wait is None:
            wait = self._by_number[owner, number] = Wait(waiter, owner, number)
            self.of.setdefault(waiter, []).append(wait)
            slot = waiter.slot
            if slot is not None and slot.state is SlotState.BUSY:
                slot.state = SlotState.WAITING
        for job in awaited:
            if job not in wait.awaited:
                wait.awaited[job] = None
                self.awaited.setdefault(job, []).append(wait)
        self.is_changed = True

    def end(self, owner: Any, number: int) -> None:
        """Note the end of a wait; one that is not known has ended before."""
        wait = self._by_number.pop((owner, number), None)
        if wait is None:
            return
        for job in wait.awaited:
            waits = self.awaited[job]
            waits.remove(wait)
            if not waits:
                del self.awaited[job]
        others = self.of[wait.waiter]
        others.remove(wait)
        if others:
            self.is_changed = True
        else:
            del self.of[wait.waiter]
            slot = wait.waiter.slot
            if slot is not None and slot.state is SlotState.WAITING:
                slot.state = SlotState.BUSY

    def end_all(self, owner: Any) -> None:
        """End all waits of an owner."""
        for wait in [wait for wait in self._by_number.values() if wait.owner is owner]:
            self.end(owner, wait.number)

    def end_attempt(self, waiter: Job) -> None:
        """End the waits of a job whose attempt is about to end."""
        for wait in list(self.of.get(waiter, ())):
            self.end(wait.owner, wait.number)

    def settle(self, job: Job) -> None:
        """Take note that a job is about to end, while it still has its slot."""
        self.end_attempt(job)
        for wait in list(self.awaited.get(job, ())):
            if len(wait.awaited) == 1:
                self.end(wait.owner, wait.number)
            else:
                del wait.awaited[job]
                self.is_changed = True
        self.awaited.pop(job, None)
