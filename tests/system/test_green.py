"""Processes whose threads are greenlets: programs of gevent and eventlet, and gunicorn with their workers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading

import pytest

from .web_server import WebServer

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
DEADLINE = 150


@pytest.fixture(params=["gevent", "eventlet"])
def library(request):
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.mark.timeout(DEADLINE + 30)
@pytest.mark.parametrize("when", ["before", "after import", "after the pool"])
def test_pool_works_where_greenlets_have_replaced_threads(library, when, tmp_path, pool_name):
    directory = tmp_path / pool_name
    directory.mkdir()
    with open(tmp_path / "output", "w+") as output:  # not a pipe, which what is left over would keep open
        program = [sys.executable, "-W", "ignore", "-m", "tests.system.green_program", library, when, directory]
        code = subprocess.run(program, cwd=ROOT, stdout=output, stderr=output, timeout=DEADLINE, check=False).returncode
        output.seek(0)
        said = output.read()
    outcomes = dict(line.split(" ", 1) for line in said.splitlines() if line.endswith((" True", " False")))
    assert (0, {"True"}) == (code, set(outcomes.values())), said
    assert "stop" in outcomes, said


class GreenSite(WebServer):
    """A gunicorn whose worker serves requests in greenlets."""

    def get(self, page, **query):
        return json.loads(super().get(page, **query))


WORKERS = {"gevent": "gunicorn.workers.ggevent", "eventlet": "gunicorn.workers.geventlet"}


@pytest.fixture(params=[[], ["--preload"]], ids=["each web worker imports", "preload"])
def site(request, library, tmp_path, pool_name):
    if importlib.util.find_spec(WORKERS[library]) is None:
        pytest.skip(f"this release of gunicorn has no workers of {library}")
    options = ["--worker-class", library, "--graceful-timeout", "10", *request.param]
    application = "tests.system.gunicorn_app:application"
    site = GreenSite(tmp_path, application, *options, web_workers=1, PROCJOBS_TEST_POOL=pool_name)
    yield site
    site.stop()


def test_request_that_waits_for_a_job_lets_the_web_worker_serve_others(site, tmp_path):
    paths = [tmp_path / f"finish-{n}" for n in range(2)]
    submitted = [site.get("/submit", path=path) for path in paths]
    answers = []
    waiting = [
        threading.Thread(target=lambda job=job: answers.append(site.get("/result", id=job["id"]))) for job in submitted
    ]
    for thread in waiting:
        thread.start()
    # The one web worker answers while two of its greenlets wait, and ends their jobs only then.
    assert {job["web_worker"] for job in submitted} == {site.get("/status", id=submitted[0]["id"])["web_worker"]}
    for path in paths:
        path.touch()
    for thread in waiting:
        thread.join(60)
    assert 2 == len(answers), site.log()


def test_web_worker_that_is_killed_has_a_successor_that_uses_the_pool(site, tmp_path):
    first = site.get("/supervisor")
    os.kill(first["web_worker"], 9)
    (tmp_path / "done").touch()
    job = site.get("/submit", path=tmp_path / "done")
    assert first["web_worker"] != job["web_worker"]
    assert "result" in site.get("/result", id=job["id"])
    assert first["supervisor"] == site.get("/supervisor")["supervisor"]
