"""Tasks and calls with them before anything is configured: every rule is checked without a database."""

from __future__ import annotations

import datetime as dt
import time

import pytest

from procjobs.compat import taskqueue
from procjobs.compat.taskqueue import Queue, QueueStatistics, Task, TaskRetryOptions
from procjobs.compat.taskqueue.constants import DEFAULT_APP_VERSION, UNKNOWN_APP_VERSION
from procjobs.compat.taskqueue.settings import configuration

PARAMS = {"one$funny&": "fish", "red": "blue with spaces", "fish": ["guppy", "flounder"]}
QUERY = "one%24funny%26=fish&red=blue+with+spaces&fish=guppy&fish=flounder"
HEADERS = {"X-AppEngine-Current-Namespace": ""}
FORM = "application/x-www-form-urlencoded"
TEXT = "text/plain; charset=utf-8"


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """Nothing here starts or opens anything that could be left: the search for it would take most of the time."""


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch):
    """No configuration, and no App Engine around: whatever needs one of them fails."""
    for name in ("HTTP_HOST", "DEFAULT_VERSION_HOSTNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(configuration, "_current", None)


# Contents -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "payload", "url", "headers"),
    [
        ({}, None, "", {}),
        ({"payload": ""}, b"", "", {}),
        ({"payload": b"data"}, b"data", "", {}),
        ({"payload": "\xfcmlauts"}, "\xfcmlauts".encode(), "", {"content-type": TEXT}),
        ({"params": PARAMS}, QUERY, "", {"content-type": FORM}),
        ({"params": {}}, None, "", {}),
        ({"params": PARAMS, "url": "/work"}, QUERY, "/work", {"content-type": FORM}),
        ({"params": PARAMS, "method": "GET"}, None, f"?{QUERY}", {}),
        ({"params": PARAMS, "method": "HEAD", "url": "/work"}, None, f"/work?{QUERY}", {}),
        ({"params": PARAMS, "method": "PUT", "payload": b"data"}, b"data", f"?{QUERY}", {}),
        ({"url": f"/work?{QUERY}", "method": "DELETE"}, None, f"/work?{QUERY}", {}),
        ({"params": PARAMS, "method": "PULL"}, QUERY.encode(), "", {"content-type": TEXT}),
        ({"payload": "", "method": "PULL"}, b"", "", {}),
        ({"payload": "x", "headers": {"CoNtEnT-TyPe": "mine"}}, b"x", "", {"CoNtEnT-TyPe": "mine"}),
    ],
)
def test_contents_go_where_the_method_has_them(options, payload, url, headers):
    task = Task(**options)
    assert (payload, url) == (task.payload, task.url)
    assert HEADERS | headers == task.headers


def test_method_is_in_capitals():
    assert ("GET", "POST") == (Task(method="GeT").method, Task().method)


def test_unicode_parameters_come_back_as_they_were():
    given = {"money": "\N{EURO SIGN}", "\xfc": ["a", "\xe4"]}
    expected = {"money": "\N{EURO SIGN}".encode(), "\xfc": [b"a", "\xe4".encode()]}
    for method in ("GET", "POST", "PULL"):
        assert expected == Task(params=given, method=method).extract_params()


@pytest.mark.parametrize("options", [{"method": "GET"}, {"url": "/a?", "method": "GET"}, {}, {"payload": b""}])
def test_a_task_without_parameters_has_none_to_extract(options):
    assert {} == Task(**options).extract_params()


@pytest.mark.parametrize("options", [{"payload": "foo"}, {"url": "/a?foo", "method": "GET"}])
def test_what_is_no_form_cannot_be_extracted(options):
    with pytest.raises(ValueError, match="foo"):
        Task(**options).extract_params()


def test_numbers_and_bytes_as_parameters():
    assert "a=1&b=2.5&c=x&d=True" == Task(params={"a": 1, b"b": [2.5], "c": b"x", "d": True}).payload


def test_size_counts_method_url_headers_and_payload():
    task = Task(b"mypayload", headers={"one": "two", "three": ["4", "55"]}, url="/foo", params={"a": "&"}, method="PUT")
    headers = "one: two\r\nthree: 4\r\nthree: 55\r\nX-AppEngine-Current-Namespace: \r\n"
    assert len("PUT/foo?a=%26mypayload" + headers) == task.size


def test_headers_are_a_copy_and_ignore_case():
    task = Task(headers={"Content-Type": "a", "content-type": "b", "X-Mine": "c"})
    assert ("b", "c") == (task.headers["CONTENT-TYPE"], task.headers.get("x-mine"))
    assert "X-MINE" in task.headers
    task.headers["X-Mine"] = "other"
    assert "c" == task.headers["X-Mine"]


def test_a_new_task_is_in_no_queue():
    task = Task(name="a")
    assert ("a", None, False, False, 0) == (
        task.name, task.queue_name, task.was_enqueued, task.was_deleted, task.retry_count
    )  # fmt: skip
    assert (True, False) == (task.on_queue_url, Task(url="/x").on_queue_url)


def test_attributes_can_be_added_but_not_changed():
    task = Task()
    task.mine = 1
    with pytest.raises(AttributeError):
        task.name = "b"


def test_a_task_shows_what_it_is():
    shown = repr(Task(b"x", name="a", method="PULL", tag="t", eta=dt.datetime(2026, 1, 2, tzinfo=dt.UTC)))
    assert shown == (
        "Task<eta=datetime.datetime(2026, 1, 2, 0, 0, tzinfo=datetime.timezone.utc), method='PULL', name='a', payload=b'x', "
        "queue_name=None, retry_options=None, size=38, tag='t', was_deleted=False, was_enqueued=False>"
    )


# Rules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (TypeError, {"parmas": {}}),
        (TypeError, {"_unknown": 1}),
        (TypeError, {"retry_options": {"task_retry_limit": 1}}),
        (TypeError, {"dispatch_deadline_usec": "a"}),
        ("InvalidTaskError", {"payload": b"x", "params": PARAMS}),
        ("InvalidTaskError", {"url": "/a?b=c"}),
        ("InvalidTaskError", {"url": "/a?b=c", "method": "GET", "params": PARAMS}),
        ("InvalidTaskError", {"payload": b"x", "method": "GET"}),
        ("InvalidTaskError", {"payload": b"x", "method": "HEAD"}),
        ("InvalidTaskError", {"payload": b"x", "method": "DELETE"}),
        ("InvalidTaskError", {"payload": object()}),
        ("InvalidTaskError", {"payload": 1}),
        ("InvalidTaskError", {"payload": ["a"]}),
        ("InvalidTaskError", {"method": "stuff"}),
        ("InvalidTaskError", {"method": None}),
        ("InvalidTaskError", {"tag": "a"}),
        ("InvalidTaskError", {"tag": "", "method": "GET"}),
        ("InvalidTaskError", {"method": "PULL"}),
        ("InvalidTaskError", {"method": "PULL", "payload": b"x", "url": "/a"}),
        ("InvalidTaskError", {"method": "PULL", "payload": b"x", "headers": {"a": "b"}}),
        ("InvalidTaskError", {"method": "PULL", "payload": b"x", "target": "a"}),
        ("InvalidTaskError", {"method": "PULL", "payload": b"x", "params": PARAMS}),
        ("InvalidTaskError", {"target": "2", "headers": {"host": "example.org"}}),
        ("InvalidTaskError", {"headers": {"a b": "c"}}),
        ("InvalidTaskError", {"headers": {"a": "b\r\nX-Other: c"}}),
        ("InvalidTaskError", {"countdown": 1, "eta": dt.datetime.now(dt.UTC)}),
        ("InvalidTaskError", {"countdown": "soon"}),
        ("InvalidTaskError", {"countdown": 10**1000}),
        ("InvalidTaskError", {"countdown": float("nan")}),
        ("InvalidTaskError", {"eta": dt.date(2026, 1, 1)}),
        ("InvalidEtaError", {"countdown": 30 * 86400 + 300}),
        ("InvalidEtaError", {"eta": dt.datetime.now(dt.UTC) + dt.timedelta(days=31)}),
        ("InvalidTaskNameError", {"name": "a.b"}),
        ("InvalidTaskNameError", {"name": "a/b"}),
        ("InvalidTaskNameError", {"name": "a\n"}),
        ("InvalidTaskNameError", {"name": "\xfc"}),
        ("InvalidTaskNameError", {"name": "a" * 501}),
        ("InvalidUrlError", {"url": "asdf"}),
        ("InvalidUrlError", {"url": "http://example.org/a"}),
        ("InvalidUrlError", {"url": "//example.org/a"}),
        ("InvalidUrlError", {"url": "/a#b"}),
        ("InvalidUrlError", {"url": "/a\x00b"}),
        ("InvalidUrlError", {"url": "/a\nb"}),
        ("InvalidUrlError", {"url": "/" + "a" * 2083}),
        ("TaskTooLargeError", {"payload": b"a" * 102401}),
        ("TaskTooLargeError", {"params": {"a": "\xfc" * 20000}}),
        ("TaskTooLargeError", {"payload": b"a" * 1048577, "method": "PULL"}),
        ("InvalidTagError", {"payload": b"x", "method": "PULL", "tag": "a" * 501}),
        ("InvalidTagError", {"payload": b"x", "method": "PULL", "tag": "\ud800"}),
        ("InvalidUrlError", {"url": "/\ud800"}),
        ("InvalidDispatchDeadlineError", {"dispatch_deadline_usec": 14_999_999}),
        ("InvalidDispatchDeadlineError", {"dispatch_deadline_usec": 86_401_000_000}),
    ],
)
def test_a_task_that_breaks_a_rule_is_refused(error, options):
    with pytest.raises(getattr(taskqueue, error) if isinstance(error, str) else error):
        Task(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "-Go_oD-1"}, {"name": "a" * 500}, {"name": ""}, {"name": None}, {"url": "/" + "a" * 2082}, {"url": None},
        {"headers": None}, {"params": None}, {"countdown": -5}, {"countdown": "3"}, {"countdown": 30 * 86400},
        {"eta": dt.datetime(1971, 1, 1, tzinfo=dt.UTC)}, {"dispatch_deadline_usec": 15_000_000},
        {"dispatch_deadline_usec": 86_400_000_000}, {"payload": b"a" * 102000}, {"payload": b"a" * 10**6, "method": "PULL"},
        {"payload": b"x", "method": "PULL", "tag": "\x00\u30cb"}, {"payload": b"x", "method": "PULL", "tag": "a" * 500},
    ],
)  # fmt: skip
def test_a_task_within_the_rules_is_made(options):
    assert not Task(**options).was_enqueued


def test_the_first_broken_rule_is_told_as_in_the_original():
    with pytest.raises(taskqueue.InvalidTaskNameError):
        Task(name="a.b", url="asdf")
    with pytest.raises(taskqueue.InvalidUrlError):
        Task(url="asdf", method="stuff")
    with pytest.raises(taskqueue.InvalidTaskError, match="tag"):
        Task(tag="a", method="stuff")
    with pytest.raises(taskqueue.InvalidEtaError):
        Task(b"a" * 200_000, countdown=10**8)
    with pytest.raises(taskqueue.TaskTooLargeError):
        Task(b"a" * 200_000, dispatch_deadline_usec=1)


# Times ----------------------------------------------------------------------------------------------------------


def test_eta_is_aware_and_in_utc():
    eta = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.timezone(dt.timedelta(hours=10)))
    task = Task(eta=eta)
    assert eta == task.eta
    assert dt.timedelta(0) == task.eta.utcoffset()
    assert eta.timestamp() == pytest.approx(task.eta_posix, abs=1e-6)


def test_an_eta_without_a_zone_is_local_time(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert dt.datetime(2026, 1, 1, 15, tzinfo=dt.UTC) == Task(eta=dt.datetime(2026, 1, 2)).eta  # noqa: DTZ001
    finally:
        monkeypatch.undo()
        time.tzset()


def test_countdown_begins_now():
    before = time.time()
    task = Task(countdown=15)
    assert before + 15 <= task.eta_posix <= time.time() + 15


# Targets --------------------------------------------------------------------------------------------------------


def test_target_is_what_was_given():
    assert ("2", UNKNOWN_APP_VERSION) == (Task(target="2").target, Task().target)
    assert taskqueue.DEFAULT_APP_VERSION is Task(target=taskqueue.DEFAULT_APP_VERSION).target


@pytest.mark.parametrize(
    ("options", "http_host", "target", "host"),
    [
        ({}, "app.example", DEFAULT_APP_VERSION, "app.example"),
        ({}, "2.app.example", "2", "2.app.example"),
        ({"target": "3"}, "2.app.example", "3", "3.app.example"),
        ({"target": DEFAULT_APP_VERSION}, "2.app.example", DEFAULT_APP_VERSION, "app.example"),
        ({"headers": {"host": "4.app.example"}}, "2.app.example", "4", "4.app.example"),
        ({"headers": {"Host": "other.example"}}, "2.app.example", DEFAULT_APP_VERSION, "other.example"),
    ],
)
def test_on_app_engine_the_host_says_the_target(monkeypatch, options, http_host, target, host):
    monkeypatch.setenv("DEFAULT_VERSION_HOSTNAME", "app.example")
    monkeypatch.setenv("HTTP_HOST", http_host)
    task = Task(**options)
    assert (target, host) == (task.target, task.headers["Host"])


# What the rows get ----------------------------------------------------------------------------------------------


def test_record_of_a_push_task():
    options = TaskRetryOptions(task_retry_limit=3)
    task = Task(
        params={"a": "\xfc"}, name="n", target="t", headers={"X-AppEngine-QueueName": "no", "A": ["1", "2"]},
        retry_options=options, dispatch_deadline_usec=20_000_000, eta=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    )  # fmt: skip
    record = task.to_record("mail")
    assert ("n", "push", "POST", "/_ah/queue/mail", "t") == record[:5]
    assert (("A", "1"), ("A", "2"), ("content-type", FORM)) == record.headers
    assert (b"a=%C3%BC", None, 1_767_312_000_000_000) == (record.payload, record.tag, record.eta_usec)
    assert (options.parameters(), 20_000_000, task.size) == (record.retry, record.deadline_usec, record.size)


def test_record_of_a_pull_task():
    assert "\xfc" == Task("x", method="PULL", tag="\xfc".encode()).to_record("mail").tag
    record = Task("x", method="PULL", tag="t").to_record("mail")
    assert (None, "pull", "PULL", "", None, (), b"x", "t") == record[:8]


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "/_ah/queue/mail"), ({"params": {"a": 1}, "method": "GET"}, "/_ah/queue/mail?a=1"),
        ({"url": "/w"}, "/w"), ({"url": "/w?b=2", "method": "GET"}, "/w?b=2"),
    ],
)  # fmt: skip
def test_url_of_a_record_is_the_queue_s_where_the_task_has_none(options, url):
    assert url == Task(**options).to_record("mail").url


def test_an_eta_that_no_clock_has_is_the_beginning_of_the_clock():
    assert 0 == Task(countdown=-1e300).to_record("mail").eta_usec


@pytest.mark.parametrize(("target", "record"), [(None, None), ("a", "a"), (DEFAULT_APP_VERSION, "")])
def test_target_of_a_record(target, record):
    assert record == Task(target=target).to_record("mail").target


def test_namespace_of_google_s_sdk_is_in_the_headers_and_not_sent(monkeypatch):
    class Manager:
        google_apps_namespace = staticmethod(lambda: "request")
        get_namespace = staticmethod(lambda: "current")

    monkeypatch.setitem(__import__("sys").modules, "google.appengine.api.namespace_manager", Manager)
    task = Task(headers={"X-AppEngine-Default-Namespace": "mine"})
    expected = {"X-AppEngine-Default-Namespace": "mine", "X-AppEngine-Current-Namespace": "current"}
    assert expected == task.headers
    assert () == task.to_record("mail").headers


# Calls ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bad.", "ba/d", "ba_d", "", "a" * 101, "a\n"])
def test_a_queue_with_a_wrong_name_is_refused(name):
    with pytest.raises(taskqueue.InvalidQueueNameError):
        Queue(name)
    with pytest.raises(taskqueue.InvalidQueueNameError):
        Task().add(name)


def test_queues_are_equal_by_name():
    assert Queue("a") == Queue("a") != Queue("b")
    assert "default" == Queue().name
    assert 1 == len({Queue("a"), Queue("a")})


def pull(**options):
    return Task(b"x", method="PULL", **options)


def added(task):
    task.mark_added("default", task.name or "chosen")
    return task


def deleted(task):
    task.mark_deleted(True)
    return task


CALLS = {
    "mixed": ("InvalidTaskError", lambda q: q.add_async([Task(), pull()])),
    "too many": ("TooManyTasksError", lambda q: q.add_async([Task() for _ in range(101)])),
    "a name twice": ("DuplicateTaskNameError", lambda q: q.add_async([Task(name="B"), Task(name="A"), Task(name="B")])),
    "added before": ("BadTaskStateError", lambda q: q.add_async(added(Task()))),
    "no transaction": ("BadTransactionStateError", lambda q: q.add_async(Task(), transactional=True)),
    "no transaction, named": ("BadTransactionStateError", lambda q: Task(name="a").add_async("q", transactional=True)),
    "no transaction, pull": ("BadTransactionStateError", lambda q: taskqueue.add("x", method="PULL", transactional=True)),
    "delete without a name": ("BadTaskStateError", lambda q: q.delete_tasks_async([Task()])),
    "delete again": ("BadTaskStateError", lambda q: q.delete_tasks_async(deleted(Task(name="a")))),
    "delete twice": ("DuplicateTaskNameError", lambda q: q.delete_tasks_async([Task(name="a"), Task(name="a")])),
    "delete names twice": ("DuplicateTaskNameError", lambda q: q.delete_tasks_by_name_async(["T1", "T2", "T1"])),
    "delete no name": ("InvalidTaskNameError", lambda q: q.delete_tasks_by_name_async("a.b")),
    "lease negative": ("InvalidLeaseTimeError", lambda q: q.lease_tasks_async(-1.0, 10)),
    "lease too long": ("InvalidLeaseTimeError", lambda q: q.lease_tasks_async(604801, 10)),
    "lease nan": ("InvalidLeaseTimeError", lambda q: q.lease_tasks_async(float("nan"), 10)),
    "lease text": (TypeError, lambda q: q.lease_tasks_async("100.0", 12)),
    "lease none": ("InvalidMaxTasksError", lambda q: q.lease_tasks_async(100, 0)),
    "lease minus one": ("InvalidMaxTasksError", lambda q: q.lease_tasks_async(100, -1)),
    "lease 1001": ("InvalidMaxTasksError", lambda q: q.lease_tasks_async(100, 1001)),
    "lease a fraction": (TypeError, lambda q: q.lease_tasks_async(100, 5.8)),
    "lease by tag, negative": ("InvalidLeaseTimeError", lambda q: q.lease_tasks_by_tag_async(-1, 10, "a")),
    "lease by tag, 1001": ("InvalidMaxTasksError", lambda q: q.lease_tasks_by_tag_async(1, 1001, "a")),
    "lease without a deadline": (TypeError, lambda q: q.lease_tasks(100, 10, deadline=None)),
    "lease, negative deadline": ("InvalidDeadlineError", lambda q: q.lease_tasks(100, 10, deadline=-600.0)),
    "lease by tag, complex deadline": (TypeError, lambda q: q.lease_tasks_by_tag(100.0, 12, tag="a", deadline=3j)),
    "lease: deadline first": ("InvalidDeadlineError", lambda q: q.lease_tasks("x", "y", deadline=0)),
    "modify negative": ("InvalidLeaseTimeError", lambda q: q.modify_task_lease(pull(name="a"), -1)),
    "modify too long": ("InvalidLeaseTimeError", lambda q: q.modify_task_lease(pull(name="a"), 86400 * 30.0)),
    "modify text": (TypeError, lambda q: q.modify_task_lease(pull(name="a"), "100")),
    "statistics without a deadline": (TypeError, lambda q: q.fetch_statistics(deadline=None)),
    "statistics, zero deadline": ("InvalidDeadlineError", lambda q: q.fetch_statistics(deadline=0)),
    "statistics of a mixture": (TypeError, lambda q: QueueStatistics.fetch_async([q, "a"])),
    "statistics of a number": (TypeError, lambda q: QueueStatistics.fetch_async(3)),
    "statistics of a wrong name": ("InvalidQueueNameError", lambda q: QueueStatistics.fetch_async("a_b")),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_call_that_breaks_a_rule_is_refused_at_once(case):
    error, call = CALLS[case]
    with pytest.raises(getattr(taskqueue, error) if isinstance(error, str) else error):
        call(Queue("q"))


@pytest.mark.parametrize(
    "call",
    [
        lambda q: q.add(Task()), lambda q: q.add_async(Task()), lambda q: taskqueue.add(), lambda q: taskqueue.add_async(),
        lambda q: q.delete_tasks_by_name_async("a"), lambda q: q.purge(), lambda q: q.lease_tasks_async(1, 1),
        lambda q: q.lease_tasks_by_tag(1, 1), lambda q: q.modify_task_lease(pull(name="a"), 1),
        lambda q: q.fetch_statistics(), lambda q: QueueStatistics.fetch([q]),
    ],
)  # fmt: skip
def test_a_call_before_configure_says_so(call):
    with pytest.raises(taskqueue.Error, match=r"configure\(") as found:
        call(Queue())
    assert isinstance(found.value, taskqueue.NotConfiguredError)


def test_nothing_to_add_and_nothing_to_count_need_no_configuration():
    assert ([], []) == (Queue().add([]), QueueStatistics.fetch([]))
