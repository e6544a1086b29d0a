"""The pages. Each action starts a job, and redirects to the page that shows its progress."""

import os
import time
from html import escape

from model import DBSession, Film
from tg import TGController, expose, redirect

from procjobs.compat.asyncjob import (
    asyncjob_get_progress,
    asyncjob_perform,
    asyncjob_set_progress,
    asyncjob_timed_query,
)

PAGE = (
    "<!doctype html><title>Films</title><style>body{{font:18px sans-serif;margin:3em}}</style>{refresh}<h1>Films</h1>{body}"
)
FORMS = (
    '<form method=post action=/transcode><input name=steps value=100><button>Transcode something</button></form>'
    '<form method=post action=/upload><input name=title value="A film"><button>Upload a film</button></form>'
    '<form method=post action=/spoil><button>Spoil all films (and fail)</button></form>'
)


def page(body, refresh=False):
    return PAGE.format(body=body, refresh="<meta http-equiv=refresh content=1>" if refresh else "")


class RootController(TGController):
    @expose(content_type="text/html")
    def index(self):
        """Show the films, and forms that start jobs."""
        films = DBSession.query(Film).order_by(Film.id)
        rows = "".join(f"<li>{escape(film.title)}: {escape(film.state)}</li>" for film in films)
        return page(f"<ul>{rows}</ul>{FORMS}")

    @expose("json")
    def films(self):
        """Return the films as JSON."""
        return {"films": [[film.title, film.state] for film in DBSession.query(Film).order_by(Film.id)]}

    @expose()
    def transcode(self, steps="100"):
        """Start a job that reports its progress."""
        count = int(steps)

        def work():
            for step in range(1, count + 1):
                time.sleep(0.05)
                asyncjob_set_progress(step * 100 // count, f"frame {step}")

        redirect("/state", params={"uid": asyncjob_perform(work)})

    @expose()
    def upload(self, title):
        """Create a row, and start a job that changes it. The row is committed after this method has returned."""
        film = Film(title=title)
        DBSession.add(film)
        DBSession.flush()
        film_id = film.id

        def finish():
            uploaded = asyncjob_timed_query(DBSession.query(Film).filter_by(id=film_id)).first()
            uploaded.state = "ready"

        redirect("/state", params={"uid": asyncjob_perform(finish)})

    @expose()
    def spoil(self):
        """Start a job that changes all rows and then raises: its changes are rolled back."""

        def work():
            for film in DBSession.query(Film):
                film.state = "spoilt"
            DBSession.flush()
            raise RuntimeError("the disk is full")

        redirect("/state", params={"uid": asyncjob_perform(work)})

    @expose(content_type="text/html")
    def state(self, uid):
        """Show the progress of a job. Any web worker can do this."""
        progress = asyncjob_get_progress(uid)
        if progress is None:
            return page("<p>completed</p><a href=/>back</a>")
        value, message = progress
        text = "not started" if value < 0 else f"{value} % ({escape(str(message))})"
        return page(f"<p>{text}</p><small>says web worker {os.getpid()}</small>", refresh=True)
