"""Workers of procjobs.compat.web2py: programs that run tasks from a database, on SQLite and PostgreSQL."""

from __future__ import annotations

import datetime as dt
import importlib.util
import signal
import subprocess
import sys

import psutil
import pytest
from pydal import Field

from procjobs.compat.web2py import JobGraph
from tests.compat.web2py_site import ROOT, Site, is_alive, pids_in
from tests.databases import _missing, own_postgres_server, postgres_server  # noqa: F401
from tests.waiting import wait_until


def postgres_uri(server, name):
    importlib.util.find_spec("psycopg2") or _missing("psycopg2-binary")
    return f"postgres://procjobs@/{name}?unix_socket={server.directory}/.s.PGSQL.5432"


@pytest.fixture
def open_site(tmp_path):
    sites = []

    def open_site(uri="sqlite://storage.sqlite"):
        sites.append(Site(uri, tmp_path))
        return sites[-1]

    yield open_site
    for site in sites:
        site.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def uri(request):
    """The URI of an empty database, once of each kind."""
    if request.param == "sqlite":
        yield "sqlite://storage.sqlite"
        return
    server = request.getfixturevalue("postgres_server")
    name = server.new_database()
    yield postgres_uri(server, name)
    server.drop_database(name)


@pytest.fixture
def site(uri, open_site):
    return open_site(uri)


@pytest.fixture
def light_site(open_site):
    """One on SQLite, for what has nothing to do with the kind of the database."""
    return open_site()


# One task --------------------------------------------------------------------------------------------------------


def test_a_task_runs_and_its_result_and_output_are_kept(site):
    number = site.queue("add", 1, 2, pvars={"c": 3})
    site.start()
    row = site.wait_for(number, "COMPLETED")
    assert (1, 0) == (row.times_run, row.times_failed)
    found = site.result(number)
    assert 6 == found.result
    run = found.scheduler_run
    assert ("COMPLETED", "6", "adding (1, 2) {'c': 3}\n", None, "worker-0") == (
        run.status, run.run_result, run.run_output, run.traceback, run.worker_name
    )  # fmt: skip
    assert run.start_time <= run.stop_time


def test_falsy_results_are_kept_and_read_as_none(light_site):
    numbers = [light_site.queue("give", value) for value in (0, [], "")]
    light_site.start()
    for number, text in zip(numbers, ["0", "[]", '""'], strict=True):
        light_site.wait_for(number, "COMPLETED")
        assert [text] == [run.run_result for run in light_site.runs(number)]
        assert None is light_site.result(number).result


def test_a_run_that_returns_none_leaves_no_row(light_site):
    number = light_site.queue("nothing")
    light_site.start()
    light_site.wait_for(number, "COMPLETED")
    assert [] == light_site.runs(number)


@pytest.mark.parametrize(
    ("name", "message"),
    [("fail", "ValueError: no such film"), ("leave", "SystemExit: 3"), ("crash", "SIGKILL"), ("give", "missing 1 required")],
)
def test_a_task_that_fails_has_a_traceback(light_site, name, message):
    number = light_site.queue(name)
    light_site.start()
    row = light_site.wait_for(number, "FAILED")
    assert (0, 1) == (row.times_run, row.times_failed)
    [run] = light_site.runs(number)
    assert "FAILED" == run.status
    assert message in run.traceback


def test_a_function_that_is_not_known_is_a_failed_run(light_site):
    number = light_site.insert(function_name="no_such_task")
    light_site.start()
    light_site.wait_for(number, "FAILED")
    assert "'no_such_task' not found in scheduler's environment" in light_site.runs(number)[0].traceback


def test_rows_written_by_hand_are_tasks(site):
    site.db.executesql("INSERT INTO scheduler_task (function_name, args) VALUES ('add', '[1, 2]')")
    site.db.commit()
    site.start()
    wait_until(lambda: (row := site.task(1)).status == "COMPLETED" and row.uuid, dump=site.logs)
    assert 3 == site.result(1).result


def test_results_can_be_discarded(light_site):
    number = light_site.queue("add", 1)
    bad = light_site.queue("fail")
    light_site.start(discard_results=True)
    light_site.wait_for(number, "COMPLETED")
    light_site.wait_for(bad, "FAILED")
    assert [] == [*light_site.runs(number), *light_site.runs(bad)]


def test_a_task_knows_its_marks(light_site):
    number = light_site.queue("marks", uuid="u")
    light_site.start()
    light_site.wait_for(number, "COMPLETED")
    assert [number, "u", light_site.runs(number)[0].id] == light_site.result(number).result


def test_the_connection_of_a_task_is_its_own_and_is_not_committed(site):
    site.db.define_table("film", Field("title"))
    site.db.commit()
    first, second = (site.queue("write_without_commit", site.uri, site.folder) for _ in range(2))
    site.start()
    for number in (first, second):
        site.wait_for(number, "COMPLETED")
    assert site.result(first).result != site.result(second).result
    assert site.db(site.db.film).isempty()


# Output ----------------------------------------------------------------------------------------------------------


def test_output_is_shown_while_the_task_runs_and_cleared(site, tmp_path):
    number = site.queue("print_in_parts", str(tmp_path / "go"), sync_output=1)
    site.start()
    wait_until(lambda: [run.run_output for run in site.runs(number)] == ["first half\n"], dump=site.logs)
    (tmp_path / "go").touch()
    site.wait_for(number, "COMPLETED")
    assert "second half\n" == site.runs(number)[0].run_output


def test_all_of_a_long_output_is_kept(light_site):
    number = light_site.queue("print_much")
    light_site.start()
    light_site.wait_for(number, "COMPLETED")
    assert [f"line {n}" for n in range(20_000)] == light_site.runs(number)[0].run_output.splitlines()


def test_output_that_no_database_takes_is_cleaned(site):
    number = site.queue("print_nul")
    site.start()
    site.wait_for(number, "COMPLETED")
    assert "ab ?\n" == site.runs(number)[0].run_output


# Times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hold", "print_for_ever"])
def test_a_task_whose_time_is_out_is_stopped(light_site, tmp_path, name):
    number = light_site.queue(name, *([str(tmp_path / "pids")] if name == "hold" else []), timeout=1)
    light_site.start()
    light_site.wait_for(number, "TIMEOUT")
    [run] = light_site.runs(number)
    assert "TIMEOUT" == run.status
    assert name in run.traceback
    assert ("holding" if name == "hold" else "and on") in run.run_output


def test_a_task_that_ignores_everything_is_killed_with_its_children(light_site, tmp_path):
    number = light_site.queue("ignore_everything", str(tmp_path / "pids"), timeout=1)
    light_site.start()
    light_site.wait_for(number, "TIMEOUT")
    pids = pids_in(tmp_path / "pids")
    wait_until(lambda: len(pids) == 2 and not any(map(is_alive, pids)))


def test_a_task_repeats_from_start_to_start(site):
    number = site.queue("add", 1, repeats=2, period=2)
    site.start()
    assert 2 == site.wait_for(number, "COMPLETED").times_run
    first, second = site.runs(number)
    assert second.start_time - first.start_time >= dt.timedelta(seconds=2)


def test_prevent_drift_keeps_to_the_grid_and_leaves_no_slot_out(light_site, tmp_path):
    start = light_site.scheduler.now().replace(microsecond=0) + dt.timedelta(seconds=2)
    number = light_site.queue(
        "fail_until", str(tmp_path / "count"), 1, start_time=start, period=2, repeats=3, prevent_drift=True
    )
    light_site.start()
    row = light_site.wait_for(number, "COMPLETED")
    runs = light_site.runs(number)
    assert ["FAILED", "COMPLETED", "COMPLETED", "COMPLETED"] == [run.status for run in runs]
    slots = [(run.start_time - start).total_seconds() // 2 for run in runs]
    assert [0, 1, 2, 3] == slots or sorted(set(slots)) == slots  # a host that is very slow leaves some out
    assert 0 == (row.next_run_time - start).total_seconds() % 2


def test_retries_wait_for_the_period_and_a_success_resets_their_count(site, tmp_path):
    bad = site.queue("fail", retry_failed=1, period=1)
    good = site.queue("fail_until", str(tmp_path / "count"), 2, retry_failed=2, period=1)
    site.start()
    row = site.wait_for(bad, "FAILED")
    assert (0, 2) == (row.times_run, row.times_failed)
    first, second = site.runs(bad)
    assert second.start_time - first.start_time >= dt.timedelta(seconds=1)
    row = site.wait_for(good, "COMPLETED")
    assert (1, 0, 3) == (row.times_run, row.times_failed, len(site.runs(good)))


def test_a_periodic_task_that_fails_goes_on(light_site, tmp_path):
    number = light_site.queue("fail_until", str(tmp_path / "count"), 1, period=1, repeats=0)
    light_site.start()
    runs = light_site.wait_for_runs(number, 2, "COMPLETED")
    assert "FAILED" == runs[0].status


def test_a_periodic_task_that_fails_stops_where_that_is_wished(light_site, tmp_path):
    number = light_site.queue("fail_until", str(tmp_path / "count"), 1, period=1, repeats=0)
    light_site.start(stop_after_failure=True)
    light_site.wait_for(number, "FAILED")


def test_a_task_that_is_too_late_expires(light_site):
    past = light_site.scheduler.now() - dt.timedelta(seconds=60)
    late = light_site.queue("add", 1, stop_time=past)
    later = light_site.scheduler.now() + dt.timedelta(minutes=30)
    soon = light_site.queue("add", 1, repeats=0, period=3600, stop_time=later)
    light_site.start()
    light_site.wait_for(late, "EXPIRED")
    assert 0 == light_site.task(late).times_run
    assert 1 == light_site.wait_for(soon, "EXPIRED").times_run


def test_the_task_that_is_due_longest_runs_first(light_site):
    first = light_site.queue("add", 1)
    second = light_site.queue("add", 1, next_run_time=light_site.scheduler.now() - dt.timedelta(minutes=1))
    light_site.start()
    light_site.wait_for(first, "COMPLETED")
    assert light_site.runs(second)[0].id < light_site.runs(first)[0].id


def test_a_disabled_task_and_one_of_another_group_do_not_run(light_site):
    disabled = light_site.queue("add", 1, enabled=False)
    other = light_site.queue("add", 1, group_name="mail")
    light_site.start(max_empty_runs=2)
    light_site.workers[0].wait(60)
    assert ["QUEUED", "QUEUED"] == [light_site.task(number).status for number in (disabled, other)]
    light_site.start(group_names=["mail"])
    light_site.wait_for(other, "COMPLETED")


def test_tasks_wait_for_those_that_they_depend_on(site):
    last, first = site.queue("add", 1), site.queue("add", 2, next_run_time=site.scheduler.now() + dt.timedelta(seconds=2))
    graph = JobGraph(site.db, "job")
    graph.add_deps(last, first)
    assert [{first}, {last}] == graph.validate("job")
    site.start()
    site.wait_for(last, "COMPLETED")
    assert site.runs(first)[0].id < site.runs(last)[0].id


# Stopping --------------------------------------------------------------------------------------------------------


def test_stop_task_ends_a_running_task(site, tmp_path):
    number = site.queue("hold", str(tmp_path / "pids"))
    site.start()
    [pid] = pids_in(tmp_path / "pids")
    assert 1 == site.scheduler.stop_task(number)
    site.db.commit()
    [run] = site.wait_for_runs(number, 1, "STOPPED")
    assert ("STOPPED", "holding\n") == (site.task(number).status, run.run_output)
    wait_until(lambda: not is_alive(pid))
    other = site.queue("add", 1)
    site.wait_for(other, "COMPLETED")


def test_stop_task_as_the_status_of_a_worker_stops_its_task(light_site, tmp_path):
    number = light_site.queue("hold", str(tmp_path / "pids"))
    light_site.start()
    pids_in(tmp_path / "pids")
    light_site.db(light_site.db.scheduler_worker).update(status="STOP_TASK")
    light_site.db.commit()
    light_site.wait_for(number, "STOPPED")
    wait_until(lambda: light_site.get_workers()["worker-0"].status == "ACTIVE")


def test_kill_ends_task_and_worker(site, tmp_path):
    number = site.queue("hold", str(tmp_path / "pids"))
    worker = site.start()
    [pid] = pids_in(tmp_path / "pids")
    site.scheduler.kill()
    site.db.commit()
    assert 0 == worker.wait(30)
    assert ("FAILED", ["STOPPED"]) == (site.task(number).status, [run.status for run in site.runs(number)])
    assert not is_alive(pid)
    assert {} == site.get_workers()


def test_terminate_lets_the_task_end_first(light_site, tmp_path):
    number = light_site.queue("print_in_parts", str(tmp_path / "go"), sync_output=1)
    waits = light_site.queue("add", 1, next_run_time=light_site.scheduler.now() + dt.timedelta(seconds=1))
    worker = light_site.start()
    wait_until(lambda: [run.run_output for run in light_site.runs(number)] == ["first half\n"], dump=light_site.logs)
    light_site.scheduler.terminate()
    light_site.db.commit()
    (tmp_path / "go").touch()
    assert 0 == worker.wait(30)
    assert "loop has returned" in light_site.logs()
    assert ("COMPLETED", "QUEUED") == (light_site.task(number).status, light_site.task(waits).status)


def test_a_disabled_worker_takes_nothing_until_it_is_resumed(light_site):
    light_site.start()
    light_site.start()
    light_site.scheduler.disable(worker_name="worker-0")
    light_site.db.commit()
    numbers = [light_site.queue("add", 1) for _ in range(3)]
    for number in numbers:
        light_site.wait_for(number, "COMPLETED")
        assert "worker-1" == light_site.runs(number)[0].worker_name
    light_site.scheduler.terminate(worker_name="worker-1")
    light_site.scheduler.resume()
    light_site.db.commit()
    light_site.workers[1].wait(30)
    number = light_site.queue("add", 1)
    light_site.wait_for(number, "COMPLETED")
    assert "worker-0" == light_site.runs(number)[0].worker_name


def test_a_worker_without_work_returns_after_max_empty_runs(light_site):
    number = light_site.queue("add", 1, repeats=2, period=3)
    worker = light_site.start(max_empty_runs=6, heartbeat=1)
    assert 0 == worker.wait(60)
    assert 2 == light_site.task(number).times_run
    assert {} == light_site.get_workers()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_worker_and_gives_its_task_back(site, tmp_path, number):
    task = site.queue("ignore_everything", str(tmp_path / "pids"))
    worker = site.start()
    wait_until(lambda: (tmp_path / "pids").exists() and len(pids_in(tmp_path / "pids")) == 2)
    worker.send_signal(number)
    assert 0 == worker.wait(30)
    wait_until(lambda: not any(map(is_alive, pids_in(tmp_path / "pids"))))
    assert ("QUEUED", ["STOPPED"]) == (site.task(task).status, [run.status for run in site.runs(task)])
    assert {} == site.get_workers()


# Several workers -------------------------------------------------------------------------------------------------


def test_the_task_of_a_killed_worker_runs_again_when_its_first_run_is_gone(site, tmp_path):
    number = site.queue("hold", str(tmp_path / "pids"))
    first = site.start()
    [orphan] = pids_in(tmp_path / "pids")
    family = psutil.Process(first.pid).children(recursive=True)
    site.start()
    first.kill()
    first.wait()
    pids = wait_until(lambda: len(found := pids_in(tmp_path / "pids")) == 2 and found, timeout=60, dump=site.logs)
    assert orphan == pids[0]
    assert not is_alive(orphan)
    wait_until(lambda: not any(process.is_running() for process in family))
    assert ["worker-1"] == list(site.get_workers())
    closed, running = site.runs(number)
    assert ("STOPPED", "worker-0", "RUNNING", "worker-1") == (
        closed.status, closed.worker_name, running.status, running.worker_name
    )  # fmt: skip
    assert "worker-0 died" in closed.traceback
    assert closed.stop_time is not None


def test_a_worker_takes_the_place_of_a_killed_one_of_its_name(light_site, tmp_path):
    number = light_site.queue("hold", str(tmp_path / "pids"), 0)
    light_site.insert(function_name="hold", args=f'["{tmp_path}/others"]', next_run_time=light_site.scheduler.now())
    first = light_site.start("the-worker")
    pids_in(tmp_path / "others")
    light_site.wait_for(number, "COMPLETED")
    first.kill()
    first.wait()
    light_site.start("the-worker")
    wait_until(lambda: len(pids_in(tmp_path / "others")) == 2, timeout=60, dump=light_site.logs)


def test_a_second_worker_of_the_same_name_is_refused(light_site):
    light_site.start("the-worker")
    second = light_site.start("the-worker")
    assert 1 == second.wait(60)
    assert "another worker named 'the-worker' is alive" in light_site.logs()
    number = light_site.queue("add", 1)
    light_site.wait_for(number, "COMPLETED")


def test_there_is_one_ticker_and_another_one_when_it_ends(light_site):
    for _ in range(3):
        light_site.start()
    [ticker] = wait_until(lambda: light_site.scheduler.get_workers(only_ticker=True) if light_site.get_workers() else None)
    light_site.workers[int(ticker[-1])].terminate()
    light_site.workers[int(ticker[-1])].wait(30)
    wait_until(lambda: sum(bool(worker.is_ticker) for worker in light_site.get_workers().values()) == 1, timeout=60)
    light_site.wait_for(light_site.queue("add", 1), "COMPLETED")


def test_tasks_that_wait_for_a_busy_worker_go_to_an_idle_one(site, tmp_path):
    site.start()
    held = site.queue("hold", str(tmp_path / "pids"))
    others = [site.queue("add", 1) for _ in range(3)]
    pids_in(tmp_path / "pids")
    site.start()
    for number in others:
        site.wait_for(number, "COMPLETED")
    assert "RUNNING" == site.task(held).status


def test_no_task_runs_twice_with_many_workers(site, tmp_path):
    numbers = [site.queue("note", str(tmp_path / "notes"), n) for n in range(40)]
    for _ in range(3):
        site.start()
    for number in numbers:
        site.wait_for(number, "COMPLETED", timeout=90)
    assert sorted(map(str, range(40))) == sorted((tmp_path / "notes").read_text().split())


def test_a_broadcast_task_runs_on_each_worker_with_its_arguments(site):
    site.start()
    site.start()
    number = site.queue("add", 1, pvars={"b": 2}, broadcast=True, timeout=77)
    site.wait_for(number, "COMPLETED")
    copies = site.db(site.db.scheduler_task.id != number).select()
    assert 2 == len(copies)
    for copy in copies:
        site.wait_for(copy.id, "COMPLETED")
        assert (3, 77) == (site.result(copy.id).result, copy.timeout)
    assert {"worker-0", "worker-1"} == {site.runs(copy.id)[0].worker_name for copy in copies}


# The database ----------------------------------------------------------------------------------------------------


def test_workers_outlive_a_restart_of_the_database(own_postgres_server, open_site, tmp_path):  # noqa: F811
    site = open_site(postgres_uri(own_postgres_server, own_postgres_server.new_database()))
    held = site.queue("print_in_parts", str(tmp_path / "go"), sync_output=1)
    worker = site.start()
    wait_until(lambda: site.task(held).status == "RUNNING", dump=site.logs)
    site.db._adapter.close(None)
    own_postgres_server.stop("immediate")
    wait_until(lambda: "the database failed, trying again" in site.logs())
    own_postgres_server.start()
    (tmp_path / "go").touch()
    site.wait_for(held, "COMPLETED")
    site.wait_for(site.queue("add", 1), "COMPLETED")
    assert None is worker.poll()


def test_a_worker_that_cannot_go_on_exits_with_an_error(light_site):
    worker = light_site.start()
    light_site.db.executesql("DROP TABLE scheduler_task")
    light_site.db.commit()
    assert 1 == worker.wait(60)
    assert "no such table" in light_site.logs()


def test_a_worker_whose_row_is_taken_out_puts_it_in_again(light_site):
    light_site.start()
    light_site.db(light_site.db.scheduler_worker).delete()
    light_site.db.commit()
    wait_until(lambda: "worker-0" in light_site.get_workers())
    light_site.wait_for(light_site.queue("add", 1), "COMPLETED")


def test_an_open_transaction_of_somebody_keeps_no_worker_from_its_end(postgres_server, open_site):  # noqa: F811
    name = postgres_server.new_database()
    site = open_site(postgres_uri(postgres_server, name))
    worker = site.start()
    site.scheduler.disable()  # not committed
    worker.terminate()
    assert worker.wait(30) is not None
    site.db.rollback()
    site.db._adapter.close(None)
    postgres_server.drop_database(name)


def test_a_worker_ends_with_the_process_that_has_forked_it(light_site, tmp_path):
    number = light_site.queue("hold", str(tmp_path / "pids"))
    code = (
        "import multiprocessing, sys; from tests.compat.web2py_worker import main; "
        "child = multiprocessing.get_context('fork').Process(target=main); child.start(); child.join()"
    )
    options = '{"heartbeat": 1, "worker_name": "child"}'
    with subprocess.Popen([sys.executable, "-c", code, light_site.uri, light_site.folder, options], cwd=ROOT) as parent:
        [pid] = pids_in(tmp_path / "pids")
        parent.kill()
    wait_until(lambda: light_site.get_workers() == {})
    assert "QUEUED" == light_site.task(number).status
    assert not is_alive(pid)
