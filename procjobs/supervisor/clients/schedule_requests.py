"""What clients ask of schedules: SCHEDULE frames, and the calls about schedules."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from procjobs.shared import schedule_wire, wire
from procjobs.shared.ids import ID_BYTES
from procjobs.shared.wire import U32, Frame, WireError

if TYPE_CHECKING:
    from procjobs.supervisor.clients.client_link import ClientLink
    from procjobs.supervisor.schedules.service import Schedules, Then

_MAX_UPCOMING: Final = 100
_MAX_NAMES: Final = 10_000


class ScheduleRequests:
    """Passes the wishes of clients on to the schedules, and sends the replies."""

    def __init__(self, schedules: Schedules) -> None:
        self._schedules = schedules
        self._calls: dict[str, Callable[[ClientLink, dict[str, Any], Then], None]] = {
            "schedules": self._list,
            "unschedule": self._by_name(schedules.unschedule),
            "pause_schedule": self._by_name(schedules.pause),
            "resume_schedule": self._by_name(schedules.resume),
            "run_now": self._run_now,
            "declare": self._declare,
        }

    def _by_name(self, act: Callable[[str, Then], None]) -> Callable[[ClientLink, dict[str, Any], Then], None]:
        def call(_client: ClientLink, request: dict[str, Any], then: Then) -> None:
            name = str(request["name"])
            self._schedules.when_loaded(lambda: act(name, then))

        return call

    def on_frame(self, client: ClientLink, body: bytes, fd: int | None) -> None:
        """Act on a SCHEDULE frame; raise WireError for one that makes no sense. The descriptor is taken over."""
        assert client.generation is not None, "HELLO comes first"
        try:
            request = schedule_wire.parse(body)
            call = self._schedules.call_of(request, client.kinds.caller, fd)
        except WireError:
            if fd is not None:
                os.close(fd)
            raise
        by = client.generation.newest() if request.is_declared else None
        self._schedules.put(request.schedule, call, by, _replier(client, request.number))

    def act_on(self, client: ClientLink, number: int, request: dict[str, Any]) -> bool:
        """Act on a call if it is about schedules, and reply when it is done; return whether it is."""
        call = self._calls.get(str(request.get("call")))
        if call is None:
            return False
        call(client, request, _replier(client, number))
        return True

    def _list(self, _client: ClientLink, request: dict[str, Any], then: Then) -> None:
        upcoming = min(max(int(request["upcoming"]), 0), _MAX_UPCOMING)
        after = str(request["after"])
        self._schedules.when_loaded(lambda: then(self._schedules.page(after, upcoming)))

    def _run_now(self, _client: ClientLink, request: dict[str, Any], then: Then) -> None:
        job_id = bytes.fromhex(request["new"])
        if len(job_id) != ID_BYTES:
            raise ValueError("an id that is none")
        name = str(request["name"])
        self._schedules.when_loaded(lambda: self._schedules.run_now(name, job_id, then))

    def _declare(self, client: ClientLink, request: dict[str, Any], then: Then) -> None:
        names = request["names"]
        if not isinstance(names, list) or len(names) > _MAX_NAMES or not all(isinstance(name, str) for name in names):
            raise ValueError("names that are none")
        assert client.generation is not None, "HELLO comes first"
        self._schedules.declare(client.generation.newest(), names)
        then({})


def _replier(client: ClientLink, number: int) -> Then:
    """Return what sends the reply to a request; nothing for the number 0."""

    def reply(values: dict[str, Any]) -> None:
        if number and not client.closed:
            client.queue_frame(wire.json_frame(Frame.REPLY, values, prefix=U32.pack(number)))

    return reply
