"""A WSGI application that declares a schedule: each of its web workers does, or the one that they are forked from."""

from __future__ import annotations

import os

import procjobs
from tests.process import scheduled_jobs


@procjobs.schedule("tick", args=(os.environ["PROCJOBS_TEST_NOTED"],), every=1)
def tick(path):
    scheduled_jobs.note(path)


store = os.environ.get("PROCJOBS_TEST_STORE")
pool = procjobs.Pool(os.environ["PROCJOBS_TEST_POOL"], workers=2, schedules=[tick], store=store)


def application(_environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(pool.stats().supervisor_pid).encode()]
