"""The API of what the store of a pool has kept."""

from __future__ import annotations

from typing import Any, Final

from procjobs.web.api import parameters, shapes
from procjobs.web.api.endpoint import Call, Endpoint

_PARAMETERS: Final = (
    parameters.choice("state", "Only jobs in this state.", parameters.STATES),
    parameters.text("name", "Only jobs with this name; a % in it stands for any text."),
    parameters.text("q", "Only jobs with this text in the id or the name."),
    parameters.moment("since", "Only jobs submitted at this time or later."),
    parameters.job_id("before", "Only jobs with smaller ids: the `next` of the page before."),
    parameters.integer("limit", "At most this many jobs.", least=1, most=parameters.MAX_LIMIT, default=100),
)


def _list(call: Call) -> dict[str, Any]:
    values = call.values
    limit: int = values["limit"]
    found = call.pool.history(
        state=values["state"], name=values["name"], since=values["since"], search=values["q"], before=values["before"],
        limit=limit + 1,
    )  # fmt: skip
    shown = found[:limit]
    records = [shapes.record_document(record) for record in shown]
    return {"jobs": records, "next": shown[-1].id if len(found) > limit else None}


ENDPOINTS: Final = (
    Endpoint("GET", "api/1/history", "read", _list, "Jobs that the store keeps, the newest first", "History", _PARAMETERS),
)
SCHEMAS: Final = {
    "Run": shapes.RUN.schema,
    "Record": shapes.record_schema,
    "History": lambda: shapes.object_of(
        "A page of records. `next` is the `before` of the next page, null on the last one.",
        jobs=shapes.list_of("Record"),
        next={"type": ["string", "null"], "format": "uuid"},
    ),
}
