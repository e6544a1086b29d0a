"""Web servers of tests: in a thread, on a free port of the loopback. A program with a server of its own: `start_program`."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import uvicorn

from ..waiting import wait_until


class Answer(NamedTuple):
    """What a server has answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self):
        return self.body.decode()

    def json(self):
        return json.loads(self.body)


class Served:
    """A server that answers under `url`, without a slash at its end."""

    def __init__(self, url):
        self.url = url

    def ask(self, method, path, *, query=(), form=None, body=None, headers=None):
        """Return the answer to one request, which has a connection of its own; redirects are not followed."""
        parts = urlsplit(self.url)
        pairs = query.items() if isinstance(query, dict) else query
        target = f"{parts.path}/{path}" + (f"?{urlencode(list(pairs), doseq=True)}" if query else "")
        headers = dict(headers or {})
        if form is not None:
            body = urlencode(form, doseq=True)
            headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
        with contextlib.closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)) as connection:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def announce(self, path, length):
        """Return the answer to the head of a POST, whose body is announced and never sent."""
        parts = urlsplit(self.url)
        with contextlib.closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)) as connection:
            connection.putrequest("POST", f"{parts.path}/{path}")
            for name, value in (("Content-Length", str(length)), ("Sec-Fetch-Site", "same-origin")):
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def get(self, path, *, headers=None, **query):
        return self.ask("GET", path, query=query, headers=headers)

    def post(self, path, *, headers=None, **form):
        """Return the answer to a form, sent by a page of this server unless `headers` say otherwise."""
        headers = {"Sec-Fetch-Site": "same-origin"} if headers is None else headers
        return self.ask("POST", path, form=form, headers=headers)


def free_socket():
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


def free_port():
    """Return a port that is free just now."""
    with contextlib.closing(free_socket()) as sock:
        return sock.getsockname()[1]


@contextlib.contextmanager
def serving(app, path=""):
    """Serve an ASGI application by uvicorn in a thread."""
    with contextlib.closing(free_socket()) as sock:
        config = uvicorn.Config(app, log_level="warning", ws="none", loop="asyncio", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([sock],), name="test-uvicorn")
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield Served(f"http://127.0.0.1:{sock.getsockname()[1]}{path}")
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


class _Handler(WSGIRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving_wsgi(app, path=""):
    """Serve a WSGI application by wsgiref in a thread."""
    server = make_server("127.0.0.1", 0, app, _Server, _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="test-wsgiref")
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{server.server_port}{path}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def program(arguments, *, port, path="", env=None, cwd=None, log=subprocess.DEVNULL):
    """Run a program that serves on a port of the loopback, and end it; yield it with its `process`."""
    process = subprocess.Popen(
        [sys.executable, *arguments], env={**os.environ, **(env or {})}, cwd=cwd, stdout=log, stderr=log
    )
    served = Served(f"http://127.0.0.1:{port}{path}")
    served.process = process
    try:
        wait_until(lambda: process.poll() is not None or _is_open(port))
        assert process.poll() is None, f"{arguments} ended with {process.returncode}"
        yield served
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _is_open(port):
    with contextlib.closing(socket.socket()) as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Stream:
    """An open stream of events; the blocks that came are read one by one."""

    def __init__(self, served, ids, headers=None):
        parts = urlsplit(served.url)
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
        query = urlencode({"id": ids}, doseq=True)
        self._connection.request("GET", f"{parts.path}/api/1/events?{query}", headers=headers or {})
        self.response = self._connection.getresponse()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.response.close()
        self._connection.close()

    def read_block(self):
        """Return the lines up to the next empty one; None at the end of the stream."""
        lines = []
        while (line := self.response.readline().decode().rstrip("\n")) or not lines:
            if not line and self.response.isclosed():
                return None
            if line:
                lines.append(line)
        return lines

    def read_event(self):
        """Return (event, id, document) of the next event that has one, None at the end of the stream."""
        while (block := self.read_block()) is not None:
            fields = dict(line.split(": ", 1) for line in block if not line.startswith(":"))
            if "event" in fields:
                return fields["event"], fields.get("id"), json.loads(fields["data"])
        return None

    def read_documents(self):
        """Return the documents up to the end of the stream."""
        found = []
        while (event := self.read_event()) is not None:
            found.append(event)
        assert ("end", None, {}) == found.pop()
        return [document for _, _, document in found]
