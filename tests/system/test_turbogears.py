"""The TurboGears example under gunicorn: three web workers, one pool, jobs that use the application's database."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import procjobs
from tests.conftest import wait_until
from tests.databases import _missing, database_url, postgres_server, postgres_url, sqlite_url  # noqa: F401
from tests.system.web_server import WebServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "turbogears"
WEB_WORKERS = 3


class Site(WebServer):
    """The running application."""

    def is_up(self):
        assert self.process.poll() is None, self.log()
        return self.ask("GET", "/films")[0] == 200

    def films(self):
        return json.loads(self.get("/films"))["films"]

    def start(self, page, **form):
        """Post a form that starts a job; return its uid, from the page that one is sent on to."""
        status, headers, text = self.ask("POST", page, **form)
        assert 302 == status, f"{text}\n{self.log()}"
        where = urlsplit(headers["Location"])
        assert "/state" == where.path
        return where.query.removeprefix("uid=")

    def state(self, uid):
        """Return what the page says, and which web worker says it (None on the last page)."""
        text = self.get("/state", uid=uid)
        worker = re.search(r"web worker (\d+)", text)
        return re.search(r"<p>(.*?)</p>", text)[1], worker and int(worker[1])


@pytest.fixture(params=[[], ["--preload"]], ids=["each web worker imports", "preload"])
def site(request, tmp_path, pool_name, database_url):  # noqa: F811
    importlib.util.find_spec("tg") or _missing("TurboGears2")
    options = ["app:application", "--chdir", str(EXAMPLE), *request.param]
    site = Site(tmp_path, *options, web_workers=WEB_WORKERS, FILMS_POOL=pool_name, FILMS_DATABASE=database_url)
    try:
        wait_until(site.is_up, dump=site.log)
        yield site
    finally:
        site.stop()


def test_pages_of_every_web_worker_show_the_progress_of_a_job(site, pool_name):
    pool = procjobs.Pool(pool_name)
    pool.pause()
    uid = site.start("/transcode", steps=100)
    assert "not started" == site.state(uid)[0]
    pool.resume()
    seen = set()

    def is_reported_by_several():
        text, worker = site.state(uid)
        if re.fullmatch(r"\d+ % \(frame \d+\)", text):
            seen.add(worker)
        return len(seen) > 1

    wait_until(is_reported_by_several, dump=site.log)
    wait_until(lambda: site.state(uid)[0] == "completed", dump=site.log)
    pool.shutdown()


def test_job_changes_the_row_that_its_request_has_created(site):
    for number in range(5):
        uid = site.start("/upload", title=f"film {number}")
        wait_until(lambda uid=uid: site.state(uid)[0] == "completed", dump=site.log)
        assert [f"film {number}", "ready"] == site.films()[-1], site.log()


def test_job_that_raises_leaves_the_database_as_it_was(site, pool_name):
    uid = site.start("/upload", title="film")
    wait_until(lambda: site.state(uid)[0] == "completed")
    uid = site.start("/spoil")
    wait_until(lambda: site.state(uid)[0] == "completed")
    assert [["film", "ready"]] == site.films()
    with procjobs.Pool(pool_name) as pool:
        assert "RuntimeError: the disk is full" in pool.status(uid).error
