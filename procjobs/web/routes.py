"""All routes, and the sites that are made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from procjobs.web import assets, job_routes
from procjobs.web.access.job_access import JobAccess
from procjobs.web.access.permission import Permission, refuse_async
from procjobs.web.access.signing import Signer
from procjobs.web.api.table import ROUTES as API_ROUTES
from procjobs.web.moments import wall
from procjobs.web.pages import progress
from procjobs.web.pools import Pools
from procjobs.web.site import Options, Route, Router, Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from procjobs.web.access.job_access import Access, AuthorizeJob
    from procjobs.web.access.permission import Authorize
    from procjobs.web.pools import PoolsGiven
    from procjobs.web.site import ShowArguments

PROGRESS_ROUTES: Final[list[Route]] = [*job_routes.ROUTES, *progress.ROUTES, *assets.ROUTES]
"""The end user's half."""
DASHBOARD_ROUTES: Final[list[Route]] = [*API_ROUTES]
"""The operator's half, without its pages: a dashboard remembers things, so each site has its own."""


def progress_site(
    pools: PoolsGiven,
    options: Options,
    *,
    access: Access,
    authorize_job: AuthorizeJob | None,
    cancel: bool,
    secret: bytes | str | None,
) -> Site:
    """Return a site with the end user's half alone."""
    jobs = JobAccess(Signer(secret, wall), access, authorize_job, cancel=cancel)
    permission = Permission(None, read_only=options.read_only)
    return Site(Pools(pools), Router(PROGRESS_ROUTES), options, permission=permission, jobs=jobs)


def full_site(
    pools: PoolsGiven,
    options: Options,
    *,
    authorize: Authorize | None,
    access: Access,
    authorize_job: AuthorizeJob | None,
    secret: bytes | str | None,
) -> Site:
    """Return a site with both halves."""
    from procjobs.web.dashboard.pages import Dashboard  # with jinja2, which the end user's half can do without

    jobs = JobAccess(Signer(secret, wall), access, authorize_job, cancel=False)
    routes = [*PROGRESS_ROUTES, *DASHBOARD_ROUTES, *Dashboard().routes, *getattr(authorize, "routes", ())]
    actions = {route.action for route in routes if route.action is not None}
    permission = Permission(authorize, read_only=options.read_only, actions=actions)
    return Site(Pools(pools), Router(routes), options, permission=permission, jobs=jobs)


def framework_site(
    pools: PoolsGiven,
    *,
    dashboard: bool,
    title: str | None,
    read_only: bool,
    allow_hosts: Sequence[str] | None,
    show_arguments: ShowArguments,
    authorize: Authorize | None,
    access: Access,
    authorize_job: AuthorizeJob | None,
    cancel: bool,
    secret: bytes | str | None,
) -> Site:
    """Return a site for a framework on WSGI, which polls: with both halves, or without the dashboard."""
    refuse_async_callables(authorize, authorize_job)
    hosts = None if allow_hosts is None else tuple(allow_hosts)
    options = Options(title or "procjobs", read_only, False, hosts, show_arguments)
    if dashboard:
        return full_site(pools, options, authorize=authorize, access=access, authorize_job=authorize_job, secret=secret)
    return progress_site(pools, options, access=access, authorize_job=authorize_job, cancel=cancel, secret=secret)


def refuse_async_callables(authorize: Authorize | None, authorize_job: AuthorizeJob | None) -> None:
    """Raise ConfigurationError for callables that WSGI cannot await."""
    refuse_async(authorize, "authorize")
    refuse_async(authorize_job, "authorize_job")
