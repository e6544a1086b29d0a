"""`procjobs web2py`, and the example: programs as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydal import DAL

from procjobs.compat.web2py import Scheduler
from procjobs.compat.web2py.command import parse_applications
from procjobs.errors import ConfigurationError
from tests.waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
MODULE = """
import os
from pydal import DAL
from procjobs.compat.web2py import Scheduler

def who():
    return os.getppid()

db = DAL("sqlite://shop.sqlite", folder=os.environ["SHOP_FOLDER"])
scheduler = Scheduler(db, {"who": who}, worker_name=__name__, heartbeat=1)
"""


class Shop:
    """A folder with two applications, and their database."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("shop", "blog"):
            (folder / f"{name}.py").write_text(MODULE)
        self.db = DAL("sqlite://shop.sqlite", folder=str(folder))
        self.scheduler = Scheduler(self.db, {"who": print}, worker_name="test")

    def start(self, *arguments):
        environment = {**os.environ, "SHOP_FOLDER": str(self.folder)}
        command = [sys.executable, "-m", "procjobs", "web2py", "--folder", str(self.folder), *arguments]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def workers(self):
        self.db.commit()
        found = self.scheduler.get_workers()
        self.db.commit()
        return found

    def run(self, **options):
        """Queue a task, wait until it has run, and return the name of its worker."""
        number = self.scheduler.queue_task("who", **options)["id"]
        self.db.commit()

        def row():
            self.db.commit()
            return self.scheduler.task_status(number, output=True)

        wait_until(lambda: row().scheduler_task.status == "COMPLETED", dump=lambda: str(row()))
        return row().scheduler_run.worker_name


@pytest.fixture
def shop(tmp_path):
    shop = Shop(tmp_path)
    yield shop
    shop.db.close()


def ended(program):
    """Wait for a program's end; return its exit code and what it has printed."""
    text, _ = program.communicate(timeout=60)
    return program.returncode, text


def test_a_worker_for_a_module_takes_the_groups_that_are_given(shop):
    program = shop.start("-K", "shop:mail:films", "--json")
    assert "shop" == shop.run(group_name="films")
    assert ["mail", "films"] == shop.workers()["shop"].group_names
    shop.scheduler.terminate(worker_name="shop")
    shop.db.commit()
    code, text = ended(program)
    assert 0 == code, text
    assert '"applications"' in text


def test_several_applications_get_a_worker_each_and_end_with_the_command(shop):
    program = shop.start("-K", "shop:films,blog:posts")
    assert "shop" == shop.run(group_name="films")
    assert "blog" == shop.run(group_name="posts")
    program.terminate()
    assert 0 == ended(program)[0]
    assert {} == shop.workers()


def test_the_workers_of_a_killed_command_end(shop):
    program = shop.start("-K", "shop", "-K", "blog")
    wait_until(lambda: {"shop", "blog"} == set(shop.workers()))
    program.kill()
    wait_until(lambda: {} == shop.workers())
    ended(program)


def test_a_worker_that_gives_up_is_exit_code_1(shop):
    program = shop.start("-K", "shop")
    shop.run()
    shop.db.executesql("DROP TABLE scheduler_task")
    shop.db.commit()
    code, text = ended(program)
    assert 1 == code
    assert "no such table" in text


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("no_such_app", "there is no application 'no_such_app'"),
        ("shop,no_such_app", "there is no application 'no_such_app'"),
        ("shop::", "'shop::' lacks a name"),
        ("empty", "the application 'empty' makes no Scheduler"),
    ],
)
def test_wrong_applications_are_refused(shop, argument, message):
    (shop.folder / "empty.py").touch()
    code, text = ended(shop.start("-K", argument))
    assert code in {1, 2}
    assert message in text
    assert "Traceback" not in text


def test_applications_are_read():
    assert [("a", ("g", "h")), ("b", ()), ("c", ())] == parse_applications(["a:g:h,b", "c"])
    with pytest.raises(ConfigurationError, match="lacks a name"):
        parse_applications(["a,"])


def test_the_example_runs(tmp_path):
    script = EXAMPLES / "web2py_scheduler.py"
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert 0 == done.returncode, done.stderr
    assert "the order of the job: [{1}, {2}]" in done.stdout
    assert "thumbnail: COMPLETED, result {'name': 'film.jpg', 'size': 128}" in done.stdout
    assert "report: COMPLETED, result report.pdf, output '100 %'" in done.stdout
    assert "broken: FAILED, result None" in done.stdout
