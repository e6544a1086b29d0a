"""The pages with the workers, queues, schedules and settings of a pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from procjobs.errors import ProcjobsError
from procjobs.web.dashboard.cards import make_card
from procjobs.web.dashboard.series import queue_bar

if TYPE_CHECKING:
    from procjobs.web.dashboard.look import Look
    from procjobs.web.dashboard.rendering import Page

_UPCOMING: Final = 3
_ASK_SPAN: Final = 1.5
_SETTINGS_SPAN: Final = 10.0


def show_workers(look: Look) -> Page:
    """Return the page of the workers, each with its job."""
    pool = look.pool
    workers = pool.workers()
    jobs = pool.glance([worker.job_id for worker in workers if worker.job_id is not None])
    rows = []
    for worker in workers:
        job = jobs.get(worker.job_id)
        rows.append((worker, job if job is not None and not job.done else None))
    card = make_card(look, look.name, pool, with_charts=False)
    return look.page("workers.html", "Workers", ("workers",), "workers", workers=rows, card=card)


def show_queues(look: Look) -> Page:
    """Return the page of the queues: limits, and what is held."""
    pool = look.pool
    queues, trouble = _ask(look, "queues", _ASK_SPAN, pool.queues)
    waits = pool.stats().waits
    return look.page(
        "queues.html", "Queues", ("queues",), "queues", queues=queues, waits=waits, queue_bar=queue_bar, trouble=trouble
    )


def show_schedules(look: Look) -> Page:
    """Return the page of the schedules: their next runs and their last one."""
    pool = look.pool
    schedules, trouble = _ask(look, "schedules", _ASK_SPAN, lambda: pool.schedules(upcoming=_UPCOMING))
    return look.page("schedules.html", "Schedules", ("schedules",), "schedules", schedules=schedules, trouble=trouble)


def show_settings(look: Look) -> Page:
    """Return the page of the settings: each value, and where it comes from."""
    settings, trouble = _ask(look, "settings", _SETTINGS_SPAN, look.pool.settings)
    return look.page("settings.html", "Settings", ("settings",), "settings", settings=settings, trouble=trouble)


def _ask(look: Look, key: str, seconds: float, read: Callable[[], Any]) -> tuple[Any, str]:
    """Return an answer of the supervisor, at most so many seconds old; or nothing, and what is wrong."""
    try:
        return look.keep(key, seconds, read), ""
    except ProcjobsError as error:
        return [], f"The supervisor was asked and did not answer: {error}"
