"""What both applications show: the same templates, headers and checks, without a framework."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import encoding
import films
import jinja2

import procjobs.web

HERE = Path(__file__).parent
STATIC = HERE / "static"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Nothing on these pages is inline, and nothing comes from elsewhere."""
KINDS = {".mp4": "video/mp4", ".webm": "video/webm", ".jpg": "image/jpeg"}

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def index(refused: str = "", **bar: bool) -> str:
    """Return the page with all films, and what was wrong with an upload. `bar` has attributes of the bars."""
    found = films.all_films()
    known = films.statuses(found)
    limit = films.MAX_UPLOAD_BYTES
    return _templates.get_template("index.html").render(
        cards=[card(film, known, bar) for film in found],
        formats=encoding.formats(),
        refused=refused,
        limit=f"{limit / 1024**3:g} GiB" if limit >= 1024**3 else f"{limit / 1024**2:g} MiB",
    )


def one_card(film_id: str, **bar: bool) -> str:
    """Return the card of one film as it is now; raise LookupError if there is no such film."""
    film = films.load(film_id)
    return _templates.get_template("one_card.html").render(card=card(film, films.statuses([film]), bar))


def card(film: films.Film, known: Mapping[str, Any], bar: Mapping[str, bool]) -> dict[str, Any]:
    """Return what a card shows: what is ready, a bar for each job that has not ended, and what has failed."""
    films.tidy(film, known)
    bars, problems = [], []
    for kind in (kind for kind in films.LABELS if kind in film.jobs):
        job_id = film.jobs[kind]
        status = known.get(job_id)
        if film.path(kind).exists() or status is None:
            continue
        label = f"{films.LABELS[kind]} {film.title}"
        if not status.done:
            bars.append(procjobs.web.tag(job_id, label, src="/jobs/", cancel=kind in {"sample", "video"}, **bar))
        elif status.state == "cancelled":
            problems.append(f"{label}: cancelled")
        elif status.state != "succeeded":
            problems.append(f"{label}: {status.error or status.state}"[:300])
    video = film.path("video")
    return {
        "film": film,
        "video": video.name if video.exists() else "",
        "kind": KINDS.get(video.suffix, ""),
        "size": f"{video.stat().st_size / 1e6:.1f} MB" if video.exists() else "",
        "label": encoding.FORMATS.get(film.format, {}).get("label", film.format),
        "pictures": [kind for kind in films.FILES if film.path(kind).exists()],
        "bars": bars,
        "problems": problems,
    }


def file_of(film_id: str, name: str) -> tuple[Path, str, str]:
    """Return a file of a film, its media type, and the name for a download; raise LookupError if it is not there.

    What is asked for is compared with the few names that there can be; it never becomes a path.
    """
    film = films.load(film_id)
    for kind in ("video", *films.FILES):
        path = film.path(kind)
        if path.name == name and path.exists():
            title = film.title.rpartition(".")[0] or film.title
            return path, KINDS[path.suffix], f"{title}{path.suffix}"
    raise LookupError(name)


def is_foreign(headers: Mapping[str, str]) -> bool:
    """Return whether a page of another site has sent this request: that one may not change anything here."""
    return headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}
