"""configure(): what it takes, what it refuses, and what holds then. Nothing is opened or started here."""

from __future__ import annotations

import os
import sys

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import scoped_session, sessionmaker

from procjobs import Pool
from procjobs.compat import taskqueue
from procjobs.compat.taskqueue import sending
from procjobs.compat.taskqueue.settings import configuration
from procjobs.compat.taskqueue.store import rows
from procjobs.compat.taskqueue.store.records import Added
from procjobs.errors import ConfigurationError

URL = "http://127.0.0.1:8080"
ENSURE = sending.ensure


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """Nothing here starts or opens anything that could be left: the search for it would take most of the time."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """No configuration, an empty current directory, and no pool that is started."""
    configuration.forget()
    started = []
    monkeypatch.setattr(sending, "ensure", started.append)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield started
    configuration.forget()


def test_without_arguments_there_is_the_default_queue():
    taskqueue.configure()
    current = configuration.current()
    assert {"default": (5.0, 5, "push")} == {q.name: (q.rate, q.bucket_size, q.mode) for q in current.queues.values()}
    assert (None, {}, None, None) == (current.base_url, current.targets, current.session, current.total_storage_limit)


def test_a_later_call_changes_what_it_is_given():
    taskqueue.configure(base_url=f"{URL}/", targets={"api": "https://api.example/v1/"}, store="sqlite:///a.db")
    taskqueue.configure(store="sqlite:///b.db", pool="mine")
    current = configuration.current()
    assert (URL, {"api": "https://api.example/v1"}) == (current.base_url, current.targets)
    assert (f"sqlite:///{os.getcwd()}/b.db", "mine") == (current.store, current.pool)
    taskqueue.configure(targets=None, pool=None)
    assert ({}, None) == (configuration.current().targets, configuration.current().pool)


@pytest.mark.parametrize(
    "values",
    [
        {"base_url": "127.0.0.1:8080"}, {"base_url": "/handlers"}, {"base_url": "ftp://example.org"},
        {"base_url": "http://example.org?a=b"}, {"base_url": "http://example.org:x"}, {"base_url": 8080}, {"base_url": ""},
        {"targets": {"a": "nowhere"}}, {"targets": ["a"]}, {"store": 3}, {"store": "mysql://example.org/a"},
        {"store": "sqlite:///:memory:"}, {"session": "session"}, {"pool": 3}, {"pool": "a/b"},
        {"queue_yaml": "missing.yaml"}, {"store": ""}, {"store": False}, {"pool": ""},
    ],
)  # fmt: skip
def test_wrong_values_are_refused_and_change_nothing(values):
    taskqueue.configure(base_url=URL)
    before = configuration.current()
    with pytest.raises(ConfigurationError):
        taskqueue.configure(**values)
    taskqueue.configure()
    assert before == configuration.current()


def test_a_pool_of_this_process_alone_is_refused():
    with pytest.raises(ConfigurationError, match="a Pool with a name"):
        taskqueue.configure(pool=Pool())


def test_an_unknown_setting_is_a_type_error():
    with pytest.raises(TypeError):
        taskqueue.configure(baseurl=URL)


def test_an_error_of_the_store_does_not_show_its_password():
    with pytest.raises(ConfigurationError) as found:
        taskqueue.configure(store="mysql://ann:secret@example.org/a")
    assert "secret" not in str(found.value)


# queue.yaml -----------------------------------------------------------------------------------------------------


def write(name, *queues):
    with open(name, "w") as file:
        file.write("queue:\n" + "".join(f"- name: {queue}\n" for queue in queues))


def test_the_file_of_the_current_directory_is_taken():
    write("queue.yaml", "mail")
    taskqueue.configure()
    assert ["default", "mail"] == sorted(configuration.current().queues)


def test_another_file_is_taken_where_it_is_given_and_none_for_none():
    write("queue.yaml", "mail")
    write("other.yaml", "news")
    taskqueue.configure(queue_yaml="other.yaml")
    os.chdir("/")
    taskqueue.configure(base_url=URL)
    assert ["default", "news"] == sorted(configuration.current().queues)
    taskqueue.configure(queue_yaml=None)
    assert ["default"] == sorted(configuration.current().queues)


def test_a_changed_file_holds_after_the_next_call():
    write("queue.yaml", "mail")
    taskqueue.configure()
    write("queue.yaml", "news")
    assert "mail" in configuration.current().queues
    taskqueue.configure()
    assert ["default", "news"] == sorted(configuration.current().queues)


def test_a_broken_file_changes_nothing():
    write("queue.yaml", "mail")
    taskqueue.configure()
    write("queue.yaml", "a_b")
    with pytest.raises(ConfigurationError, match=r"queue\.yaml: queue 1: name"):
        taskqueue.configure()
    assert ["default", "mail"] == sorted(configuration.current().queues)


# The store ------------------------------------------------------------------------------------------------------


def test_without_a_store_tasks_are_in_the_state_directory(tmp_path):
    taskqueue.configure()
    assert f"sqlite:///{tmp_path}/state/procjobs/taskqueue.db" == configuration.current().store


def test_the_store_in_the_settings_of_the_pool_is_taken(monkeypatch):
    monkeypatch.setenv("PROCJOBS_STORE", "postgresql+psycopg://ann@example.org/a")
    taskqueue.configure()
    assert "postgresql+psycopg://ann@example.org/a" == configuration.current().store


def test_the_store_of_the_pool_is_taken():
    taskqueue.configure(pool=Pool("mine", store="sqlite:///pool.db"))
    assert f"sqlite:///{os.getcwd()}/pool.db" == configuration.current().store


@pytest.mark.parametrize("kind", [sessionmaker, lambda engine: scoped_session(sessionmaker(engine)), "function"])
def test_the_database_of_the_session_is_taken(kind):
    engine = create_engine("sqlite:///app.db")
    session = sessionmaker(engine).__call__ if kind == "function" else kind(engine)
    taskqueue.configure(session=session)
    assert f"sqlite:///{os.getcwd()}/app.db" == configuration.current().store
    assert not isinstance(session, scoped_session) or not session.registry.has()
    engine.dispose()


def test_a_store_that_is_given_goes_before_that_of_the_session():
    taskqueue.configure(session=sessionmaker(create_engine("sqlite:///app.db")), store="sqlite:///tasks.db")
    assert f"sqlite:///{os.getcwd()}/tasks.db" == configuration.current().store


def out_of_context():
    raise RuntimeError("working outside of application context")


@pytest.mark.parametrize(
    ("session", "words"),
    [
        (out_of_context, "RuntimeError: working outside of application context.*: give it as store="),
        (lambda: None, "give it as store="),
        (sessionmaker(), "give it as store="),
        (sessionmaker(create_engine("sqlite://")), "a file of SQLite"),
        (sessionmaker(create_engine("sqlite:///file:a.db?uri=true")), "a file of SQLite"),
    ],
)
def test_a_session_whose_database_can_be_no_store_needs_one_beside_it(session, words):
    with pytest.raises(ConfigurationError, match=words):
        taskqueue.configure(session=session)
    assert not configuration.is_configured()
    taskqueue.configure(session=session, store="sqlite:///tasks.db")
    assert f"sqlite:///{os.getcwd()}/tasks.db" == configuration.current().store


def test_the_password_of_the_session_s_database_is_kept():
    engine = create_engine("postgresql+psycopg://ann:secret@example.org/a")
    taskqueue.configure(session=sessionmaker(engine))
    assert "postgresql+psycopg://ann:secret@example.org/a" == configuration.current().store


# What calls find ------------------------------------------------------------------------------------------------


def test_before_any_call_an_error_says_configure():
    with pytest.raises(taskqueue.NotConfiguredError, match=r"configure\(base_url="):
        configuration.current()


def test_push_tasks_need_to_know_where_they_go():
    taskqueue.configure(targets={"api": URL})
    with pytest.raises(taskqueue.NotConfiguredError, match=r"configure\(base_url="):
        taskqueue.Queue().add_async(taskqueue.Task())
    with pytest.raises(taskqueue.NotConfiguredError):
        taskqueue.Task(target="other").add_async()


def test_what_only_the_queues_know_is_told_by_the_result():
    write("queue.yaml", "inbox\n  mode: pull")
    taskqueue.configure(base_url=URL, store="sqlite:///tasks.db")
    unknown = taskqueue.Queue("nowhere").add_async(taskqueue.Task())
    other_mode = taskqueue.add_async("x", method="PULL")
    lease = taskqueue.Queue().lease_tasks_async(1, 1)
    for result, error in (
        (unknown, taskqueue.UnknownQueueError),
        (other_mode, taskqueue.InvalidQueueModeError),
        (taskqueue.add_async(queue_name="inbox"), taskqueue.InvalidQueueModeError),
        (lease, taskqueue.InvalidQueueModeError),
    ):
        result.wait()
        for ask in (result.check_success, result.get_result):
            with pytest.raises(error):
                ask()
    assert not os.path.exists("tasks.db")


def test_configuring_starts_what_sends_tasks(fresh):
    taskqueue.configure(base_url=URL)
    assert [configuration.current()] == fresh


def test_a_process_of_a_pool_starts_nothing_until_it_adds_a_task(fresh, monkeypatch):
    monkeypatch.setenv("PROCJOBS_POOL", "mine")
    taskqueue.configure(base_url=URL, store="sqlite:///tasks.db")
    assert [] == fresh
    monkeypatch.setattr(rows, "add", lambda database, queue, new: [Added("chosen")])
    taskqueue.add()
    assert [configuration.current()] == fresh


def test_a_database_that_is_away_is_a_warning(monkeypatch, caplog):
    def fail(current):
        raise taskqueue.TransientError("the database does not answer")

    monkeypatch.setattr(sending, "ensure", fail)
    taskqueue.configure(base_url=URL)
    assert "no tasks are sent yet: the database does not answer" in caplog.text


def test_a_missing_httpx_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("procjobs.compat.taskqueue.sender")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(taskqueue, "sender", raising=False)
    monkeypatch.setitem(sys.modules, "httpx", None)
    taskqueue.configure(base_url=URL, store="sqlite:///a.db")
    with pytest.raises(ConfigurationError, match=r"httpx is needed: pip install 'procjobs\[taskqueue\]'"):
        ENSURE(configuration.current())
