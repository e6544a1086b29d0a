"""The API of schedules."""

from __future__ import annotations

from typing import Any, Final

from procjobs.web.api import parameters, shapes
from procjobs.web.api.endpoint import Call, Endpoint
from procjobs.web.text import clean

_UPCOMING: Final = parameters.integer("upcoming", "How many of the next runs to tell.", least=0, most=100, default=1)


def _list(call: Call) -> dict[str, Any]:
    found = call.pool.schedules(upcoming=call.values["upcoming"])
    return {"schedules": [shapes.SCHEDULE.document(one) for one in found]}


def _pause(call: Call) -> dict[str, Any]:
    call.pool.pause(call.path["name"])
    return _done(call, "pause", None)


def _resume(call: Call) -> dict[str, Any]:
    call.pool.resume(call.path["name"])
    return _done(call, "resume", None)


def _run(call: Call) -> dict[str, Any]:
    return _done(call, "run", call.pool.run_now(call.path["name"]).id)


def _done(call: Call, action: str, job_id: str | None) -> dict[str, Any]:
    return {"action": action, "schedule": clean(call.path["name"], 200), "job_id": job_id}


ENDPOINTS: Final = (
    Endpoint("GET", "api/1/schedules", "read", _list, "The schedules of a pool", "Schedules", (_UPCOMING,)),
    Endpoint("POST", "api/1/schedules/{name}/pause", "operate", _pause, "Make no more jobs of a schedule", "ScheduleAction"),
    Endpoint("POST", "api/1/schedules/{name}/resume", "operate", _resume, "Make jobs of a schedule again", "ScheduleAction"),
    Endpoint("POST", "api/1/schedules/{name}/run", "operate", _run, "Make a job of a schedule now", "ScheduleAction"),
)
SCHEMAS: Final = {
    "Schedule": shapes.SCHEDULE.schema,
    "Schedules": lambda: shapes.object_of("The schedules, by name.", schedules=shapes.list_of("Schedule")),
    "ScheduleAction": lambda: shapes.object_of(
        "What was done; `job_id` is that of the job that was made, null after another action.",
        action={"type": "string", "enum": ["pause", "resume", "run"]},
        schedule={"type": "string"},
        job_id={"type": ["string", "null"], "format": "uuid"},
    ),
}
