"""The page of one job: for people without JavaScript, and for links that are sent around.

With JavaScript the same page shows the live element. Without it, the page loads itself again until the job has ended.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from procjobs.web.assets import asset_path
from procjobs.web.http import Response, html_response
from procjobs.web.pages.texts import choose_language, headline, read_texts, time_left
from procjobs.web.seeing import see_one
from procjobs.web.site import Route
from procjobs.web.text import MAX_ERROR, MAX_MESSAGE, MAX_NAME, clean, clean_lines

if TYPE_CHECKING:
    from jinja2 import Template

    from procjobs import JobStatus
    from procjobs.web.access.permission import Visitor
    from procjobs.web.http import Request
    from procjobs.web.site import Site

REFRESH: Final = 3
"""Seconds until the page without JavaScript loads itself again."""
_WAITS: Final = frozenset({"queued", "scheduled", "running", "retrying"})
_TELLS_WHY: Final = frozenset({"failed", "retrying"})


def show_page(site: Site, request: Request, who: Visitor) -> Response:
    """Answer with the page of a job; 404 if nobody knows it."""
    token = request.one("id")
    seen = see_one(site, request, token)
    language = choose_language(request.one("lang") or request.headers.get("accept-language", ""))
    status = seen.status
    label = clean(request.one("label"), MAX_NAME) or read_texts()[language]["progress"]
    own = [("id", token), ("label", label), *([("lang", language)] if request.one("lang") else [])]
    facts = _unknown_facts(language) if status is None else _facts(status, language)
    text = _template().render(
        facts,
        texts=read_texts()[language],
        language=language,
        label=label,
        token=token,
        own_page=f"job?{urlencode(own)}",
        can_cancel="cancel" in seen.grant.rights and not site.options.read_only and facts["is_waiting"],
        refresh=REFRESH,
        style=asset_path("procjobs.css"),
        script=asset_path("procjobs.js"),
    )
    return html_response(text, 404 if status is None else 200)


def _facts(status: JobStatus, language: str) -> dict[str, Any]:
    progress = status.progress
    is_running = status.state == "running"
    message = "" if progress is None or not is_running else clean(progress.message or "", MAX_MESSAGE)
    if status.state in _TELLS_WHY:
        message = clean_lines(status.error or status.reason or "", MAX_ERROR)
    fraction = 1.0 if status.state == "succeeded" else None if progress is None else progress.fraction
    return {
        "state": status.state,
        "is_waiting": status.state in _WAITS,
        "fraction": fraction if fraction is not None or is_running else 0.0,
        "headline": headline(status, language),
        "message": message,
        "left": time_left(progress, language) if is_running else "",
    }


def _unknown_facts(language: str) -> dict[str, Any]:
    said = read_texts()[language]["unknown"]
    return {"state": "unknown", "is_waiting": False, "fraction": 0.0, "headline": said, "message": "", "left": ""}


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # what only polls or streams does not need it

    loader = PackageLoader("procjobs", "web/templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("progress.html")


ROUTES: Final = [Route("GET", "job", "public", show_page)]
