"""Progress in the browser, a dashboard and a JSON API, as an application to mount or as a server of its own.

    app            ASGI: the dashboard, its API and the progress of jobs        wsgi            the same for WSGI
    progress       ASGI: the progress of jobs alone, for end users' pages       progress_wsgi   the same for WSGI
    blueprint      Flask                                                        urls            Django
    sign           a token that lets whoever has it look at one job
__all__ = ["OneTimeLogin", "Request", "app", "blueprint", "progress", "progress_wsgi", "sign", "tag", "urls", "wsgi"]

A request goes through one chain, whatever server is in front (asgi_app.py, wsgi_app.py):

    Host allowed?  ->  which route?  ->  same origin, if it changes something?  ->  what may the visitor do?  ->  handler
    access/hosts       site.Router       access/origin                              access/permission

Handlers are plain functions that return a `Response`; each module with handlers has a table `ROUTES`, and routes.py joins
these tables. Live events are the one exception: streams.py sends them, from what one watcher for all streams sees.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from procjobs.web.access.signing import sign
from procjobs.web.element import tag

if TYPE_CHECKING:
    from procjobs.web.access.login import OneTimeLogin
    from procjobs.web.asgi_app import app, progress
    from procjobs.web.django import urls
    from procjobs.web.flask import blueprint
    from procjobs.web.http import Request
    from procjobs.web.wsgi_app import progress_wsgi, wsgi

__all__ = ["OneTimeLogin", "Request", "app", "blueprint", "progress", "progress_wsgi", "sign", "tag", "urls", "wsgi"]

_LATE = {
    "OneTimeLogin": "procjobs.web.access.login",
    "Request": "procjobs.web.http",
    "app": "procjobs.web.asgi_app",
    "blueprint": "procjobs.web.flask",
    "progress": "procjobs.web.asgi_app",
    "progress_wsgi": "procjobs.web.wsgi_app",
    "urls": "procjobs.web.django",
    "wsgi": "procjobs.web.wsgi_app",
}


def __getattr__(name: str) -> Any:
    """Load a shell on its first use: each needs another framework, and none needs all of them."""
    if name not in _LATE:
        raise AttributeError(f"module 'procjobs.web' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LATE[name]), name)
    return value
