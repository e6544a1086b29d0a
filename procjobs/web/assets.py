"""Scripts and style sheets: under an address with the hash of their content, which caches may keep for ever.

`procjobs.js` has an address that stays the same as well, for pages of applications: it is asked for anew each time, and
answered with 304 as long as it is the same.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from importlib import resources
from typing import TYPE_CHECKING, Final, NamedTuple

from procjobs.web.http import Problem, Request, Response
from procjobs.web.site import Route

if TYPE_CHECKING:
    from procjobs.web.access.permission import Visitor
    from procjobs.web.site import Site

_KINDS: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_FOR_EVER: Final = ("Cache-Control", "public, max-age=31536000, immutable")
_ASK_AGAIN: Final = ("Cache-Control", "no-cache")


class Asset(NamedTuple):
    """A file: its content, its type, and a text that differs whenever the content does."""

    body: bytes
    kind: str
    digest: str


@cache
def read_assets() -> dict[str, Asset]:
    """Return the files by name. They are read once in a process: a new version of the package comes with a new one."""
    found = {}
    for path in resources.files("procjobs").joinpath("web/static").iterdir():
        suffix = path.name[path.name.rfind(".") :]
        if suffix in _KINDS:
            body = path.read_bytes()
            found[path.name] = Asset(body, _KINDS[suffix], blake2b(body, digest_size=8).hexdigest())
    return found


def asset_path(name: str) -> str:
    """Return the path of a file below the mount, with its hash: "static/0123456789abcdef/procjobs.css"."""
    return f"static/{read_assets()[name].digest}/{name}"


def send_asset(site: Site, request: Request, who: Visitor, digest: str, name: str) -> Response:
    """Answer with a file; an old hash is answered with the file that there is now, which nobody may keep."""
    asset = _find(name)
    keep = _FOR_EVER if digest == asset.digest else _ASK_AGAIN
    return Response(asset.body, 200, (("Content-Type", asset.kind), keep))


def send_script(site: Site, request: Request, who: Visitor) -> Response:
    """Answer with the script of the progress element, or 304."""
    asset = _find("procjobs.js")
    etag = f'"{asset.digest}"'
    headers = (("ETag", etag), _ASK_AGAIN)
    if etag in request.headers.get("if-none-match", ""):
        return Response(b"", 304, headers)
    return Response(asset.body, 200, (("Content-Type", asset.kind), *headers))


def _find(name: str) -> Asset:
    asset = read_assets().get(name)
    if asset is None:
        raise Problem(404, "Not found", "There is no such file.")
    return asset


ROUTES: Final = [
    Route("GET", "static/{digest}/{name}", "public", send_asset, fast=True),
    Route("GET", "procjobs.js", "public", send_script, fast=True),
]
