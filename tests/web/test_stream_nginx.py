"""Live events through a real nginx as Debian sets it up: it collects what comes from behind it, and compresses."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess

import pytest

from procjobs.web import progress, sign

from ..missing import missing
from ..waiting import wait_until
from . import jobs
from .servers import Served, Stream, free_port
from .test_stream_events import has_value, until

CONFIGURATION = """
daemon off; master_process off; pid {here}/pid; error_log {here}/error.log warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {here}/body; proxy_temp_path {here}/proxy; fastcgi_temp_path {here}/fastcgi;
    uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;
    gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;
    proxy_buffering on;
    server {{
        listen 127.0.0.1:{port};
        location /films/ {{ proxy_pass {behind}/; proxy_set_header Host $host:$server_port; }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(directory, behind):
    """Run nginx in front of a server, which it shows under /films."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found is None:
        missing("nginx is not installed (apt-get install nginx-light)")
    port = free_port()
    path = directory / "nginx.conf"
    path.write_text(CONFIGURATION.format(here=directory, port=port, behind=behind))
    log = directory / "error.log"
    process = subprocess.Popen([found, "-e", log, "-c", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        served = Served(f"http://127.0.0.1:{port}/films")
        wait_until(lambda: process.poll() is not None or _answers(served))
        assert process.poll() is None, log.read_text()
        yield served
    finally:
        process.kill()
        process.wait()


def _answers(served):
    with contextlib.suppress(OSError):
        return served.get("nothing").status == 404
    return False


@pytest.fixture
def served(serve, pool, tmp_path_factory):
    directory = tmp_path_factory.mktemp("nginx")
    os.chmod(directory, 0o755)
    with nginx(directory, serve(progress(pool)).url) as served:
        yield served


def test_events_come_one_by_one_through_a_proxy_that_collects(served, pool, tmp_path):
    """Each event is asked for before the next one can be made: what nginx kept back would never come."""
    job = pool.submit(jobs.stepping, str(tmp_path))
    with Stream(served, [sign(job)], {"Accept-Encoding": "gzip"}) as stream:
        assert "identity" == stream.response.headers["Content-Encoding"]
        assert ["retry: 3000"] == stream.read_block()
        for step in (1, 2, 3):
            (tmp_path / str(step)).touch()
            until(stream, has_value(step))
        (tmp_path / "end").touch()
        assert "succeeded" == stream.read_documents()[-1]["state"]


def test_status_and_cancel_go_through_the_proxy(served, pool, tmp_path):
    job = pool.submit(jobs.stepping, str(tmp_path))
    assert 200 == served.get("api/1/status", id=sign(job)).status
    origin = served.url.removesuffix("/films")
    refused = served.post("api/1/cancel", id=sign(job, cancel=True), headers={"Origin": "http://evil.example"})
    assert 403 == refused.status
    done = served.post("api/1/cancel", id=sign(job, cancel=True), headers={"Origin": origin})
    assert {"id": job.id, "cancelled": True} == done.json()
