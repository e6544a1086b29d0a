"""The unit of docs/systemd.md, as systemd reads it, and its lines as systemd runs them."""

from __future__ import annotations

import configparser
import contextlib
import re
import shlex
import shutil
import socket
import subprocess
import sys

import pytest

from ..conftest import wait_until
from . import cli_jobs
from .conftest import PROGRAM, ROOT

pytest.importorskip("click")
PAGE = ROOT / "docs" / "systemd.md"
if not PAGE.is_file():  # where the built wheel is tested
    pytest.skip("the documentation is not here", allow_module_level=True)
UNIT = re.search(r"```ini\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
INSTALLED = "/srv/app/.venv/bin/procjobs"


@pytest.fixture
def service():
    """The lines of the unit's [Service], without comments."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read_string(UNIT)
    return parser["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    program = tmp_path / "procjobs"
    program.symlink_to(sys.executable)
    path = tmp_path / "media-pool.service"
    path.write_text(UNIT.replace(INSTALLED, str(program)).replace("/srv/app", str(tmp_path)))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)


def words(line, **variables):
    """Split a line of the unit as systemd does, with this test's program for the installed one."""
    found = [re.sub(r"^\$(\w+)$", lambda match: variables[match[1]], word) for word in shlex.split(line)]
    return [*PROGRAM, *found[1:]] if found[0] == INSTALLED else found


def test_lines_of_the_unit_start_reload_and_stop_a_pool_and_its_jobs_end(cli, service, tmp_path):
    assert "notify" == service["Type"]
    start = words(service["ExecStart"].replace("--preload jobs", "--preload tests.system.cli_jobs"))
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        process = cli.begin(*start[len(PROGRAM) :], NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert b"READY=1" == manager.recv(100)
    before = cli.json("workers", "media")[0]["generation"]
    subprocess.run(words(service["ExecReload"], MAINPID=str(process.pid)), check=True)
    wait_until(lambda: [worker for worker in cli.json("workers", "media") if worker["generation"] > before])

    pool = cli.pool(workers="auto", linger=10.0)
    job = pool.submit(cli_jobs.wait_for, str(tmp_path / "come"))
    wait_until(lambda: job.status().progress)
    stop = subprocess.Popen(words(service["ExecStop"]), cwd=ROOT, env=cli.environment, stdout=subprocess.PIPE)
    wait_until(lambda: pool.stats().draining)
    assert None is process.poll() is stop.poll()
    (tmp_path / "come").touch()
    stop.communicate(timeout=30)
    assert ("it came", 0, 0) == (job.result(30), stop.returncode, process.wait(30))
