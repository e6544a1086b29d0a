"""The page with the jobs that the store of a pool keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from procjobs.errors import ProcjobsError
from procjobs.web.dashboard.jobs import MAX_SEARCH, PAGE_SIZE, STATES
from procjobs.web.http import Problem

if TYPE_CHECKING:
    from procjobs import JobRecord
    from procjobs.web.dashboard.look import Look
    from procjobs.web.dashboard.rendering import Page

SPANS: Final = (
    ("", "at any time"), ("3600", "in the last hour"), ("86400", "in the last day"), ("604800", "in the last week"),
    ("2592000", "in the last 30 days"),
)  # fmt: skip


def show_history(look: Look) -> Page:
    """Return the page of the history; `state`, `q`, `since` (seconds back) and `before` (an id) say of what."""
    pool, one = look.pool, look.request.one
    state = one("state") if one("state") in STATES else ""
    since = one("since") if one("since") in dict(SPANS) else ""
    search, before = one("q").strip()[:MAX_SEARCH], one("before")
    has_store = pool.stats().store is not None
    records, trouble = _read(look, pool, state, search, since, before) if has_store else ([], "")
    has_more = len(records) > PAGE_SIZE
    records = records[:PAGE_SIZE]
    return look.page(
        "history.html", "History", ("history",), "history",
        has_store=has_store, records=records, trouble=trouble, state=state, q=search, since=since, before=before,
        older=records[-1].id if has_more else "", all_states=STATES, spans=SPANS,
    )  # fmt: skip


def _read(look: Look, pool: Any, state: str, search: str, since: str, before: str) -> tuple[list[JobRecord], str]:
    def scan() -> list[JobRecord]:
        found: list[JobRecord] = pool.history(
            state=state or None, search=search or None, before=before or None, limit=PAGE_SIZE + 1,
            since=look.now - int(since) if since else None,
        )  # fmt: skip
        return found

    try:
        return look.scan(("history", state, search, since, before), scan), ""
    except Problem as problem:
        return [], problem.detail
    except (ProcjobsError, ValueError, TypeError) as error:
        return [], str(error)
