"""procjobs.compat.web2py without workers: the tables, queue_task, task_status, stop_task, worker statuses, job graphs."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys

import pytest
from pydal import DAL

from procjobs.compat import web2py
from procjobs.compat.web2py import CronParser, JobGraph, Scheduler
from tests.compat.web2py_site import Site
from tests.compat.web2py_tasks import add

PAST = dt.datetime(2020, 1, 1, 10, 20, 30)  # noqa: DTZ001 - web2py's times are naive


@pytest.fixture
def site(tmp_path):
    site = Site("sqlite://storage.sqlite", tmp_path)
    yield site
    site.close()


def test_queue_task_answers_with_id_uuid_and_errors(site):
    answer = site.scheduler.queue_task("add", [1], {"b": 2}, task_name="sum")
    assert {"id", "uuid", "errors"} == set(answer)
    row = site.task(answer["id"])
    assert ("sum", "add", "[1]", '{"b": 2}') == (row.task_name, row.function_name, row.args, row.vars)
    assert answer["uuid"] == row.uuid
    assert ("QUEUED", "main", "application", 60, 60, 1) == (
        row.status, row.group_name, row.application_name, row.period, row.timeout, row.repeats
    )  # fmt: skip


def test_a_function_is_queued_by_its_name(site):
    assert "add" == site.task(site.scheduler.queue_task(add, (1, 2))["id"]).function_name


@pytest.mark.parametrize(
    ("arguments", "options", "wrong"),
    [
        ([{"a": 1}], {}, {"args"}),
        ([[], [1]], {}, {"vars"}),
        ([], {"timeout": 0}, {"timeout"}),
        ([], {"repeats": -1}, {"repeats"}),
        ([], {"cronline": "99 * * * *"}, {"cronline"}),
        ([], {"start_time": "soon"}, {"start_time"}),
        ([], {"application_name": "x", "status": "RUNNING", "times_run": 3}, {"application_name", "status", "times_run"}),
        ([], {"no_such_option": 1}, {"no_such_option"}),
    ],
)
def test_wrong_options_come_back_in_errors(site, arguments, options, wrong):
    answer = site.scheduler.queue_task("add", *arguments, **options)
    assert (None, None, wrong) == (answer["id"], answer["uuid"], set(answer["errors"]))
    assert site.db(site.db.scheduler_task).isempty()


def test_an_unknown_function_and_a_uuid_that_exists_are_errors(site):
    assert {"function_name"} == set(site.scheduler.queue_task("no_such_task")["errors"])
    assert {} == site.scheduler.queue_task("add", uuid="a")["errors"]
    assert {"uuid"} == set(site.scheduler.queue_task("add", uuid="a")["errors"])


def test_wrong_calls_raise_as_in_the_original(site):
    with pytest.raises(TypeError):
        site.scheduler.queue_task()
    with pytest.raises(TypeError, match="JSON"):
        site.scheduler.queue_task("add", [object()])
    with pytest.raises(SyntaxError, match="id, uuid or Query"):
        site.scheduler.task_status([1])
    with pytest.raises(SyntaxError, match="id or uuid"):
        site.scheduler.stop_task(None)
    with pytest.raises(TypeError, match="dict of functions"):
        Scheduler(site.db, ["add"])


def test_a_task_follows_the_rollback_of_its_caller(site):
    site.scheduler.queue_task("add")
    site.db.rollback()
    assert site.db(site.db.scheduler_task).isempty()


def test_a_task_with_a_start_time_is_due_then(site):
    row = site.task(site.queue("add", start_time=PAST))
    assert PAST == row.start_time == row.next_run_time
    row = site.task(site.queue("add", start_time="2020-01-01 10:20:30"))
    assert PAST == row.start_time == row.next_run_time


def test_a_cron_task_is_not_due_at_once(site):
    before = site.scheduler.now()
    row = site.task(site.queue("add", cronline="* * * * *"))
    assert before < row.next_run_time <= before + dt.timedelta(minutes=1)
    assert 0 == row.next_run_time.second


def test_the_first_run_of_a_cron_task_keeps_the_seconds_of_its_start_time(site):
    row = site.task(site.queue("add", cronline="*/30 * * * *", start_time=PAST))
    assert dt.datetime(2020, 1, 1, 10, 30, 30) == row.next_run_time  # noqa: DTZ001 - as above


def test_task_status_takes_id_uuid_and_query(site):
    number = site.queue("add", uuid="u")
    status = site.scheduler.task_status
    assert number == status(number).id == status("u").id == status(site.db.scheduler_task.function_name == "add").id
    assert None is status(number + 1)
    row = status(number, output=True)
    assert {"scheduler_task", "scheduler_run", "result"} == set(row.keys())
    assert (None, None) == (row.scheduler_run.id, row.result)


@pytest.mark.parametrize("status", ["QUEUED", "ASSIGNED", "RUNNING"])
def test_stop_task_stops_what_waits_or_runs(site, status):
    number = site.insert(function_name="add", status=status)
    assert 1 == site.scheduler.stop_task(number)
    assert ("STOPPED", False) == (site.task(number).status, site.task(number).enabled)
    assert None is site.scheduler.stop_task(number)
    assert None is site.scheduler.stop_task("no such uuid")


def insert_workers(site, *names, **columns):
    for name in names:
        site.db.scheduler_worker.insert(worker_name=name, **{"status": "ACTIVE", "group_names": ["main"], **columns})


def statuses(site):
    return {name: worker.status for name, worker in site.scheduler.get_workers().items()}


def test_worker_statuses_are_set_by_group_limit_and_name(site):
    insert_workers(site, "a", "b")
    insert_workers(site, "c", group_names=["mail"])
    site.scheduler.disable(limit=1)
    assert {"a": "DISABLED", "b": "ACTIVE", "c": "ACTIVE"} == statuses(site)
    site.scheduler.terminate("mail")
    site.scheduler.kill(worker_name="b")
    assert {"a": "DISABLED", "b": "KILL", "c": "TERMINATE"} == statuses(site)
    site.scheduler.resume(["main", "mail"])
    assert {"a": "ACTIVE", "b": "KILL", "c": "TERMINATE"} == statuses(site)
    site.scheduler.terminate()
    assert "KILL" == statuses(site)["b"]


def test_get_workers_can_be_asked_for_the_ticker(site):
    insert_workers(site, "a", is_ticker=True)
    insert_workers(site, "b")
    assert {"a", "b"} == set(site.scheduler.get_workers())
    assert ["a"] == list(site.scheduler.get_workers(only_ticker=True))


def test_job_graph_gives_levels_and_commits(site):
    a, b, c = (site.queue("add") for _ in range(3))
    graph = JobGraph(site.db, "job")
    graph.add_deps(a, b)
    graph.add_deps(b, c)
    graph.add_deps(b, b)
    assert [{c}, {b}, {a}] == graph.validate("job")
    site.db.rollback()
    assert 3 == site.db(site.db.scheduler_task_deps).count()
    graph.add_deps(c, a)
    assert None is graph.validate()
    assert 3 == site.db(site.db.scheduler_task_deps).count()
    assert None is graph.validate("no such job")


def test_a_second_scheduler_on_the_same_database_is_harmless(site):
    other = Scheduler(site.db, {"other": print}, worker_name="second")
    assert other is web2py.current._scheduler
    assert {} == other.queue_task("other")["errors"]


def test_migrate_false_makes_no_tables(tmp_path):
    db = DAL("sqlite://other.sqlite", folder=str(tmp_path))
    Scheduler(db, migrate=False)
    assert [] == db.executesql("SELECT name FROM sqlite_master WHERE name LIKE 'scheduler%'")
    db.close()


def test_lazy_tables_get_the_applications_name(tmp_path):
    db = DAL("sqlite://lazy.sqlite", folder=str(tmp_path), lazy_tables=True)
    scheduler = Scheduler(db)
    assert {} == scheduler.queue_task("f")["errors"]
    assert "application" == scheduler.task_status(1).application_name
    db.close()


def test_the_module_needs_no_gluon_and_star_import_gives_all_names():
    code = "from procjobs.compat.web2py import *; print(QUEUED, CLEAROUT, TYPE, current, Scheduler, sep=' ')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("QUEUED !clear! ")
    assert "ASSIGNED" in web2py.TASK_STATUS


def times(line, base, count=1):
    parser = CronParser(line, base)
    return [parser.next() for _ in range(count)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("*/5 * * * *", (2020, 1, 1, 10, 25, 30)),
        ("4/34 * * * *", (2020, 1, 1, 10, 38, 30)),
        ("0 0 L * *", (2020, 1, 31, 0, 0, 30)),
        ("0 0 15 * fri", (2020, 1, 3, 0, 0, 30)),
        ("0 0 */31 * sun-mon", (2020, 1, 5, 0, 0, 30)),
        ("0 0 * feb 7", (2020, 2, 2, 0, 0, 30)),
        ("@yearly", (2021, 1, 1, 0, 0, 30)),
        ("0 0 29 2 *", (2020, 2, 29, 0, 0, 30)),
    ],
)  # fmt: skip
def test_cron_lines_are_read_as_in_the_original(line, expected):
    assert [dt.datetime(*expected)] == times(line, PAST)  # noqa: DTZ001 - as above


@pytest.mark.parametrize(
    "line",
    ["", "* * * *", "* * * * * *", "60 * * * *", "1- * * * *", "-1 * * * *", "* * 5-1 * *", "* * * janu *", "*/0 * * * *",
     "0 0 31 2 *", None, "* * * * sat-mon"],
)  # fmt: skip
def test_a_wrong_cron_line_is_a_value_error(line):
    with pytest.raises(ValueError, match="Invalid cron"):
        times(line, PAST)
