"""A supervisor that goes, is killed or is stopped while somebody looks: an answer with what is known, and no hanging."""

from __future__ import annotations

import os
import signal
import threading

import pytest

pytest.importorskip("jsonschema")
import procjobs
from procjobs.client.running_pool import RunningPool, find_pool

from ..waiting import wait_until
from . import api_jobs
from .api_site import Api, check


@pytest.fixture
def shown(pool_name):
    """A named pool with a running job, as `procjobs web` sees it, and the job."""
    with procjobs.Pool(pool_name, workers=1, linger=600.0) as pool:
        job = pool.submit(api_jobs.wait_for, "/nonexistent/file")
        wait_until(lambda: job.status().progress)
        with RunningPool(find_pool(pool_name)) as running:
            yield running, job.id
        pool.stop()


def kill(pool, number=signal.SIGKILL):
    os.kill(pool.stats().supervisor_pid, number)


def assert_known(problem, pool, job_id):
    assert pool.name == problem["pool"]["name"]
    check("Pool", problem["pool"])
    check("Job", problem["job"])
    assert (job_id, "begun red") == (problem["job"]["id"], problem["job"]["progress"]["message"])


@pytest.mark.parametrize("action", ["cancel", "retry"])
def test_killed_supervisor_is_answered_with_what_is_known(shown, action):
    pool, job_id = shown
    kill(pool)
    wait_until(lambda: pool.supervisor_state() == "gone")
    api = Api(pool)
    problem = api.problem("POST", f"jobs/{job_id}/{action}", 503)
    assert_known(problem, pool, job_id)
    assert "killed" == problem["pool"]["state"] == api.get("stats")["state"]
    answer = api.ask("GET", "queues")
    assert (503, "2") == (answer.status, answer.header("retry-after"))
    assert [job_id] == [one["id"] for one in api.get("jobs")["jobs"]]  # memory tells what it knows
    details = api.get(f"jobs/{job_id}")
    assert "running" == details["state"]
    problem = api.problem("POST", "jobs/cancel", 503, form={"ids": [job_id], "confirm": 1})
    assert (1, []) == (problem["count"], problem["jobs"])


def test_supervisor_that_is_killed_while_it_is_asked_is_an_answer(shown):
    pool, job_id = shown
    pool.welcome()
    kill(pool, signal.SIGSTOP)
    api, problems = Api(pool), []
    asking = threading.Thread(target=lambda: problems.append(api.problem("POST", f"jobs/{job_id}/cancel", 503)))
    asking.start()
    wait_until(lambda: pool._link.connection.requests.are_awaited)
    kill(pool)
    asking.join(30)
    assert not asking.is_alive()
    assert_known(problems[0], pool, job_id)


def test_supervisor_that_is_stopped_is_told_from_one_that_runs(shown):
    pool, job_id = shown
    kill(pool, signal.SIGSTOP)
    try:
        api = Api(pool)
        wait_until(lambda: api.get("pools")["pools"][0]["state"] == "not answering")
        assert_known(api.problem("POST", f"jobs/{job_id}/cancel", 503), pool, job_id)
    finally:
        kill(pool, signal.SIGCONT)
    assert "running" == api.get("pools")["pools"][0]["state"]
