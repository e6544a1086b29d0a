"""`procjobs web`: who is let in, which pools it shows, how it ends, and what it says is wrong."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import pytest

pytest.importorskip("click")
import procjobs
from procjobs.cli import web_server
from procjobs.cli.app import run
from procjobs.client.running_pool import RunningPool, find_pool
from procjobs.web import sign

from ..waiting import wait_until
from . import api_jobs
from .servers import Served, Stream


class Command:
    """A running `procjobs web`, with what it has printed."""

    def __init__(self, process, said):
        self.process = process
        self.said = said
        url = urlsplit(said["url"] or "http://unix/")
        self.served = Served(f"http://{url.netloc}")
        self.login = said["path"].lstrip("/")

    def let_in(self):
        """Take the link; return the headers that a browser sends from then on."""
        answer = self.served.get(self.login)
        assert (303, "/") == (answer.status, answer.headers["Location"]), answer.text
        return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0], "Sec-Fetch-Site": "same-origin"}

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def directory(tmp_path):
    return str(tmp_path / "pools")


@pytest.fixture
def web(directory):
    """Starts the command, and returns when it listens: `web("media", "--read-only")`."""
    started = []

    def web(*arguments, bind="127.0.0.1:0", env=None):
        command = [sys.executable, "-m", "procjobs", "web", *arguments, "--bind", bind, "--directory", directory, "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
        started.append(process)
        return Command(process, json.loads(process.stdout.readline()))

    yield web
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def start(directory):
    """Starts a named pool, and ends it after the test."""
    with contextlib.ExitStack() as stack:

        def start(name="media", **settings):
            pool = procjobs.Pool(name, directory=directory, **{"workers": 1, "linger": 600.0, **settings})
            stack.callback(end, pool)
            return pool

        yield start


def end(pool):
    with contextlib.suppress(procjobs.ProcjobsError):
        pool.stop()


def names(command, headers):
    return [pool["name"] for pool in command.served.get("api/1/pools", headers=headers).json()["pools"]]


def test_link_lets_one_browser_in_and_nobody_else(web, start):
    start().connect()
    command = web()
    assert 403 == command.served.get("api/1/pools").status
    assert 403 == command.served.get("login?token=guessed").status
    headers = command.let_in()
    assert ["media"] == names(command, headers)
    second = command.served.get(command.login)
    assert (403, None) == (second.status, second.headers["Set-Cookie"])
    assert "used already" in second.text
    assert 303 == command.served.get(command.login, headers=headers).status  # the browser that is in already
    token = command.login.partition("=")[2]
    assert 403 == command.served.get("api/1/pools", headers={"Authorization": f"Bearer {token}"}).status
    kind, name = headers["Cookie"].partition("=")[0].split("-")
    assert ("procjobs", 12) == (kind, len(name))


def test_token_file_is_for_this_user_alone_and_lets_programs_in(web, start, tmp_path):
    start().connect()
    path = tmp_path / "token"
    command = web("--token-file", str(path))
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    headers = command.let_in()
    command.let_in()  # its link works more than once
    bearer = {"Authorization": f"Bearer {path.read_text().strip()}"}
    assert ["media"] == names(command, bearer)
    assert "paused" == command.served.post("api/1/pool/pause", headers=bearer).json()["state"]
    assert 403 == command.served.get("api/1/pools", headers={"Authorization": "Bearer " + "x" * 43}).status
    assert 0 == command.end()
    again = web("--token-file", str(path))
    assert command.login == again.login
    assert ["media"] == names(again, headers)


@pytest.mark.parametrize(
    ("mode", "content", "said"),
    [
        (0o644, "x" * 20, "others than its owner"),
        (0o600, "short", "at least 16"),
        (0o600, "two words that are long", "at least 16"),
    ],
)
def test_token_file_that_is_no_secret_is_refused(tmp_path, capsys, mode, content, said):
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(mode)
    assert 1 == run(["web", "--token-file", str(path), "--bind", "127.0.0.1:0"])
    assert said in capsys.readouterr().err


def test_pools_that_come_later_are_shown_and_those_that_have_ended_are_not(web, start):
    command = web()
    headers = command.let_in()
    assert [] == names(command, headers)
    first = start("first")
    first.connect()
    wait_until(lambda: ["first"] == names(command, headers))
    start("second").connect()
    wait_until(lambda: ["first", "second"] == names(command, headers))
    first.stop()
    wait_until(lambda: ["second"] == names(command, headers))
    answer = command.served.get("api/1/queues", headers=headers)  # the only one is meant
    assert {"queues": []} == answer.json()


def test_killed_pool_is_still_shown_and_comes_back(web, start, directory):
    pool = start()
    job = pool.submit(api_jobs.wait_for, "/nonexistent/file")
    wait_until(lambda: job.status().progress)
    command = web("media")
    headers = command.let_in()
    os.kill(pool.stats().supervisor_pid, signal.SIGKILL)

    def state():
        shown = command.served.get("api/1/pools", headers=headers).json()["pools"]
        return shown[0]["state"] if shown else "gone"  # while its successor makes its files

    with RunningPool(find_pool("media", directory)) as running:
        wait_until(lambda: running.supervisor_state() != "gone" or state() == "killed")
    pool.submit(pow, 2, 3).result(30)
    wait_until(lambda: state() == "running")


def test_pools_that_are_not_named_are_not_shown(web, start):
    start("first").connect()
    start("second").connect()
    command = web("second")
    headers = command.let_in()
    assert ["second"] == names(command, headers)
    assert 404 == command.served.get("api/1/stats", headers=headers, pool="first").status


def test_unused_pool_ends_although_it_is_shown(web, start):
    pool = start(linger=0.5)
    pool.connect()
    supervisor = pool.stats().supervisor_pid
    command = web()
    headers = command.let_in()
    assert {"queues": []} == command.served.get("api/1/queues", headers=headers).json()  # it is connected to the supervisor
    pool.shutdown()
    wait_until(lambda: not os.path.exists(f"/proc/{supervisor}"))
    wait_until(lambda: [] == names(command, headers))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signal_ends_it_while_a_request_waits_for_a_stopped_supervisor(web, start, number, code):
    pool = start()
    job = pool.submit(api_jobs.wait_for, "/nonexistent/file")
    wait_until(lambda: job.status().progress)
    command = web()
    headers = command.let_in()
    assert {"queues": []} == command.served.get("api/1/queues", headers=headers).json()  # it is connected now
    supervisor = pool.stats().supervisor_pid
    os.kill(supervisor, signal.SIGSTOP)
    try:
        address = urlsplit(command.served.url)
        with contextlib.closing(http.client.HTTPConnection(address.hostname, address.port)) as waiting:
            waiting.request("GET", "/api/1/queues", headers=headers)
            assert ["media"] == names(command, headers)  # so the request before is with a thread now
            command.process.send_signal(number)
            assert 503 == waiting.getresponse().status
            assert code == command.process.wait(20)  # that thread would have waited for 30 seconds
    finally:
        os.kill(supervisor, signal.SIGCONT)


STUCK = r"""
import anyio, os, sys, time
from procjobs.cli import web_server

async def app(scope, receive, send):
    await anyio.to_thread.run_sync(wait)

def wait():
    os.write(1, b"stuck\n")
    time.sleep(600)  # job

with web_server.listening("127.0.0.1:0") as (listener, address):
    os.write(1, address.encode() + b"\n")
    web_server.serve(app, listener, lambda: None)
"""


@contextlib.contextmanager
def killing(process):
    """End a process that the block has left."""
    try:
        yield
    finally:
        process.kill()


def test_signal_ends_it_while_a_thread_hangs_somewhere():
    command = [sys.executable, "-c", STUCK]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **output) as process, killing(process):
        host, port = process.stdout.readline().strip().split(":")
        with contextlib.closing(http.client.HTTPConnection(host, int(port))) as waiting:
            waiting.request("GET", "/")
            assert "stuck\n" == process.stdout.readline()
            process.terminate()
            assert 0 == process.wait(30)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signal_that_comes_at_once_is_not_lost(web, tmp_path, number, code):
    command = web(bind=f"unix:{tmp_path}/socket")
    assert code == command.end(number)
    assert not (tmp_path / "socket").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signal_ends_it_with_its_open_streams(web, start, number, code):
    pool = start()
    job = pool.submit(api_jobs.wait_for, "/nonexistent/file")
    command = web()
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(Stream(command.served, [sign(job)])) for _ in range(5)]
        for stream in streams:
            assert job.id == stream.read_event()[2]["id"]
        assert code == command.end(number)


def test_supervisor_is_let_go_of_unless_somebody_waits_for_its_reply(start, directory):
    job = start().submit(api_jobs.wait_for, "/nonexistent/file")
    wait_until(lambda: job.status().progress)
    with RunningPool(find_pool("media", directory)) as pool:
        pool.welcome()
        pool.disconnect_if_unused()
        assert pool._link.connection is None
        pool.welcome()
        os.kill(pool.stats().supervisor_pid, signal.SIGSTOP)
        answers = []
        asking = threading.Thread(target=lambda: answers.append(pool.cancel(job.id)))
        asking.start()
        wait_until(lambda: pool._link.connection.requests.are_awaited)
        pool.disconnect_if_unused()
        os.kill(pool.stats().supervisor_pid, signal.SIGCONT)
        asking.join(30)
    assert [True] == answers


def test_nobody_changes_anything_where_it_is_read_only(web, start):
    pool = start()
    pool.connect()
    command = web("--read-only")
    headers = command.let_in()
    assert 403 == command.served.post("api/1/pool/pause", headers=headers).status
    assert not pool.stats().paused


def test_only_hosts_that_are_allowed_are_answered(web, start):
    start().connect()
    command = web("--allow-host", "pools.example")
    headers = command.let_in()
    assert 421 == command.served.get("api/1/pools", headers={**headers, "Host": "evil.example"}).status
    assert 200 == command.served.get("api/1/pools", headers={**headers, "Host": "pools.example"}).status


def test_browser_is_opened_at_the_link(web, tmp_path):
    target = tmp_path / "opened"
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho "$1" > {shlex.quote(str(target))}.part\nmv {target}.part {target}\n')
    script.chmod(0o755)
    command = web("--open", env={"BROWSER": f"{script} %s"})
    wait_until(target.exists)
    assert command.said["url"] == target.read_text().strip()


# Addresses ------------------------------------------------------------------------------------------------------


def test_unix_socket_is_for_this_user_alone_and_goes_with_the_server(web, start, tmp_path):
    start().connect()
    path = tmp_path / "socket"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as stale:
        stale.bind(str(path))  # of a server that was killed
    command = web(bind=f"unix:{path}")
    assert command.said["url"] is None
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    with contextlib.closing(connection):
        connection.request("GET", command.said["path"])
        assert 303 == connection.getresponse().status
    assert 0 == command.end()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["tcp", "unix", "file"])
def test_address_that_is_taken_is_told(capsys, tmp_path, kind):
    path = str(tmp_path / "socket")
    with contextlib.closing(socket.socket(socket.AF_INET if kind == "tcp" else socket.AF_UNIX)) as other:
        if kind == "file":
            (tmp_path / "socket").write_text("precious")
        else:
            other.bind(("127.0.0.1", 0) if kind == "tcp" else path)
            other.listen()
        bind = f"127.0.0.1:{other.getsockname()[1]}" if kind == "tcp" else f"unix:{path}"
        assert 1 == run(["web", "--bind", bind])
    said = capsys.readouterr().err
    assert f"cannot listen at {bind}" in said
    assert "another program" in said
    assert kind != "file" or "precious" == (tmp_path / "socket").read_text()


@pytest.mark.parametrize("bind", ["8321", "localhost:", ":8321", "localhost:65536", "::1:8321", "localhost:x"])
def test_what_is_no_address_is_told(capsys, bind):
    assert 2 == run(["web", "--bind", bind])
    assert "HOST:PORT" in capsys.readouterr().err


def test_pool_that_does_not_run_is_told(capsys, directory):
    assert 3 == run(["web", "nothing", "--directory", directory])
    assert "pool 'nothing' is not running" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["uvicorn", "sse_starlette", "jinja2"])
def test_what_is_not_installed_is_told(capsys, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    assert 1 == run(["web"])
    said = capsys.readouterr().err
    assert name.replace("_", "-") in said
    assert "pip install 'procjobs[web]'" in said


def test_address_in_brackets_is_one_of_ipv6():
    assert ("::1", 8321) == web_server.split_address("[::1]:8321")
    assert "[::1]:8321" == web_server.join_address("::1", 8321)
