"""The page with the jobs of a pool: by state, by a search, a page at a time."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from procjobs.errors import ProcjobsError
from procjobs.web.dashboard import words
from procjobs.web.http import Problem

if TYPE_CHECKING:
    from procjobs import JobStatus
    from procjobs.web.dashboard.look import Look
    from procjobs.web.dashboard.rendering import Page

STATES: Final = ("running", "queued", "scheduled", "retrying", "succeeded", "failed", "cancelled", "expired")
PAGE_SIZE: Final = 50
MAX_SEARCH: Final = 200
_ALL: Final = 2**62


def show_jobs(look: Look) -> Page:
    """Return the page of jobs; `state`, `q` and `before` (an id) of its address say which."""
    pool, one = look.pool, look.request.one
    state = one("state") if one("state") in STATES else ""
    search, before = one("q").strip()[:MAX_SEARCH], one("before")
    found, trouble = _find_jobs(look, pool, state, search, before)
    has_more = len(found) > PAGE_SIZE
    found = look_again(pool, found[:PAGE_SIZE])
    bulk = "cancel" if state in words.ACTIVE else "retry" if state in words.REPEATABLE else ""
    return look.page(
        "jobs.html", "Jobs", ("states", "jobs"), "jobs",
        jobs=found, state=state, q=search, before=before, older=found[-1].id if has_more else "",
        counts=_count_states(look, pool), bulk=bulk, trouble=trouble,
    )  # fmt: skip


def _find_jobs(look: Look, pool: Any, state: str, search: str, before: str) -> tuple[list[JobStatus], str]:
    def scan() -> list[JobStatus]:
        found: list[JobStatus] = pool.jobs(
            state or None, PAGE_SIZE + 1, search=search or None, before=before or None, data=False
        )
        return found

    try:
        return look.scan(("jobs", state, search, before), scan), ""
    except Problem as problem:
        return [], problem.detail
    except (ProcjobsError, ValueError, TypeError) as error:  # also for a cursor that is no id
        return [], str(error)


def look_again(pool: Any, jobs: list[JobStatus]) -> list[JobStatus]:
    """Return the jobs as they are now: the list of a large pool may be some seconds old, the rows of a page are cheap."""
    fresh = pool.glance([job.id for job in jobs])
    return [fresh.get(job.id) or job for job in jobs]


def _count_states(look: Look, pool: Any) -> list[tuple[str, int | None]]:
    """Return each state with the number of its jobs in the table, "" with that of all; None where that is not known."""
    try:
        counted = look.scan("counts", lambda: Counter(job.state for job in pool.jobs(None, _ALL, data=False)))
    except (ProcjobsError, Problem):
        return [("", None), *((state, None) for state in STATES)]
    return [("", counted.total()), *((state, counted[state]) for state in STATES)]
