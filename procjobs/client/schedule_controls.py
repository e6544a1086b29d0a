"""What anybody who reaches a pool can ask of its schedules. Each call waits for the supervisor's reply."""

from __future__ import annotations

from typing import Any

from procjobs.client.awaiting import awaitable
from procjobs.client.link import Linked
from procjobs.errors import ConfigurationError, UnknownSchedule
from procjobs.shared.ids import new_id
from procjobs.shared.schedule_records import ScheduleInfo, info_from_json


class ScheduleControls(Linked):
    """The schedules of a pool, by name. Every call raises SupervisorLost if there is no reply.

    With a store, a change is in the database when the call returns.
    """

    def schedules(self, *, upcoming: int = 1) -> list[ScheduleInfo]:
        """Return the pool's schedules, by name, each with its next runs (up to `upcoming`, at most 100) and its last one."""
        if isinstance(upcoming, bool) or not isinstance(upcoming, int) or not 0 <= upcoming <= 100:
            raise ConfigurationError(f"upcoming={upcoming!r}: expected how many of the next runs to tell, 0 to 100")
        found: list[ScheduleInfo] = []
        while True:
            after = found[-1].name if found else ""
            reply = self._link.connect().request("schedules", after=after, upcoming=upcoming)
            found += map(info_from_json, reply["schedules"])
            if not reply["has_more"]:
                return found

    def unschedule(self, name: str) -> bool:
        """Take a schedule out; return False if there was none of that name. Its jobs that wait or run go on.

        One that is declared in code comes back with the next process that declares it: take it out there.
        """
        return bool(self._link.connect().request("unschedule", name=_check(name))["known"])

    def _pause_schedule(self, name: str) -> None:
        self._ask_schedule("pause_schedule", name)

    def _resume_schedule(self, name: str) -> None:
        self._ask_schedule("resume_schedule", name)

    def _run_now(self, name: str) -> tuple[bytes, str]:
        """Have a job made of a schedule; return its id and its name."""
        new = new_id()
        reply = self._ask_schedule("run_now", name, new=new.hex())
        return new, str(reply["name"])

    def _ask_schedule(self, call: str, name: str, **arguments: Any) -> dict[str, Any]:
        _check(name)
        reply = self._link.persist(lambda connection: connection.request(call, name=name, **arguments))
        if reply["refusal"]:
            raise UnknownSchedule(reply["refusal"])
        return reply

    aschedules = awaitable(schedules)
    aunschedule = awaitable(unschedule)


def _check(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{name!r:.200} is not the name of a schedule: expected a text")
    return name
