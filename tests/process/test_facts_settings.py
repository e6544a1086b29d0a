"""The settings that a running pool has, and where each comes from, as any process sees them."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

import procjobs
from procjobs.client.running_pool import RunningPool
from procjobs.host import rundir
from procjobs.settings.keys import SETTINGS
from procjobs.shared.config import ClientSettings

from ..conftest import wait_until


def look_at(name):
    return RunningPool(rundir.RunDir(rundir.find_base(), name))


def shown(pool):
    return {one.name: (one.value, one.source) for one in pool.settings()}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A settings file that this process and those that it starts find."""
    path = tmp_path / "procjobs.toml"
    monkeypatch.setenv("PROCJOBS_CONFIG", str(path))
    return path


def test_each_setting_is_shown_with_its_place(file, pool_name, monkeypatch):
    file.write_text(f'[pool.{pool_name}]\ntimeout = 3\nworkers = "1-2"\n')
    monkeypatch.setenv("PROCJOBS_RETRIES", "2")
    queues = {"mail": procjobs.Queue(limit=2, rate="100/m"), "free": {"key_limit": None}, "plain": {}}
    with procjobs.Pool(pool_name, max_rss="2G", queues=queues, affinity=[min(os.sched_getaffinity(0))]) as pool:
        monkeypatch.delenv("PROCJOBS_RETRIES")
        file.write_text("")  # whoever looks has other settings by now
        with look_at(pool_name) as operator:
            found = shown(operator)
            assert found == shown(pool) == {one.name: one[1:] for one in asyncio.run(operator.asettings())}
        pool.stop()
    argument = "argument of the process that started the pool"
    assert ("3", f"{file} [pool.{pool_name}]") == found["timeout"]
    assert ("1-2", f"{file} [pool.{pool_name}]") == found["workers"]
    assert ("2", "PROCJOBS_RETRIES") == found["retries"]
    assert ("2.0 G", argument) == found["max_rss"]
    assert ("mail (limit 2, rate 100/m), free (key_limit none), plain (no limit)", argument) == found["queues"]
    assert ("none", "default") == found["store"]
    assert {name for name, one in SETTINGS.items() if one.owner is not ClientSettings} == found.keys()


def test_workers_of_auto_and_of_a_resize_are_shown_as_such():
    with procjobs.Pool() as pool:
        number, source = shown(pool)["workers"]
        assert (str(pool.worker_count()), "auto, decided for this host (default)") == (number, source)
        pool.resize((1, 3))
        assert ("1-3", "resized while the pool ran") == wait_until(
            lambda: (now := shown(pool)["workers"]) != (number, source) and now
        )


def test_password_of_a_store_is_not_shown(tmp_path):
    url = f"sqlite:///{tmp_path}/jobs.db?password=open-sesame"
    with procjobs.Pool(workers=1, store=url) as pool:
        assert "open-sesame" not in str(pool.settings())
        assert f"sqlite:///{tmp_path}/jobs.db" in shown(pool)["store"][0]


def test_settings_of_a_pool_whose_supervisor_was_killed_are_not_told(pool_name):
    with procjobs.Pool(pool_name, workers=1) as pool, look_at(pool_name) as operator:
        os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
        wait_until(lambda: not operator.is_running())
        with pytest.raises(procjobs.PoolNotRunning, match="was killed"):
            operator.settings()
