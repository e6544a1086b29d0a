"""Pages from templates. All text that a template shows is cleaned here, then escaped, whoever has written it."""

from __future__ import annotations

import json
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from procjobs import __version__
from procjobs.web.assets import asset_path
from procjobs.web.dashboard import words
from procjobs.web.http import Response, encode_json, html_response
from procjobs.web.text import clean, clean_end, clean_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from procjobs.web.http import Request

MAX_TEXT: Final = 70_000
"""More than any text that a template bounds by itself."""


class Page(NamedTuple):
    """A page: its template, what is in the title of the window, and the values that its templates need.

    `parts` are the names of its live parts: `parts/NAME.html` each.
    """

    template: str
    heading: str
    parts: tuple[str, ...]
    values: Mapping[str, Any]
    status: int = 200


def respond(page: Page, request: Request) -> Response:
    """Return the page; with `fragment=1` its live parts alone, as JSON, or 304 if they are as the visitor has them."""
    environment = _environment()
    values = {**page.values, "heading": page.heading, "mount": quote(request.mount), "asset": _asset(request)}
    html = {name: environment.get_template(f"parts/{name}.html").render(values).strip() for name in page.parts}
    if request.one("fragment"):
        return _fragments(html, request)

    def part(name: str) -> Markup:
        return Markup('<div data-live="{}">{}</div>').format(name, Markup(html[name]))  # noqa: S704 - a template escaped it

    text = environment.get_template(page.template).render(values, part=part)
    return html_response(text, page.status)


def _fragments(html: dict[str, str], request: Request) -> Response:
    body = encode_json({"parts": html})
    etag = f'"{blake2b(body, digest_size=12).hexdigest()}"'
    headers = (("ETag", etag), ("Cache-Control", "no-store"), ("Content-Type", "application/json; charset=utf-8"))
    if etag in request.headers.get("if-none-match", ""):
        return Response(b"", 304, headers[:2])
    return Response(body, 200, headers)


def _asset(request: Request) -> Any:
    return lambda name: request.link(asset_path(name))


def query(**fields: Any) -> str:
    """Return the fields that are not empty as the query of a URL, with its question mark; "" if all are empty."""
    given = {name: value for name, value in fields.items() if value}
    return f"?{urlencode(given)}" if given else ""


@cache
def _environment() -> Environment:
    """Return the templates of the package: one set for a process, since nothing in them changes."""
    made = Environment(
        loader=PackageLoader("procjobs", "web/templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined, finalize=_finalize,
    )  # fmt: skip
    made.filters |= {
        "size": words.size, "span": words.span, "about": words.about, "ago": words.ago, "moment": words.moment,
        "iso": words.iso, "number": words.number, "count": words.count, "state": words.state, "amount": words.amount,
        "limits": words.limits, "first_line": words.first_line, "bounded": clean, "text": clean_lines, "end": clean_end,
        "as_json": _as_json, "path": lambda text: quote(text, safe=""),
    }  # fmt: skip
    made.globals |= {
        "sign": lambda kind: words.SIGNS.get(kind, "·"), "version": __version__, "query": query,
        "active_states": words.ACTIVE, "repeatable_states": words.REPEATABLE,
    }  # fmt: skip
    return made


def _finalize(value: Any) -> Any:
    return clean_lines(value, MAX_TEXT) if isinstance(value, str) and not isinstance(value, Markup) else value


def _as_json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
