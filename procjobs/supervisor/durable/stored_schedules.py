"""The schedules of a pool, as its recorder keeps them in the store (procjobs.store.schedule_rows)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from procjobs.shared.recorder_wire import DropSchedule, Event, Fire, NoteSchedule, PutSchedule, Schedules
from procjobs.supervisor.durable.uncommitted import Entry

if TYPE_CHECKING:
    from procjobs.supervisor.durable.capacity import StoreCapacity
    from procjobs.supervisor.durable.durability import Told
    from procjobs.supervisor.durable.stored_jobs import StoredJobs
    from procjobs.supervisor.durable.uncommitted import UncommittedEvents
    from procjobs.supervisor.job import SupervisedKind


class StoredSchedules:
    """Puts the events of schedules among those for the recorder; see `ScheduleStore` for what each does."""

    def __init__(self, events: UncommittedEvents, stored: StoredJobs, capacity: StoreCapacity) -> None:
        self._events = events
        self._stored = stored
        self._capacity = capacity
        self._is_open = False
        self._at_opening: list[Callable[[], None]] = []

    def on_open(self) -> None:
        """Take note that the recorder has opened the store: ask what waits for that.

        A question is not put before: a pool whose store cannot be opened would never be done with it, and never end.
        """
        self._is_open = True
        while self._at_opening:
            self._at_opening.pop(0)()

    def load(self, then: Callable[[list[Told]], None]) -> bool:
        """Find all schedules of the pool, as many answers as that takes."""
        found: list[Told] = []

        def on_told(told: Told) -> None:
            if "problem" in told:
                then([told])
                return
            found.extend(told["schedules"])
            if told["has_more"]:
                self._ask(Schedules(found[-1]["name"], self._stored.next_question(on_told)))
            else:
                then(found)

        def ask() -> None:
            self._ask(Schedules("", self._stored.next_question(on_told)))

        if self._is_open:
            ask()
        else:
            self._at_opening.append(ask)
        return True

    def put(
        self, name: str, spec: str, *, is_declared: bool, kind: SupervisedKind, inline: bytes, fd: int | None, key: bytes,
        meta: bytes, cursor: int, then: Callable[[Told], None],
    ) -> bool:  # fmt: skip
        """Keep a schedule, in the place of one of its name."""
        rejection = self._capacity.rejection(fd)
        if rejection is not None:
            if fd is not None:
                os.close(fd)
            then({"problem": rejection[1]})
            return True
        token = self._stored.next_question(then)
        event = PutSchedule(name, spec, is_declared, kind.number, inline, fd is not None, key, meta, cursor, token)
        size = len(inline) + (os.fstat(fd).st_size if fd is not None else 0)
        self._events.append(Entry(event, fd, kind, size=size, owns=True))
        return True

    def drop(self, name: str, then: Callable[[Told], None]) -> bool:
        """Drop a schedule."""
        self._ask(DropSchedule(name, self._stored.next_question(then)))
        return True

    def note(self, name: str, *, cursor: int, skipped: int, missed: int, is_paused: bool | None = None) -> bool:
        """Note how far a schedule is, and all that it has left out."""
        self._ask(NoteSchedule(name, cursor, -1 if is_paused is None else int(is_paused), skipped, missed))
        return True

    def fire(
        self, name: str, *, period: int, scheduled_for: int, job_id: bytes, cursor: int, then: Callable[[Told], None]
    ) -> bool:
        """Have the job of a period made."""
        self._ask(Fire(name, period, scheduled_for, job_id, cursor, self._stored.next_question(then)))
        return True

    def _ask(self, event: Event) -> None:
        self._events.append(Entry(event))
