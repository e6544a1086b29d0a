"""examples/schedules.py, run as a user runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "schedules.py"
_ALL = r"^(\d+) seconds, \1 jobs, 0 missing, 0 twice$"


@pytest.fixture
def begin(tmp_path):
    """Start the script, with its pool in a directory of this test, which must be empty at the end."""
    with tempfile.TemporaryDirectory() as runtime:  # tmp_path can be too long for the name of a Unix socket

        def begin(*arguments):
            return subprocess.Popen(
                [sys.executable, SCRIPT, tmp_path / "out", *map(str, arguments)],
                cwd=tmp_path,
                env={**os.environ, "XDG_RUNTIME_DIR": runtime},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

        yield begin
        assert [] == list(Path(runtime).glob("procjobs/*"))


def read_until(process, text):
    """Read lines until one has this text; fail, with what was said, if the program ends before."""
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(process.communicate(timeout=60))


def test_each_second_is_run_once_though_the_supervisor_is_killed(begin, tmp_path):
    process = begin("--seconds", "8")
    pid = int(re.match(r"supervisor (\d+), reports in ", read_until(process, "supervisor"))[1])
    read_until(process, "succeeded")
    os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert (0, "") == (process.returncode, err), out
    assert "the supervisor was killed; supervisor" in out
    assert re.search(_ALL, out, re.MULTILINE), out
    assert "report for " in (tmp_path / "out" / "reports.txt").read_text()


def test_seconds_in_which_the_program_was_stopped_are_made_up_for(begin):
    process = begin("--seconds", "600")
    read_until(process, "succeeded")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    again = begin("--seconds", "4")
    out, err = again.communicate(timeout=120)
    assert (0, "") == (again.returncode, err), out
    assert re.search(_ALL, out, re.MULTILINE), out
