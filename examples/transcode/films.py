"""The films of this site: a folder for each, and its jobs in a pool with a database."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import encoding

import procjobs

DATA = Path(os.environ.get("TRANSCODE_DATA", "transcode-data")).resolve()
MAX_UPLOAD_BYTES = int(os.environ.get("TRANSCODE_MAX_BYTES", "2_147_483_648"))
SAMPLE_SECONDS = float(os.environ.get("TRANSCODE_SAMPLE_SECONDS", "24"))

pool = procjobs.Pool(
    os.environ.get("TRANSCODE_POOL", "transcode"),
    store=f"sqlite:///{DATA}/jobs.db",
    preload=["films"],
)
"""The pool of this host: it is started by the first call, and shared by all processes of the site."""

LABELS = {"sample": "Painting", "video": "Encoding", "poster": "Poster of", "strip": "Strip of"}
FILES = {"poster": "poster.jpg", "strip": "strip.jpg"}


class Film(NamedTuple):
    """A film: `title` is a text of the user's, and never a name of a file; `jobs` has ids by what the job makes."""

    id: str
    title: str
    format: str
    created: float
    jobs: dict[str, str]

    @property
    def folder(self) -> Path:
        """Where its files are. The name is ours."""
        return DATA / "films" / self.id

    def path(self, kind: str) -> Path:
        """Where a job puts its result."""
        return self.folder / ("source" if kind == "sample" else FILES.get(kind, f"video.{self.format}"))


def new_film(title: str, name: str) -> Film:
    """Return a film with an empty folder. Nobody sees it before it is saved."""
    film = Film(secrets.token_hex(8), clean(title), name, time.time(), {})
    film.folder.mkdir(parents=True, mode=0o700)
    return film


def clean(title: str) -> str:
    """Return the name of an uploaded file as a title: its last part, without what cannot be seen, and short."""
    text = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in title)
    words = re.split(r"[/\\]", text)[-1].split()
    return " ".join(words)[:80] or "Film"


def save(film: Film) -> None:
    part = film.folder / ".film.json.part"
    part.write_text(json.dumps(film._asdict()))
    part.replace(film.folder / "film.json")


def load(film_id: str) -> Film:
    """Return a film by its id; raise LookupError if there is none."""
    if not re.fullmatch(r"[0-9a-f]{16}", film_id):
        raise LookupError(film_id)
    try:
        return Film(**json.loads((DATA / "films" / film_id / "film.json").read_text()))
    except FileNotFoundError:
        raise LookupError(film_id) from None


def all_films() -> list[Film]:
    """Return all films, the newest first."""
    found = [load(path.parent.name) for path in DATA.glob("films/*/film.json")]
    return sorted(found, key=lambda film: film.created, reverse=True)


def begin(film: Film) -> Film:
    """Submit the jobs of a film whose source is there. It does no harm to do it twice."""
    options = {"timeout": "2h", "retries": 3, "backoff": 0.5, "max_rss": "3GiB", "meta": {"film": film.id}}
    calls = {
        "poster": (encoding.make_poster, film.folder),
        "strip": (encoding.make_strip, film.folder),
        "video": (encoding.transcode, film.folder, film.format),
    }
    jobs = {}
    for kind, (function, *arguments) in calls.items():
        priority = 0 if kind == "video" else 5  # pictures first: they take a second
        call = pool.options(**options, priority=priority, name=kind, key=f"{kind} of {film.id}", unique=True)
        jobs[kind] = call.submit(function, *arguments).id
    film = film._replace(jobs=film.jobs | jobs)
    save(film)
    return film


def begin_sample(name: str) -> Film:
    """Submit a job that makes a film itself, and then does what `begin` does."""
    film = new_film("A flight into the Mandelbrot set", name)
    save(film)
    call = pool.options(timeout="10m", retries=1, meta={"film": film.id}, name="sample")
    film = film._replace(jobs={"sample": call.submit(paint, film, SAMPLE_SECONDS).id})
    save(film)
    return film


def paint(film: Film, seconds: float) -> None:
    """Make a sample. This is a job, which submits others."""
    encoding.make_sample(film.folder, seconds)
    begin(load(film.id))


def statuses(films: list[Film]) -> dict[str, procjobs.JobStatus | None]:
    """Return the status of each job of these films, by its id; None for one that has been forgotten."""
    return pool.look_up([job_id for film in films for job_id in film.jobs.values()])


def tidy(film: Film, known: dict[str, Any]) -> None:
    """Remove the pieces of a film whose encoding was cancelled, or has failed.

    The job does not do it: it is interrupted in the same way when its pool ends, and then goes on with them later.
    """
    status = known.get(film.jobs.get("video", ""))
    if status is not None and status.state in {"cancelled", "failed"}:
        shutil.rmtree(film.folder / "pieces", ignore_errors=True)


def remove(film: Film) -> None:
    """Remove a film. Jobs that have not ended are cancelled."""
    for job_id in film.jobs.values():
        pool.cancel(job_id)
    (film.folder / "film.json").unlink(missing_ok=True)
    shutil.rmtree(film.folder, ignore_errors=True)
