"""examples/taskqueue, run as a user runs it: a gunicorn with two workers, its queues, and somebody who forges requests."""

from __future__ import annotations

import http.client
import json
import os
import pickle
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import pytest

import procjobs
from procjobs.compat.taskqueue.sender.job import name_of
from tests.conftest import wait_until
from tests.system.web_server import WebServer

pytest.importorskip("httpx")
pytest.importorskip("yaml")

EXAMPLE = Path(__file__).parents[2] / "examples" / "taskqueue"


def free_port():
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class GuestBook(WebServer):
    """The example's server, also on a port, where the pool reaches it."""

    def __init__(self, tmp_path):
        self.port = free_port()
        self.store = f"sqlite:///{tmp_path}/guestbook.db"
        super().__init__(
            tmp_path, "app:application", "--bind", f"127.0.0.1:{self.port}", "--chdir", str(EXAMPLE), web_workers=2,
            GUESTBOOK_URL=f"http://127.0.0.1:{self.port}", GUESTBOOK_STORE=self.store,
        )  # fmt: skip

    def send(self, method, path, headers=(), body=b"", **form):
        """Return (status, text)."""
        data = body or urlencode(form).encode()
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, data, dict(headers))
            response = connection.getresponse()
            return response.status, response.read().decode()

    def json(self, method, path, **form):
        status, text = self.send(method, path, **form)
        assert 200 == status, f"{text}\n{self.log()}"
        return json.loads(text)


@pytest.fixture
def guest_book(tmp_path):
    server = GuestBook(tmp_path)
    yield server
    server.stop()
    stop_sender(server.store)


def stop_sender(store):
    procjobs.Pool(name_of(procjobs.PullQueue(pool="any", store=store).store)).stop()


def test_guests_are_greeted_and_asked_and_nobody_can_forge_a_task(guest_book):
    assert {"default": 0, "letters": 0} == guest_book.json("GET", "/")
    assert guest_book.json("POST", "/", name="Zoé")["task"]
    letters = []

    def come():
        letters.extend(guest_book.json("POST", "/letters"))
        return letters

    wait_until(come, dump=guest_book.log)
    for forged in ({}, {"X-AppEngine-TaskName": "t"}, {"x_appengine_taskname": "t"}, {"X-Procjobs-Signature": "v=1"}):
        assert 404 == guest_book.send("POST", "/tasks/greet", forged, name="Eve")[0]
    call = pickle.dumps((print, ("forged",), {}))
    assert 403 == guest_book.send("POST", "/_ah/queue/deferred", {"X-AppEngine-TaskName": "t"}, call)[0]
    wait_until(lambda: len(come()) == 2, dump=guest_book.log)
    assert {"Hello Zoé!", "How was it, Zoé?"} == set(letters)
    wait_until(lambda: {"default": 0, "letters": 0} == guest_book.json("GET", "/"), dump=guest_book.log)


def test_programs_of_different_environments_use_the_queues_without_a_word(tmp_path):
    """The sender looks at no variable: a script of cron is not told that its environment is not that of the web server."""
    store = f"sqlite:///{tmp_path}/tasks.db"
    program = f"""
from procjobs.compat import taskqueue
taskqueue.configure(base_url="http://127.0.0.1:9", store={store!r})
print(taskqueue.add(url="/work", countdown=3600).name, flush=True)
input()
"""

    def start(word):
        return subprocess.Popen(
            [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "OF_THIS_SHELL": word}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    with start("web") as first:
        assert first.stdout.readline(), first.stderr.read()
        with start("cron") as second:
            said = second.communicate("\n", timeout=60)
        assert (0, "") == (second.returncode, said[1])
        assert "" == first.communicate("\n", timeout=60)[1]
    stop_sender(store)
