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
from pathlib import Path

import pytest

from procjobs.host import rundir
from procjobs.settings.plan import make_plan

from ..conftest import wait_until
from . import cli_jobs
from .conftest import PROGRAM, ROOT

pytest.importorskip("click")
PAGE = ROOT / "docs" / "systemd.md"
if not PAGE.is_file():  # where the built wheel is tested
    pytest.skip("the documentation is not here", allow_module_level=True)
UNIT, WEB_UNIT = re.findall(r"```ini\n(.*?)```", PAGE.read_text(), re.DOTALL)
INSTALLED = "/srv/app/.venv/bin/procjobs"


def parse(unit):
    """Return the sections of a unit, without comments."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read_string(unit)
    return parser


@pytest.fixture
def service():
    """The lines of the unit's [Service], without comments."""
    return parse(UNIT)["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path):
    program = tmp_path / "procjobs"
    program.symlink_to(sys.executable)
    paths = [tmp_path / "media-pool.service", tmp_path / "web.service"]
    for path, unit in zip(paths, (UNIT, WEB_UNIT), strict=True):
        text = unit.replace(INSTALLED, str(program)).replace("/srv/app/.venv/bin/gunicorn", str(program))
        path.write_text(text.replace("/srv/app", str(tmp_path)))
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)


def test_web_unit_is_started_after_the_pool_and_its_workers_start_none(monkeypatch):
    unit = parse(WEB_UNIT)
    assert ("media-pool.service", "media-pool.service") == (unit["Unit"]["Wants"], unit["Unit"]["After"])
    assert parse(UNIT)["Service"]["User"] == unit["Service"]["User"]
    monkeypatch.setenv(*unit["Service"]["Environment"].split("="))
    assert not make_plan("media", {}).client.start


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
    before = wait_until(lambda: cli.json("workers", "media"))[0]["generation"]
    subprocess.run(words(service["ExecReload"], MAINPID=str(process.pid)), check=True)
    wait_until(lambda: [worker for worker in cli.json("workers", "media") if worker["generation"] > before])

    pool = cli.pool(workers="auto", linger=10.0, start=False)
    job = pool.submit(cli_jobs.wait_for, str(tmp_path / "come"))
    wait_until(lambda: job.status().progress)
    waiting = [pool.submit(cli_jobs.say, f"waiting {n}") for n in range(9)]
    stop = subprocess.Popen(words(service["ExecStop"]), cwd=ROOT, env=cli.environment, stdout=subprocess.PIPE)
    log = Path(rundir.RunDir(cli.base, "media").log)
    wait_until(lambda: "no more jobs are started here" in log.read_text())
    late = pool.submit(cli_jobs.say, "late")
    assert None is process.poll() is stop.poll()
    (tmp_path / "come").touch()
    stop.communicate(timeout=30)
    assert ("it came", 0, 0) == (job.result(30), stop.returncode, process.wait(30))
    restarted = cli.begin(*start[len(PROGRAM) :])
    assert ["LATE", *(f"WAITING {n}" for n in range(9))] == [one.result(30) for one in [late, *waiting]]
    assert restarted.pid == pool.stats().supervisor_pid
