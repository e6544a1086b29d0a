"""The pages of the dashboard as routes, and what they answer while a pool cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from procjobs.errors import ProcjobsError
from procjobs.web.dashboard import asking, history, job, jobs, lists, overview
from procjobs.web.dashboard.look import Look
from procjobs.web.dashboard.memory import Memory
from procjobs.web.dashboard.rendering import Page, respond
from procjobs.web.http import Problem, Response
from procjobs.web.moments import wall
from procjobs.web.problems import problem_of
from procjobs.web.site import Route

if TYPE_CHECKING:
    from procjobs.web.access.permission import Visitor
    from procjobs.web.http import Request
    from procjobs.web.site import Site

_PAGES: Final[dict[str, Callable[..., Page]]] = {
    "pools/{pool}/": overview.show_pool,
    "pools/{pool}/jobs": jobs.show_jobs,
    "pools/{pool}/jobs/{id}": job.show_job,
    "pools/{pool}/workers": lists.show_workers,
    "pools/{pool}/queues": lists.show_queues,
    "pools/{pool}/schedules": lists.show_schedules,
    "pools/{pool}/history": history.show_history,
    "pools/{pool}/settings": lists.show_settings,
    "pools/{pool}/ask": asking.show_question,
}


class Dashboard:
    """The pages of one site, and what they remember between two looks."""

    def __init__(self) -> None:
        self._memory = Memory(wall)

    @property
    def routes(self) -> list[Route]:
        """The routes of all pages."""
        pages = [Route("GET", pattern, "read", partial(self._show, show)) for pattern, show in _PAGES.items()]
        return [Route("GET", "", "read", self._show_all), *pages]

    def _show_all(self, site: Site, request: Request, who: Visitor) -> Response:
        return respond(overview.show_overview(Look(site, request, who, self._memory)), request)

    def _show(
        self, show: Callable[..., Page], site: Site, request: Request, who: Visitor, pool: str, **parts: str
    ) -> Response:
        look = Look(site, request, who, self._memory, pool)
        try:
            page = show(look, **parts)
        except (Problem, ProcjobsError) as error:
            page = self._trouble(look, problem_of(error, request))
        return respond(page, request)

    def _trouble(self, look: Look, problem: Problem) -> Page:
        """Return the page that says what is wrong. It goes on looking: a pool that is started anew shows by itself.

        An open page of a pool gets this sentence above what it shows, and keeps what it has.
        """
        page = look.page("trouble.html", problem.title, (), alert=problem.detail)
        return page._replace(status=problem.status)


