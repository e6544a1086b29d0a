"""The calls of hooks that the store keeps until they are made (procjobs.store.hook_marks).

The mark of a job is written with its end. Here it is dropped when the hooks were called, and those that earlier supervisors
have left, or that found no room in memory, are asked for when no call waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from procjobs.errors import UnknownJob
from procjobs.shared.ids import from_text
from procjobs.shared.recorder_wire import Event, Hooked
from procjobs.shared.wire import WireError

if TYPE_CHECKING:
    from procjobs.supervisor.durable.durability import Told
    from procjobs.supervisor.durable.stored_jobs import StoredJobs
    from procjobs.supervisor.pending_hooks import PendingHooks

_MAX_JOBS: Final = 50
"""How many jobs are asked for at once; their records have some 10 KB each."""


class HookMarks:
    """Keeps the marks in step with the calls that wait. `ask` sends the recorder an event."""

    def __init__(self, pending: PendingHooks, stored: StoredJobs, ask: Callable[[Event], None]) -> None:
        self._pending = pending
        self._stored = stored
        self._ask = ask
        self._are_wanted = pending.are_wanted
        self._is_asking = False

    def advance(self, *, may_load: bool) -> None:
        """Drop the marks of jobs whose hooks were called; ask for others when there is nothing else to call."""
        if not self._are_wanted:
            return
        for job_id in self._pending.take_settled():
            self._ask(Hooked(from_text(job_id)))
        if may_load and self._pending.wants_stored and not self._is_asking:
            self._is_asking = True
            self._stored.find_marked(_MAX_JOBS, self._on_told)

    def _on_told(self, told: Told) -> None:
        self._is_asking = False
        for record in told["records"]:
            try:
                from_text(record["id"])
            except UnknownJob as error:
                raise WireError(f"hooks for no job: {error}") from None
        self._pending.add_stored(told["records"], has_more=bool(told["has_more"]))
