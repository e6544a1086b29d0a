"""Jobs by a filter, one page at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

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
_FIRST_PART: Final = 1000
_GROWTH: Final = 8


class _Exactly(NamedTuple):
    """The name and the queue that jobs must have, None where any will do."""

    name: str | None
    queue: str | None

    def fits(self, status: JobStatus) -> bool:
        return self.name in {None, status.name} and self.queue in {None, status.queue}


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
        return _list_exactly(pool, state, search or name or queue, before, limit, _Exactly(name, queue))

    listed: list[JobStatus] = call.site.scans.read(question, scan)
    return listed


def _list_exactly(
    pool: Any, state: str | None, search: str | None, before: str | None, limit: int, wanted: _Exactly
) -> list[JobStatus]:
    """Return the jobs that a search finds and that have just this name and this queue.

    A search is for a part of either, so more are read than are wanted. Each reading goes through all rows; what takes time
    is to make a status of those found. So the parts grow: few readings find few jobs among many, and one finds many.
    """
    found: list[JobStatus] = []
    size = _FIRST_PART
    while True:
        part = pool.jobs(state, size, search=search, before=before, data=False)
        found += filter(wanted.fits, part)
        if len(found) >= limit or len(part) < size:
            return found[:limit]
        before, size = part[-1].id, size * _GROWTH
