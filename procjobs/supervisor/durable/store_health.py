"""Whether the pool's store can be written: in words, in the log and in the shared table."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from procjobs.clock import NEVER, wall

if TYPE_CHECKING:
    from procjobs.shared.table.state_writer import TableWriter
    from procjobs.supervisor.log import Log

_SILENCE_TIMEOUT: Final = 10.0
"""How long a recorder may say nothing about the events that it was sent: then its database hangs, most likely."""


class StoreHealth:
    """The store's problem, empty when it can be written."""

    def __init__(self, table: TableWriter, log: Log) -> None:
        self.problem = "it has not been opened yet"
        self._table = table
        self._log = log
        self._unavailable_since = wall()
        self._heard_at = 0.0
        self._logged = ""
        self._shown = ""

    def describe(self) -> str:
        """Return the state of the store for people, empty when it can be written."""
        if not self.problem:
            return ""
        since = dt.datetime.fromtimestamp(self._unavailable_since).astimezone().isoformat(" ", "seconds")
        return f"unavailable since {since}: {self.problem}"

    def set_problem(self, problem: str) -> None:
        """Note why the store cannot be written; empty when it can."""
        if problem == self._logged and bool(problem) == bool(self.problem):
            return
        self._logged = problem
        if problem and not self.problem:
            self._unavailable_since = wall()
        self.problem = problem
        self._log.write(f"the store is {self.describe()}" if problem else "the store can be written")

    def note_heard(self, now: float) -> None:
        """Note that the recorder has said something, or was sent nothing."""
        self._heard_at = now

    def silence_at(self) -> float:
        """Return when a recorder that says nothing has been silent for too long."""
        return NEVER if self.problem else self._heard_at + _SILENCE_TIMEOUT

    def check_silence(self, now: float) -> None:
        """Note a recorder that has been silent for too long."""
        if self.silence_at() <= now:
            self.set_problem(f"the recorder has said nothing for {_SILENCE_TIMEOUT:g} s: the database hangs")

    def publish(self) -> None:
        """Write the state of the store into the table, if it has changed."""
        shown = self.describe() or "available"
        if shown != self._shown:
            self._shown = shown
            self._table.write_store(shown)
