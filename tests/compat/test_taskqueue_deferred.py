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

from procjobs.compat.taskqueue import deferred, gate
from procjobs.compat.taskqueue.deferred import calls as deferred_calls
from tests.compat import deferred_functions as functions

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
