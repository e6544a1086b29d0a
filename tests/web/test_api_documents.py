"""Every answer of the API fits what the OpenAPI document says of it, and the document leaves no call out."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

pytest.importorskip("jsonschema")
import procjobs
from procjobs import Queue
from procjobs.web.api.parameters import STATES

from ..waiting import wait_until
from . import api_jobs
from .api_site import DESCRIBED, Api


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A pool with a store, queues and a schedule."""
    place = tmp_path_factory.mktemp("store")
    pool = procjobs.Pool(
        f"api-{os.getpid()}", workers=2, store=f"sqlite:///{place}/jobs", queues={"mail": Queue(limit=1, rate="100/s")},
    )
    pool.schedule("nightly", api_jobs.tell, every="1d")
    yield pool
    pool.stop()


@pytest.fixture(scope="module")
def jobs(pool, tmp_path_factory):
    """A job in each state, by state."""
    place = tmp_path_factory.mktemp("jobs")
    made = {"running": pool.options(meta={"user": 7}, name="a job\nof <b>").submit(
        api_jobs.wait_for, str(place / "never"), str(place / "begun")
    )}  # fmt: skip
    wait_until((place / "begun").exists)
    made["succeeded"] = pool.submit(api_jobs.add, 1, 2)
    made["failed"] = pool.submit(api_jobs.fail, "\x1b[31m<script>" + "x" * 10_000)
    made["retrying"] = pool.options(retries=1, backoff=3600.0).submit(api_jobs.fail)
    made["scheduled"] = pool.options(delay=3600.0).submit(api_jobs.tell)
    made["cancelled"] = pool.options(delay=3600.0).submit(api_jobs.tell)
    pool.cancel(made["cancelled"].id)
    for name in ("succeeded", "failed"):
        wait_until(lambda name=name: made[name].status().done)
    wait_until(lambda: made["retrying"].status().state == "retrying")
    pool.pause()
    made["expired"] = pool.options(expires=0.05).submit(api_jobs.tell)
    wait_until(lambda: made["expired"].status().done)
    made["queued"] = pool.options(queue="mail", key="one").submit(api_jobs.tell)
    yield made
    for job in made.values():
        pool.cancel(job.id)
    pool.resume()


@pytest.fixture(scope="module")
def api(pool):
    return Api(pool)


def test_document_has_every_route_of_the_site_and_no_other(api):
    found = {(route.method, route.pattern) for route in api.site.router.routes if route.pattern.startswith("api/1/")}
    described = {
        (method.upper(), f"api/1{path}") for path, operations in DESCRIBED["paths"].items() for method in operations
    }
    assert found == described & found
    assert described - found <= {("GET", "api/1/events")}


def test_every_call_is_in_the_table_of_the_docs():
    text = Path(__file__).parents[2].joinpath("docs", "web-api.md").read_text()
    places = {path.strip("/").replace("{id}", "ID").replace("{name}", "NAME") for path in DESCRIBED["paths"]}
    assert set() == {place for place in places if not re.search(rf"[`/ ]{re.escape(place)}[`? ]", text)}


def test_document_is_served_and_refers_to_nothing_that_it_has_not(api):
    document = api.get("openapi.json")
    assert DESCRIBED == document
    names = set(re.findall(r"#/components/schemas/(\w+)", repr(document)))
    assert names - {"Error"} <= set(document["components"]["schemas"])
    ids = [one["operationId"] for operations in document["paths"].values() for one in operations.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("state", STATES)
def test_job_in_each_state_fits_the_document(api, jobs, state):
    job = jobs[state]
    shown = api.get(f"jobs/{job.id}")
    assert (job.id, state) == (shown["id"], shown["state"])
    assert job.id in [one["id"] for one in api.get("jobs", state=state)["jobs"]]
    for part in ("log", "processes"):
        api.get(f"jobs/{job.id}/{part}")
    api.get(f"jobs/{job.id}/stack")


def test_job_tells_what_its_operator_needs(api, jobs):
    running = api.get(f"jobs/{jobs['running'].id}")
    assert {"user": 7} == running["meta"]
    assert "a job of <b>" == running["name"]
    assert ("begun red", 3.0) == (running["progress"]["message"], running["progress"]["total"])
    assert "wait_for" in api.get(f"jobs/{jobs['running'].id}/stack")["text"]
    assert "a line of the log" in api.get(f"jobs/{jobs['running'].id}/log")["text"]
    [worker, *_] = api.get(f"jobs/{jobs['running'].id}/processes")["processes"]
    assert running["worker_pid"] == worker["pid"]
    failed = api.get(f"jobs/{jobs['failed'].id}")
    assert len(failed["error"]) <= 4096
    assert "\x1b" not in repr(failed)
    assert "in fail" in failed["error_details"]
    assert ["raised"] == [attempt["reason"] for attempt in failed["attempts"]]
    queued = api.get(f"jobs/{jobs['queued'].id}")
    assert [] == queued["attempts"]


LISTS = [
    path.strip("/")
    for path, operations in DESCRIBED["paths"].items()
    if "get" in operations and "{" not in path and path not in {"/status", "/events"}  # those have tests of their own
]


@pytest.mark.parametrize("path", LISTS)
def test_every_list_fits_the_document(api, jobs, path):
    document = api.get(path)
    assert all(value for name, value in document.items() if isinstance(value, list) and name != "points"), document


def test_history_tells_what_the_store_keeps(api, jobs):
    found = wait_until(lambda: api.get("history", state="failed")["jobs"])
    assert [jobs["failed"].id] == [one["id"] for one in found]
    assert "in fail" in found[0]["attempts"][0]["traceback"]
    assert [] == api.get("history", since=time.time() + 3600)["jobs"]


def test_pages_of_the_history_have_every_job_once(api, jobs):
    wait_until(lambda: len(api.get("history")["jobs"]) >= len(jobs))
    everything = [one["id"] for one in api.get("history")["jobs"]]
    found, before = [], {}
    while before is not None:
        page = api.get("history", limit=3, **before)
        found += [one["id"] for one in page["jobs"]]
        before = None if page["next"] is None else {"before": page["next"]}
    assert everything == found
    assert [jobs["failed"].id] == [one["id"] for one in api.get("history", q=jobs["failed"].id)["jobs"]]


def test_schedule_is_paused_resumed_and_run(api):
    assert {"action": "pause", "schedule": "nightly", "job_id": None} == api.post("schedules/nightly/pause")
    assert [True] == [one["is_paused"] for one in api.get("schedules")["schedules"]]
    api.post("schedules/nightly/resume")
    assert [3] == [len(one["next_at"]) for one in api.get("schedules", upcoming=3)["schedules"]]
    made = api.post("schedules/nightly/run")["job_id"]
    assert "nightly" == api.get(f"jobs/{made}")["schedule"]
    problem = api.problem("POST", "schedules/weekly/run", 404)
    assert "weekly" in problem["error"]["detail"]
