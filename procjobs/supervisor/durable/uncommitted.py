"""What a recorder is told, in order, until it says that it is committed. Pure, but for the descriptors that it closes.

Events have numbers, from 1 for the life of the supervisor. What was sent to a recorder that has died is sent to the next.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from procjobs.shared.recorder_wire import MAX_EVENTS, Event, Forget, pack_batch
from procjobs.shared.recorder_wire import Kind as KindEvent
from procjobs.shared.wire import WireError

if TYPE_CHECKING:
    from procjobs.dispatch.model import Job, Kind
    from procjobs.shared.states import Reason

_BATCH_BYTES: Final = 256 * 1024
_MAX_KINDS: Final = 1000
"""How many kinds the recorder knows by their numbers, about, before it is to forget them."""


class Wait(IntEnum):
    """What an entry is kept for, and so what its commit leads to."""

    NOTHING = 0
    SUBMISSION = 1
    ANSWER = 2


class Ended(NamedTuple):
    """An answer that waits for its commit."""

    job: Job
    reason: Reason
    frame: bytes
    fd: int | None
    error: str


Entry = tuple[Event, "int | None", "Kind | None", Wait, "Job | Ended | None", int]
"""An event, its descriptor, the kind that it refers to, what its commit leads to and for whom, its bytes of payload."""


class Backlog:
    """The entries: `submissions` and `answers` of them wait for their commit, with so many `bytes` of payload."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.submissions = self.answers = self.bytes = 0
        self._first = 1  # the number of the first entry
        self._sent = 0  # how many of the entries were sent to this recorder
        self._kinds_sent: set[Kind] = set()

    @property
    def last_number(self) -> int:
        """The number of the last entry."""
        return self._first + len(self.entries) - 1

    def append(self, entry: Entry) -> None:
        """Add an entry to the end."""
        self.entries.append(entry)
        self.bytes += entry[5]
        self.submissions += entry[3] is Wait.SUBMISSION
        self.answers += entry[3] is Wait.ANSWER

    def begin_anew(self) -> None:
        """Take note of a recorder that was told nothing yet."""
        self._sent = 0
        self._kinds_sent.clear()

    def next_batch(self) -> tuple[bytes, int | None] | None:
        """Return what is to be sent next, and the descriptor that goes with it; None where all was sent."""
        if self._sent >= len(self.entries):
            return None
        events: list[Event] = []
        size, fd = 0, None
        if len(self._kinds_sent) >= _MAX_KINDS:  # each closure is one: neither side may keep them all
            self._kinds_sent.clear()
            events.append(Forget())
        while self._sent < len(self.entries) and len(events) < MAX_EVENTS and size < _BATCH_BYTES and fd is None:
            event, fd, kind, _, _, event_bytes = self.entries[self._sent]
            if kind is not None and kind not in self._kinds_sent:
                self._kinds_sent.add(kind)
                events.append(KindEvent(kind.number, kind.description, kind.function))
            events.append(event)
            size += event_bytes
            self._sent += 1
        return pack_batch(events, self._first + self._sent - 1, descriptors=int(fd is not None)), fd

    def take_committed(self, number: int) -> Iterator[tuple[Wait, Job | Ended | None]]:
        """Take out the entries up to a number, one by one; raise WireError for one that was not sent."""
        count = number + 1 - self._first
        if not 0 <= count <= self._sent:
            raise WireError(f"events up to {number} are said to be committed, and {self._sent} were sent")
        for _ in range(count):
            _, _, _, wait, subject, size = self.entries.popleft()
            self._first += 1
            self._sent -= 1
            self.bytes -= size
            self.submissions -= wait is Wait.SUBMISSION
            self.answers -= wait is Wait.ANSWER
            yield wait, subject

    def abandon(self) -> list[Job]:
        """Return the jobs that wait for a commit; from now on it leads to nothing."""
        subjects = [entry[4] for entry in self.entries]
        self.entries = deque((*entry[:3], Wait.NOTHING, *entry[4:]) for entry in self.entries)
        return [subject.job if isinstance(subject, Ended) else subject for subject in subjects if subject is not None]

    def close(self) -> None:
        """Forget everything, and close the descriptors of answers."""
        for entry in self.entries:
            if isinstance(entry[4], Ended) and entry[4].fd is not None:
                os.close(entry[4].fd)
        self.entries.clear()
