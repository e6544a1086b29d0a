"""The pool behind a real gunicorn: three web workers, one pool, and a job whose status any of them can read."""

from __future__ import annotations

import json
import os
import signal
import threading

import psutil
import pytest

import procjobs
from procjobs.host import rundir

from ..conftest import wait_until
from .web_server import WebServer

WEB_WORKERS = 3


class Site(WebServer):
    """A server whose pages are JSON."""

    def get(self, page, **query):
        return json.loads(super().get(page, **query))

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


@pytest.fixture(params=[[], ["--preload"]], ids=["each web worker imports", "preload"])
def site(request, tmp_path, pool_name):
    options = ["--graceful-timeout", "10", *request.param]
    application = "tests.system.gunicorn_app:application"
    site = Site(tmp_path, application, *options, web_workers=WEB_WORKERS, PROCJOBS_TEST_POOL=pool_name)
    yield site
    site.stop()


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
    assert site.web_workers() == set(supervisors)
    assert 1 == len(set(supervisors.values()))


def test_nothing_is_left_after_gunicorn_and_the_pool_have_ended(site, pool_name):
    processes = everything_of(site.get("/supervisor")["supervisor"])
    site.process.send_signal(signal.SIGTERM)
    assert 0 == site.process.wait(30), site.log()
    assert "Traceback" not in site.log()
    procjobs.Pool(pool_name).stop()
    assert [] == [process for process in processes if not has_ended(process)]
    assert [] == [entry for entry in os.listdir(rundir.find_base()) if entry.startswith(pool_name)]
