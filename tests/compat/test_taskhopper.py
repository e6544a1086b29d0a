"""A task hopper on the application's side: what is a task, what is refused, and in whose transaction the row is."""

from __future__ import annotations

import decimal
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

import procjobs
from procjobs.compat.taskhopper import ArgumentsNotJSON, DatabaseAway, TaskHopper, UnknownTask
from tests.compat import hopper_tasks

TASKS = "tests.compat.hopper_tasks"


@pytest.fixture
def engine(database_url):
    engine = sa.create_engine(database_url, poolclass=NullPool)
    yield engine
    engine.dispose()


def rows(engine, columns="task_name"):
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(f"SELECT {columns} FROM task_status ORDER BY id"))]


# What is a task ----------------------------------------------------------------------------------------------------


def test_task_is_a_queued_row_with_its_arguments(engine, database_url):
    hopper = TaskHopper(database_url, tasks=TASKS)
    task = hopper.task(hopper.add_task("task_example", args=["a", ("b", 1)], kwargs={"second": {"x": None, "y": 0.5}}))
    assert ("task_example", "queued", None, None, None, None) == (
        task.task_name, task.status, task.result, task.started_on, task.finished_on, task.traceback,
    )  # fmt: skip
    assert {"args": ["a", ["b", 1]], "kwargs": {"second": {"x": None, "y": 0.5}}} == task.task_args
    assert task.created_on == task.due_on
    assert abs(datetime.now(UTC).replace(tzinfo=None) - task.created_on) < timedelta(minutes=1)
    assert None is hopper.task(task.id + 1)


@pytest.mark.parametrize("name", ["task_example", "decorated", "later", "decorate"])
def test_functions_that_the_module_defines_are_tasks(sqlite_url, name):
    hopper = TaskHopper(sqlite_url, tasks=TASKS)
    hopper.add_task(name)
    assert name == hopper.task(hopper.add_task(getattr(hopper_tasks, name))).task_name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("join", "it is imported there, and not defined"),
        ("TaskHopper", "it is no function"),
        ("NUMBER", "it is no function"),
        ("task_exampel", r"no function of that name is defined there; did you mean 'task_example'\?"),
        ("", "no function of that name is defined there"),
        (None, "no function of that name is defined there"),
        (sys.exit, "there is no task 'exit'"),
    ],
)
def test_name_that_is_no_task_is_refused_without_a_row(engine, database_url, name, why):
    hopper = TaskHopper(database_url, tasks=TASKS)
    with pytest.raises(UnknownTask, match=why) as caught:
        hopper.add_task(name)
    assert repr(name if isinstance(name, str | None) else name.__name__) in str(caught.value)
    assert [] == rows(engine)


ITSELF: list = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ({"args": [1, {"x": [decimal.Decimal(1)]}]}, r"args\[1\]\['x'\]\[0\] is of type Decimal"),
        ({"args": [float("nan")]}, r"args\[0\] is nan"),
        ({"args": [{1: 2}]}, r"args\[0\] has the key 1"),
        ({"args": [{"a", "b"}]}, r"args\[0\] is of type set"),
        ({"args": [b"x"]}, r"args\[0\] is of type bytes"),
        ({"kwargs": {"at": datetime.now(UTC)}}, r"kwargs\['at'\] is of type datetime"),
        ({"kwargs": {1: "a"}}, "kwargs has the key 1"),
        ({"args": [ITSELF]}, "nested too deeply for JSON, or contains itself"),
        ({"args": "ab"}, "args='ab' is of type str: expected a list"),
        ({"args": 5}, "args=5 is of type int"),
        ({"kwargs": [1]}, r"kwargs=\[1\] is of type list: expected a dict"),
    ],
)
def test_arguments_that_are_not_json_are_refused_without_a_row(engine, database_url, arguments, place):
    hopper = TaskHopper(database_url, tasks=TASKS)
    with pytest.raises(ArgumentsNotJSON, match=f"task 'task_example': .*{place}") as caught:
        hopper.add_task("task_example", **arguments)
    assert isinstance(caught.value, TypeError | procjobs.ProcjobsError)
    assert [] == rows(engine)


@pytest.mark.parametrize("tasks", ["no_such_module", "no.such", "/no/such/tasks.py", "", 5, f"{__file__}x"])
def test_module_that_is_not_there_is_refused_at_once(sqlite_url, tasks):
    with pytest.raises(procjobs.ConfigurationError):
        TaskHopper(sqlite_url, tasks=tasks)


def test_tasks_can_be_given_as_a_file_or_as_a_module(sqlite_url, tmp_path):
    (tmp_path / "chores.py").write_text("def sweep(): pass\n")
    TaskHopper(sqlite_url, tasks=str(tmp_path / "chores.py")).add_task("sweep")
    sys.path.remove(str(tmp_path))
    del sys.modules["chores"]
    TaskHopper(sqlite_url, tasks=hopper_tasks).add_task("task_example")


def test_module_is_imported_with_the_first_task(sqlite_url, tmp_path, monkeypatch):
    """It may import the module that makes the hopper, which is not there as a whole then."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "circular_tasks.py").write_text("import circular_app\ndef work(): pass\n")
    (tmp_path / "circular_app.py").write_text(
        "from procjobs.compat.taskhopper import TaskHopper\n"
        f"hopper = TaskHopper({sqlite_url!r}, 'circular_tasks')\n"
        "is_whole = True\n"
    )
    import circular_app

    circular_app.hopper.add_task("work")
    for name in ("circular_app", "circular_tasks"):
        del sys.modules[name]


# Times -------------------------------------------------------------------------------------------------------------


def test_naive_time_is_local(sqlite_url, monkeypatch):
    import time

    monkeypatch.setenv("TZ", "Europe/Vienna")
    time.tzset()
    hopper = TaskHopper(sqlite_url, tasks=TASKS)
    local = hopper.task(hopper.add_task("task_example", [1], at=datetime(2027, 7, 1, 12, 0, 0, 5)))  # noqa: DTZ001
    other = hopper.task(hopper.add_task("task_example", [1], at=datetime(2027, 7, 1, 12, tzinfo=WEST)))
    monkeypatch.undo()
    time.tzset()
    assert datetime(2027, 7, 1, 10, 0, 0, 5) == local.due_on  # noqa: DTZ001
    assert datetime(2027, 7, 1, 15) == other.due_on  # noqa: DTZ001


WEST = timezone(timedelta(hours=-3))
LATER_THAN_ALL = datetime(9999, 12, 31, 23, tzinfo=WEST)


@pytest.mark.parametrize("at", ["tomorrow", 5, timedelta(1), LATER_THAN_ALL])
def test_time_that_is_none_is_refused(engine, database_url, at):
    hopper = TaskHopper(database_url, tasks=TASKS)
    with pytest.raises(procjobs.ConfigurationError, match="at="):
        hopper.add_task("task_example", at=at)
    assert [] == rows(engine)


# Transactions ------------------------------------------------------------------------------------------------------


def test_engine_commits_a_task_at_once(engine):
    TaskHopper(engine, tasks=TASKS).add_task("decorated")
    assert [("decorated",)] == rows(engine)


@pytest.fixture(params=["Connection", "Session", "scoped_session"])
def transaction(request, engine):
    """What an application has open: a hopper's db, commit and rollback."""
    if request.param == "Connection":
        opened = engine.connect()
    else:
        maker = sessionmaker(engine)
        opened = maker() if request.param == "Session" else scoped_session(maker)
    yield opened
    opened.close()


def test_task_is_a_part_of_the_transaction_of_the_application(engine, transaction):
    hopper = TaskHopper(transaction, tasks=TASKS)
    hopper.add_task("decorated")
    transaction.rollback()
    assert [] == rows(engine)
    task_id = hopper.add_task("decorated")
    assert "queued" == hopper.task(task_id).status
    transaction.commit()
    assert [("decorated",)] == rows(engine)


def test_id_is_not_given_again(engine):
    hopper = TaskHopper(engine, tasks=TASKS)
    first = hopper.add_task("decorated")
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM task_status"))
    assert first < hopper.add_task("decorated")


# Databases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("db", "what"),
    [
        ("sqlite://", "needs the path of a file"),
        ("sqlite:///:memory:", "needs the path of a file"),
        ("sqlite://storage.db", "three slashes, four if it is absolute"),
        ("postgres://app:s3cret@host/db", "write postgresql instead of postgres"),
        ("mysql://app:s3cret@host/db", "SQLite or PostgreSQL"),
        ("postgresql+asyncpg://app:s3cret@host/db", "for asyncio alone"),
        ("postgresql+nothing://app:s3cret@host/db", "nothing"),
        ("no url", "is not a URL"),
        (None, "db is of type NoneType"),
        (sessionmaker(), "db is of type sessionmaker"),
    ],
)
def test_database_that_cannot_be_used_is_refused(db, what):
    with pytest.raises(procjobs.ConfigurationError, match=what) as caught:
        TaskHopper(db, tasks=TASKS)
    assert "s3cret" not in str(caught.value)


def test_database_that_does_not_answer_is_named_without_its_password(tmp_path):
    url = f"postgresql+psycopg://app:s3cret@/db?host={tmp_path}"
    with pytest.raises(DatabaseAway, match="does not answer") as caught:
        TaskHopper(url, tasks=TASKS)
    assert "s3cret" not in str(caught.value)


def test_other_table_of_that_name_is_not_touched(engine):
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE task_status (id INTEGER, status INTEGER)"))
    with pytest.raises(procjobs.ConfigurationError, match="is not that of a task hopper: it has no task_name, task_args"):
        TaskHopper(engine, tasks=TASKS)


def test_many_hoppers_at_once_make_one_table(engine):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: TaskHopper(engine, tasks=TASKS).add_task("decorated"), range(8)))
    assert 8 == len(rows(engine))


# pydal -------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def dal_uri(request):
    """The URI of a DAL, and the URL of the same database."""
    pytest.importorskip("pydal")
    if request.param == "sqlite":
        url = request.getfixturevalue("sqlite_url")
        return url.replace("sqlite:///", "sqlite://"), url
    pytest.importorskip("psycopg2")
    url = sa.make_url(request.getfixturevalue("postgres_url"))
    return f"postgres:psycopg2://{url.username}:none@/{url.database}?unix_socket={url.query['host']}/.s.PGSQL.5432", str(url)


def open_dal(uri, folder, **options):
    import pydal

    return pydal.DAL(uri, folder=str(folder), **{"check_reserved": ["all"], **options})


@pytest.fixture
def dal(dal_uri, tmp_path):
    db = open_dal(dal_uri[0], tmp_path)
    yield db
    db.close()


def test_task_is_a_part_of_the_transaction_of_a_dal(dal, dal_uri):
    engine = sa.create_engine(dal_uri[1], poolclass=NullPool)
    hopper = TaskHopper(dal, tasks=TASKS)
    hopper.add_task("decorated")
    dal.rollback()
    assert [] == rows(engine)
    task_id = hopper.add_task("task_example", ["ü", None], kwargs={"second": "a'b"})
    dal.commit()
    assert [(task_id, "task_example", "queued")] == rows(engine, "id, task_name, status")
    assert {"args": ["ü", None], "kwargs": {"second": "a'b"}} == dal.task_status(task_id).task_args
    seen = TaskHopper(engine, tasks=TASKS).task(task_id)
    assert hopper.task(task_id) == seen
    engine.dispose()


def test_second_hopper_of_a_dal_finds_the_table(dal):
    for _ in range(2):
        TaskHopper(dal, tasks=TASKS).add_task("decorated")
    dal.commit()
    assert 2 == dal(dal.task_status).count()


def test_task_of_a_dal_is_not_due_before_its_time(dal):
    hopper = TaskHopper(dal, tasks=TASKS)
    at = datetime(2027, 7, 1, 12, 0, 0, 300_000, tzinfo=UTC)
    assert datetime(2027, 7, 1, 12, 0, 1) == hopper.task(hopper.add_task("decorated", at=at)).due_on  # noqa: DTZ001
    task = hopper.task(hopper.add_task("decorated"))
    assert task.due_on <= datetime.now(UTC).replace(tzinfo=None)
    dal.commit()


def test_bad_task_leaves_the_transaction_of_a_dal_as_it_is(dal):
    hopper = TaskHopper(dal, tasks=TASKS)
    hopper.add_task("decorated")
    for call in (lambda: hopper.add_task("join"), lambda: hopper.add_task("decorated", [object()])):
        with pytest.raises(procjobs.ProcjobsError):
            call()
    dal.commit()
    assert 1 == dal(dal.task_status).count()


def test_table_of_the_application_with_that_name_is_refused(dal):
    from pydal import Field

    dal.define_table("task_status", Field("name"), migrate=False)
    with pytest.raises(procjobs.ConfigurationError, match="the DAL has a table task_status of its own"):
        TaskHopper(dal, tasks=TASKS)


def test_session_is_not_an_engine_of_another_database(engine):
    with Session(engine) as session:
        TaskHopper(session, tasks=TASKS).add_task("decorated")
        session.commit()
    assert [("decorated",)] == rows(engine)
