"""What the API does to jobs and pools: one by one, many at once after a look at how many, as a form and as JSON."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("jsonschema")
import procjobs
from procjobs.web.api import listing

from ..waiting import wait_until
from . import api_jobs
from .api_site import DESCRIBED, Api

UNKNOWN = "01900000-0000-7000-8000-000000000000"


@pytest.fixture
def api(pool):
    return Api(pool)


def waiting(pool, count=1, name="waiting"):
    """Submit jobs that will not start."""
    jobs = [pool.options(delay=3600.0, name=name).submit(api_jobs.tell) for _ in range(count)]
    wait_until(lambda: all(job.status().state == "scheduled" for job in jobs))
    return [job.id for job in jobs]


def states(pool, ids):
    return [pool.status(job_id).state for job_id in ids]


def test_job_is_cancelled_once(api, pool):
    [job_id] = waiting(pool)
    assert {"id": job_id, "cancelled": True} == api.post(f"jobs/{job_id}/cancel")
    assert {"id": job_id, "cancelled": False} == api.post(f"jobs/{job_id}/cancel")
    api.problem("POST", f"jobs/{UNKNOWN}/cancel", 404)


def test_failed_job_is_retried_and_a_good_one_is_not(api, pool, tmp_path):
    job = pool.submit(api_jobs.fail_once, str(tmp_path / "there"))
    assert isinstance(job.exception(30), ValueError)
    (tmp_path / "there").touch()
    document = api.post(f"jobs/{job.id}/retry")
    assert job.id == document["retry_of"]
    assert "at last" == pool.result(document["id"], 30)
    assert job.id == api.get(f"jobs/{document['id']}")["retry_of"]
    refused = api.problem("POST", f"jobs/{document['id']}/retry", 409)
    assert "succeeded" in refused["error"]["detail"]
    api.problem("POST", f"jobs/{UNKNOWN}/retry", 404)


@pytest.mark.parametrize("kind", ["form", "body"])
def test_many_are_counted_first_and_cancelled_when_that_is_confirmed(api, pool, kind):
    ids = waiting(pool, 3, name="many")
    counted = api.ask("POST", "jobs/cancel", **{kind: {"name": "many"}})
    assert {"action": "cancel", "count": 3, "has_more": False, "is_done": False, "jobs": []} == json.loads(counted.body)
    assert ["scheduled"] * 3 == states(pool, ids)
    wrong = api.problem("POST", "jobs/cancel", 409, **{kind: {"name": "many", "confirm": 2}})
    assert 3 == wrong["count"]
    assert ["scheduled"] * 3 == states(pool, ids)
    done = api.ask("POST", "jobs/cancel", **{kind: {"name": "many", "confirm": 3}})
    assert {(job_id, "cancelled") for job_id in ids} == {
        (one["id"], one["outcome"]) for one in json.loads(done.body)["jobs"]
    }
    assert ["cancelled"] * 3 == states(pool, ids)
    assert 0 == api.post("jobs/cancel", name="many")["count"]


def test_set_that_has_changed_since_it_was_counted_is_left_alone(api, pool):
    ids = waiting(pool, 2, name="changing")
    count = api.post("jobs/cancel", name="changing")["count"]
    more = waiting(pool, 1, name="changing")
    assert 409 == api.problem("POST", "jobs/cancel", 409, form={"name": "changing", "confirm": count})["error"]["status"]
    assert ["scheduled"] * 3 == states(pool, ids + more)
    api.post("jobs/cancel", ids=ids + more, confirm=3)


def test_each_of_many_has_an_outcome_of_its_own(api, pool):
    failed = pool.submit(api_jobs.fail)
    good = pool.submit(api_jobs.tell)
    assert failed.exception(30)
    assert "told" == good.result(30)
    document = api.post("jobs/retry", ids=[failed.id, good.id, UNKNOWN], confirm=3)
    found = {one["id"]: one for one in document["jobs"]}
    assert ("retried", "refused", "unknown") == tuple(found[one]["outcome"] for one in (failed.id, good.id, UNKNOWN))
    assert isinstance(pool.job(found[failed.id]["new_id"]).exception(30), ValueError)
    document = api.post("jobs/cancel", ids=[failed.id], confirm=1)
    assert ["ended"] == [one["outcome"] for one in document["jobs"]]


def test_pages_of_a_list_have_every_job_once(api, pool):
    ids = waiting(pool, 5, name="paged")
    found, before, sizes = [], {}, []
    while before is not None:
        page = api.get("jobs", name="paged", limit=2, **before)
        found += [job["id"] for job in page["jobs"]]
        sizes.append(len(page["jobs"]))
        before = None if page["next"] is None else {"before": page["next"]}
    assert sorted(ids, reverse=True) == found
    assert [2, 2, 1] == sizes
    assert [ids[0]] == [job["id"] for job in api.get("jobs", q=ids[0])["jobs"]]
    api.post("jobs/cancel", ids=ids, confirm=5)


def test_exact_filters_find_their_jobs_among_many_that_only_look_like_them(api, pool, monkeypatch):
    monkeypatch.setattr(listing, "_FIRST_PART", 2)
    few = waiting(pool, 2, name="film") + waiting(pool, 5, name="film-preview") + waiting(pool, 1, name="film")
    assert [few[7], few[1], few[0]] == [job["id"] for job in api.get("jobs", name="film")["jobs"]]
    page = api.get("jobs", name="film", limit=1)
    assert ([few[7]], few[7]) == ([job["id"] for job in page["jobs"]], page["next"])


def test_jobs_are_found_by_queue_and_key():
    with procjobs.Pool(workers=1, queues={"mail": procjobs.Queue(limit=1), "mailbox": procjobs.Queue(limit=1)}) as pool:
        api = Api(pool)
        mail, box = (
            pool.options(queue=name, key=f"to {name}", delay=3600.0).submit(api_jobs.tell) for name in ("mail", "mailbox")
        )
        wait_until(lambda: box.status().state == "scheduled")
        [found] = api.get("jobs", queue="mail")["jobs"]
        assert (mail.id, "mail", "to mail") == (found["id"], found["queue"], found["key"])
        assert [box.id] == [job["id"] for job in api.get("jobs", q="to mailbox")["jobs"]]
        assert 2 == api.post("jobs/cancel", q="mail")["count"]
        api.post("jobs/cancel", q="mail", confirm=2)


def test_form_leads_to_a_page_of_this_site_and_nowhere_else(api, pool):
    [job_id] = waiting(pool)
    away = api.ask("POST", f"jobs/{job_id}/cancel", form={"next": "//elsewhere.example/"})
    assert 400 == away.status
    assert ["scheduled"] == states(pool, [job_id])  # refused before anything was done
    answer = api.ask("POST", f"jobs/{job_id}/cancel", form={"next": "pools/a/jobs?state=failed"})
    assert (303, "/pools/a/jobs?state=failed") == (answer.status, answer.header("location"))
    assert ["cancelled"] == states(pool, [job_id])


def test_pool_is_paused_resized_and_resumed(api):
    assert "paused" == api.post("pool/pause")["state"]
    assert "running" == api.post("pool/resume")["state"]
    api.post("pool/resize", workers="1-2")
    stats = wait_until(lambda: (found := api.get("stats")["stats"])["most"] == 2 and found)
    assert (1, 2) == (stats["least"], stats["most"])
    assert 400 == api.problem("POST", "pool/resize", 400, form={"workers": "8-2"})["error"]["status"]
    assert "reload" == api.post("pool/reload")["action"]


def test_pool_that_is_drained_takes_no_more_jobs():
    with procjobs.Pool(workers=1) as pool:
        pool.submit(api_jobs.tell).result(30)
        pool.options(delay=3600.0).submit(api_jobs.tell).wait_accepted(30)
        assert "draining" == wait_until(lambda: Api(pool).post("pool/drain")["state"])
        pool.stop()


def test_pool_is_named_where_there_are_several(pool):
    class Other:
        name = "other"

    api = Api([pool, Other()])
    assert "pool=NAME" in api.problem("GET", "stats", 400)["error"]["detail"]
    assert "pool" == api.get("stats", pool="pool")["name"]
    assert "nothing" in api.problem("GET", "stats", 404, query={"pool": "nothing"})["error"]["detail"]


WRITES = [path.strip("/") for path, operations in DESCRIBED["paths"].items() if "post" in operations and path != "/cancel"]
READS = [path.strip("/") for path, found in DESCRIBED["paths"].items() if "get" in found and "security" not in found["get"]]
NEEDED = {path: DESCRIBED["paths"][f"/{path}"]["post"]["description"] for path in WRITES}


class Untouched:
    name = "untouched"


def concrete(path):
    return path.format(id=UNKNOWN, name="nightly")


@pytest.mark.parametrize("path", WRITES)
@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {},
    ],
    ids=repr,
)
def test_nothing_is_changed_for_a_page_of_another_site(path, headers):
    api = Api(Untouched())
    assert 403 == api.ask("POST", concrete(path), headers={"host": "localhost", **headers}).status
    assert 405 == api.ask("GET", concrete(path)).status or path in {"jobs/cancel", "jobs/retry"}


@pytest.mark.parametrize("path", WRITES)
def test_nothing_is_changed_without_the_right_to(path):
    assert 403 == Api(Untouched(), right=None).ask("POST", concrete(path)).status
    assert 403 == Api(Untouched(), right="read").ask("POST", concrete(path)).status
    assert 403 == Api(Untouched(), right="admin", read_only=True).ask("POST", concrete(path)).status
    if "admin" in NEEDED[path]:
        assert 403 == Api(Untouched(), right="operate").ask("POST", concrete(path)).status


@pytest.mark.parametrize("path", READS)
def test_nothing_is_shown_without_the_right_to(path):
    assert 403 == Api(Untouched(), right=None).ask("GET", concrete(path)).status
