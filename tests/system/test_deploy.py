"""Deploys: the code on disk changes between two web workers; each gets answers of its own code, and no job is lost."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import psutil
import pytest

import procjobs

from ..conftest import wait_until
from .web_server import WebServer

ROOT = Path(__file__).parents[2]

WEB_WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
import importlib, procjobs
code = importlib.import_module(sys.argv[2] + ".tasks")
with procjobs.Pool(sys.argv[3], workers=2, preload=sys.argv[4].split()) as pool:
    print("ready", flush=True)
    for line in sys.stdin:
        call, *arguments = line.split()
        if call == "reload":
            print(pool.reload(), flush=True)
        else:
            print(code.VERSION, pool.submit(getattr(code, call), *arguments).result(30), flush=True)
"""


class Package:
    """A package on disk; the file of every version has another size."""

    def __init__(self, folder):
        self.folder = folder
        self.name = f"shop_{uuid.uuid4().hex[:8]}"
        (folder / self.name).mkdir()
        (folder / self.name / "__init__.py").touch()
        self.write("one")

    def write(self, version):
        """Deploy a version."""
        text = (
            f"from {self.name}.version import VERSION\nfrom tests.process import jobs\n"
            "def version(): return VERSION\ndef wait(path, n=''): return jobs.wait_for_file(path, VERSION + str(n))\n"
        )
        for file, content in (("version", f"VERSION = {version!r}\n"), ("tasks", text)):
            new = self.folder / self.name / f"{file}.new"
            new.write_text(content)
            new.replace(new.with_suffix(".py"))


@pytest.fixture
def package(tmp_path):
    """A package "one" in a folder of its own."""
    folder = tmp_path / "site"
    folder.mkdir()
    return Package(folder)


class WebWorker:
    """A process that imports the package as it is now, and shares the pool."""

    def __init__(self, package, pool_name, preload=None):
        preload = package.name + ".tasks" if preload is None else preload
        self.process = subprocess.Popen(
            [sys.executable, "-c", WEB_WORKER, str(package.folder), package.name, pool_name, preload],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert "ready\n" == self.process.stdout.readline()

    def ask(self, *call):
        """Run a job; return (version of the web worker, answer of the job)."""
        self.tell(*call)
        return tuple(self.process.stdout.readline().split())

    def tell(self, *call):
        self.process.stdin.write(" ".join(call) + "\n")
        self.process.stdin.flush()

    def leave(self):
        self.process.communicate(timeout=30)
        assert 0 == self.process.returncode


def templates(pool):
    children = psutil.Process(pool.stats().supervisor_pid).children()
    return [child.pid for child in children if child.name() == "procjobs-templ"]


def test_web_workers_of_two_versions_get_answers_of_their_own_code(package, pool_name):
    old = WebWorker(package, pool_name)
    assert ("one", "one") == old.ask("version")
    package.write("twenty-two")
    new = WebWorker(package, pool_name)
    for _ in range(5):
        assert ("twenty-two", "twenty-two") == new.ask("version")
        assert ("one", "one") == old.ask("version")
    old.leave()
    new.leave()


def test_both_versions_run_jobs_at_the_same_time(package, pool_name, tmp_path):
    old = WebWorker(package, pool_name)
    assert ("one", "one") == old.ask("version")
    package.write("twenty-two")
    new = WebWorker(package, pool_name)
    for n, worker in enumerate((old, new)):
        worker.tell("wait", str(tmp_path / "go"), str(n))
    supervisor = psutil.Process(rundir_pid(pool_name))
    assert supervisor.is_running()
    (tmp_path / "go").touch()
    assert ["one one0", "twenty-two twenty-two1"] == [w.process.stdout.readline().strip() for w in (old, new)]
    old.leave()
    new.leave()


def rundir_pid(pool_name):
    """Return the pid of a pool's supervisor, from its table, when both generations have a busy worker."""
    from procjobs.host import payload, rundir
    from procjobs.shared.table.reader import ProgressTable

    table = ProgressTable(rundir.RunDir(rundir.find_base(), pool_name).table, loads=payload.loads)
    wait_until(lambda: {1, 2} == {record.generation for _, record in table.slots() if any(record.job_id)})
    return table.supervisor_pid


def test_old_generation_ends_when_its_last_client_has_gone(package, pool_name):
    old = WebWorker(package, pool_name)
    assert ("one", "one") == old.ask("version")
    package.write("twenty-two")
    new = WebWorker(package, pool_name)
    assert ("twenty-two", "twenty-two") == new.ask("version")
    with procjobs.Pool(pool_name, workers=2, version="of the onlooker") as onlooker:
        assert "x" == onlooker.submit(str, "x").result(30)
        wait_until(lambda: len(templates(onlooker)) == 3)
        assert ("one", "one") == old.ask("version")
        old.leave()
        wait_until(lambda: len(templates(onlooker)) == 2)
        wait_until(lambda: 1 not in {worker.generation for worker in onlooker.workers()})
        assert ("twenty-two", "twenty-two") == new.ask("version")
    new.leave()


def test_broken_version_that_was_rolled_back_has_no_effect_on_others(package, pool_name):
    old = WebWorker(package, pool_name)
    assert ("one", "one") == old.ask("version")
    (package.folder / package.name / "broken.py").write_text("raise RuntimeError('no licence')")
    with procjobs.Pool(pool_name, workers=2, version="of the onlooker") as onlooker:
        text = (
            "import sys, warnings; warnings.simplefilter('ignore'); sys.path.insert(0, sys.argv[1]); import procjobs\n"
            "pool = procjobs.Pool(sys.argv[2], workers=2, preload=[sys.argv[3] + '.broken']); job = pool.submit(pow, 2, 2)\n"
            "while not pool.stats().problem: pass\njob.cancel(); pool.shutdown()"
        )
        subprocess.run(
            [sys.executable, "-c", text, str(package.folder), pool_name, package.name], check=True, timeout=60, cwd=ROOT
        )
        wait_until(lambda: onlooker.stats().problem is None)
        assert ("one", "one") == old.ask("version")
        wait_until(lambda: len(templates(onlooker)) == 2)
    old.leave()


def test_code_that_is_imported_only_by_jobs_changes_with_a_reload(package, pool_name):
    old = WebWorker(package, pool_name, preload="")
    assert ("one", "one") == old.ask("version")
    package.write("twenty-two")
    new = WebWorker(package, pool_name, preload="")
    assert ("None",) == new.ask("reload")
    assert ("twenty-two", "twenty-two") == new.ask("version")
    assert ("one", "twenty-two") == old.ask("version")  # without preload or version=, a pool cannot tell them apart
    old.leave()
    new.leave()


# gunicorn ---------------------------------------------------------------------------------------------


def test_gunicorn_is_restarted_with_new_code_while_jobs_run_and_nothing_is_lost(package, pool_name, tmp_path):
    code = os.pathsep.join([str(package.folder), package.name, pool_name])
    options = ["tests.system.deploy_app:application", "--graceful-timeout", "20"]
    site = WebServer(tmp_path, *options, web_workers=2, PROCJOBS_TEST_CODE=code)
    try:
        assert "one one" == site.get("/now")
        before = site.web_workers()
        submitted = [site.get("/submit", path=tmp_path / "go", n=n) for n in range(6)]
        answers, problems, over = [], [], threading.Event()

        def ask():
            while not over.is_set():
                try:
                    answers.append(site.get("/pid"))
                except (OSError, http.client.HTTPException) as error:
                    problems.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        package.write("twenty-two")
        site.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(site.web_workers()) == 2 and not site.web_workers() & before, dump=site.log)
        submitted += [site.get("/submit", path=tmp_path / "go", n=n) for n in range(6, 9)]
        over.set()
        asking.join()
        (tmp_path / "go").touch()
        expected = [f"one{n}" for n in range(6)] + [f"twenty-two{n}" for n in range(6, 9)]
        assert expected == [site.get("/result", id=job_id) for job_id in submitted]
        assert {"twenty-two twenty-two"} == {site.get("/now") for _ in range(6)}
        assert [] == problems
        assert "Traceback" not in site.log()
    finally:
        site.stop()
