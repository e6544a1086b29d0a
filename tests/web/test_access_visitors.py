"""Who may come in: closed by default, and open to those alone whom the application lets in."""

from __future__ import annotations

import re

import pytest

from procjobs.errors import ConfigurationError
from procjobs.web import app, progress, progress_wsgi, sign, streams, wsgi
from procjobs.web.access.headers import SAFE_HEADERS

from . import jobs
from .servers import Stream

UNKNOWN = "01900000-0000-7000-8000-000000000000"
SHELLS = {"asgi": app, "wsgi": wsgi}


@pytest.fixture(params=SHELLS)
def mount(request, serve, serve_wsgi):
    """Serves the full application of a pool with either shell."""
    start = {"asgi": serve, "wsgi": serve_wsgi}[request.param]
    return lambda pool, **options: start(SHELLS[request.param](pool, **options))


def closed_routes(pool):
    """Return the routes of the full application that are not for everybody: of the API, and of the pages."""
    return [route for route in app(pool).site.router.routes if route.right != "public"]


def filled(pattern):
    return re.sub(r"\{\w+\}", UNKNOWN, pattern)


def ask(served, route, headers):
    return served.ask(route.method, filled(route.pattern), headers={"Sec-Fetch-Site": "same-origin", **headers})


def test_application_has_closed_routes_of_the_api_and_of_the_pages(shared_pool):
    routes = closed_routes(shared_pool)
    assert {"read", "operate", "admin"} == {route.right for route in routes}
    assert len([route for route in routes if route.pattern.startswith("api/")]) > 20
    assert "" in {route.pattern for route in routes}


CLAIMS = {"Authorization": "Bearer x", "Cookie": "session=admin", "X-Forwarded-User": "root"}


@pytest.mark.parametrize("headers", [{}, CLAIMS])
def test_nothing_is_open_without_authorize(mount, shared_pool, headers):
    served = mount(shared_pool)
    for route in closed_routes(shared_pool):
        answer = ask(served, route, headers)
        assert 403 == answer.status, route
        assert "authorize" in answer.text, route
    assert 403 == served.get("api/1/status", id=UNKNOWN).status


@pytest.mark.parametrize("answered", [None, False, set(), (), frozenset()])
def test_nobody_comes_in_whom_authorize_does_not_name(mount, shared_pool, answered):
    served = mount(shared_pool, authorize=lambda request: answered)
    assert {403} == {ask(served, route, {}).status for route in closed_routes(shared_pool)}


@pytest.mark.parametrize("answered", [True, "root", 1, {1}, "", "Read", {"raed"}, {"cancel", "everything"}])
def test_odd_answers_of_authorize_let_nobody_in(mount, shared_pool, answered):
    answer = mount(shared_pool, authorize=lambda request: answered).get("api/1/stats")
    assert 500 == answer.status
    assert "Something broke" == answer.json()["error"]["title"]


def test_readers_change_nothing(mount, shared_pool):
    served = mount(shared_pool, authorize=lambda request: "read")
    for route in closed_routes(shared_pool):
        answer = ask(served, route, {})
        assert (403 == answer.status) == (route.right != "read"), (route, answer.text)


def test_read_only_site_changes_nothing_for_anybody(mount, shared_pool):
    served = mount(shared_pool, authorize=lambda request: "admin", read_only=True)
    changing = [route for route in closed_routes(shared_pool) if route.right != "read"]
    assert {403} == {ask(served, route, {}).status for route in changing}
    assert 200 == served.get("api/1/stats").status
    job = shared_pool.submit(pow, 2, 3)
    assert 403 == served.post("api/1/cancel", id=sign(job, cancel=True)).status


def test_single_actions_can_be_allowed(mount, shared_pool):
    served = mount(shared_pool, authorize=lambda request: {"cancel"})
    changing = [route for route in closed_routes(shared_pool) if route.method == "POST"]
    assert {"cancel"} == {route.action for route in changing if ask(served, route, {}).status != 403}


def test_pages_of_strangers_change_nothing(mount, shared_pool):
    served = mount(shared_pool, authorize=lambda request: "admin")
    for route in closed_routes(shared_pool):
        if route.method == "POST":
            answer = ask(served, route, {"Sec-Fetch-Site": "cross-site"})
            assert 403 == answer.status, route
            assert "does not come from here" in answer.text


def test_other_hosts_are_answered_with_nothing(mount, shared_pool):
    served = mount(shared_pool, authorize=lambda request: "admin")
    for path in ("api/1/stats", "", "procjobs.js", f"api/1/status?id={UNKNOWN}", f"api/1/events?id={UNKNOWN}"):
        assert 421 == served.ask("GET", path, headers={"Host": "evil.example"}).status, path


def test_error_of_the_application_is_not_shown(mount, shared_pool, caplog):
    def authorize(request):
        raise RuntimeError("the password is xyzzy")

    answer = mount(shared_pool, authorize=authorize).get("api/1/stats")
    assert 500 == answer.status
    assert "xyzzy" not in answer.text
    assert "Traceback" not in answer.text
    assert "xyzzy" in caplog.text


def test_every_answer_has_the_headers_that_keep_pages_safe(mount, shared_pool):
    served = mount(shared_pool, authorize=lambda request: "read")
    job = shared_pool.submit(pow, 2, 3)
    job.result(30)
    answers = [served.get("api/1/stats"), served.get("nothing"), served.get("api/1/status"), served.post("api/1/pool/pause"),
               served.get("procjobs.js"), served.get("api/1/status", id=sign(job))]  # fmt: skip
    assert [200, 404, 400, 403, 200, 200] == [answer.status for answer in answers]
    for answer in answers:
        assert {name: answer.headers[name] for name, _ in SAFE_HEADERS} == dict(SAFE_HEADERS)
        assert "unsafe" not in answer.headers["Content-Security-Policy"]


def test_authorize_may_have_to_be_awaited(serve, shared_pool):
    async def authorize(request):
        return "read" if request.headers.get("x-user") == "anna" else None

    served = serve(app(shared_pool, authorize=authorize))
    assert [200, 403] == [served.get("api/1/stats", headers={"X-User": user}).status for user in ("anna", "otto")]
    for name in ("authorize", "authorize_job"):
        with pytest.raises(ConfigurationError, match=f"{name} is asynchronous"):
            wsgi(shared_pool, **{name: authorize})


async def decide_later(request, job_id, meta):
    return decide(request, job_id, meta)


def decide(request, job_id, meta):
    return meta.get("owner") == request.headers.get("x-user")


@pytest.mark.parametrize("authorize_job", [decide, decide_later])
def test_application_decides_about_plain_ids(serve, shared_pool, authorize_job):
    served = serve(progress(shared_pool, authorize_job=authorize_job))
    job = shared_pool.options(meta={"owner": "anna"}).submit(pow, 2, 3)
    job.result(30)
    anna, otto = ({"X-User": user} for user in ("anna", "otto"))
    assert "succeeded" in served.get("api/1/status", id=job.id, headers=anna).text
    assert 403 == served.get("api/1/status", id=job.id, headers=otto).status
    assert 403 == served.get("api/1/events", id=job.id, headers=otto).status
    assert "unknown" in served.get("api/1/status", id=UNKNOWN, headers=otto).text
    assert "succeeded" in served.get("api/1/status", id=sign(job), headers=otto).text
    with Stream(served, [job.id], anna) as stream:
        assert "succeeded" == stream.read_documents()[-1]["state"]
    post = {"Sec-Fetch-Site": "same-origin", **anna}
    assert 403 == served.post("api/1/cancel", id=job.id, headers=post).status  # to look is not to cancel


def test_job_of_another_user_is_not_told_of_beside_ones_own(serve, shared_pool):
    served = serve(progress(shared_pool, authorize_job=decide))
    own, other = (shared_pool.options(meta={"owner": user}).submit(pow, 2, 3) for user in ("anna", "otto"))
    own.result(30), other.result(30)
    refused = {"id": other.id, "state": "unknown", "error": "you may not look at this job"}
    documents = served.get("api/1/status", id=[other.id, own.id], headers={"X-User": "anna"}).json()["jobs"]
    assert [refused, "succeeded"] == [documents[0], documents[1]["state"]]
    with Stream(served, [other.id, own.id], {"X-User": "anna"}) as stream:
        told = {document["id"]: document for document in stream.read_documents()}
    assert (refused, "succeeded") == (told[other.id], told[own.id]["state"])


@pytest.mark.parametrize(
    ("answer", "cancel", "looks", "cancels"),
    [(True, False, 200, 403), (True, True, 200, 200), ({"look"}, True, 200, 403), ({"cancel"}, False, 200, 200),
     (False, True, 403, 403), (set(), True, 403, 403), ("look", True, 500, 500), ({"root"}, True, 500, 500)],
)  # fmt: skip
def test_what_authorize_job_answers(serve_wsgi, shared_pool, answer, cancel, looks, cancels):
    served = serve_wsgi(progress_wsgi(shared_pool, authorize_job=lambda *_: answer, cancel=cancel))
    job = shared_pool.submit(pow, 2, 3)
    job.result(30)
    assert looks == served.get("api/1/status", id=job.id).status
    assert cancels == served.post("api/1/cancel", id=job.id).status


def test_whoever_knows_an_id_may_look_if_the_application_says_so(serve, shared_pool):
    served = serve(progress(shared_pool, access="id"))
    job = shared_pool.submit(pow, 2, 3)
    job.result(30)
    assert "succeeded" in served.get("api/1/status", id=job.id).text
    assert 403 == served.post("api/1/cancel", id=job.id).status
    with pytest.raises(ConfigurationError, match="access='open'"):
        progress(shared_pool, access="open")


def test_stream_ends_when_the_page_may_look_no_more(serve, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "CHECK_INTERVAL", 0.05)
    answers = [{"look"}, {"look"}]
    served = serve(progress(pool, authorize_job=lambda *_: answers.pop() if answers else False))
    job = pool.submit(jobs.stepping, str(tmp_path))
    with Stream(served, [job.id]) as stream:
        last = stream.read_documents()[-1]
    assert {"id": job.id, "state": "unknown", "error": "You may not look at this: you may not look at this job."} == last
