"""The calls of the end user's half as the OpenAPI document shows them. Their handlers: job_routes.py and streams.py."""

from __future__ import annotations

from typing import Any, Final, Literal

from procjobs.web.api import parameters, shapes
from procjobs.web.api.endpoint import JSON, Endpoint
from procjobs.web.api.records import MOMENT, or_null
from procjobs.web.seeing import MAX_IDS, MAX_TOKEN

_TOKEN: Final = parameters.text("id", "A signed id of a job, or a plain one where the site takes these.", longest=MAX_TOKEN)
_ID: Final = _TOKEN._replace(is_required=True)
_IDS: Final = _ID._replace(is_many=True, most=MAX_IDS)


def _call(
    method: Literal["GET", "POST"],
    path: str,
    about: str,
    answer: str,
    parameter: parameters.Parameter,
    media_type: str = JSON,
) -> Endpoint:
    return Endpoint(method, path, "public", None, about, answer, (parameter,), is_of_pool=False, media_type=media_type)


ENDPOINTS: Final = (
    _call("GET", "api/1/status", "Jobs as an end user's page sees them", "Statuses", _IDS),
    _call("GET", "api/1/events", "The same as a stream of events", "Events", _IDS, "text/event-stream"),
    _call("POST", "api/1/cancel", "Cancel a job, for whoever has a token for that", "JobCancelled", _ID),
)


def _status_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "A job as a page may know it; of one that is not known, its id and the state unknown.",
        "properties": {
            "id": {"type": "string"},
            "state": {"type": "string", "enum": [*parameters.STATES, "unknown"]},
            "reason": {"type": ["string", "null"]},
            "done": {"type": "boolean"},
            "attempt": {"type": "integer"},
            **{name: or_null(MOMENT) for name in ("submitted_at", "started_at", "finished_at")},
            "progress": shapes.or_null_reference("Progress"),
            "error": {"type": "string"},
        },
        "required": ["id", "state"],
    }


SCHEMAS: Final = {
    "Status": _status_schema,
    "Statuses": lambda: shapes.object_of(
        "The jobs, in the order of the ids; `poll_after` is after how many seconds a page should ask again.",
        jobs=shapes.list_of("Status"),
        poll_after={"type": "number"},
    ),
    "Events": lambda: {
        "type": "string",
        "description": "Events `status`, whose data is a Status, and an event `end` after the last one of all jobs.",
    },
    "JobCancelled": lambda: shapes.object_of(
        "`cancelled` is false for a job that had ended.", id={"type": "string"}, cancelled={"type": "boolean"}
    ),
}
