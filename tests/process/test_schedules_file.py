"""Schedules of the settings file, in pools that processes make."""

from __future__ import annotations

import pytest

import procjobs
from tests.process import schedules_file_jobs

from ..waiting import wait_until


@pytest.fixture
def declare(tmp_path, monkeypatch, pool_name):
    """Write a settings file with these schedules of the pool."""
    path = tmp_path / "procjobs.toml"
    monkeypatch.setenv("PROCJOBS_CONFIG", str(path))

    def declare(**schedules):
        lines = [f"[pool.{pool_name}.schedules]", *(f"{name} = {{{values}}}" for name, values in schedules.items())]
        path.write_text("\n".join(lines))

    return declare


def call(name, *args, every=1):
    return f'call = "tests.process.schedules_file_jobs:{name}", args = {list(map(str, args))}, every = {every}'


def log_of(pool):
    with open(pool._directory.log) as file:
        return file.read()


def test_pool_runs_what_the_file_says_as_soon_as_a_process_makes_it(declare, tmp_path, pool_name):
    declare(noting=call("note", tmp_path))
    with procjobs.Pool(pool_name, workers=1) as pool:
        wait_until(lambda: len(list(tmp_path.glob("ran-*"))) > 1, dump=lambda: log_of(pool))
        (info,) = pool.schedules()
        assert ("noting", "tests.process.schedules_file_jobs.note", "Every second") == (info.name, info.call, info.text)
        assert info.is_declared
        pool.stop()


def test_coroutine_of_the_file_is_awaited(declare, tmp_path, pool_name):
    declare(awaiting=call("note_later", tmp_path))
    with procjobs.Pool(pool_name, workers=1) as pool:
        wait_until(lambda: list(tmp_path.glob("awaited-*")), dump=lambda: log_of(pool))
        pool.stop()


def test_function_that_is_not_there_is_the_error_of_its_job(declare, pool_name):
    declare(wrong=call("no_such_job"))
    with procjobs.Pool(pool_name, workers=1) as pool:
        error = pool.run_now("wrong").exception(30)
        assert isinstance(error, procjobs.PayloadError)
        assert "module 'tests.process.schedules_file_jobs' has no 'no_such_job'" in str(error)
        pool.stop()


def test_schedule_that_is_no_longer_in_the_file_is_taken_out_by_the_next_process(declare, tmp_path, pool_name):
    declare(old=call("note", tmp_path, every=3600), kept=call("note", tmp_path, every=7200))
    with procjobs.Pool(pool_name, workers=1) as before:
        assert ["kept", "old"] == [one.name for one in before.schedules()]
    declare(kept=call("note", tmp_path, every=7200), new=call("note", tmp_path, every=3600))
    with procjobs.Pool(pool_name) as after:
        wait_until(lambda: [one.name for one in after.schedules()] == ["kept", "new"], dump=lambda: log_of(after))
        assert "schedule 'old' is taken out" in log_of(after)
        declare()
        with procjobs.Pool(pool_name) as last:
            after.shutdown()
            wait_until(lambda: last.schedules() == [], dump=lambda: log_of(last))
            last.stop()


def test_schedule_of_the_pool_is_taken_and_that_of_the_file_is_not(declare, tmp_path, pool_name):
    declare(noting=call("fail", "of the file"))
    mine = procjobs.ScheduledCall("noting", schedules_file_jobs.note, args=[str(tmp_path)], every=1)
    with pytest.warns(procjobs.SettingsDiffer, match="schedule 'noting' is the one of Pool"):
        pool = procjobs.Pool(pool_name, workers=1, schedules=[mine])
    with pool:
        assert "ran" == pool.run_now("noting").result(30)
        pool.stop()


def test_job_of_the_file_has_the_options_of_its_table(declare, tmp_path, pool_name):
    declare(noting=f'{call("note", tmp_path, every=3600)}, name = "reports", meta = {{user = 7}}')
    with procjobs.Pool(pool_name, workers=1) as pool:
        job = pool.run_now("noting")
        job.result(30)
        assert ("reports", {"user": 7}, "noting") == (job.status().name, job.status().meta, job.status().schedule)
        pool.stop()


def test_pool_that_a_process_must_not_start_is_not_started_for_the_file(declare, tmp_path, pool_name):
    declare(noting=call("note", tmp_path))
    with procjobs.Pool(pool_name, start=False), procjobs.Pool(pool_name, workers=1) as pool:
        wait_until(lambda: list(tmp_path.glob("ran-*")), dump=lambda: log_of(pool))
        pool.stop()
