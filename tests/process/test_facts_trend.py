"""How busy a pool was in the last hour, as any process sees it."""

from __future__ import annotations

import asyncio
import os
import signal

import procjobs
from procjobs.client.running_pool import RunningPool
from procjobs.host import rundir
from tests.process import jobs

from ..conftest import wait_until


def test_trend_ends_with_this_moment_and_stays_when_the_supervisor_was_killed(pool_name, tmp_path):
    with procjobs.Pool(pool_name, workers=1) as pool, RunningPool(rundir.RunDir(rundir.find_base(), pool_name)) as operator:
        go = str(tmp_path / "go")
        running, waiting = pool.submit(jobs.wait_for_file, go), pool.submit(jobs.wait_for_file, go)
        wait_until(lambda: (1, 1) == (pool.stats().busy, pool.stats().queued))
        assert [(1, 1, 1)] == [(point.queued, point.busy, point.workers) for point in pool.trend()]
        wait_until(lambda: asyncio.run(operator.atrend())[-1].oldest_waiting > 0)
        wait_until(lambda: pool.submit(jobs.pid).cancel() and len(operator.trend()) > 1)  # the supervisor is woken
        first, *_, last = operator.trend()
        assert first.at <= last.at
        assert (1, 1) == (first.busy, first.workers)
        open(go, "w").close()
        running.result()
        waiting.result()
        assert pool.trend()[-1].finished > 2
        os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
        wait_until(lambda: not operator.is_running())
        assert first == operator.trend()[0]
