"""Requests that change something must come from a page of this site: the browser says where they come from. Pure.

No token in forms and no session are needed: browsers since 2023 send `Sec-Fetch-Site` with every request over https and to
localhost, and all of them send `Origin` with every POST. A client that sends neither is a program, and has to bring a bearer
token: no page of a stranger can make a browser add that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from procjobs.web.http import SAFE_METHODS, Problem

if TYPE_CHECKING:
    from procjobs.web.http import Request

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def check_origin(request: Request) -> None:
    """Raise Problem 403 for a request that changes something and does not come from this site."""
    if request.method in SAFE_METHODS:
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        is_ours, why = site == "same-origin", f"Sec-Fetch-Site is {site[:40]!r}"
    elif origin is not None:
        is_ours, why = _is_same(origin, request.host), f"Origin is {origin[:200]!r}, and the host is {request.host[:200]!r}"
    else:
        is_ours, why = bearer(request) is not None, "there is no Sec-Fetch-Site, no Origin and no `Authorization: Bearer`"
    if not is_ours:
        raise Problem(403, "Not from this site", f"This request would change something, and does not come from here: {why}.")


def bearer(request: Request) -> str | None:
    """Return the bearer token of a request, None without one."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" and token.strip() else None


def _is_same(origin: str, host: str) -> bool:
    """Whether an origin is that of a host. The scheme is not compared: a proxy may have taken TLS away."""
    try:
        parts, ours = urlsplit(origin), urlsplit(f"//{host}")
        default = _DEFAULT_PORTS[parts.scheme]
        theirs, own = (parts.hostname, parts.port or default), (ours.hostname, ours.port or default)
    except (KeyError, ValueError):  # "null", another scheme, a port that is none
        return False
    return parts.hostname is not None and theirs == own
