"""What `ps` shows of a pool's processes."""

from __future__ import annotations

import psutil

import procjobs
from tests.process import jobs

from ..conftest import wait_until


def test_processes_of_a_pool_have_titles_that_say_what_and_whose_they_are(pool_name, tmp_path, monkeypatch):
    monkeypatch.setenv("PROCJOBS_TEST_HOOKS", str(tmp_path))
    store, hook = f"sqlite:///{tmp_path}/jobs.db", "tests.process.hook_jobs:tell"
    with procjobs.Pool(pool_name, workers=2, preload=["tests.process.jobs"], store=store, on_failure=hook) as pool:
        assert isinstance(pool.submit(jobs.fail).exception(30), ValueError)
        supervisor = psutil.Process(pool.stats().supervisor_pid)

        def titles():
            family = [supervisor, *supervisor.children()]
            return {" ".join(process.cmdline()).strip() for process in family}

        roles = ("supervisor", "template", "worker 0", "worker 1", "recorder", "hooks")
        expected = {f"procjobs: {role} of {pool_name}" for role in roles}
        wait_until(lambda: expected <= titles(), dump=lambda: str(titles()))
        assert pool.submit(jobs.pid).result(30) in {child.pid for child in supervisor.children()}
        pool.stop()
