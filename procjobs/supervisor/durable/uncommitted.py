"""The events that the recorder is sent, in order, until it says that they are committed.

Events have numbers, from 1 for the life of the supervisor. Events that were sent to a recorder that has died are sent to the
next one. Pure, except for the descriptors that it closes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from procjobs.shared import recorder_wire
from procjobs.shared.recorder_wire import MAX_EVENTS, Event, Forget, pack_batch
from procjobs.shared.wire import WireError

if TYPE_CHECKING:
    from procjobs.shared.states import Reason
    from procjobs.supervisor.job import SupervisedJob, SupervisedKind

_BATCH_BYTES: Final = 256 * 1024
_MAX_KINDS: Final = 1000
"""About how many kinds the recorder knows by their numbers before it is to forget them."""


class Wait(IntEnum):
    """Whom the commit of an event is awaited for."""

    NOBODY = 0
    SUBMISSION = 1
    ANSWER = 2


class Ended(NamedTuple):
    """An answer that waits for its commit."""

    job: SupervisedJob
    reason: Reason
    frame: bytes
    fd: int | None
    error: str


class Entry(NamedTuple):
    """An event and its descriptor, the kind that it refers to, and whom its commit is awaited for.

    `subject` is the job of a submission, or an answer; `size` its bytes of payload. It is in one commit with the next entry
    if it `is_followed`. A descriptor that it `owns` is closed when the event is committed.
    """

    event: Event
    fd: int | None = None
    kind: SupervisedKind | None = None
    wait: Wait = Wait.NOBODY
    subject: SupervisedJob | Ended | None = None
    size: int = 0
    is_followed: bool = False
    owns: bool = False


class UncommittedEvents:
    """All events that are not committed: of them `submissions` and `answers` are awaited, with `bytes` of payload.

    They `are_abandoned` when nobody waits for them any more, because the pool ends.
    """

    def __init__(self) -> None:
        self.submissions = self.answers = self.bytes = 0
        self._entries: deque[Entry] = deque()
        self._first = 1  # the number of the first entry
        self._sent = 0  # the first entries, which were sent to this recorder
        self._kinds_sent: set[SupervisedKind] = set()
        self.are_abandoned = False

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def last_number(self) -> int:
        """The number of the last entry."""
        return self._first + len(self._entries) - 1

    def is_committed(self, number: int) -> bool:
        """Return whether the entry of this number is in the database."""
        return number < self._first

    def append(self, entry: Entry) -> None:
        """Add an entry to the end."""
        self._entries.append(entry)
        self.bytes += entry.size
        self.submissions += entry.wait is Wait.SUBMISSION
        self.answers += entry.wait is Wait.ANSWER

    def begin_anew(self) -> None:
        """Note that another recorder has been started, which knows of nothing."""
        self._sent = 0
        self._kinds_sent.clear()

    def next_batch(self) -> tuple[bytes, int | None] | None:
        """Return the next bytes to send, and the descriptor that goes with them; None where all was sent."""
        if self._sent >= len(self._entries):
            return None
        events: list[Event] = []
        size, fd, is_followed = 0, None, False
        if len(self._kinds_sent) >= _MAX_KINDS:  # each closure is one: neither side may keep them all
            self._kinds_sent.clear()
            events.append(Forget())
        while self._sent < len(self._entries) and len(events) < MAX_EVENTS and size < _BATCH_BYTES and fd is None:
            event, fd, kind, _, _, event_bytes, is_followed, _ = self._entries[self._sent]
            if kind is not None and kind not in self._kinds_sent:
                self._kinds_sent.add(kind)
                events.append(recorder_wire.Kind(kind.number, kind.description, kind.function))
            events.append(event)
            size += event_bytes
            self._sent += 1
        last = self._first + self._sent - 1
        return pack_batch(events, last, descriptors=int(fd is not None), is_open=is_followed), fd

    def take_committed(self, number: int) -> Iterator[tuple[Wait, SupervisedJob | Ended | None]]:
        """Take out the entries up to a number, one by one; raise WireError for one that was not sent."""
        count = number + 1 - self._first
        if not 0 <= count <= self._sent:
            raise WireError(f"events up to {number} are said to be committed, and {self._sent} were sent")
        for _ in range(count):
            _, fd, _, wait, subject, size, _, owns = self._entries.popleft()
            if owns and fd is not None:
                os.close(fd)
            self._first += 1
            self._sent -= 1
            self.bytes -= size
            self.submissions -= wait is Wait.SUBMISSION
            self.answers -= wait is Wait.ANSWER
            yield wait, subject

    def take_back(self, job: SupervisedJob) -> None:
        """Have a submission that was decided not to be one sent to no other recorder: the decision might be another one."""
        for position, entry in enumerate(self._entries):
            if entry.subject is job:
                self._entries[position] = Entry(recorder_wire.Sweep())
                self.bytes -= entry.size
                self.submissions -= 1
                return

    def abandon(self) -> list[SupervisedJob]:
        """Return the jobs that wait for a commit; from now on it is awaited for nobody."""
        self.are_abandoned = True
        subjects = [entry.subject for entry in self._entries]
        self._entries = deque(entry._replace(wait=Wait.NOBODY) for entry in self._entries)
        return [subject.job if isinstance(subject, Ended) else subject for subject in subjects if subject is not None]

    def close(self) -> None:
        """Forget everything, and close the descriptors of answers, and those that entries own."""
        for entry in self._entries:
            if isinstance(entry.subject, Ended) and entry.subject.fd is not None:
                os.close(entry.subject.fd)
            elif entry.owns and entry.fd is not None:
                os.close(entry.fd)
        self._entries.clear()
