"""The Django shell: patterns of URLs. Pages poll: it has no streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from django.http import HttpResponse
    from django.urls import re_path
    from django.views.decorators.csrf import csrf_exempt
except ImportError as error:
    raise ImportError(f"{error}: pip install django") from error

from procjobs.errors import ConfigurationError
from procjobs.web.routes import framework_site
from procjobs.web.site import ShowArguments
from procjobs.web.wsgi_app import answer, with_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from procjobs.web.access.job_access import Access, AuthorizeJob
    from procjobs.web.access.permission import Authorize
    from procjobs.web.pools import PoolsGiven


def authorize_staff(request: Any) -> str | None:
    """Return what a user of Django's own may do: superusers all of it, staff "read", with `procjobs.operate` "operate".

    Raise ConfigurationError without Django's AuthenticationMiddleware.
    """
    user = getattr(request, "user", None)
    if user is None:
        raise ConfigurationError(
            "the pages ask for request.user: add django.contrib.auth.middleware.AuthenticationMiddleware, "
            "or give procjobs.web.urls an `authorize`"
        )
    if not (user.is_active and user.is_staff):
        return None
    if user.is_superuser:
        return "admin"
    return "operate" if user.has_perm("procjobs.operate") else "read"


def urls(
    pools: PoolsGiven,
    *,
    dashboard: bool = True,
    authorize: Authorize | None = authorize_staff,
    read_only: bool = False,
    show_arguments: ShowArguments = False,
    title: str | None = None,
    secret: bytes | str | None = None,
    allow_hosts: Sequence[str] | None = None,
    access: Access = "signed",
    authorize_job: AuthorizeJob | None = None,
    cancel: bool = False,
) -> list[Any]:
    """Return patterns for Django: `path("jobs/", include(procjobs.web.urls(pool)))`.

    It has what `procjobs.web.wsgi` has; without `dashboard`, what `procjobs.web.progress_wsgi` has. `authorize(request)` and
    `authorize_job(request, job_id, meta)` are plain functions, and get Django's request. Unless another `authorize` is
    given, active staff may read, those among them with the permission `procjobs.operate` may act on jobs, and superusers may
    do everything. Django's token against forgery is not asked for, since these pages check where a request comes from; its
    ALLOWED_HOSTS hold. Raise ConfigurationError as `procjobs.web.wsgi` does.
    """
    site = framework_site(
        pools, dashboard=dashboard, title=title, read_only=read_only, allow_hosts=allow_hosts, show_arguments=show_arguments,
        authorize=authorize, access=access, authorize_job=authorize_job, cancel=cancel, secret=secret,
    )  # fmt: skip

    def serve(request: Any, path: str) -> Any:
        mount = request.path.removesuffix(path).rstrip("/")
        environ = {**request.META, "wsgi.url_scheme": request.scheme}
        response = answer(site, environ, native=request, mount=mount, path=path, read_body=lambda: bytes(request.body))
        given = HttpResponse(response.body, status=response.status)
        del given["Content-Type"]
        for name, value in with_length(response):
            given[name] = value
        return given

    return [re_path(r"^(?P<path>.*)$", csrf_exempt(serve))]
