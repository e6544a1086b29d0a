"""The TurboGears example under gunicorn: three web workers, one pool, jobs that use the application's database."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

import procjobs
from tests.conftest import wait_until
from tests.databases import _missing, database_url, postgres_server, postgres_url, sqlite_url  # noqa: F401

EXAMPLE = Path(__file__).parents[2] / "examples" / "turbogears"
WEB_WORKERS = 3


class Site:
    """The running application, asked over a Unix socket."""

    def __init__(self, path, log):
        self._path = path
        self._log = log

    def ask(self, method, target):
        """Return (status, headers, text); each question on a connection of its own, so any web worker may take it."""
        import socket

        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(30)
            connection.sock.connect(self._path)
            connection.request(method, target)
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()
        finally:
            connection.close()

    def is_up(self):
        try:
            return self.ask("GET", "/films")[0] == 200
        except OSError:
            return False

    def films(self):
        return json.loads(self.ask("GET", "/films")[2])["films"]

    def start(self, page, **form):
        """Post a form that starts a job; return its uid, from the page of the redirect."""
        status, headers, text = self.ask("POST", f"{page}?{urlencode(form)}")
        assert 302 == status, f"{text}\n{self.log()}"
        where = urlsplit(headers["Location"])
        assert "/state" == where.path
        return where.query.removeprefix("uid=")

    def state(self, uid):
        """Return the text of the page, and the web worker that answers (None on the last page)."""
        status, _, text = self.ask("GET", f"/state?uid={uid}")
        assert 200 == status, self.log()
        worker = re.search(r"web worker (\d+)", text)
        return re.search(r"<p>(.*?)</p>", text)[1], worker and int(worker[1])

    def log(self):
        return self._log.read_text()


@pytest.fixture(params=[[], ["--preload"]], ids=["each web worker imports", "preload"])
def site(request, tmp_path, pool_name, database_url):  # noqa: F811
    importlib.util.find_spec("tg") or _missing("TurboGears2")
    path, log = str(tmp_path / "web"), tmp_path / "log"
    command = [sys.executable, "-m", "gunicorn", "--workers", str(WEB_WORKERS), "--bind", f"unix:{path}"]
    command += ["--chdir", str(EXAMPLE), *request.param, "app:application"]
    environment = {**os.environ, "FILMS_POOL": pool_name, "FILMS_DATABASE": database_url}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    site = Site(path, log)
    try:
        wait_until(lambda: process.poll() is not None or site.is_up(), dump=site.log)
        assert None is process.poll(), site.log()
        yield site
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


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
