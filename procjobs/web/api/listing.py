"""Jobs by a filter, one page at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from procjobs.web.api import parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from procjobs import JobStatus
    from procjobs.web.api.endpoint import Call

FILTERS: Final = (
    parameters.choice("state", "Only jobs in this state.", parameters.STATES),
    parameters.text("name", "Only jobs with this name."),
    parameters.text("queue", "Only jobs in this queue."),
    parameters.text("q", "Only jobs with this text in the id, the name, the key or the queue."),
)
_ALL: Final = 2**62


def list_jobs(call: Call, values: Mapping[str, Any], *, limit: int) -> list[JobStatus]:
    """Return up to `limit` jobs that the filter lets through, the newest first; raise a Problem (503) if asked too often.

    Nothing of them is unpickled. The answer may be as old as 20 times the time that it took to read it.
    """
    pool, before = call.pool, values.get("before")
    state, name, queue, search = (values.get(one.name) for one in FILTERS)
    question = (call.pool_name, "jobs", state, name, queue, search, before, limit)

    def scan() -> list[JobStatus]:
        if name is None and queue is None:
            found: list[JobStatus] = pool.jobs(state, limit, search=search, before=before, data=False)
            return found
        rows = pool.jobs(state, _ALL, search=search or name or queue, before=before, data=False)
        return [row for row in rows if name in {None, row.name} and (queue is None or queue == row.queue)][:limit]

    listed: list[JobStatus] = call.site.scans.read(question, scan)
    return listed
