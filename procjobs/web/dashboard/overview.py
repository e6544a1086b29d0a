"""The page of all pools, and the first page of one."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from procjobs.errors import ProcjobsError
from procjobs.web.dashboard.cards import make_card
from procjobs.web.http import Problem

if TYPE_CHECKING:
    from procjobs import JobStatus
    from procjobs.web.dashboard.look import Look
    from procjobs.web.dashboard.rendering import Page

_MAX_RUNNING: Final = 20
_MAX_FAILURES: Final = 5
_MAX_KINDS: Final = 20


def show_overview(look: Look) -> Page:
    """Return the page of all pools."""
    cards = [make_card(look, name, pool) for name, pool in look.pools.items()]
    return look.page("overview.html", "Overview", ("pools",), cards=cards)


def show_pool(look: Look) -> Page:
    """Return the first page of a pool: its card, running jobs, the last failures, and how each kind of job has fared."""
    pool = look.pool
    card = make_card(look, look.name, pool)
    kinds: list[Any] = []
    with suppress(ProcjobsError):
        kinds = pool.kinds()[:_MAX_KINDS]
    return look.page(
        "pool.html", look.name, ("pool", "running", "failures", "kinds", "control"), "",
        card=card, running=running_jobs(look, pool), failures=_failures(look, pool), kinds=kinds,
    )  # fmt: skip


def running_jobs(look: Look, pool: Any) -> list[JobStatus]:
    """Return the jobs that workers have now, those that run longest first. Reads the rows of these jobs alone."""
    del look
    with suppress(ProcjobsError):
        ids = [worker.job_id for worker in pool.workers() if worker.job_id is not None][:_MAX_RUNNING]
        found = [job for job in pool.glance(ids).values() if job is not None and not job.done]
        return sorted(found, key=lambda job: job.started_at or job.submitted_at)
    return []


def _failures(look: Look, pool: Any) -> list[JobStatus]:
    with suppress(ProcjobsError, Problem):
        found: list[JobStatus] = look.scan("failures", lambda: pool.jobs("failed", _MAX_FAILURES, data=False))
        return found
    return []
