"""A schedule behind a real gunicorn: eight web workers, and one run for each of its times."""

from __future__ import annotations

import os
import signal

import pytest

import procjobs
from tests.process.scheduled_jobs import lines, periods

from ..conftest import wait_until
from .web_server import WebServer


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["each web worker imports", "preload"])
@pytest.mark.parametrize("has_store", [False, True], ids=["in memory", "in a store"])
def test_eight_web_workers_make_one_run_for_each_time(tmp_path, pool_name, options, has_store):
    noted = str(tmp_path / "noted")
    environment = {"PROCJOBS_TEST_POOL": pool_name, "PROCJOBS_TEST_NOTED": noted}
    if has_store:
        environment["PROCJOBS_TEST_STORE"] = f"sqlite:///{tmp_path / 'jobs.db'}"
    site = WebServer(tmp_path, "tests.system.schedules_app:application", *options, web_workers=8, **environment)
    try:
        wait_until(lambda: len(lines(noted)) >= 2, dump=site.log)
        count = len(lines(noted))
        os.kill(int(site.get("/")), signal.SIGKILL)
        wait_until(lambda: len(lines(noted)) >= count + 2, dump=site.log)  # no page asks the pool for anything
    finally:
        site.stop()
        procjobs.Pool(pool_name).stop()
    found = periods(noted)
    begun_anew = len(found) - len(set(found))  # a job of a store that the kill has cut off after its line
    assert (sorted(found), True) == (found, begun_anew <= has_store)
