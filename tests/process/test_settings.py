"""Settings of a file and the environment in real pools: what a program gets, and what it is told."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import warnings

import pytest

import procjobs
from procjobs.host import hostinfo, sizing
from procjobs.settings import plan as settings

from ..conftest import wait_until
from . import jobs


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the settings file of the directory in which this test runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROCJOBS_CONFIG", raising=False)

    def write(text):
        (tmp_path / "procjobs.toml").write_text(text)

    return write


def settings_of(pool):
    return pool._link.connect().welcome["settings"]


def test_pool_has_what_the_file_says(write, pool_name):
    write(f"[default]\nretries = 2\n[pool.{pool_name}]\nworkers = 3\nnice = 15\nlinger = 0.5\npreload = ['fractions']\n")
    with procjobs.Pool(pool_name) as pool:
        running = settings_of(pool)
        assert ([3, 3], 15, 0.5) == tuple(running[key] for key in ("workers", "nice", "linger"))
        assert 2 == running["job_defaults"]["retries"]
        assert 3 == pool.worker_count()
        assert (min(os.nice(0) + 15, 19), True) == pool.submit(is_preloaded, "fractions").result(30)
        pool.stop()


def is_preloaded(name):
    return os.nice(0), name in sys.modules


def test_timedelta_and_texts_arrive_as_seconds_and_bytes_and_differ_from_nothing(write, pool_name):
    write(f"[pool.{pool_name}]\nresult_ttl = '1h30m'\n")
    minute = dt.timedelta(minutes=1)
    given = {"timeout": minute, "soft_timeout": "30s", "linger": "500ms", "start_timeout": minute, "max_rss": "1G"}
    with procjobs.Pool(pool_name, workers=1, **given) as pool, warnings.catch_warnings():
        warnings.simplefilter("error")
        running = settings_of(pool)
        assert (5400.0, 0.5, 60.0) == tuple(running[key] for key in ("result_ttl", "linger", "start_timeout"))
        defaults = running["job_defaults"]
        assert (60.0, 30.0, 2**30) == tuple(defaults[key] for key in ("timeout", "soft_timeout", "max_rss"))
        with procjobs.Pool(pool_name, strict=True, timeout=60, max_rss="1024M") as other:
            assert 3 == other.options(timeout="20s", soft_timeout="10s").submit(jobs.add, 1, 2).result(minute)
        pool.stop()


def test_wait_that_is_no_duration_is_refused_and_the_job_goes_on(pool):
    job = pool.submit(jobs.add, 1, 2)
    waiting = pool.options(delay="1h").submit(jobs.add, 1, 2)
    for refused in ("5 parsecs", float("nan"), 1e300):
        with pytest.raises(procjobs.ConfigurationError, match="timeout="):
            waiting.result(refused)
    with pytest.raises(TimeoutError):
        waiting.result(dt.timedelta(milliseconds=10))
    assert 3 == job.result("30s")
    waiting.cancel()


def test_table_for_this_host_holds(write, pool_name):
    own = settings.host_names()[0]
    table = f"pool.{pool_name}"
    write(f'[{table}]\nworkers = 3\n[{table}.hosts."{own}"]\nworkers = 2\n[{table}.hosts.other]\nnice = 3')
    with procjobs.Pool(pool_name) as pool:
        assert ([2, 2], 10) == (settings_of(pool)["workers"], settings_of(pool)["nice"])
        pool.stop()


def test_environment_and_argument_hold_in_their_order(write, pool_name, monkeypatch):
    write(f"[pool.{pool_name}]\nworkers = 3\nretries = 3\ntimeout = 3")
    monkeypatch.setenv("PROCJOBS_WORKERS", "2")
    monkeypatch.setenv("PROCJOBS_RETRIES", "2")
    with procjobs.Pool(pool_name, workers=1) as pool:
        running = settings_of(pool)
        assert ([1, 1], 2, 3) == (running["workers"], *(running["job_defaults"][key] for key in ("retries", "timeout")))
        assert {"workers": "argument", "retries": "environment", "timeout": "file"} == running["origins"]
        pool.stop()


def test_private_pool_has_the_defaults(write):
    write("[default]\nworkers = 3")
    with procjobs.Pool() as pool:
        assert 3 == pool.worker_count()


def test_jobs_have_the_default_options_of_the_file(write, pool_name):
    write(f"[pool.{pool_name}]\nworkers = 1\ntimeout = 0.2\ngrace_period = 0.1\nslow_after = 0.05")
    with procjobs.Pool(pool_name) as pool:
        assert isinstance(pool.submit(jobs.wait_for_file, "/nowhere").exception(30), procjobs.JobTimeout)
        pool.stop()


def test_broken_file_is_an_error_at_once_and_nothing_is_started(write, pool_name, tmp_path):
    write("[pool.media]\nnice = ")
    with pytest.raises(procjobs.ConfigurationError, match=f"{tmp_path}/procjobs.toml is not valid TOML: "):
        procjobs.Pool(pool_name).connect()
    write(f"[pool.{pool_name}]\nworkres = 3")
    with pytest.raises(procjobs.ConfigurationError, match="unknown setting 'workres'; did you mean 'workers'"):
        procjobs.Pool(pool_name).connect()


def attach(pool_name, **arguments):
    """Return what somebody who comes to a running pool is told."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        procjobs.Pool(pool_name, **arguments).connect().shutdown()
    return [str(warning.message) for warning in told]


def test_who_attaches_is_told_that_the_file_has_changed_since(write, pool_name, tmp_path):
    write(f"[pool.{pool_name}]\nworkers = 1\nnice = 11")
    with procjobs.Pool(pool_name) as pool:
        assert [] == attach(pool_name)
        write(f"[pool.{pool_name}]\nworkers = 2\nnice = 11")
        where = f"{tmp_path}/procjobs.toml [pool.{pool_name}]"
        expected = f"pool {pool_name!r} is running with other settings, which hold: workers=(1, 1) (by {where} (2, 2))"
        assert [expected] == attach(pool_name)
        with pytest.raises(procjobs.ConfigurationError, match="is running with other settings"):
            procjobs.Pool(pool_name, strict=True).connect()
        pool.stop()


def test_who_attaches_is_not_told_that_an_argument_overrides_the_file(write, pool_name):
    write(f"[pool.{pool_name}]\nworkers = 3\ntimeout = 5")
    with procjobs.Pool(pool_name, workers=1, timeout=None) as pool:
        assert [] == attach(pool_name)
        assert ["workers=(1, 1) (here (2, 2))"] == [told.partition("hold: ")[2] for told in attach(pool_name, workers=2)]
        pool.stop()


def test_size_is_not_looked_for_by_who_attaches(pool_name, monkeypatch):
    with procjobs.Pool(pool_name, workers=1) as pool:
        monkeypatch.setattr(hostinfo, "read_cpu_facts", None)
        monkeypatch.setattr(hostinfo, "read_memory_facts", None)
        assert [] == attach(pool_name)
        pool.stop()


def test_attaching_loads_no_parser_where_there_is_no_file_of_ours(write, pool_name, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project]\ndependencies = ['procjobs']\n[tool.ruff]\nline-length = 120\n")
    text = (
        "import procjobs, sys\nwith procjobs.Pool(sys.argv[1]) as pool: pool.stats\n"
        "print([m for m in ('tomllib', 'psutil') if m in sys.modules])"
    )
    with procjobs.Pool(pool_name, workers=1) as pool:
        command = [sys.executable, "-c", text, pool_name]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert ("[]\n", "") == (done.stdout, done.stderr)
        pool.stop()


def test_resize_to_auto_counts_what_the_pool_holds_itself(write, pool_name, monkeypatch):
    asked = []
    choose = sizing.choose_size
    monkeypatch.setattr(sizing, "choose_size", lambda *args, **more: asked.append(more) or choose(*args, **more))
    write(f"[pool.{pool_name}]\nreserve = 0\nnice = 3")
    with procjobs.Pool(pool_name, workers=1) as pool:
        pool.submit(pow, 2, 2).result(30)
        pool.resize("auto")
        (more,) = asked
        assert (0, 3, False) == tuple(more[key] for key in ("reserve", "nice", "is_private"))
        assert more["held_bytes"] > 2**20
        pool.stop()


def test_successor_of_a_killed_supervisor_has_the_same_settings(write, pool_name):
    write(f"[pool.{pool_name}]\nworkers = 2\nnice = 12")
    with procjobs.Pool(pool_name) as pool:
        supervisor = pool.stats().supervisor_pid
        os.kill(supervisor, 9)
        wait_until(lambda: not os.path.exists(f"/proc/{supervisor}"))
        assert 4 == pool.submit(pow, 2, 2).result(30)
        assert ([2, 2], 12) == (settings_of(pool)["workers"], settings_of(pool)["nice"])
        pool.stop()
