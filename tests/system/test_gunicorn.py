"""The pool behind a real gunicorn: three web workers, one pool, and a job whose status any of them can read."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest

import procjobs
from procjobs.host import rundir

from ..conftest import wait_until

WEB_WORKERS = 3
ROOT = Path(__file__).parents[2]


class Site:
    """A running gunicorn on a Unix socket."""

    def __init__(self, socket_path, process, log):
        self._socket_path = socket_path
        self.process = process
        self._log = log

    def get(self, page, **query):
        """Request a page on a new connection, so that any web worker may answer."""
        with contextlib.closing(http.client.HTTPConnection("localhost", timeout=30)) as connection:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(30)
            connection.sock.connect(self._socket_path)
            connection.request("GET", f"{page}?{urlencode(query)}")
            response = connection.getresponse()
            body = response.read()
        assert 200 == response.status, self.log()
        return json.loads(body)

    def ask_until(self, satisfies, page, **query):
        """Request a page until the answer is as wanted, and return this answer.

        As many questions at a time as there are web workers: while one is busy, another takes the next question.
        """

        def ask():
            answers = []
            threads = [
                threading.Thread(target=lambda: answers.append(self.get(page, **query))) for _ in range(WEB_WORKERS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return next(filter(satisfies, answers), None)

        return wait_until(ask, dump=self.log)

    def is_listening(self):
        assert self.process.poll() is None, self.log()
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
            return sock.connect_ex(self._socket_path) == 0

    def log(self):
        return self._log.read_text()


@pytest.fixture(params=[[], ["--preload"]], ids=["each web worker imports", "preload"])
def site(request, tmp_path, pool_name):
    socket_path, log = str(tmp_path / "web"), tmp_path / "log"
    command = [sys.executable, "-m", "gunicorn", "--workers", str(WEB_WORKERS), "--bind", f"unix:{socket_path}"]
    command += ["--graceful-timeout", "10", *request.param, "tests.system.gunicorn_app:application"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PROCJOBS_TEST_POOL": pool_name}, stdout=output, stderr=output
        )
    site = Site(socket_path, process, log)
    try:
        wait_until(site.is_listening, dump=site.log)
        wait_until(lambda: len(web_workers(process.pid)) == WEB_WORKERS, dump=site.log)
        yield site
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def web_workers(master):
    return [child.pid for child in psutil.Process(master).children() if "gunicorn" in " ".join(child.cmdline())]


def everything_of(supervisor_pid):
    supervisor = psutil.Process(supervisor_pid)
    return [supervisor, *supervisor.children(recursive=True)]


def has_ended(process):
    """Return whether a process has ended. An ended daemon is a zombie until the host's init reaps it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_job_of_one_web_worker_is_followed_and_fetched_from_another(site, tmp_path):
    path = tmp_path / "finish"
    submitted = site.get("/submit", path=path)
    first = submitted["web_worker"]

    def is_seen_elsewhere(answer):
        return answer["web_worker"] != first and answer["progress"]

    seen = site.ask_until(is_seen_elsewhere, "/status", id=submitted["id"])
    progress = seen["progress"]
    assert (submitted["id"], "running", 1) == (seen["id"], seen["state"], seen["attempt"])
    assert [3, 7, "three of seven"] == [progress["value"], progress["total"], progress["message"]]
    assert {"pid": first} == progress["data"]

    path.touch()
    fetched = site.ask_until(lambda answer: answer["web_worker"] != first, "/result", id=submitted["id"])
    assert 3 == fetched["result"]
    assert "succeeded" == site.get("/status", id=submitted["id"])["state"]


def test_all_web_workers_share_one_supervisor(site):
    supervisors = {}
    while len(supervisors) < WEB_WORKERS:
        answer = site.ask_until(lambda answer: answer["web_worker"] not in supervisors, "/supervisor")
        supervisors[answer["web_worker"]] = answer["supervisor"]
    assert set(web_workers(site.process.pid)) == set(supervisors)
    assert 1 == len(set(supervisors.values()))


def test_nothing_is_left_after_gunicorn_and_the_pool_have_ended(site, pool_name):
    processes = everything_of(site.get("/supervisor")["supervisor"])
    site.process.send_signal(signal.SIGTERM)
    assert 0 == site.process.wait(30), site.log()
    assert "Traceback" not in site.log()
    procjobs.Pool(pool_name).stop()
    assert [] == [process for process in processes if not has_ended(process)]
    assert [] == [entry for entry in os.listdir(rundir.find_base()) if entry.startswith(pool_name)]
