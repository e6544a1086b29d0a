"""Deferred calls: as bytes, as tasks, and what the handler makes of them."""

from __future__ import annotations

import datetime as dt
import io
import logging
import operator
import pickle
import subprocess
import sys

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import scoped_session, sessionmaker

from procjobs.compat import taskqueue
from procjobs.compat.taskqueue import deferred, sending
from procjobs.compat.taskqueue.deferred import calls as deferred_calls
from procjobs.compat.taskqueue.deferred import deferring
from procjobs.compat.taskqueue.settings import configuration
from procjobs.compat.taskqueue.store import tables
from procjobs.compat.taskqueue.web import gate
from tests.compat import deferred_functions as functions


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """No process is started here, so there is none to look for; that would take most of the time."""


# As bytes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "result"),
    [
        (functions.add, (1, 2), {}, 3),
        (functions.add, (1,), {"b": 2}, 3),
        (functions.Adder(1), (2,), {}, 3),
        (functions.Adder(1).method, (2,), {}, 3),
        (functions.Adder.class_method, (1, 2), {}, 3),
        (functions.Adder.static_method, (1, 2), {}, 3),
        (functions.Adder, (1,), {}, None),
        (functions.partial, (), {"b": 4}, 7),
        (functions.add_later, (1, 2), {}, 3),
        (operator.add, (1, 2), {}, 3),
        (dt.datetime(2027, 1, 1, tzinfo=dt.UTC).isoformat, (), {}, "2027-01-01T00:00:00+00:00"),
        ("a-b".split, ("-",), {}, ["a", "b"]),
        (functions.adder_of(1), (2,), {}, 103),
        (functions.recursive(), (5,), {}, 120),
        (lambda a, b: a - b, (1, 2), {}, -1),
        (deferred.invoke_member, ("ann", "title"), {}, "Ann"),
    ],
)
def test_call_comes_back_as_it_was(function, args, kwargs, result):
    made = deferred.run(deferred.serialize(function, *args, **kwargs))
    assert result is None or result == made
    assert function is not functions.Adder or made.a == 1


def test_nested_function_sees_the_globals_of_its_module_when_it_runs(monkeypatch):
    data = deferred.serialize(functions.adder_of(1), 2)
    monkeypatch.setattr(functions, "OFFSET", 1000)
    assert 1003 == deferred.run(data)


def test_call_of_a_module_is_the_pickle_that_the_original_makes():
    assert (functions.add, (1,), {"b": 2}) == pickle.loads(deferred.serialize(functions.add, 1, b=2))


def test_what_the_script_defines_goes_by_value():
    script = """
import sys
from procjobs.compat.taskqueue import deferred
FACTOR = 3
class Box:
    def __init__(self, value): self.value = value
def scale(box): return Box(box.value * FACTOR).value
sys.stdout.buffer.write(deferred.serialize(scale, Box(7)))
"""
    data = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True).stdout
    assert 21 == deferred.run(data)


def test_what_cannot_be_deferred_says_why():
    with pytest.raises(ValueError, match="7 cannot be deferred: it cannot be called"):
        deferred.serialize(7)
    with pytest.raises(pickle.PicklingError, match="the deferred call of add cannot be pickled: it has a lock"):
        deferred.serialize(functions.add, functions.Unpicklable())


@pytest.mark.parametrize("data", [b"", b"garbage", pickle.dumps("text"), pickle.dumps((1, 2))])
def test_bytes_that_are_no_call_are_a_permanent_failure(data):
    with pytest.raises(deferred.PermanentTaskFailure, match="no deferred call") as caught:
        deferred.run(data)
    assert not isinstance(caught.value, deferred.UnloadableCallError)


def gone(monkeypatch):
    data = deferred.serialize(functions.add, 1)
    monkeypatch.delattr(functions, "add")
    return data


def test_call_of_code_that_is_gone_says_so(monkeypatch):
    with pytest.raises(deferred.UnloadableCallError, match=r"AttributeError.*'add'"):
        deferred.run(gone(monkeypatch))
    with pytest.raises(deferred.UnloadableCallError, match="ModuleNotFoundError: No module named 'shop_of_last_year'"):
        deferred.run(b"cshop_of_last_year\nadd\n.")


def test_bytecode_of_another_python_is_never_run(monkeypatch):
    data = deferred.serialize(lambda: functions.calls.append("ran"))
    monkeypatch.setattr(deferred_calls, "_VERSION", (3, 99))
    functions.calls.clear()
    with pytest.raises(deferred.UnloadableCallError, match=r"Python 3\.\d+ has sent .* and this is Python 3\.99"):
        deferred.run(data)
    assert [] == functions.calls


# The handler ------------------------------------------------------------------------------------------------------


def respond(data, *, method="POST", handler=deferred.application, **environ):
    made = {
        "REQUEST_METHOD": method, "CONTENT_LENGTH": str(len(data)), "wsgi.input": io.BytesIO(data + b"next"),
        gate.MARK: True, "HTTP_X_APPENGINE_QUEUENAME": "mail", "HTTP_X_APPENGINE_TASKNAME": "t-1",
        "HTTP_X_APPENGINE_TASKRETRYCOUNT": "2", **environ,
    }  # fmt: skip
    statuses = []
    text = b"".join(handler(made, lambda status, headers: statuses.append(int(status[:3]))))
    assert made["wsgi.input"].read().endswith(b"next"), "the next request of the connection was read"
    return statuses[0], text.decode()


def raising(error):
    return deferred.serialize(functions.raise_it, error)


def test_call_that_returns_is_done(caplog):
    with caplog.at_level(logging.INFO):
        assert (200, "Success") == respond(deferred.serialize(functions.add, 1))
    assert "Deferred call: task t-1 of queue mail, retry 2" in caplog.text


def test_level_of_the_log_can_be_set(caplog):
    deferred.set_log_level(logging.DEBUG)
    try:
        with caplog.at_level(logging.INFO):
            respond(deferred.serialize(functions.add, 1))
    finally:
        deferred.set_log_level(logging.INFO)
    assert "" == caplog.text


def test_permanent_failure_ends_the_task_with_a_line(caplog):
    assert 200 == respond(raising(deferred.PermanentTaskFailure("no such user")))[0]
    assert "Ended for good: task t-1 of queue mail" in caplog.text
    assert "no such user" in caplog.text


def test_singular_failure_is_tried_again_without_a_word(caplog):
    with caplog.at_level(logging.INFO, logger="nobody"):
        assert 408 == respond(raising(deferred.SingularTaskFailure()))[0]
    assert "" == caplog.text


def test_any_other_failure_is_tried_again_with_its_traceback(caplog):
    status, text = respond(raising(OSError("mail server is away")))
    assert (500, False) == (status, "mail server" in text)
    assert "Failed, and tried again: task t-1 of queue mail" in caplog.text
    assert "in raise_it" in caplog.text


def test_garbage_ends_the_task(caplog):
    assert 200 == respond(b"garbage")[0]
    assert "no deferred call" in caplog.text


def test_call_of_code_that_is_gone_is_tried_again_and_the_log_says_how_to_drop_it(monkeypatch, caplog):
    assert 500 == respond(gone(monkeypatch))[0]
    assert "task t-1 of queue mail, retry 2, which the code of this process cannot load: AttributeError" in caplog.text
    assert "taskqueue.Queue('mail').delete_tasks_by_name('t-1')" in caplog.text
    assert "drop_unloadable=True" in caplog.text


def test_call_of_code_that_is_gone_can_be_dropped(monkeypatch, caplog):
    assert 200 == respond(gone(monkeypatch), handler=deferred.Handler(drop_unloadable=True))[0]
    assert "Dropped: task t-1 of queue mail" in caplog.text


def test_post_gives_the_answer_to_a_handler_of_ones_own():
    environ = {"wsgi.input": io.BytesIO(b""), gate.MARK: False}
    _, status, headers = deferred.Handler().post(environ)
    assert (403, True) == (status.value, ("Content-Type", "text/plain") in headers)
    data = raising(KeyError("own"))
    with pytest.raises(KeyError, match="own"):
        deferred.Handler().post({"wsgi.input": io.BytesIO(data), "CONTENT_LENGTH": len(data), gate.MARK: True})


@pytest.mark.parametrize("mark", [{}, {gate.MARK: False}, {gate.MARK: "True"}], ids=["not wrapped", "unsigned", "text"])
def test_request_that_is_not_the_queues_is_refused(caplog, mark):
    data = deferred.serialize(functions.calls.append, "ran")
    functions.calls.clear()
    environ = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(data)), "wsgi.input": io.BytesIO(data), **mark}
    assert 403 == deferred.Handler().respond(environ)[1].value
    assert [] == functions.calls
    assert ("wrap_wsgi_app" in caplog.text) == (not mark)


def test_get_is_refused():
    assert 405 == respond(b"", method="GET")[0]


# As tasks ---------------------------------------------------------------------------------------------------------

LARGE = "x" * taskqueue.MAX_PUSH_TASK_SIZE_BYTES


class Queues:
    """The configured database, looked at from outside."""

    def __init__(self, database):
        self.database = database

    def payload_of(self, task):
        column = tables.tasks.c.payload
        return self.database.run(lambda c: c.scalar(sa.select(column).where(tables.tasks.c.name == task.name)))

    def count(self, table):
        return self.database.run(lambda c: c.scalar(sa.select(sa.func.count()).select_from(table)))


@pytest.fixture
def queues(taskqueue_database, monkeypatch):
    """The queues, configured, without a pool that sends; they are empty afterwards."""
    monkeypatch.setattr(sending, "ensure", lambda current: None)
    url = "http://127.0.0.1:9"
    taskqueue.configure(store=taskqueue_database.url, queue_yaml=None, base_url=url, targets={"backend": url})
    yield Queues(taskqueue_database)
    taskqueue.Queue().purge()
    configuration.forget()


def test_options_go_to_the_task(queues):
    retry = taskqueue.TaskRetryOptions(task_retry_limit=3)
    task = deferred.defer(
        functions.add, 1, b=2, _name=f"ann-{id(queues)}", _countdown=60, _headers={"X-Own": "1"}, _target="backend",
        _retry_options=retry,
    )  # fmt: skip
    assert (gate.DEFERRED_URL, "POST", "backend", retry) == (task.url, task.method, task.target, task.retry_options)
    assert ("application/octet-stream", "1") == (task.headers["Content-Type"], task.headers["X-Own"])
    assert task.was_enqueued
    assert 50 < task.eta_posix - dt.datetime.now(dt.UTC).timestamp() < 60
    assert 3 == deferred.run(queues.payload_of(task))
    eta = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    other = deferred.defer(functions.add, 1, _eta=eta, _url="/own", _headers={"content-type": "text/plain"})
    assert ("/own", eta, "text/plain") == (other.url, other.eta, other.headers["Content-Type"])
    assert "/_ah/queue/default" == deferred.defer(functions.add, 1, _url=None).to_record("default").url


def test_queue_that_is_not_there(queues):
    with pytest.raises(taskqueue.UnknownQueueError, match="'mail'"):
        deferred.defer(functions.add, 1, _queue="mail")


def test_large_call_has_a_row_of_its_own_that_goes_with_its_task(queues):
    task = deferred.defer(functions.Adder("a"), LARGE)
    data = queues.payload_of(task)
    assert (True, 1) == (len(data) < 1000, queues.count(tables.payloads))
    assert (deferred.run_from_datastore, True) == (pickle.loads(data)[0], isinstance(task, taskqueue.Task))
    assert "a" + LARGE == deferred.run(data)
    assert "a" + LARGE == deferred.run(data), "a second try has it too"
    taskqueue.Queue().delete_tasks(task)
    assert 0 == queues.count(tables.payloads)
    with pytest.raises(deferred.PermanentTaskFailure, match="its task has ended"):
        deferred.run(data)


def test_large_call_whose_name_is_taken_leaves_nothing(queues):
    name = f"once-{id(queues)}"
    deferred.defer(functions.add, LARGE, _name=name)
    with pytest.raises(taskqueue.TaskAlreadyExistsError):
        deferred.defer(functions.add, LARGE, _name=name)
    assert 1 == queues.count(tables.payloads)


@pytest.mark.parametrize("text", ["small", LARGE], ids=["small", "large"])
def test_transactional_call_exists_if_the_transaction_commits(queues, text):
    engine = sa.create_engine(queues.database.url)
    session = scoped_session(sessionmaker(engine))
    taskqueue.configure(session=session)
    is_large = text is LARGE
    for ends, tasks in ((session.rollback, 0), (session.commit, 1)):
        session.begin()
        task = deferred.defer(functions.add, text, "!", _transactional=True)
        ends()
        assert tasks == taskqueue.Queue().fetch_statistics().tasks
        assert tasks * is_large == queues.count(tables.payloads)
    session.remove()
    assert f"{text}!" == deferred.run(queues.payload_of(task))
    with pytest.raises(taskqueue.BadTransactionStateError):
        deferred.defer(functions.add, text, _transactional=True)
    assert 1 * is_large == queues.count(tables.payloads)
    engine.dispose()


def test_call_that_is_too_large_for_that_says_so(queues, monkeypatch):
    monkeypatch.setattr(deferring, "MAX_CALL_BYTES", len(LARGE))
    with pytest.raises(taskqueue.TaskTooLargeError, match=r"takes \d+ bytes, and at most 102400"):
        deferred.defer(functions.add, LARGE)


def test_nothing_is_deferred_before_configure():
    configuration.forget()
    with pytest.raises(taskqueue.NotConfiguredError, match="configure"):
        deferred.defer(functions.add, 1)
