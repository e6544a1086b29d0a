"""The directories of a run of chaos.py, the log of its pool, and a guard that cleans up after it.

    python chaos_stage.py RECORDS RUNTIME      # the guard, which Stage starts
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import psutil
from chaos_jobs import MARK, TOKEN

from procjobs.host import rundir

COMPLAINTS = re.compile(r"a bug in procjobs|^Traceback \(most recent call last\)|sent nonsense|was not given", re.MULTILINE)
"""Tracebacks of jobs that fail are indented."""


class Stage:
    """The directories of a run, and a guard process that ends all its processes after this one has ended in any way."""

    def __init__(self):
        self.records = tempfile.mkdtemp(prefix="procjobs-chaos-")
        self.runtime = tempfile.mkdtemp(prefix="chaos-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.log = PoolLog(rundir.RunDir(f"{self.runtime}/procjobs", f"chaos-{os.getpid()}").log)

    def __enter__(self):
        command = [sys.executable, os.path.abspath(__file__), self.records, self.runtime]
        self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        os.environ[MARK], os.environ["XDG_RUNTIME_DIR"] = self.records, self.runtime
        return self

    def __exit__(self, *_):
        self._guard.stdin.close()
        self._guard.wait()

    def marked_processes(self):
        return find_marked(self.records)

    def find_children(self):
        """Return {pid: token} of the processes that jobs have started."""
        found = {}
        for pid in self.marked_processes():
            with contextlib.suppress(psutil.Error):
                found[pid] = psutil.Process(pid).environ().get(TOKEN)
        return {pid: token for pid, token in found.items() if token}

    def left_files(self):
        return [os.path.join(root, name) for root, below, files in os.walk(self.runtime) for name in below + files]


def find_marked(mark):
    """Return the pids of the processes that carry the mark, without zombies."""
    return [found.pid for found in psutil.process_iter() if is_marked(found, mark)]


def is_marked(found, mark):
    with contextlib.suppress(psutil.Error):
        return found.environ().get(MARK) == mark
    return False


def guard(records, runtime):
    """Wait until the process at the other end of standard input has ended, and clean up after it."""
    sys.stdin.buffer.read()
    for _ in range(100):
        pids = find_marked(records)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not pids:
            break
        time.sleep(0.02)
    for directory in (records, runtime):
        shutil.rmtree(directory, ignore_errors=True)


class PoolLog:
    """Reads the logs of one supervisor after the other, and collects lines that report a bug."""

    def __init__(self, path):
        self._path = path
        self._file = None
        self.complaints = []

    def read(self):
        """Read new lines, and return all complaints so far."""
        with contextlib.suppress(FileNotFoundError):
            if self._file is None or os.stat(self._path).st_ino != os.fstat(self._file.fileno()).st_ino:
                following = open(self._path, errors="replace")  # noqa: SIM115 - it stays open for later reads
                self._read_on()
                self._file = following
        self._read_on()
        return self.complaints

    def _read_on(self):
        if self._file is not None:
            text = self._file.read()
            if COMPLAINTS.search(text):
                self.complaints.append(text[:4000])


if __name__ == "__main__":
    guard(*sys.argv[1:])
