"""Tasks of Google App Engine's queues as rows: adding, names, deleting, purging, statistics."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, insert, select, text

from procjobs.compat.taskqueue.constants import TOMBSTONE_SECONDS
from procjobs.compat.taskqueue.errors import (
    InternalError,
    TaskAlreadyExistsError,
    TombstonedTaskError,
    TransientError,
)
from procjobs.compat.taskqueue.settings.queues import RetryParameters
from procjobs.compat.taskqueue.store import rows, tables
from procjobs.compat.taskqueue.store.database import Database, open_database
from procjobs.compat.taskqueue.store.records import Added, Deleted, Statistics
from procjobs.store import consumers
from tests.compat.conftest import open_queues
from tests.compat.taskqueue_tasks import SECOND, Child, LosesAnswer, change, new_queue, push, rows_of
from tests.waiting import wait_until

AGE = TOMBSTONE_SECONDS * SECOND


@pytest.fixture
def database(taskqueue_database):
    return taskqueue_database


@pytest.fixture
def queue():
    return new_queue()


def add(database, queue, *new):
    return rows.add(database, queue.name, new)


def test_a_task_is_a_row_with_all_that_it_was_given(database, queue):
    retry = RetryParameters.of(task_retry_limit=3)
    task = push("a", payload=b"\0\xff", headers=(("X-A", "1"), ("x-a", "2")), target="other", retry=retry, deadline_usec=5)
    before = tables.now_usec()
    assert [Added("a")] == add(database, queue, task)
    row = rows_of(database, queue)["a"]
    assert ("waiting", "push", "POST", "/work", "other") == (row.state, row.mode, row.method, row.url, row.target)
    assert (b"\0\xff", [["X-A", "1"], ["x-a", "2"]]) == (row.payload, json.loads(row.headers))
    assert (task.eta_usec, task.eta_usec, 0, 0) == (row.eta_usec, row.posted_eta_usec, row.retry_count, row.execution_count)
    assert (retry, 5, 100) == (RetryParameters.from_json(row.retry), row.deadline_usec, row.size)
    assert before <= row.added_usec <= tables.now_usec()


def test_unnamed_tasks_get_names_in_their_order(database, queue):
    names = [one.name for one in add(database, queue, *[push() for _ in range(100)])]
    assert sorted(names) == names
    assert set(names) == set(rows_of(database, queue))
    assert names[0] not in {one.name for one in add(database, queue, push())}


def test_a_name_that_is_there_is_refused_and_the_others_are_added(database, queue):
    add(database, queue, push("b"))
    added = add(database, queue, push("a"), push("b", payload=b"other"), push("c"))
    assert ["a", "b", "c"] == [one.name for one in added]
    assert [None, TaskAlreadyExistsError, None] == [one.error and type(one.error) for one in added]
    found = rows_of(database, queue)
    assert ({"a", "b", "c"}, b"x=1") == (set(found), found["b"].payload)
    assert isinstance(rows.worst_error(added), TaskAlreadyExistsError)


def test_names_of_two_queues_are_different_ones(database, queue):
    assert [Added("a")] == add(database, queue, push("a")) == add(database, new_queue(), push("a"))


def test_the_name_of_a_task_that_was_deleted_is_a_tombstone_and_the_error_says_until_when(database, queue):
    add(database, queue, push("a"))
    rows.delete_tasks(database, queue.name, ["a"])
    (added,) = add(database, queue, push("a"))
    assert isinstance(added.error, TombstonedTaskError)
    until = (rows_of(database, queue)["a"].ended_usec + AGE) // SECOND
    assert datetime.fromtimestamp(until, UTC).isoformat() in str(added.error)


def test_a_tombstone_holds_for_nine_days(database, queue):
    add(database, queue, push("a"), push("b"))
    rows.delete_tasks(database, queue.name, ["a", "b"])
    now = tables.now_usec()
    change(database, queue, "a", ended_usec=now - AGE)
    change(database, queue, "b", ended_usec=now - AGE + 60 * SECOND)
    new, old = add(database, queue, push("a"), push("b"))
    assert (None, TombstonedTaskError) == (new.error, type(old.error))
    assert "waiting" == rows_of(database, queue)["a"].state


def test_names_that_can_be_used_again_are_removed_a_few_at_a_time(database, queue):
    names = [f"n{number}" for number in range(5)]
    add(database, queue, *map(push, names))
    rows.delete_tasks(database, queue.name, names)
    for name in names[:3]:
        change(database, queue, name, ended_usec=tables.now_usec() - AGE)
    assert [2, 1, 0] == [database.run(lambda connection: rows.remove_expired(connection, 2)) for _ in range(3)]
    assert set(names[3:]) == set(rows_of(database, queue))


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ("", None),
        ("E", "E"),
        ("ET", "T"),  # the original raises the last one of both kinds
        ("TE", "E"),
        ("EIT", "I"),  # and keeps any other one
        ("IET", "I"),
    ],
)
def test_the_error_of_a_batch_is_that_of_the_original(errors, expected):
    kinds = {"E": TaskAlreadyExistsError, "T": TombstonedTaskError, "I": InternalError}
    added = [Added("fine"), *[Added(kind, kinds[kind](kind)) for kind in errors]]
    worst = rows.worst_error(added)
    assert expected == (worst and str(worst))


# Several at once ------------------------------------------------------------------------------------------------


def test_of_two_processes_that_add_the_same_names_at_once_each_name_has_one_winner(database, queue):
    names = [f"n{number}" for number in range(100)]

    def race(order):
        added = add(database, queue, *[push(name, payload=b"%d" % order) for name in names[::order]])
        return [type(one.error) for one in added][::order]

    racers = [Child(lambda: race(1)), Child(lambda: race(-1))]
    for racer in racers:
        racer.go()
    first, second = (racer.result() for racer in racers)
    assert [{type(None), TaskAlreadyExistsError}] * 100 == [set(pair) for pair in zip(first, second, strict=True)]
    found = rows_of(database, queue)
    assert [b"-1" if kind is TaskAlreadyExistsError else b"1" for kind in first] == [found[name].payload for name in names]


def test_threads_add_and_delete_the_same_names(database, queue):
    names = [f"n{number}" for number in range(20)]
    results = []

    def work(function):
        results.append(function())

    deleting = [lambda: rows.delete_tasks(database, queue.name, names) for _ in range(2)]
    adding = [lambda: add(database, queue, *map(push, names)) for _ in range(2)]
    for functions in (adding, deleting):
        results.clear()
        threads = [threading.Thread(target=work, args=(function,)) for function in functions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        good = [one.error is None if isinstance(one, Added) else one.was_deleted for result in results for one in result]
        assert 20 == sum(good)


def test_a_call_whose_answer_was_lost_finds_what_it_has_done(database, queue):
    lossy = LosesAnswer(database)
    assert [Added("a"), Added("b")] == rows.add(lossy, queue.name, [push("a"), push("b")])
    assert 1 == len(rows.add(lossy, queue.name, [push()]))
    assert 3 == len(rows_of(database, queue))
    assert [Deleted("a", True), Deleted("z", False)] == rows.delete_tasks(lossy, queue.name, ["a", "z"])


def test_a_child_of_a_fork_adds_over_a_connection_of_its_own(database, queue):
    add(database, queue, push("parent"))
    child = Child(lambda: add(database, queue, push("child")))
    child.go()
    assert [Added("child")] == child.result()
    add(database, queue, push("again"))
    assert {"parent", "child", "again"} == set(rows_of(database, queue))


def test_a_database_that_cannot_be_used_is_a_transient_error(tmp_path):
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(TransientError, match=r"file/queues\.db"):
        rows.add(Database(f"sqlite:///{tmp_path}/file/queues.db"), "default", [push()])


# Deleting -------------------------------------------------------------------------------------------------------


def test_a_task_is_deleted_once(database, queue):
    add(database, queue, push("a"))
    assert [Deleted("a", True), Deleted("unknown", False)] == rows.delete_tasks(database, queue.name, ["a", "unknown"])
    assert [Deleted("a", False)] == rows.delete_tasks(database, queue.name, ["a"])
    row = rows_of(database, queue)["a"]
    assert ("ended", "deleted", None, "[]") == (row.state, row.outcome, row.payload, row.headers)


def test_a_task_that_runs_is_deleted_and_its_attempt_loses_it(database, queue):
    add(database, queue, push("a"))
    change(database, queue, "a", state="running", run="attempt 1")
    assert [Deleted("a", True)] == rows.delete_tasks(database, queue.name, ["a"])
    assert "attempt 1" != rows_of(database, queue)["a"].run


def test_a_large_payload_comes_and_goes_with_its_task(database, queue):
    def stored():
        return database.run(lambda connection: dict(connection.execute(query).all()))

    query = select(tables.payloads.c.id, tables.payloads.c.data)
    add(database, queue, push("a", stored=("id-a", b"a" * 300_000)), push("b", stored=("id-b", b"b")), push("c"))
    assert {"id-a": b"a" * 300_000, "id-b": b"b"} == stored()
    add(database, queue, push("a", stored=("id-c", b"refused")))
    rows.delete_tasks(database, queue.name, ["a"])
    assert {"id-b": b"b"} == stored()
    rows.purge(database, queue.name)
    assert {} == stored()


def test_purge_ends_all_tasks_but_those_that_run_and_leaves_tombstones(database, queue, monkeypatch):
    monkeypatch.setattr(rows, "SLICE", 3)
    other = new_queue()
    add(database, other, push("a"))
    later = push("later", eta_usec=tables.now_usec() + 3600 * SECOND)
    add(database, queue, push("runs"), later, *[push() for _ in range(8)])
    change(database, queue, "runs", state="running", run="attempt 1")
    rows.purge(database, queue.name)
    states = {name: (row.state, row.run) for name, row in rows_of(database, queue).items()}
    assert ("running", "attempt 1") == states.pop("runs")
    assert {("ended", None)} == set(states.values())
    assert "waiting" == rows_of(database, other)["a"].state
    (added,) = add(database, queue, push("later"))
    assert isinstance(added.error, TombstonedTaskError)
    rows.purge(database, new_queue().name)


def test_a_task_that_begins_while_its_queue_is_purged_runs(postgres_url, queue):
    """In PostgreSQL purging finds it waiting, and waits for the sender's commit."""
    with open_queues(postgres_url) as database:
        add(database, queue, push("begins"), push("waits"))

        def begin(connection):
            begins = (tables.tasks.c.queue == queue.name) & (tables.tasks.c.name == "begins")
            connection.execute(tables.tasks.update().where(begins).values(state="running", run="attempt 1"))
            purging = Child(lambda: rows.purge(database, queue.name))
            purging.go()
            wait_until(lambda: connection.scalar(text("SELECT 1 FROM pg_locks WHERE NOT granted")))
            return purging

        purging = database.run(begin)
        assert 1 == purging.result()
        assert {"begins": "running", "waits": "ended"} == {name: row.state for name, row in rows_of(database, queue).items()}


# Queues ---------------------------------------------------------------------------------------------------------


def test_statistics_of_several_queues(database):
    first, empty, pulled = new_queue(rate=7.5), new_queue(), new_queue("pull")
    now = tables.now_usec()
    add(database, first, *[push(f"n{number}", eta_usec=now + number) for number in range(4)])
    add(database, pulled, push("p", eta_usec=now + 3600 * SECOND))
    change(database, first, "n1", state="running", run="attempt 1")
    rows.delete_tasks(database, first.name, ["n0"])

    def note(connection):
        for ago, count in [(61, 100), (59, 10), (1, 2)]:
            values = {"queue": first.name, "at_usec": now - ago * SECOND, "count": count}
            connection.execute(insert(tables.executions).values(values))

    database.run(note)
    of_pulled = Statistics(1, now + 3600 * SECOND, 0, None, None)
    expected = [of_pulled, Statistics(3, now + 1, 12, 1, 7.5), Statistics(0, None, 0, 0, 5.0)]
    assert expected == rows.fetch_statistics(database, [pulled, first, empty])


def test_old_counts_are_removed(database):
    queue = new_queue()

    def note(connection):
        rows.note_executions(connection, queue.name, 3)
        old = {"queue": queue.name, "at_usec": tables.now_usec() - 61 * SECOND, "count": 100}
        connection.execute(insert(tables.executions).values(old))
        rows.remove_expired(connection)
        of_queue = tables.executions.c.queue == queue.name
        return connection.scalar(select(func.sum(tables.executions.c.count)).where(of_queue))

    assert 3 == database.run(note)
    assert 3 == rows.fetch_statistics(database, [queue])[0].executed_last_minute


def test_a_queue_that_is_configured_anew_begins_with_its_own_rate(database):
    kept, changed = new_queue(rate=2.0), new_queue(rate=2.0)
    rows.configure(database, [kept, changed])

    def slow_down(connection):
        connection.execute(tables.queues.update().values(enforced_rate=0.5))

    database.run(slow_down)
    rows.configure(database, [kept, new_queue()])
    assert [0.5, 0.5] == [one.enforced_rate for one in rows.fetch_statistics(database, [kept, changed])]
    rows.configure(database, [kept, changed := type(changed)(changed.name, rate=3.0)])
    assert [0.5, 3.0] == [one.enforced_rate for one in rows.fetch_statistics(database, [kept, changed])]


@pytest.fixture
def file_of_queues(tmp_path):
    """A file of queues of one test; nothing is open at its end."""
    yield Database(f"sqlite:///{tmp_path}/queues.db")
    consumers.forget_all()


def test_the_tables_are_there_again_where_the_file_was_removed(file_of_queues, tmp_path, queue):
    add(file_of_queues, queue, push("a"))
    for file in tmp_path.glob("queues.db*"):
        if not file.name.endswith("-holders"):
            file.unlink()
    assert [Added("a")] == add(file_of_queues, queue, push("a"))
    assert 0o600 == (tmp_path / "queues.db").stat().st_mode & 0o777


def test_tables_of_a_newer_version_are_left_alone(file_of_queues, queue):
    newer = tables.settings.update().where(tables.settings.c.key == tables.VERSION).values(value="99")
    file_of_queues.run(lambda connection: connection.execute(newer))
    open_database(file_of_queues.url).close()
    with pytest.raises(TransientError, match="version 99"):
        add(file_of_queues, queue, push())
