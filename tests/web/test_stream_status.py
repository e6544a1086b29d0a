"""The state of jobs for pages that poll, the same under ASGI and WSGI."""

from __future__ import annotations

import pytest

import procjobs
from procjobs.web import progress, progress_wsgi, sign

from ..waiting import wait_until
from . import jobs

UNKNOWN = "01900000-0000-7000-8000-000000000000"  # made in 2024: no supervisor is asked for it


@pytest.fixture(params=["asgi", "wsgi"])
def mount(request, serve, serve_wsgi):
    """Serves the end user's half of a pool with either shell."""
    return {
        "asgi": lambda pool, **options: serve(progress(pool, **options)),
        "wsgi": lambda pool, **options: serve_wsgi(progress_wsgi(pool, **options)),
    }[request.param]


def test_document_says_how_far_a_job_is(mount, shared_pool, tmp_path):
    served = mount(shared_pool)
    job = shared_pool.submit(jobs.stepping, str(tmp_path))
    (tmp_path / "1").touch()
    wait_until(lambda: job.progress() is not None)
    answer = served.get("api/1/status", id=sign(job))
    assert 200 == answer.status, answer.text
    assert "no-store, no-transform" == answer.headers["Cache-Control"]
    [document] = answer.json()["jobs"]
    assert {"value": 1.0, "total": 3.0, "message": "step 1"} == {
        key: document["progress"][key] for key in ("value", "total", "message")
    }
    assert (job.id, "running", False, 1) == tuple(document[key] for key in ("id", "state", "done", "attempt"))
    assert 0.5 == answer.json()["poll_after"]
    assert "stepping" not in answer.text  # what a job does is not the visitor's business

    again = served.get("api/1/status", id=sign(job), headers={"If-None-Match": answer.headers["ETag"]})
    assert (304, b"") == (again.status, again.body)
    for name in ("2", "3", "end"):
        (tmp_path / name).touch()
    job.result(30)
    after = served.get("api/1/status", id=sign(job), headers={"If-None-Match": answer.headers["ETag"]})
    assert ("succeeded", True) == tuple(after.json()["jobs"][0][key] for key in ("state", "done"))


def test_failed_job_says_why_in_bounded_text(mount, shared_pool):
    job = shared_pool.submit(jobs.failing, "\x1b[31m<b>" + "x" * 100_000)
    with pytest.raises(ValueError, match="xxx"):
        job.result(30)
    [document] = mount(shared_pool).get("api/1/status", id=sign(job)).json()["jobs"]
    assert ("failed", "raised") == (document["state"], document["reason"])
    assert len(document["error"]) <= 4096
    assert "<b>xxx" in document["error"]
    assert "\x1b" not in document["error"]


def test_unknown_and_refused_ids_do_not_hide_the_others(mount, shared_pool):
    job = shared_pool.submit(pow, 2, 3)
    job.result(30)
    answer = mount(shared_pool).get("api/1/status", id=[sign(UNKNOWN), f"{UNKNOWN}.99999999999.AAAA", sign(job)])
    unknown, refused, known = answer.json()["jobs"]
    assert {"id": UNKNOWN, "state": "unknown"} == unknown
    assert {"id": UNKNOWN, "state": "unknown", "error": "the signature of this id does not fit"} == refused
    assert "succeeded" == known["state"]


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ({}, 400, "Say which job"),
        ({"id": [f"{number}" for number in range(101)]}, 400, "at most 100"),
        ({"id": "x" * 201}, 400, "at most 200"),
        ({"id": UNKNOWN}, 403, "procjobs.web.sign"),
        ({"id": [f"x{number}" for number in range(2001)]}, 400, "at most 2000"),
    ],
)
def test_bad_questions_are_told_what_is_wrong(mount, shared_pool, query, status, said):
    answer = mount(shared_pool).get("api/1/status", **query)
    assert status == answer.status
    error = answer.json()["error"]
    assert status == error["status"]
    assert said in error["detail"]


def test_several_pools_are_looked_through(mount, pool):
    with procjobs.Pool(workers=1) as other:
        first, second = pool.submit(pow, 2, 3), other.submit(pow, 2, 4)
        first.result(30), second.result(30)
        answer = mount([pool, other]).get("api/1/status", id=[sign(first), sign(second)])
        assert ["succeeded", "succeeded"] == [document["state"] for document in answer.json()["jobs"]]


def test_cancel_needs_a_token_for_that(mount, pool, tmp_path):
    served = mount(pool)
    job = pool.submit(jobs.stepping, str(tmp_path))
    refused = served.post("api/1/cancel", id=sign(job))
    assert 403 == refused.status
    assert "not cancel it" in refused.json()["error"]["detail"]
    done = served.post("api/1/cancel", id=sign(job, cancel=True))
    assert {"id": job.id, "cancelled": True} == done.json()
    wait_until(lambda: job.status().state == "cancelled")
    back = served.post("api/1/cancel", id=sign(job, cancel=True), next="job?id=x")
    assert (303, "/job?id=x") == (back.status, back.headers["Location"])
    assert 404 == served.post("api/1/cancel", id=sign(UNKNOWN, cancel=True)).status


ELSEWHERE = ["//evil.example", "https://evil.example", "/x", "../x", "a/../x", "\\\\evil", "a\r\nX: y", "a//b", "data:x"]


@pytest.mark.parametrize("page", ELSEWHERE)
def test_next_leads_nowhere_else(mount, shared_pool, page):
    job = shared_pool.submit(pow, 2, 3)
    answer = mount(shared_pool).post("api/1/cancel", id=sign(job, cancel=True), next=page)
    assert 400 == answer.status
    assert answer.headers["Location"] is None


def test_methods_and_paths_that_are_not_there(mount, shared_pool):
    served = mount(shared_pool)
    assert 404 == served.get("nothing").status
    assert (405, "POST") == (served.get("api/1/cancel").status, served.get("api/1/cancel").headers["Allow"])
    assert (405, "HEAD, GET") == (served.post("api/1/status").status, served.post("api/1/status").headers["Allow"])
    head = served.ask("HEAD", "api/1/status", query={"id": sign(UNKNOWN)})
    assert (200, b"") == (head.status, head.body)
    assert int(head.headers["Content-Length"]) > 0


def test_body_that_is_too_large_is_refused(mount, shared_pool):
    assert 413 == mount(shared_pool).announce("api/1/cancel", 2 << 20).status
