"""examples/transcode, in FastAPI and in Flask, run as a user runs it: films come in by HTTP and are encoded in pieces."""

from __future__ import annotations

import html
import http.client
import json
import os
import pickle
import re
import socket
import sqlite3
import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path

import psutil
import pytest

import procjobs
from tests.chromium import running_chromium
from tests.conftest import wait_until

for needed in ("imageio_ffmpeg", "fastapi", "flask", "uvicorn", "python_multipart", "jinja2", "starlette", "sse_starlette"):
    pytest.importorskip(needed)

from procjobs import ffmpeg  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "examples" / "transcode"
APPLICATIONS = ["app.py", "flask_app.py"]
ID = re.compile(r'data-film="([0-9a-f]{16})"')
SAME = {"Sec-Fetch-Site": "same-origin"}
NAMES = [
    ("../../../etc/passwd.mp4", "passwd.mp4"),
    ("C:\\films\\x.mp4", "x.mp4"),
    ("-y.mp4", "-y.mp4"),
    ("<img src=x onerror=alert(1)>.mp4", "<img src=x onerror=alert(1)>.mp4"),
    ("gro\u00df \u591c\u202efilm.mp4", "gro\u00df \u591c film.mp4"),
    ("x" * 500, "x" * 80),
    ("..", ".."),
]
NO_FILMS = [b"no film at all", b"ffconcat version 1.0\nfile /etc/motd", b"#EXTM3U\n#EXTINF:1,\n/etc/motd\n#EXT-X-ENDLIST"]

HOLDING = """#!/bin/sh
case "$*" in *.{piece}.mkv*) while [ -e '{folder}/hold' ]; do echo $$ > '{folder}/held'; sleep 0.05; done;; esac
exec '{ffmpeg}' "$@"
"""
"""An ffmpeg that waits before it encodes one piece, as long as a test wants it to."""
LISTEN = """
    globalThis.fractions = [];
    document.addEventListener("job-progress", (event) => {
        const fraction = event.detail.progress?.fraction;
        if (event.target.getAttribute("label").startsWith("Encoding") && fraction != null) fractions.push(fraction);
    });
"""
"""Notes what the bar of the encoding shows. The upload ends with another page, so nothing is noted before that one."""


def free_port():
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Site:
    """The application, with its films in a folder of this test."""

    def __init__(self, application, folder, pool_name, held_piece=None, **environment):
        self.port, self.data, self.pool_name = free_port(), folder / "data", pool_name
        self._log = folder / "log"
        settings = {"TRANSCODE_DATA": str(self.data), "TRANSCODE_POOL": pool_name, "TRANSCODE_PIECE_SECONDS": "0.5"}
        settings["PROCJOBS_NICE"] = "0"  # nothing to give way to
        command = [sys.executable, EXAMPLE / application, "--port", str(self.port)]
        settings = {**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1]), **settings, **environment}
        self._hold, self._held = folder / "hold", folder / "held"
        if held_piece is not None:
            self._hold.touch()
            folder.joinpath("ffmpeg").write_text(HOLDING.format(piece=held_piece, folder=folder, ffmpeg=ffmpeg.find()))
            folder.joinpath("ffmpeg").chmod(0o755)
            settings["PATH"] = f"{folder}:{settings['PATH']}"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(command, env=settings, stdout=output, stderr=output)
        wait_until(self._is_listening, dump=self._log.read_text)

    def _is_listening(self):
        assert self.process.poll() is None, self._log.read_text()
        with closing(socket.socket()) as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def ask(self, method, path, body=None, **headers):
        """Return (status, headers, body)."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, body, SAME | {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def get(self, path):
        status, _, body = self.ask("GET", path)
        assert 200 == status, f"{status} {body!r}\n{self._log.read_text()}"
        return body.decode()

    def upload(self, content, name="film.mp4", film_format="mp4", field="film"):
        body, kind = form(content, name, film_format, field)
        return self.ask("POST", "/films", body, Content_Type=kind)

    def add(self, content, *args):
        """Upload a film and return its id."""
        before = set(self.ids())
        status, headers, body = self.upload(content, *args)
        assert (303, "/") == (status, headers["Location"]), f"{body!r}\n{self._log.read_text()}"
        (new,) = set(self.ids()) - before
        return new

    def ids(self):
        return ID.findall(self.get("/"))

    def folder(self, film):
        return self.data / "films" / film

    def jobs(self, film):
        return json.loads((self.folder(film) / "film.json").read_text())["jobs"]

    def card(self, film):
        return html.unescape(self.get(f"/films/{film}/card"))

    def wait_for(self, film, *names):
        """Wait for files of a film. To ask the site instead, again and again, would take the CPUs that encode."""
        paths = [self.folder(film) / name for name in names]
        wait_until(lambda: all(path.exists() for path in paths), timeout=90, dump=lambda: self.card(film))

    def wait_until_held(self, film):
        """Wait until the encoding has come to the piece at which it is held; return the process of its ffmpeg."""
        wait_until(lambda: self._held.exists() and self._held.read_text().strip(), dump=lambda: self.card(film))
        return psutil.Process(int(self._held.read_text()))

    def release(self):
        self._hold.unlink()
        self._held.unlink()

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        with procjobs.Pool(self.pool_name, start=False) as pool:
            pool.stop()


def form(content, name, film_format, field="film"):
    """Return a form as a browser sends it, and its content type."""
    edge = uuid.uuid4().hex
    quoted = name.replace('"', "%22")
    parts = f'--{edge}\r\nContent-Disposition: form-data; name="format"\r\n\r\n{film_format}\r\n--{edge}\r\n'
    parts += f'Content-Disposition: form-data; name="{field}"; filename="{quoted}"\r\nContent-Type: video/mp4\r\n\r\n'
    return parts.encode() + content + f"\r\n--{edge}--\r\n".encode(), f"multipart/form-data; boundary={edge}"


def make_film(path, seconds, size="160x90"):
    inputs = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=20", "-f", "lavfi", "-i", "sine"]
    ffmpeg.run([*inputs, "-t", str(seconds), "-preset", "ultrafast", path], progress=False)
    return path.read_bytes()


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return make_film(tmp_path_factory.mktemp("short") / "film.mp4", 1.7)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return make_film(tmp_path_factory.mktemp("long") / "film.mp4", 4, "320x180")


@pytest.fixture
def start(tmp_path, pool_name):
    sites = []

    def start(application="app.py", **settings):
        sites.append(Site(application, tmp_path, pool_name, **settings))
        return sites[-1]

    yield start
    for site in sites:
        site.stop()


@pytest.mark.parametrize(("application", "kind"), [("app.py", "mp4"), ("flask_app.py", "webm")])
def test_uploaded_film_can_be_watched_and_downloaded(start, short, application, kind):
    site = start(application)
    film = site.add(short, "my film.mov", kind)
    site.wait_for(film, f"video.{kind}", "poster.jpg", "strip.jpg")
    card = site.card(film)
    assert [True] * 4 == [text in card for text in ("my film.mov", "<video", "poster.jpg", "strip.jpg")]
    status, headers, body = site.ask("GET", f"/films/{film}/video.{kind}?download=true")
    assert (200, f"video/{kind}") == (status, headers["Content-Type"])
    assert "attachment" in headers["Content-Disposition"]
    assert f"my film.{kind}" in headers["Content-Disposition"].replace("%20", " ")
    result = site.folder(film) / f"video.{kind}"
    assert body == result.read_bytes()
    info = ffmpeg.probe(result, count_frames=True)
    assert (160, 90, 34) == (info.width, info.height, info.frames)
    assert ({"mp4": "h264", "webm": "vp9"}[kind], {"mp4": "aac", "webm": "opus"}[kind]) == info[6:]
    assert 1.6 < info.duration < 1.9
    part = site.ask("GET", f"/films/{film}/video.{kind}", Range="bytes=5-9")
    assert (206, body[5:10]) == (part[0], part[2])
    strip = ffmpeg.probe(site.folder(film) / "strip.jpg")
    assert (1280, 90) == (strip.width, strip.height)
    assert {"film.json", "poster.jpg", "source", "strip.jpg", result.name} == set(os.listdir(site.folder(film)))
    policy = headers["Content-Security-Policy"]
    assert ("default-src 'none'", False) == (policy.split(";")[0], "unsafe" in policy)
    assert 303 == site.ask("POST", f"/films/{film}/remove")[0]
    assert ([], []) == (site.ids(), list(site.data.glob("films/*")))


@pytest.mark.parametrize("victim", ["worker", "supervisor", "everything"])
def test_film_goes_on_behind_its_last_piece_when_something_is_killed(start, long, victim):
    site = start(held_piece="00003")
    film = site.add(long)
    worker = site.wait_until_held(film).parent()
    wait_until(lambda: stored_pieces(site.data) == 3, dump=lambda: site.card(film))
    (worker if victim == "worker" else worker.parent()).kill()
    site.release()
    if victim == "everything":
        site.process.kill()
        site.process.wait()
        site = start()
    site.get("/")
    site.wait_for(film, "video.mp4")
    with procjobs.Pool(site.pool_name, start=False) as pool:
        job = site.jobs(film)["video"]
        result = pool.job(job).result(30)
        attempts = len(pool.attempts(job))
    assert (8, 5, 2) == (result["pieces"], result["encoded"], attempts)
    info = ffmpeg.probe(site.folder(film) / "video.mp4", count_frames=True)
    assert (80, "aac") == (info.frames, info.audio_codec)


def stored_pieces(data):
    """Return how many pieces are made, as the last checkpoint in the database says."""
    with closing(sqlite3.connect(data / "jobs.db", timeout=30)) as connection:
        rows = connection.execute("SELECT data FROM procjobs_checkpoints").fetchall()
    return pickle.loads(rows[0][0])["pieces"] if rows else None


@pytest.mark.parametrize("application", APPLICATIONS)
def test_cancelled_film_leaves_no_pieces_and_can_be_tried_again(start, long, application):
    site = start(application, held_piece="00002")
    film = site.add(long)
    running = site.wait_until_held(film)
    assert (site.folder(film) / "pieces" / "00001.mkv").exists()
    token = re.search(r'<procjobs-progress job="([^"]+)" label="Encoding', site.card(film))[1]
    status, _, body = site.ask("POST", f"/jobs/api/1/cancel?id={token}")
    assert 200 == status, body
    site.wait_for(film, "poster.jpg", "strip.jpg")
    wait_until(lambda: not running.is_running())
    site.release()
    wait_until(lambda: "cancelled" in site.card(film) and "Try again" in site.card(film), dump=lambda: site.card(film))
    assert {"film.json", "poster.jpg", "source", "strip.jpg"} == set(os.listdir(site.folder(film)))
    assert 303 == site.ask("POST", f"/films/{film}/again")[0]
    site.wait_for(film, "video.mp4")
    assert 303 == site.ask("POST", f"/films/{film}/remove")[0]
    assert [] == site.ids()


def test_names_of_files_are_titles_and_nothing_else(start, short):
    site = start()
    for name, title in NAMES:
        film = site.add(short, name)
        assert f'aria-label="{html.escape(title)}"' in site.get(f"/films/{film}/card")
        assert 303 == site.ask("POST", f"/films/{film}/remove")[0]
    film = site.add(short)
    assert {"films", "jobs.db", "jobs.db-shm", "jobs.db-wal"} >= set(os.listdir(site.data))
    assert [film] == os.listdir(site.data / "films")
    for path in ("../../etc/passwd", "film.json", "source", "%2e%2e%2fjobs.db", ".."):
        assert 404 == site.ask("GET", f"/films/{film}/{path}")[0], path
    assert 404 == site.ask("GET", "/films/..%2f..%2fetc/card")[0]


@pytest.mark.parametrize("application", APPLICATIONS)
def test_what_is_no_film_to_take_is_refused_in_words_and_leaves_nothing(start, short, application):
    site = start(application, TRANSCODE_MAX_BYTES=str(1024**2))
    large, kind = form(b"x" * 1024**2, "film.mp4", "mp4")
    refusals = [
        site.ask("POST", "/films", large, Content_Type=kind),
        site.ask("POST", "/films", b"film=1", Content_Type="text/plain"),
        site.ask("POST", "/films", b"", Content_Type="multipart/form-data; boundary=x"),
        site.upload(b"", "film.mp4"),
        site.upload(short, "film.mp4", "exe"),
        site.upload(short, "film.mp4", "mp4", "other"),
        *(site.upload(content) for content in NO_FILMS),
        site.ask("POST", "/films", form(b"x", "film.mp4", "mp4")[0][:-40], Content_Type=kind),
    ]
    if application == "app.py":  # Flask's server takes no body without a length
        refusals.append(site.ask("POST", "/films", iter([large[:5000], large[5000:]]), Content_Type=kind))
    assert {400, 413, 415} == {status for status, _, _ in refusals}
    assert all(b"Not taken: " in body for _, _, body in refusals)
    assert b"a film may have 1 MiB" in refusals[0][2]
    assert 403 == site.ask("POST", "/samples", b"", Sec_Fetch_Site="cross-site")[0]
    assert ([], []) == (site.ids(), list(site.data.glob("films/*")))


def test_upload_that_breaks_off_leaves_nothing(start):
    site = start()
    body, kind = form(b"x" * 500_000, "film.mp4", "mp4")
    with closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)) as connection:
        connection.putrequest("POST", "/films")
        connection.putheader("Content-Type", kind)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:300_000])
        wait_until(lambda: [path for path in site.data.glob("films/*/*") if path.stat().st_size > 100_000])
    wait_until(lambda: [] == list(site.data.glob("films/*")))


@pytest.fixture(scope="module")
def browser():
    with running_chromium() as started:
        yield started


@pytest.mark.parametrize("application", APPLICATIONS)
def test_bars_move_in_a_browser_until_the_film_can_be_watched(start, browser, tmp_path, long, application):
    site = start(application)
    (tmp_path / "holiday.mp4").write_bytes(long)
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.set_default_timeout(60_000)
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type in {"error", "warning"} else None)
    page.add_init_script(LISTEN)
    page.goto(f"http://127.0.0.1:{site.port}/")
    page.set_input_files("input[type=file]", tmp_path / "holiday.mp4")
    page.click("text=Upload and encode")
    page.wait_for_function("() => fractions.some((fraction) => fraction > 0)")
    page.screenshot(path=tmp_path / "encoding.png")
    page.wait_for_selector("video")
    page.wait_for_function("() => document.querySelector('video').readyState > 0")
    assert 4.0 == pytest.approx(page.evaluate("() => document.querySelector('video').duration"), abs=0.2)
    page.wait_for_function("() => !document.querySelector('procjobs-progress')")
    page.screenshot(path=tmp_path / "ready.png")
    fractions = page.evaluate("() => fractions")
    assert sorted(fractions) == fractions  # how many there are depends on how fast this machine encodes
    page.set_viewport_size({"width": 320, "height": 800})
    assert 320 == page.evaluate("() => document.documentElement.scrollWidth")
    page.close()
    assert [] == problems
