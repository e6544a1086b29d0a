"""`procjobs tasks`: the runner with real kills, signals and outages, and the table from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from procjobs.compat.taskhopper import TaskHopper
from tests.conftest import wait_until
from tests.databases import database_url, own_postgres_server, postgres_server, postgres_url, sqlite_url  # noqa: F401

pytest.importorskip("click")

_END = 30.0
"""A runner ends within 10 seconds of a signal (LAST_CHANCE and GRACE_PERIOD); the rest is for a slow host."""
TASKS = '''
import json, os, pathlib, signal, subprocess, sys, time
from decimal import Decimal
HERE = pathlib.Path(__file__).parent

def note(text):
    with open(HERE / "notes", "a") as file:
        file.write(f"{text}\\n")
    return text

def hold(name):
    """Write its pid and that of its child, and return when there is a file with this name."""
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    note(f"{name} {os.getpid()} {child.pid}")
    while not (HERE / f"{name}.go").exists():
        time.sleep(0.01)  # job
    note(f"{name} ended")
    return name

def clean_up(name):
    try:
        hold(name)
    finally:
        note(f"{name} cleaned up")

def deaf(name):
    note(f"{name} {os.getpid()}")
    while True:
        try:
            time.sleep(1000)  # job
        except BaseException:
            pass

def boom(): raise ValueError("no way")
def leave(): sys.exit(3)
def die(): os.kill(os.getpid(), signal.SIGKILL)
def odd(): return {"price": Decimal("9.5")}
def echo(*args, **kwargs): return [args, kwargs]
def shout(): print("on standard output"); print("on standard error", file=sys.stderr)
async def later(value): return value
'''


class Hopper:
    """A hopper with its runners, in a directory of the test."""

    def __init__(self, cli, url, path):
        self.cli, self.url, self.path = cli, url, path
        self.file = path / "tasks.py"
        self.file.write_text(TASKS)
        self.engine = sa.create_engine(url, poolclass=NullPool)
        self.runners = []

    def add(self, name, *args, **options):
        module = sys.modules.pop("tasks", None)
        hopper = TaskHopper(self.url, tasks=str(self.file))
        try:
            return hopper.add_task(name, args, **options)
        finally:
            sys.path.remove(str(self.path))
            sys.modules.pop("tasks", None)
            assert module is None

    def arguments(self, *options):
        return ["tasks", "run", "-Q", self.file, "--db", self.url, *options]

    def run(self, *options, code=0):
        """Run what is due, and return the events."""
        done = self.cli(*self.arguments("--until-empty", "--json", *options))
        assert code == done.returncode, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def start(self, *options):
        """Start a runner; its output is in a file."""
        number = len(self.runners)
        with open(self.path / f"out{number}", "w") as out:
            command = [sys.executable, "-P", "-m", "procjobs", *map(str, self.arguments(*options))]
            runner = subprocess.Popen(
                command, cwd=self.path, env=self.cli.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        self.runners.append(runner)
        return runner

    def said(self, number=-1):
        return (self.path / f"out{range(len(self.runners))[number]}").read_text()

    def notes(self):
        path = self.path / "notes"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for_note(self, begin, count=1):
        def find():
            return [note for note in self.notes() if note.startswith(begin)][count - 1 :]

        found = wait_until(find, dump=lambda: f"{self.notes()} {self.said()}")
        return [int(pid) for pid in found[0].split()[1:] if pid.isdecimal()]

    def go(self, name):
        (self.path / f"{name}.go").touch()

    def rows(self, columns="status"):
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(f"SELECT {columns} FROM task_status ORDER BY id"))]

    def wait_for_rows(self, *states):
        wait_until(lambda: [(state,) for state in states] == self.rows(), dump=lambda: f"{self.rows()} {self.said()}")

    def queue_again_by_hand(self):
        with self.engine.begin() as connection:
            connection.execute(sa.text("UPDATE task_status SET status = 'queued'"))

    def stop_all(self):
        for runner in self.runners:
            if runner.poll() is None:
                runner.kill()
            runner.wait()
        self.engine.dispose()


@pytest.fixture
def hopper(cli, database_url, tmp_path):  # noqa: F811
    hopper = Hopper(cli, database_url, tmp_path)
    yield hopper
    hopper.stop_all()


@pytest.fixture
def sqlite_hopper(cli, sqlite_url, tmp_path):  # noqa: F811
    hopper = Hopper(cli, sqlite_url, tmp_path)
    yield hopper
    hopper.stop_all()


def exists(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# Running -----------------------------------------------------------------------------------------------------------


def test_tasks_run_one_after_the_other_in_the_order_of_their_time_and_id(hopper):
    past = datetime.now(UTC) - timedelta(hours=1)
    for name in ("first", "second"):
        hopper.add("note", name)
    hopper.add("note", "overdue", at=past)
    hopper.add("note", "future", at=datetime.now(UTC) + timedelta(hours=1))
    hopper.run()
    assert ["overdue", "first", "second"] == hopper.notes()
    assert [("succeeded",)] * 3 + [("queued",)] == hopper.rows()
    assert [(None,)] == hopper.rows("started_on")[3:]


def test_every_end_of_a_task_is_in_its_row_and_the_next_one_runs(hopper):
    ids = [hopper.add(name) for name in ("boom", "leave", "die", "odd")]
    last = hopper.add("echo", 1, {"ü": None}, kwargs={"x": [0.5]})
    coroutine = hopper.add("later", "text")
    hopper.run()
    rows = dict(zip(ids, hopper.rows("status, traceback"), strict=False))
    expected = ["ValueError: no way", "SystemExit: 3", "was killed by SIGKILL", "ran to its end, but its result cannot be"]
    for task_id, text in zip(ids, expected, strict=True):
        assert "failed" == rows[task_id][0]
        assert text in rows[task_id][1]
    assert "its result['price'] is of type Decimal" in rows[ids[3]][1]
    assert "It returned {'price': Decimal('9.5')}" in rows[ids[3]][1]
    task = TaskHopper(hopper.url, tasks="json").task(last)
    assert ("succeeded", [[1, {"ü": None}], {"x": [0.5]}], None) == (task.status, task.result, task.traceback)
    assert task.created_on <= task.started_on <= task.finished_on
    assert "text" == TaskHopper(hopper.url, tasks="json").task(coroutine).result


def test_row_that_is_queued_again_by_hand_runs_again(hopper):
    hopper.add("boom")
    hopper.run()
    hopper.file.write_text("def boom(): return 'mended'\n")
    hopper.queue_again_by_hand()
    hopper.run()
    task = TaskHopper(hopper.url, tasks="json").task(1)
    assert ("succeeded", "mended", None) == (task.status, task.result, task.traceback)


def test_output_of_a_task_goes_to_standard_error(sqlite_hopper):
    sqlite_hopper.add("shout")
    done = sqlite_hopper.cli(*sqlite_hopper.arguments("--until-empty"))
    assert "on standard output\n" in done.stderr
    assert "on standard error\n" in done.stderr
    assert "on standard" not in done.stdout
    assert "task 1 shout: succeeded" in done.stdout


def test_task_that_runs_too_long_fails_and_its_processes_are_gone(sqlite_hopper):
    sqlite_hopper.add("hold", "long")
    sqlite_hopper.add("note", "next")
    sqlite_hopper.run("--timeout", "0.5")
    assert [("failed",), ("succeeded",)] == sqlite_hopper.rows()
    assert "ran longer than its timeout" in sqlite_hopper.rows("traceback")[0][0]
    assert [] == [pid for pid in sqlite_hopper.wait_for_note("long ") if exists(pid)]


def test_task_of_a_dal_runs_once_it_is_committed_and_the_dal_reads_its_row(sqlite_hopper):
    pydal = pytest.importorskip("pydal")
    uri = sqlite_hopper.url.replace("sqlite:///", "sqlite://")
    db = pydal.DAL(uri, folder=str(sqlite_hopper.path), check_reserved=["all"])
    hopper = TaskHopper(db, tasks=str(sqlite_hopper.file))
    sys.path[:] = [path for path in sys.path if path != str(sqlite_hopper.path)]
    try:
        kept, failed = hopper.add_task("echo", ["ü"]), hopper.add_task("boom")
        db.commit()
        lost = hopper.add_task("note", ["never"])
        db.rollback()
        sqlite_hopper.run()
        task = db.task_status(kept)
        assert ([["ü"], {}], "succeeded", None) == (task.result, task.status, task.traceback)
        assert "ValueError: no way" in db.task_status(failed).traceback
        assert (None, []) == (db.task_status(lost), sqlite_hopper.notes())
        assert db.task_status(kept).finished_on >= db.task_status(kept).started_on
    finally:
        db.close()
        sys.path[:] = [path for path in sys.path if path != str(sqlite_hopper.path)]
        sys.modules.pop("tasks", None)


# The code ----------------------------------------------------------------------------------------------------------


def test_changed_code_runs_with_the_next_task(sqlite_hopper):
    sqlite_hopper.start()
    first = sqlite_hopper.add("echo")
    sqlite_hopper.wait_for_rows("succeeded")
    sqlite_hopper.file.write_text("def echo(): return 'new'\n")
    second = sqlite_hopper.add("echo")
    sqlite_hopper.wait_for_rows("succeeded", "succeeded")
    reader = TaskHopper(sqlite_hopper.url, tasks="json")
    assert [[[], {}], "new"] == [reader.task(task_id).result for task_id in (first, second)]


def test_task_whose_function_is_gone_fails_and_the_others_go_on(sqlite_hopper):
    sqlite_hopper.add("boom")
    sqlite_hopper.add("echo")
    sqlite_hopper.file.write_text("def echo(): return 1\n")
    sqlite_hopper.run()
    assert [("failed",), ("succeeded",)] == sqlite_hopper.rows()
    assert "there is no task 'boom' in tasks" in sqlite_hopper.rows("traceback")[0][0]


def test_code_that_cannot_be_imported_holds_the_tasks_until_it_can(sqlite_hopper):
    sqlite_hopper.start()
    wait_until(lambda: "works the tasks" in sqlite_hopper.said())
    sqlite_hopper.add("echo")
    sqlite_hopper.wait_for_rows("succeeded")
    whole = sqlite_hopper.file.read_text()
    sqlite_hopper.file.write_text("def echo(:\n")
    sqlite_hopper.queue_again_by_hand()
    wait_until(lambda: "queued again: the file of the tasks cannot be imported: SyntaxError" in sqlite_hopper.said())
    sqlite_hopper.file.write_text(whole)
    sqlite_hopper.wait_for_rows("succeeded")


def test_code_that_cannot_be_imported_at_the_start_is_an_error(sqlite_hopper):
    sqlite_hopper.file.write_text("import no_such_module\n")
    done = sqlite_hopper.cli(*sqlite_hopper.arguments())
    assert 2 == done.returncode
    assert "tasks.py cannot be imported:" in done.stderr
    assert "ModuleNotFoundError: No module named 'no_such_module'" in done.stderr


def test_tasks_in_a_package_are_a_part_of_it(sqlite_hopper):
    package = sqlite_hopper.path / "site_of_mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "models.py").write_text("VALUE = 42\n")
    (package / "tasks.py").write_text("from .models import VALUE\ndef value(): return [VALUE, __name__]\n")
    sqlite_hopper.file = package / "tasks.py"
    hopper = TaskHopper(sqlite_hopper.url, tasks=str(sqlite_hopper.file))
    task_id = hopper.add_task("value")
    for name in [name for name in sys.modules if name.startswith("site_of_mine")]:
        del sys.modules[name]
    sys.path.remove(str(sqlite_hopper.path))
    sqlite_hopper.run()
    assert [42, "site_of_mine.tasks"] == hopper.task(task_id).result


# Kills and signals -------------------------------------------------------------------------------------------------


def test_task_of_a_killed_runner_runs_again_after_its_processes_are_gone(hopper):
    hopper.add("hold", "a")
    hopper.add("note", "after")
    first = hopper.start()
    pids = hopper.wait_for_note("a ")
    first.kill()
    hopper.start()
    again = hopper.wait_for_note("a ", 2)
    assert [] == [pid for pid in pids if exists(pid)]
    assert [] == [pid for pid in pids if pid in again]
    hopper.go("a")
    hopper.wait_for_rows("succeeded", "succeeded")
    assert 1 == hopper.notes().count("a ended")
    assert "after" == hopper.notes()[-1]


def test_task_runs_again_after_its_runner_and_the_supervisor_were_killed_together(hopper):
    hopper.add("hold", "a")
    first = hopper.start()
    pids = hopper.wait_for_note("a ")
    supervisor = json.loads(hopper.rows("runner")[0][0])["pool"]
    os.kill(supervisor, signal.SIGSTOP)  # it could not do anything any more
    first.kill()
    os.kill(supervisor, signal.SIGKILL)
    hopper.start()
    hopper.wait_for_note("a ", 2)
    assert [] == [pid for pid in pids if exists(pid)]
    hopper.go("a")
    hopper.wait_for_rows("succeeded")


def test_next_runner_waits_for_processes_that_do_not_end(hopper):
    hopper.add("hold", "a")
    first = hopper.start()
    hopper.wait_for_note("a ")
    supervisor = json.loads(hopper.rows("runner")[0][0])["pool"]
    os.kill(supervisor, signal.SIGSTOP)
    first.kill()
    hopper.start()
    wait_until(lambda: "waits for the end of the processes of the runner" in hopper.said(), dump=hopper.said)
    assert 1 == len(hopper.notes())
    os.kill(supervisor, signal.SIGCONT)
    hopper.wait_for_note("a ", 2)
    hopper.go("a")
    hopper.wait_for_rows("succeeded")


def test_runner_goes_on_in_a_new_pool_when_the_supervisor_of_its_pool_is_killed(sqlite_hopper):
    hopper = sqlite_hopper
    hopper.add("hold", "a")
    runner = hopper.start()
    pids = hopper.wait_for_note("a ")
    os.kill(json.loads(hopper.rows("runner")[0][0])["pool"], signal.SIGKILL)
    hopper.wait_for_note("a ", 2)
    assert [] == [pid for pid in pids if exists(pid)]
    assert exists(json.loads(hopper.rows("runner")[0][0])["pool"])
    hopper.go("a")
    hopper.wait_for_rows("succeeded")
    assert None is runner.poll()


def test_task_with_which_the_pool_ends_again_and_again_fails(sqlite_hopper):
    hopper = sqlite_hopper
    hopper.add("hold", "a")
    hopper.start()
    for count in (1, 2, 3):
        hopper.wait_for_note("a ", count)
        os.kill(json.loads(hopper.rows("runner")[0][0])["pool"], signal.SIGKILL)
    hopper.wait_for_rows("failed")
    assert "pool has ended 3 times while this task ran" in hopper.rows("traceback")[0][0]
    hopper.add("note", "next")
    hopper.wait_for_rows("failed", "succeeded")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_a_task_end_that_ends_soon(hopper, number):
    hopper.add("hold", "a")
    runner = hopper.start()
    hopper.wait_for_note("a ")
    runner.send_signal(number)
    wait_until(lambda: "stops; the task has 5 s to end" in hopper.said())
    hopper.go("a")
    assert 0 == runner.wait(_END)
    assert [("succeeded",)] == hopper.rows()


@pytest.mark.parametrize("task", ["clean_up", "deaf"])
def test_sigterm_cuts_a_long_task_off_which_is_queued_again(hopper, task):
    hopper.add(task, "a")
    runner = hopper.start()
    pids = hopper.wait_for_note("a ")
    runner.terminate()
    assert 0 == runner.wait(_END)
    assert [] == [pid for pid in pids if exists(pid)]
    assert [("queued", None, None)] == hopper.rows("status, started_on, runner")
    assert (task == "clean_up") == ("a cleaned up" in hopper.notes())


def test_second_signal_cuts_the_task_off_at_once(sqlite_hopper):
    sqlite_hopper.add("hold", "a")
    runner = sqlite_hopper.start()
    sqlite_hopper.wait_for_note("a ")
    runner.terminate()
    wait_until(lambda: "stops; the task has 5 s to end" in sqlite_hopper.said())
    runner.terminate()
    assert 0 == runner.wait(_END)
    assert [("queued",)] == sqlite_hopper.rows()


def test_idle_runner_ends_at_sigterm(hopper):
    runner = hopper.start()
    wait_until(lambda: "works the tasks" in hopper.said())
    runner.terminate()
    assert 0 == runner.wait(_END)


# Two runners -------------------------------------------------------------------------------------------------------


def test_second_runner_is_refused_while_the_first_one_works(hopper):
    hopper.add("hold", "a")
    first = hopper.start()
    hopper.wait_for_note("a ")
    done = hopper.cli(*hopper.arguments())
    assert 1 == done.returncode
    assert str(first.pid) in done.stderr
    assert "one at a time can; --wait waits for its end" in done.stderr
    hopper.go("a")
    hopper.wait_for_rows("succeeded")
    assert ["a ended"] == hopper.notes()[1:]


def test_second_runner_that_waits_takes_over(hopper):
    first = hopper.start()
    wait_until(lambda: "works the tasks" in hopper.said())
    hopper.start("--wait")
    wait_until(lambda: "--wait waits for its end; waits" in hopper.said(), dump=hopper.said)
    first.terminate()
    assert 0 == first.wait(_END)
    hopper.add("note", "second")
    hopper.wait_for_rows("succeeded")


def test_many_kills_lose_no_task_and_run_none_twice_at_once(hopper):
    for number in range(6):
        hopper.add("hold", f"t{number}")
    for number in range(6):
        runner = hopper.start()
        hopper.wait_for_note(f"t{number} ")
        runner.kill()
        hopper.go(f"t{number}")
    hopper.start()
    hopper.wait_for_rows(*["succeeded"] * 6)
    begun = [note for note in hopper.notes() if not note.endswith("ended")]
    assert begun == sorted(begun, key=lambda note: note.split()[0])


# Databases that are away -------------------------------------------------------------------------------------------


@pytest.fixture
def server_hopper(cli, own_postgres_server, tmp_path):  # noqa: F811
    hopper = Hopper(cli, own_postgres_server.url("postgres"), tmp_path)
    yield hopper
    hopper.stop_all()


def test_runner_waits_for_a_server_that_is_away(server_hopper, own_postgres_server):  # noqa: F811
    runner = server_hopper.start()
    wait_until(lambda: "works the tasks" in server_hopper.said())
    own_postgres_server.stop()
    wait_until(lambda: "does not answer" in server_hopper.said())
    assert None is runner.poll()
    own_postgres_server.start()
    server_hopper.add("note", "back")
    server_hopper.wait_for_rows("succeeded")
    assert "goes on" in server_hopper.said()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_task_goes_on_while_its_server_starts_anew(server_hopper, own_postgres_server, mode):  # noqa: F811
    server_hopper.add("hold", "a")
    server_hopper.start()
    server_hopper.wait_for_note("a ")
    own_postgres_server.stop(mode)
    wait_until(lambda: "the task goes on for 15 s" in server_hopper.said())
    own_postgres_server.start()
    wait_until(lambda: "goes on\n" in server_hopper.said(), dump=server_hopper.said)
    server_hopper.go("a")
    server_hopper.wait_for_rows("succeeded")
    assert 2 == len(server_hopper.notes())


def test_result_is_written_when_the_server_is_back(server_hopper, own_postgres_server):  # noqa: F811
    server_hopper.add("hold", "a")
    server_hopper.start()
    server_hopper.wait_for_note("a ")
    own_postgres_server.stop()
    server_hopper.go("a")
    wait_until(lambda: "the outcome of task 1 waits to be written" in server_hopper.said(), dump=server_hopper.said)
    own_postgres_server.start()
    server_hopper.wait_for_rows("succeeded")
    assert 2 == len(server_hopper.notes())


def test_task_without_the_lock_for_long_is_stopped_and_queued_again(server_hopper, own_postgres_server):  # noqa: F811
    server_hopper.add("hold", "a")
    server_hopper.start()
    pids = server_hopper.wait_for_note("a ")
    own_postgres_server.stop()
    wait_until(lambda: not any(map(exists, pids)), dump=server_hopper.said)
    own_postgres_server.start()
    server_hopper.wait_for_note("a ", 2)
    server_hopper.go("a")
    server_hopper.wait_for_rows("succeeded")
    assert "queued again: the runner has lost its lock" in server_hopper.said()


def test_server_that_is_away_at_the_start_is_an_error(cli, tmp_path):
    (tmp_path / "tasks.py").touch()
    url = f"postgresql+psycopg://app:s3cret@/db?host={tmp_path}"
    done = cli("tasks", "run", "-Q", tmp_path / "tasks.py", "--db", url)
    assert 1 == done.returncode
    assert "does not answer" in done.stderr
    assert "s3cret" not in done.stderr


def test_runner_ends_at_sigterm_while_its_server_is_away(server_hopper, own_postgres_server):  # noqa: F811
    server_hopper.add("hold", "a")
    runner = server_hopper.start()
    server_hopper.wait_for_note("a ")
    own_postgres_server.stop()
    wait_until(lambda: "does not answer" in server_hopper.said())
    runner.terminate()
    assert 0 == runner.wait(_END)
    own_postgres_server.start()
    server_hopper.go("a")
    server_hopper.start()
    server_hopper.wait_for_rows("succeeded")


# Looking -----------------------------------------------------------------------------------------------------------


def test_list_and_status_show_the_table(hopper):
    hopper.add("boom")
    hopper.add("echo", "ü")
    hopper.run()
    done = hopper.cli("tasks", "list", PROCJOBS_TASKS_DB=hopper.url)
    assert ["TASK", "2", "1"] == [line.split()[0] for line in done.stdout.splitlines()]
    assert "ValueError: no way" in done.stdout
    only = json.loads(hopper.cli("tasks", "list", "--json", "--db", hopper.url, "--state", "failed").stdout)
    assert [("boom", "failed")] == [(task["task_name"], task["status"]) for task in only]
    done = hopper.cli("tasks", "status", "1", "--db", hopper.url)
    assert (1, True) == (done.returncode, done.stdout.rstrip().endswith("ValueError: no way"))
    done = hopper.cli("tasks", "status", "2", "--db", hopper.url)
    assert (0, True) == (done.returncode, 'result:    [["ü"], {}]' in done.stdout)
    assert 4 == hopper.cli("tasks", "status", "9", "--db", hopper.url).returncode


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "-Q", "no/tasks.py", "--db", "sqlite:///x.db"], "no/tasks.py does not exist"),
        (["run", "-Q", "README.md", "--db", "sqlite:///x.db"], "README.md is no Python file"),
        (["run", "-Q", "examples/hopper/tasks.py"], "Missing option '--db'"),
        (["run", "-Q", "examples/hopper/tasks.py", "--db", "sqlite://x.db"], "three slashes"),
        (["run", "-Q", "examples/hopper/tasks.py", "--db", "sqlite:////no/such/x.db"], "does not answer"),
        (["list", "--db", "sqlite:////no/such/x.db"], "there is no such file"),
        (["lost"], "lost"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_said(cli, arguments, message):
    done = cli("tasks", *arguments)
    assert done.returncode in {1, 2}
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# The example -------------------------------------------------------------------------------------------------------


def test_example_adds_tasks_and_shows_their_results(cli, tmp_path):
    import urllib.request

    example = Path(__file__).parents[2] / "examples" / "hopper"
    url = f"sqlite:///{tmp_path}/hopper.db"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(example / "app.py"), url, "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as site:
        try:
            where = site.stdout.readline().strip()

            def ask(path, data=None):
                with urllib.request.urlopen(f"{where}/{path}", data) as answer:
                    return json.loads(answer.read())

            number = ask("", b'task=count_words&args=["a b a"]')["id"]
            assert "queued" == ask(number)["status"]
            done = cli("tasks", "run", "-Q", example / "tasks.py", "--db", url, "--until-empty")
            assert 0 == done.returncode, done.stderr
            assert {"a": 2, "b": 1} == ask(number)["result"]
        finally:
            site.kill()
