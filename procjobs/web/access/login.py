"""The login of `procjobs web`: a link lets one browser in, which has a cookie then; a token that is kept lets programs in.

There is one user, whoever has started the server: there are no names and no passwords. Nothing is open because it comes from
this host: other users of it, and pages of strangers in a browser on it, reach the same address.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from procjobs.errors import ConfigurationError
from procjobs.web.access.origin import bearer
from procjobs.web.http import Problem, see_other
from procjobs.web.site import Route

if TYPE_CHECKING:
    from procjobs.web.access.permission import Visitor
    from procjobs.web.http import Request, Response
    from procjobs.web.site import Site

MIN_TOKEN: Final = 16
_RIGHT: Final = "admin"
_PURPOSE: Final = b"procjobs web cookie 1"


class OneTimeLogin:
    """An `authorize` for one user: a link that works once, or with a token that is kept, as often as it is needed.

    `token`: a secret text of at least 16 characters that is kept somewhere, such as in a file that its owner alone can read.
    It is taken in the link, any number of times, and as `Authorization: Bearer TOKEN`; cookies stay good when the server is
    started again. Without it, a token is made here that works in one link, once. Raise ConfigurationError for a short one.
    """

    def __init__(self, token: str | None = None) -> None:
        if token is not None and len(token) < MIN_TOKEN:
            raise ConfigurationError(f"the login token has {len(token)} characters, and needs at least {MIN_TOKEN}")
        self._is_kept = token is not None
        self._token = secrets.token_urlsafe(32) if token is None else token
        self._cookie = hmac.digest(self._token.encode(), _PURPOSE, "sha256").hex()
        # Cookies are the same for all ports of a host: two servers must not overwrite each other's.
        self._name = f"procjobs-{hmac.digest(self._cookie.encode(), b'name', 'sha256').hex()[:12]}"
        self._lock = threading.Lock()
        self._is_used = False
        self.routes: Final = (Route("GET", "login", "public", self._log_in),)

    def __call__(self, request: Request) -> str | None:
        """Return what `authorize_request` does; not for the requests of a framework."""
        return self.authorize_request(request)

    @property
    def link(self) -> str:
        """The path, below the mount, that lets a browser in."""
        return f"login?{urlencode({'token': self._token})}"

    def authorize_request(self, request: Request) -> str | None:
        """Return the right of a visitor: all of it for one who has the cookie, or the token that is kept; else None."""
        if _is_same(request.cookies.get(self._name, ""), self._cookie):
            return _RIGHT
        brought = bearer(request)
        return _RIGHT if self._is_kept and brought is not None and _is_same(brought, self._token) else None

    def _log_in(self, _site: Site, request: Request, _who: Visitor) -> Response:
        if self.authorize_request(request) is None and not self._take(request.one("token")):
            why = "This link does not let you in: it was used already, or it is of another server."
            raise Problem(403, "Not let in", f"{why} Start `procjobs web` again; with --token-file its link stays the same.")
        parts = [f"{self._name}={self._cookie}", f"Path={request.mount or '/'}", "HttpOnly", "SameSite=Strict"]
        cookie = "; ".join([*parts, *(["Secure"] if request.is_secure else [])])
        return see_other(request, "").with_headers(("Set-Cookie", cookie))

    def _take(self, token: str) -> bool:
        if not _is_same(token, self._token):
            return False
        with self._lock:
            may_enter = self._is_kept or not self._is_used
            self._is_used = True
        return may_enter


def _is_same(given: str, secret: str) -> bool:
    """Whether two texts are equal. The time that this takes does not tell where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode("utf-8", "replace"))
