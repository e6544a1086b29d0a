"""Whether the pool's store can be written: in words, in the log and in the shared table."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from procjobs.clock import wall

if TYPE_CHECKING:
    from procjobs.shared.table.state_writer import TableWriter
    from procjobs.supervisor.log import Log

_PATIENCE: Final = 6.0
"""How long a recorder may say nothing about the events that it was sent. Its waits for a database are shorter than this."""
_MAX_PATIENCE: Final = 60.0
"""The same for one whose predecessors were killed for it: what they were doing may take its time."""


class StoreHealth:
    """The store's problem, empty when it can be written."""

    def __init__(self, table: TableWriter, log: Log) -> None:
        self.problem = "it has not been opened yet"
        self._table = table
        self._log = log
        self._unavailable_since = wall()
        self._heard_at = 0.0
        self._patience = _PATIENCE
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
        if problem:
            self._log.write_warning(f"the store is {self.describe()}")
        else:
            self._log.write("the store can be written")

    def note_heard(self, now: float) -> None:
        """Note that the recorder has said something, or was sent nothing."""
        self._heard_at = now

    def note_commit(self) -> None:
        """Note that something was committed."""
        self._patience = _PATIENCE
        if self.problem:
            self.set_problem("")

    def silence_at(self) -> float:
        """Return when a recorder that says nothing has been silent for too long."""
        return self._heard_at + self._patience

    def note_silence(self, now: float) -> str:
        """Note that the recorder says nothing; return that in words."""
        text = f"the recorder has said nothing for {self._patience:g} s: its connection to the database hangs"
        self.set_problem(text)
        self._heard_at = now
        self._patience = min(self._patience * 2, _MAX_PATIENCE)
        return text

    def publish(self) -> None:
        """Write the state of the store into the table, if it has changed."""
        shown = self.describe() or "available"
        if shown != self._shown:
            self._shown = shown
            self._table.write_store(shown)
