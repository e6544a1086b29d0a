"""A little WSGI application: each of its web workers uses the pool that PROCJOBS_TEST_POOL names."""

from __future__ import annotations

import json
import os
from http import HTTPStatus
from urllib.parse import parse_qs

import procjobs
from tests.process import jobs

pool = procjobs.Pool(os.environ["PROCJOBS_TEST_POOL"], workers=2)


def submit(query):
    job = pool.submit(jobs.report_and_wait, query["path"], 3, 7, "three of seven", {"pid": os.getpid()})
    job.wait_accepted(30)
    return {"id": job.id}


def status(query):
    found = pool.status(query["id"])
    return {**found._asdict(), "progress": found.progress and found.progress._asdict()}


def result(query):
    return {"result": pool.job(query["id"]).result(30)}


def supervisor(_query):
    return {"supervisor": pool.stats().supervisor_pid}


PAGES = {"/submit": submit, "/status": status, "/result": result, "/supervisor": supervisor}


def application(environ, start_response):
    query = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    body = {"web_worker": os.getpid(), **PAGES[environ["PATH_INFO"]](query)}
    start_response(f"{HTTPStatus.OK.value} {HTTPStatus.OK.phrase}", [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]
