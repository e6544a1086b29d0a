"""Runs the command line as a user does: in a pipe, and on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

import pytest

import procjobs
from procjobs.host import rundir

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-P", "-m", "procjobs"]  # -P: sys.path is as it is for the script `procjobs`
_SECONDS = 30
_TAKE_TERMINAL = "import fcntl, termios, os, sys; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r")


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, arguments, *, columns=100, rows=30, program=PROGRAM, **options):
        self._leader, self._follower = pty.openpty()
        fcntl.ioctl(self._follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(self._follower)
        self.raw = ""
        self._read_to = 0
        command = [sys.executable, "-c", _TAKE_TERMINAL, *program, *map(str, arguments)]
        three = dict.fromkeys(("stdin", "stdout", "stderr"), self._follower)
        self.process = subprocess.Popen(command, start_new_session=True, **three, **options)

    def _read(self, timeout):
        ready, _, _ = select.select([self._leader], [], [], timeout)
        if ready:
            self.raw += os.read(self._leader, 65536).decode(errors="replace")
        return bool(ready)

    @property
    def text(self):
        """The written text, without control sequences."""
        return _CONTROL.sub("", self.raw)

    def wait_for(self, *texts):
        """Wait until all these texts were written after the last key."""
        deadline = time.monotonic() + _SECONDS
        while not all(text in _CONTROL.sub("", self.raw[self._read_to :]) for text in texts):
            assert time.monotonic() < deadline, f"waited in vain for {texts} in\n{self.text}"
            self._read(0.05)

    def press(self, key):
        """Press a key; the next `wait_for` ignores older text."""
        while self._read(0):
            pass
        self._read_to = len(self.raw)
        os.write(self._leader, key.encode())

    def wait(self):
        """Wait for the end of the command and return its exit code."""
        deadline = time.monotonic() + _SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end:\n{self.text}"
            self._read(0.02)
        while self._read(0):
            pass
        return self.process.returncode

    def settings(self):
        """Return the settings of the terminal."""
        return termios.tcgetattr(self._follower)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._leader)
        os.close(self._follower)


class Cli:
    """Runs commands, with all pools in a directory of this test."""

    def __init__(self, runtime, stack):
        self.base = f"{runtime}/procjobs"
        # Other tests beside this one, and other programs of this user, have pools in the other usual places.
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": runtime, "PROCJOBS_DIRECTORY": self.base}
        self.environment["XDG_STATE_HOME"] = f"{runtime}/state"  # without footprints of other tests' pools
        for name in ("COLUMNS", "LINES"):  # of the terminal in which the tests run
            self.environment.pop(name, None)
        self._stack = stack
        self._pools = []

    def __call__(self, *arguments, cwd=ROOT, **environment):
        """Run a command to its end, in a pipe."""
        command = [*PROGRAM, *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=cwd,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )

    def json(self, command, *arguments):
        """Run a command that succeeds, with --json, and return its document."""
        done = self(command, "--json", *arguments)
        assert 0 == done.returncode, done.stderr
        return json.loads(done.stdout)

    def begin(self, *arguments, **environment):
        """Start a command in a pipe."""
        command = [*PROGRAM, *map(str, arguments)]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(self._end, process)
        return process

    @staticmethod
    def _end(process):
        if process.poll() is None:
            process.kill()
        process.communicate()

    def terminal(self, *arguments, **options):
        """Start a command on a terminal."""
        terminal = Terminal(arguments, cwd=ROOT, env={**self.environment, "TERM": "xterm-256color"}, **options)
        self._stack.callback(terminal.close)
        return terminal

    def pool(self, name="media", **settings):
        """Start a named pool from this process. Settings equal to the default are left out, for a pool that runs already."""
        os.makedirs(self.base, mode=0o700, exist_ok=True)
        settings = {"workers": 1, "linger": 60, **settings}
        defaults = {"workers": "auto", "linger": 10.0}
        settings = {key: value for key, value in settings.items() if value != defaults.get(key)}
        pool = procjobs.Pool(name, directory=self.base, **settings)
        pool.connect()
        self._pools.append(pool)
        return pool

    def stop_all(self):
        """End all pools that are left, also those of stopped and killed supervisors."""
        for entry in os.listdir(self.base) if os.path.isdir(self.base) else ():
            if entry.endswith(".lock"):
                place = rundir.RunDir(self.base, entry.removesuffix(".lock"))
                with contextlib.suppress(procjobs.ProcjobsError), procjobs.Pool(place.name, directory=self.base) as pool:
                    pool.stop()
        for pool in self._pools:
            pool.shutdown(wait=True)


@pytest.fixture
def cli():
    directory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=directory) as runtime, contextlib.ExitStack() as stack:
        cli = Cli(runtime, stack)
        stack.callback(cli.stop_all)
        yield cli


def stop_process(pid):
    """Stop a process, and return a function that lets it continue."""
    os.kill(pid, signal.SIGSTOP)
    return lambda: os.kill(pid, signal.SIGCONT)
