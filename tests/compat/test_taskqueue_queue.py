"""Queues over a real database: what programs have back from their calls. Nothing sends tasks here."""

from __future__ import annotations

import os
import threading

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import scoped_session, sessionmaker

from procjobs.compat import taskqueue
from procjobs.compat.taskqueue import Queue, QueueStatistics, Task, sending
from procjobs.compat.taskqueue.settings import configuration
from procjobs.compat.taskqueue.store.storage import stored_bytes
from procjobs.store import own_connection

QUEUES = """
queue:
- name: mail
- name: paused
  rate: 0
- name: inbox
  mode: pull
- name: tagged
  mode: pull
- name: small
  mode: pull
"""


@pytest.fixture(scope="module")
def url(request, tmp_path_factory):
    """One database of each kind for all tests."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('queues')}/tasks.db"
        return
    server = request.getfixturevalue("postgres_server")
    name = server.new_database()
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture(scope="module", autouse=True)
def configured(url, tmp_path_factory):
    """One configuration for all tests; each has names of its own."""
    directory = tmp_path_factory.mktemp("configuration")
    (directory / "queue.yaml").write_text(QUEUES)
    engine = create_engine(url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sending, "ensure", lambda current: None)
        session = scoped_session(sessionmaker(engine))
        taskqueue.configure(base_url="http://127.0.0.1:1", queue_yaml=directory / "queue.yaml", session=session)
        taskqueue.add()
        with session.begin():  # both connections stay open: none of the tests is the first to open one
            taskqueue.add(transactional=True)
        yield session
    session.remove()
    engine.dispose()
    configuration.forget()
    own_connection.forget_all()

pytestmark = pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True, scope="module")


# Adding ---------------------------------------------------------------------------------------------------------


def test_a_task_comes_back_with_its_queue_and_a_name():
    task = taskqueue.add(url="/work", params={"a": 1}, queue_name="mail")
    assert ("mail", True) == (task.queue_name, task.was_enqueued)
    assert task.name
    assert task is not taskqueue.add(url="/work")
    with pytest.raises(taskqueue.BadTaskStateError):
        task.add("mail")


def test_what_was_given_is_returned():
    one, several = Task(), (Task() for _ in range(2))
    assert one is Queue().add(one)
    assert [True, True] == [task.was_enqueued for task in Queue().add(several)]
    assert one is Queue().delete_tasks_async(one).get_result()


def test_a_batch_with_one_taken_name_adds_the_others():
    Queue("mail").add(Task(name="taken"))
    tasks = [Task(name="first"), Task(name="taken"), Task()]
    with pytest.raises(taskqueue.TaskAlreadyExistsError, match="taken"):
        Queue("mail").add(tasks)
    assert [True, False, True] == [task.was_enqueued for task in tasks]
    assert [None, "mail"] == [tasks[1].queue_name, tasks[2].queue_name]
    assert tasks[2].name


def test_the_name_of_a_deleted_task_says_until_when_it_is_taken():
    Queue("mail").add(Task(name="gone"))
    assert Queue("mail").delete_tasks_by_name("gone").was_deleted
    with pytest.raises(taskqueue.TombstonedTaskError, match="until 2"):
        Queue("mail").add(Task(name="gone"))
    assert Queue("paused").add(Task(name="gone")).was_enqueued


def test_an_async_call_is_made_whether_its_result_is_asked_for_or_not():
    before = Queue("paused").fetch_statistics().tasks
    Queue("paused").add_async([Task(), Task()])
    assert before + 2 == Queue("paused").fetch_statistics().tasks


def test_odd_texts_come_back_as_they_were():
    tag = "\x01\u30cb \U0001f600"
    task = Task("\x00\N{EURO SIGN}", method="PULL", tag=tag).add("tagged")
    leased = Queue("tagged").lease_tasks_by_tag(10, 10, tag)
    assert [(task.name, "\x00\N{EURO SIGN}".encode(), tag)] == [(t.name, t.payload, t.tag) for t in leased]


def test_a_tag_with_a_zero_character_is_for_sqlite(url):
    result = Queue("tagged").add_async(Task("x", method="PULL", tag="\x00"))
    if url.startswith("sqlite"):
        assert "\x00" == result.get_result().tag
        return
    with pytest.raises(taskqueue.InvalidTagError, match="PostgreSQL"):
        result.get_result()


def test_threads_add_at_once():
    before = Queue("paused").fetch_statistics().tasks
    threads = [threading.Thread(target=lambda: [taskqueue.add(queue_name="paused") for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before + 20 == Queue("paused").fetch_statistics().tasks


def test_a_child_of_a_fork_adds_over_a_connection_of_its_own():
    before = Queue("paused").fetch_statistics().tasks
    child = os.fork()
    if child == 0:
        try:
            taskqueue.add(queue_name="paused")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert before + 1 == Queue("paused").fetch_statistics().tasks


# Deleting and purging -------------------------------------------------------------------------------------------


def test_deleting_tells_which_tasks_were_there():
    Queue("mail").add([Task(name="d1"), Task(name="d2")])
    found = Queue("mail").delete_tasks_by_name(["d1", "unknown", "d2"])
    assert [("d1", True), ("unknown", False), ("d2", True)] == [(task.name, task.was_deleted) for task in found]
    assert not Queue("mail").delete_tasks_by_name("d1").was_deleted
    with pytest.raises(taskqueue.BadTaskStateError, match="deleted already"):
        Queue("mail").delete_tasks(found)


def test_purge_empties_a_queue():
    Queue("paused").add([Task(), Task()])
    assert Queue("paused").purge() is None
    assert 0 == Queue("paused").fetch_statistics().tasks


# Pull queues ----------------------------------------------------------------------------------------------------


def test_leased_tasks_are_like_those_that_were_added():
    Queue("inbox").add([Task(params={"a": "\xfc"}, method="PULL", name="l1", countdown=-5), Task("x", method="PULL")])
    first, second = Queue("inbox").lease_tasks(60, 10)
    assert ("l1", "PULL", b"a=%C3%BC", "inbox", 1) == (
        first.name, first.method, first.payload, first.queue_name, first.retry_count
    )  # fmt: skip
    assert {"a": "\xfc".encode()} == first.extract_params()
    assert (True, False, b"x") == (first.was_enqueued, first.was_deleted, second.payload)
    assert [] == Queue("inbox").lease_tasks(60, 10)
    Queue("inbox").modify_task_lease(first, 0)
    (again,) = Queue("inbox").lease_tasks(60, 10)
    assert ("l1", 2) == (again.name, again.retry_count)
    eta = again.eta
    Queue("inbox").modify_task_lease(again, 120)
    assert again.eta > eta
    with pytest.raises(taskqueue.TaskLeaseExpiredError):
        Queue("inbox").modify_task_lease(first, 10)
    assert [True, True] == [task.was_deleted for task in Queue("inbox").delete_tasks([again, second])]


def test_tags_may_be_bytes():
    Queue("tagged").purge()
    Queue("tagged").add([Task("1", method="PULL", tag="a"), Task("2", method="PULL", tag="b")])
    assert [b"2"] == [task.payload for task in Queue("tagged").lease_tasks_by_tag(60, 10, b"b")]
    assert [b"1"] == [task.payload for task in Queue("tagged").lease_tasks_by_tag_async(60, 10).get_result()]


def test_a_task_without_a_name_has_no_lease():
    with pytest.raises(taskqueue.BadTaskStateError):
        Queue("inbox").modify_task_lease(Task("x", method="PULL"), 10)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Queue().lease_tasks(1, 1), lambda: Queue().lease_tasks_by_tag(1, 1),
        lambda: Queue().modify_task_lease(Task("x", method="PULL", name="a"), 1),
        lambda: Queue().add(Task("x", method="PULL")), lambda: Queue("inbox").add(Task()),
    ],
)  # fmt: skip
def test_calls_of_the_other_kind_of_queue_are_refused(call):
    with pytest.raises(taskqueue.InvalidQueueModeError):
        call()


# Statistics -----------------------------------------------------------------------------------------------------


def test_statistics_come_as_they_were_asked_for():
    Queue("small").purge()
    Queue("small").add(task := Task("x", method="PULL"))
    expected = QueueStatistics(Queue("small"), 1, round(task.eta_posix * 1e6), 0)
    assert expected == Queue("small").fetch_statistics() == QueueStatistics.fetch("small")
    assert [expected] == QueueStatistics.fetch(["small"]) == QueueStatistics.fetch_async((Queue("small"),)).get_result()
    both = QueueStatistics.fetch(["paused", "small"])
    assert [Queue("paused"), Queue("small")] == [each.queue for each in both]
    assert (0, 0.0) == (both[0].in_flight, both[0].enforced_rate)


@pytest.mark.parametrize(
    "call",
    [
        lambda queue: queue.add(Task()), lambda queue: queue.purge(), lambda queue: queue.fetch_statistics(),
        lambda queue: queue.delete_tasks_by_name("a"), lambda queue: queue.lease_tasks(1, 1), lambda queue: queue.add([]) or
        queue.add_async([]).get_result(),
    ],
)  # fmt: skip
def test_an_unknown_queue_is_told_with_those_that_are_there(call):
    with pytest.raises(taskqueue.UnknownQueueError, match="default, inbox, mail"):
        call(Queue("nowhere"))


# Transactions ---------------------------------------------------------------------------------------------------


def test_a_task_of_a_transaction_is_there_when_that_commits(configured):
    before = Queue("paused").fetch_statistics().tasks
    with configured.begin():
        task = taskqueue.add(queue_name="paused", transactional=True)
        assert (True, "paused") == (task.was_enqueued, task.queue_name)
        assert task.name
        configured.rollback()
    assert before == Queue("paused").fetch_statistics().tasks
    with configured.begin():
        taskqueue.add(queue_name="paused", transactional=True)
    assert before + 1 == Queue("paused").fetch_statistics().tasks


def test_rules_of_transactions(configured):
    with pytest.raises(taskqueue.BadTransactionStateError):
        taskqueue.add(transactional=True)
    with pytest.raises(taskqueue.BadTransactionStateError):
        Task(name="a").add_async(transactional=True)
    with configured.begin():
        with pytest.raises(taskqueue.InvalidTaskNameError):
            Task(name="a").add_async(transactional=True)
        with pytest.raises(taskqueue.TransactionalRequestTooLargeError):
            Queue("inbox").add_async([Task(b"x" * 400_000, method="PULL") for _ in range(3)], transactional=True)
        result = Queue().add_async([Task() for _ in range(6)], transactional=True)
        with pytest.raises(taskqueue.BadTransactionStateError):
            result.get_result()


# The storage limit ----------------------------------------------------------------------------------------------


def test_all_tasks_together_stay_within_the_storage_limit(tmp_path, configured):
    before = configuration.current()
    limit = before.database.run(stored_bytes) + 1000
    for name, text in (("limited", f"total_storage_limit: {limit}\n{QUEUES}"), ("before", QUEUES)):
        (tmp_path / f"{name}.yaml").write_text(text)
    taskqueue.configure(queue_yaml=tmp_path / "limited.yaml")
    queue = Queue("inbox")
    try:
        queue.add(task := Task(b"x" * 500, method="PULL"))
        with pytest.raises(taskqueue.TransientError, match=f"total_storage_limit of queue.yaml is {limit} bytes"):
            queue.add(Task(b"x" * 500, method="PULL"))
        with configured.begin(), pytest.raises(taskqueue.TransientError, match="total_storage_limit"):
            queue.add(Task(b"x" * 500, method="PULL"), transactional=True)
        queue.delete_tasks(task)
        assert queue.add(Task(b"x" * 500, method="PULL")).was_enqueued
    finally:
        taskqueue.configure(queue_yaml=tmp_path / "before.yaml")
    assert before == configuration.current()
