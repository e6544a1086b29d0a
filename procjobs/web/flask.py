"""The Flask shell: a blueprint. Pages poll: it has no streams, as under every WSGI server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

try:
    import flask
except ImportError as error:
    raise ImportError(f"{error}: pip install flask") from error

from procjobs.web.routes import framework_site
from procjobs.web.site import ShowArguments, Site
from procjobs.web.wsgi_app import answer, with_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from procjobs.web.access.job_access import Access, AuthorizeJob
    from procjobs.web.access.permission import Authorize
    from procjobs.web.pools import PoolsGiven

_METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
"""All of them come here, where those that are not meant are answered with 405."""


def blueprint(
    pools: PoolsGiven,
    *,
    name: str = "procjobs",
    dashboard: bool = True,
    authorize: Authorize | None = None,
    read_only: bool = False,
    show_arguments: ShowArguments = False,
    title: str | None = None,
    secret: bytes | str | None = None,
    allow_hosts: Sequence[str] | None = None,
    access: Access = "signed",
    authorize_job: AuthorizeJob | None = None,
    cancel: bool = False,
) -> flask.Blueprint:
    """Return a blueprint: `app.register_blueprint(procjobs.web.blueprint(pool), url_prefix="/jobs")`.

    It has what `procjobs.web.wsgi` has; without `dashboard`, what `procjobs.web.progress_wsgi` has. `authorize(request)` and
    `authorize_job(request, job_id, meta)` are plain functions, and get Flask's request; the session and the user of
    Flask-Login are there. Two blueprints in one application need two names. With Flask-WTF's CSRFProtect, exempt it: forms
    that change something are checked by where they come from. Raise ConfigurationError as `procjobs.web.wsgi` does.
    """
    site = framework_site(
        pools, dashboard=dashboard, title=title, read_only=read_only, allow_hosts=allow_hosts, show_arguments=show_arguments,
        authorize=authorize, access=access, authorize_job=authorize_job, cancel=cancel, secret=secret,
    )  # fmt: skip
    made = flask.Blueprint(name, __name__)

    def serve(path: str = "") -> flask.Response:
        return _answer(site, path)

    made.add_url_rule("/", "serve", serve, methods=_METHODS, provide_automatic_options=False)
    made.add_url_rule("/<path:path>", "serve", serve, methods=_METHODS, provide_automatic_options=False)
    return made


def _answer(site: Site, path: str) -> flask.Response:
    native = cast("Any", flask.request)._get_current_object()  # noqa: SLF001 - what Flask documents for this
    mount = f"{native.script_root}{native.path}"
    mount = mount.removesuffix(path).rstrip("/")
    response = answer(site, native.environ, native=native, mount=mount, path=path, read_body=_read_body)
    return flask.Response(response.body, response.status, with_length(response))


def _read_body() -> bytes:
    """Return the body, also where something before has read it as a form."""
    raw = flask.request.get_data(cache=True)
    return raw or urlencode(list(flask.request.form.items(multi=True))).encode()
