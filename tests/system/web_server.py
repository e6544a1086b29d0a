"""A gunicorn on a Unix socket, whose application uses a pool."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import psutil

from ..conftest import wait_until

ROOT = Path(__file__).parents[2]


class WebServer:
    """Starts it when it is made, and waits until it listens; `stop` ends it."""

    def __init__(self, tmp_path, application, *options, web_workers, cwd=ROOT, **environment):
        self._path, self._log = str(tmp_path / "web"), tmp_path / "log"
        command = [sys.executable, "-m", "gunicorn", "--workers", str(web_workers), "--bind", f"unix:{self._path}"]
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *options, application], cwd=cwd, env={**os.environ, **environment}, stdout=output, stderr=output
            )
        try:
            wait_until(self._is_listening, dump=self.log)
            wait_until(lambda: len(self.web_workers()) == web_workers, dump=self.log)
        except BaseException:
            self.stop()
            raise

    def _is_listening(self):
        assert self.process.poll() is None, self.log()
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
            return sock.connect_ex(self._path) == 0

    def ask(self, method, page, **query):
        """Return (status, headers, text); each question has its own connection, so any web worker may take it."""
        with contextlib.closing(http.client.HTTPConnection("localhost", timeout=30)) as connection:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(30)
            connection.sock.connect(self._path)
            connection.request(method, f"{page}?{urlencode(query)}")
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()

    def get(self, page, **query):
        """Return the text of a page that is there."""
        status, _, text = self.ask("GET", page, **query)
        assert 200 == status, f"{text}\n{self.log()}"
        return text

    def web_workers(self):
        """Return the pids of the web workers that live."""
        found = set()
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                found |= {child.pid} if "gunicorn" in " ".join(child.cmdline()) else set()
        return found

    def log(self):
        return self._log.read_text()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
