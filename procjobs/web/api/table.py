"""All calls of the API: the routes and the OpenAPI document are made of this one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from procjobs.web.api import bulk, history, jobs, pools, progress_calls, schedules
from procjobs.web.api.openapi import Document, endpoint_of

if TYPE_CHECKING:
    from procjobs.web.api.endpoint import Endpoint
    from procjobs.web.site import Route

_MODULES: Final = (pools, jobs, bulk, schedules, history)
_ENDPOINTS: Final[list[Endpoint]] = [endpoint for module in _MODULES for endpoint in module.ENDPOINTS]
_SCHEMAS: Final = {name: make for module in (*_MODULES, progress_calls) for name, make in module.SCHEMAS.items()}
_SHOWN: Final[list[Endpoint]] = [*progress_calls.ENDPOINTS, *_ENDPOINTS]
DOCUMENT: Final = Document(_SHOWN, _SCHEMAS)
_OWN: Final = endpoint_of(DOCUMENT)
_SHOWN.append(_OWN)
ROUTES: Final[list[Route]] = [endpoint.route() for endpoint in (*_ENDPOINTS, _OWN)]
"""The routes of the operator's half: those of the end user's half are in job_routes.py and streams.py."""
