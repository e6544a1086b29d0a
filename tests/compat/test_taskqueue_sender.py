"""The sender: what arrives at the application, and what becomes of a task by its answer. One server and pool for all."""

from __future__ import annotations

import itertools
import json
import time

import pytest

import procjobs
from procjobs.compat.taskqueue import signing
from procjobs.compat.taskqueue.sender import start, timeout_of
from procjobs.compat.taskqueue.sender.job import work
from procjobs.compat.taskqueue.settings.queues import RetryParameters
from procjobs.compat.taskqueue.store import tables
from procjobs.host import rundir

from ..conftest import wait_until
from .taskqueue_site import QUICK, SECOND, Server, Site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    directory = tmp_path_factory.mktemp("taskqueue")
    server = Server(directory)
    site = Site(server, f"sqlite:///{directory}/tasks.db")
    site.configure()
    pool = start(site.store)
    site.wait_for_end(site.add(site.queue("first")))  # all processes are there
    yield site
    pool.stop()
    site.close()
    server.stop()


@pytest.fixture
def queue(site, request):
    return site.queue(request.node.name.replace("_", "-").partition("[")[0][:90])


def test_task_arrives_with_the_headers_of_the_queue_and_its_own(site, queue):
    headers = [["X-Own", "one"], ["X-Own", "two"], ["Content-Length", "99"], ["x-appengine-queuename", "forged"]]
    site.add(queue, "/ok?a=%C3%BC&b", "first", headers=json.dumps(headers), payload=b"\0\xff body")
    (request,) = site.server.wait_for(queue, 1)
    row = site.wait_for_end("first")
    pairs = [tuple(pair) for pair in request["pairs"]]
    signature = dict(pairs)[signing.HEADER]
    assert [
        ("Host", f"127.0.0.1:{site.server.port}"),
        ("X-Own", "one"),
        ("X-Own", "two"),
        ("X-AppEngine-QueueName", queue),
        ("X-AppEngine-TaskName", "first"),
        ("X-AppEngine-TaskRetryCount", "0"),
        ("X-AppEngine-TaskExecutionCount", "0"),
        ("X-AppEngine-TaskETA", f"{row.eta_usec / SECOND:.6f}"),
        ("User-Agent", "AppEngine-Google; (+http://code.google.com/appengine)"),
        ("Content-Type", "application/octet-stream"),
        (signing.HEADER, signature),
        ("Content-Length", "7"),
    ] == pairs
    assert ("POST", "/ok?a=%C3%BC&b", "\0\xff body") == (request["method"], request["target"], request["body"])
    assert ("succeeded", None) == (row.outcome, row.payload)
    key = bytes.fromhex(site.database.run(lambda connection: tables.read_setting(connection, tables.SIGNING_KEY)))
    assert signing.is_signed(key, "POST", request["target"], pairs, b"\0\xff body")
    assert not signing.is_signed(key, "POST", "/ok?a=other", pairs, b"\0\xff body")


def test_caller_may_have_another_content_type_and_user_agent(site, queue):
    site.add(queue, headers='[["content-type", "text/plain"], ["USER-AGENT", "me"]]', payload=b"text")
    (request,) = site.server.wait_for(queue, 1)
    names = [name.lower() for name, _ in request["pairs"]]
    assert ("text/plain", "me") == (request["headers"]["content-type"], request["headers"]["user-agent"])
    assert (1, 1) == (names.count("content-type"), names.count("user-agent"))


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "POST"])
def test_every_method_is_sent_as_it_is(site, queue, method):
    name = site.add(queue, method=method, payload=b"x" if method == "PUT" else None)
    request = site.server.wait_for(queue, 1, name)[0]
    length = {"PUT": "1", "POST": "0"}.get(method)
    assert (method, length) == (request["method"], request["headers"].get("content-length"))
    assert "succeeded" == site.wait_for_end(name).outcome


def test_target_of_a_task_comes_before_that_of_its_queue_and_unknown_ones_are_the_application(site):
    site.configure(targets={"shop": f"{site.server.url}/shop/", "mail": f"{site.server.url}/mail"})
    queue = site.queue("targets", target="mail")
    names = [site.add(queue, "/ok", target=target) for target in (None, "shop", "", "unknown")]
    found = [site.server.wait_for(queue, 1, name)[0]["target"] for name in names]
    assert ["/mail/ok", "/shop/ok", "/ok", "/ok"] == found


@pytest.mark.parametrize(
    ("url", "response", "executions"),
    [
        ("/status/500", 500, 1),
        ("/status/404", 404, 1),
        ("/status/503", 503, 0),
        ("/to", 302, 1),
        ("/garbage", None, 0),
        ("/closing", None, 0),
    ],
)
def test_everything_but_success_is_tried_again_and_counted(site, queue, url, response, executions):
    name = site.add(queue, url, retry=RetryParameters(0.05, 0.05, 0, task_retry_limit=1).to_json())
    row = site.wait_for_end(name)
    first, second = site.server.requests(queue, name)
    assert "x-appengine-taskpreviousresponse" not in first["headers"]
    assert "x-appengine-taskretryreason" not in first["headers"]
    assert ("1", str(executions)) == tuple(
        second["headers"][f"x-appengine-task{what}count"] for what in ("retry", "execution")
    )
    assert response == (response and int(second["headers"]["x-appengine-taskpreviousresponse"]))
    assert second["headers"]["x-appengine-taskretryreason"]
    assert "given up" == row.outcome


def test_hung_handler_is_cut_off_by_the_deadline_of_its_task(site, queue):
    for url in ("/hanging", "/trickling"):
        name = site.add(queue, url, deadline_usec=SECOND // 10)
        _, second = site.server.wait_for(queue, 2, name)[:2]
        assert "no response within 0.1 s" == second["headers"]["x-appengine-taskretryreason"]
        site.change(name, state="ended")


def test_hung_handler_is_cut_off_by_the_timeout_that_was_published(site, queue):
    site.configure(timeout=0.1)
    name = site.add(queue, "/hanging")
    site.server.wait_for(queue, 2, name)
    site.change(name, state="ended")
    site.configure(timeout=600.0)


def test_host_that_is_away_is_tried_again_until_it_is_there(site):
    site.configure(targets={"away": "http://127.0.0.1:9"})
    queue = site.queue("away", target="away")
    name = site.add(queue)
    wait_until(lambda: site.task(name).retry_count >= 2)
    site.configure(targets={"away": site.server.url})
    row = site.wait_for_end(name)
    assert ("succeeded", 0) == (row.outcome, row.execution_count)


def test_task_with_a_header_that_cannot_be_sent_fails_alone(site, queue):
    bad = site.add(queue, headers='[["X-Bad", "a\\nb"]]', retry=RetryParameters(task_retry_limit=0).to_json())
    good = site.add(queue)
    assert "succeeded" == site.wait_for_end(good).outcome
    assert "given up" == site.wait_for_end(bad).outcome


def test_pauses_follow_the_ladder_never_early_and_not_late(site, queue):
    retry = RetryParameters(0.1, 0.6, 2)
    name = site.add(queue, "/failing/6", retry=retry.to_json())
    site.wait_for_end(name)
    requests = site.server.requests(queue, name)
    pauses = [later["at"] - earlier["ended"] for earlier, later in itertools.pairwise(requests)]
    for expected, pause in zip([0.1, 0.2, 0.4, 0.6, 0.6, 0.6], pauses, strict=True):
        assert expected <= pause <= expected + 0.8
    assert [str(n) for n in range(7)] == [one["headers"]["x-appengine-taskretrycount"] for one in requests]
    etas = [float(one["headers"]["x-appengine-tasketa"]) for one in requests]
    assert sorted(set(etas)) == etas


def test_task_is_given_up_when_both_limits_are_passed(site):
    retry = RetryParameters(0.1, 0.1, 0, task_retry_limit=2, task_age_limit=1)
    queue = site.queue("limits", retry=retry)
    name = site.add(queue, "/status/500")
    row = site.wait_for_end(name)
    assert len(site.server.requests(queue, name)) > 3
    assert row.ended_usec - row.first_try_usec > SECOND


def test_task_with_an_eta_is_not_sent_before_it(site, queue):
    began = time.monotonic()
    site.add(queue, delay=0.5)
    (request,) = site.server.wait_for(queue, 1)
    assert 0.5 <= request["at"] - began <= 1.3


def test_task_that_is_deleted_while_it_runs_is_not_retried(site, queue):
    name = site.add(queue, "/held/deleted")
    site.server.wait_for(queue, 1, name)
    site.change(name, state="ended", outcome="deleted")
    site.server.release("deleted")
    other = site.add(queue)
    site.wait_for_end(other)
    assert (1, "deleted") == (len(site.server.requests(queue, name)), site.task(name).outcome)


def test_connections_are_used_again(site):
    queue = site.queue("one-by-one", max_concurrent_requests=1)
    site.add(queue, count=20)
    assert len({request["peer"] for request in site.server.wait_for(queue, 20)}) < 10


def test_many_tasks_that_only_wait_are_under_way_together(site, queue):
    site.add(queue, "/held/together", count=50)
    requests = site.server.wait_for(queue, 50)
    site.server.release("together")
    assert 50 == len({request["headers"]["x-appengine-taskname"] for request in requests})


@pytest.mark.parametrize(("settings", "expected"), [({}, 600), ({"timeout": "7s"}, 7), ({"timeout": 0.5}, 0.5)])
def test_request_may_take_as_long_as_a_job_of_the_pool_or_ten_minutes(settings, expected):
    assert expected == timeout_of(procjobs.Pool("taskqueue-timeouts", **settings))


def test_queue_that_is_configured_anew_takes_effect_at_once(site):
    queue = site.queue("paused", rate=0.0)
    name = site.add(queue)
    site.wait_for_end(site.add(site.queue("other")))
    assert ("waiting", []) == (site.task(name).state, site.server.requests(queue))
    began = time.monotonic()
    site.queue("paused", retry=QUICK)
    assert site.server.wait_for(queue, 1)[0]["at"] - began < 1


@pytest.fixture
def other(site, tmp_path):
    """A database of one test, at the server of all."""
    yield Site(site.server, f"sqlite:///{tmp_path}/other.db")
    site.close()


def test_sender_in_a_pool_that_is_given_outlives_the_limits_of_its_jobs(site, other, pool_name):
    limits = {"timeout": 0.2, "soft_timeout": 0.1, "stall_timeout": 0.1, "retries": 3}
    pool = start(other.store, procjobs.Pool(pool_name, workers=2, **limits))
    try:
        other.configure(timeout=timeout_of(pool))
        queue = other.queue("given")
        hung = other.add(queue, "/hanging")
        requests = site.server.wait_for(queue, 3, hung)
        assert "no response within 0.2 s" == requests[1]["headers"]["x-appengine-taskretryreason"]
        assert 49 == pool.options(timeout=30, soft_timeout=None, stall_timeout=None).submit(pow, 7, 2).result(30)
        assert [1] == [status.attempt for status in pool.jobs("running")]
    finally:
        pool.stop()


def test_task_that_fails_again_and_again_does_not_keep_a_pool_that_nobody_uses(other, pool_name):
    call = procjobs.ScheduledCall("sender", work, args=[other.store, 0.3], every=1, overlap="queue")
    pool = procjobs.Pool(pool_name, workers=1, linger=0.1, schedules=[call]).connect()
    other.configure()
    failing = other.add(other.queue("fails"), "/status/500", retry=RetryParameters(0.1, 0.1, 0).to_json())
    wait_until(lambda: other.task(failing).retry_count > 2)
    lock = pool._link.directory.lock
    pool.shutdown()
    wait_until(lambda: not rundir.is_held(lock))
    assert "waiting" == other.task(failing).state


def test_pool_that_nobody_uses_any_more_ends(other, pool_name):
    call = procjobs.ScheduledCall("sender", work, args=[other.store, 0.3], every=1, overlap="queue")
    pool = procjobs.Pool(pool_name, workers=1, linger=0.1, schedules=[call]).connect()
    other.configure()
    queue = other.queue("left")
    other.wait_for_end(other.add(queue))
    lock = pool._link.directory.lock
    pool.shutdown()
    wait_until(lambda: not rundir.is_held(lock))
    late = other.add(queue)
    assert "waiting" == other.task(late).state


def test_database_that_has_gone_for_ever_does_not_keep_a_pool_that_nobody_uses(site, postgres_server, pool_name):
    name = postgres_server.new_database()
    gone = Site(site.server, postgres_server.url(name))
    call = procjobs.ScheduledCall("sender", work, args=[gone.store, 3.0], every=1, overlap="queue")
    pool = procjobs.Pool(pool_name, workers=1, linger=0.1, schedules=[call]).connect()
    gone.configure()
    gone.wait_for_end(gone.add(gone.queue("here")))
    gone.close()
    postgres_server.drop_database(name)
    lock = pool._link.directory.lock
    pool.shutdown()
    wait_until(lambda: not rundir.is_held(lock))
