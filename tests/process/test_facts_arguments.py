"""The arguments of jobs, in pools that record them."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

import procjobs
from procjobs.client.running_pool import RunningPool
from procjobs.host import rundir
from procjobs.shared.table import arguments
from tests.process import jobs

from ..conftest import wait_until


class Account:
    def __init__(self, secret):
        self.secret = secret

    def __repr__(self):
        return "<account>" if self.secret is None else self.secret.text


async def wait_a_little(seconds):
    await asyncio.sleep(seconds)
    return seconds


def test_arguments_of_a_job_are_shown_while_it_runs_and_after_it(pool_name, tmp_path):
    with procjobs.Pool(pool_name, workers=1, record_arguments=True) as pool:
        go = str(tmp_path / "go")
        running = pool.submit(jobs.wait_for_file, go, result=Account(None))
        waiting = pool.submit(jobs.echo, Account("no text"))
        failing, awaited = pool.submit(jobs.fail, "x" * 10_000), pool.submit(wait_a_little, 0)
        text = wait_until(lambda: pool.arguments(running.id))
        assert f"{go!r}, result=<account>" == text
        assert None is pool.arguments(waiting.id)
        open(go, "w").close()
        assert "no text" == waiting.result().secret  # its repr raises, and the job runs
        why = "'str' object has no attribute 'text'"
        assert f"<Account, whose repr raised AttributeError: {why}>" == pool.arguments(waiting.id)
        assert 0 == awaited.result()
        assert "0" == pool.arguments(awaited.id)
        assert isinstance(failing.exception(), ValueError)
        assert 250 < len(pool.arguments(failing.id)) < 350
        assert None is pool.arguments("01890000-0000-7000-8000-000000000000")
        with RunningPool(rundir.RunDir(rundir.find_base(), pool_name)) as operator:
            assert text == asyncio.run(operator.aarguments(running.id.upper()))
            os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
            wait_until(lambda: not operator.is_running())
            assert text == operator.arguments(running.id)


def test_arguments_go_with_the_row_of_their_job():
    with procjobs.Pool(workers=1, record_arguments=True, result_ttl=0) as pool:
        first = pool.submit(jobs.echo, "first")
        first.result()
        pool.submit(jobs.echo, "second").result()
        wait_until(lambda: pool.arguments(first.id) is None)


def test_pool_that_does_not_record_arguments_has_none(pool_name):
    with procjobs.Pool(pool_name, workers=1) as pool:
        job = pool.submit(jobs.add, 1, 2)
        job.result()
        assert None is pool.arguments(job.id)
        assert not os.path.exists(f"{pool._directory.path}/{arguments.NAME}")
        pool.stop()


def test_environment_says_that_arguments_are_recorded(monkeypatch):
    monkeypatch.setenv("PROCJOBS_RECORD_ARGUMENTS", "yes")
    with procjobs.Pool(workers=1) as pool:
        job = pool.submit(jobs.add, 1, b=2)
        job.result()
        assert "1, b=2" == pool.arguments(job.id)


def test_setting_is_true_or_false():
    with pytest.raises(procjobs.ConfigurationError, match="record_arguments=3: expected True or False"):
        procjobs.Pool(record_arguments=3)
