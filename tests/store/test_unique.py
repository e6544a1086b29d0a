"""key= with unique=: a second submission with the key gets the job that has it, across restarts too."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

import procjobs
from procjobs.client.producer import Producer
from tests.process import jobs

from ..conftest import wait_until
from .conftest import recorder_of
from .test_rescue import kill, lines


def test_job_is_the_only_one_until_it_has_ended(pool, tmp_path):
    trace, go = tmp_path / "trace", tmp_path / "go"
    only = pool.options(key="film-1", unique=True)
    first = only.submit(jobs.append_line_and_wait, str(trace), "first", str(go))
    others = [only.submit(jobs.append_line, str(trace), n) for n in range(3)]
    different = pool.options(key="film-2", unique=True).submit(jobs.append_line, str(trace), "different")
    plain = pool.options(key="film-3").submit(jobs.append_line, str(trace), "plain")
    assert {first.id} == {job.id for job in others}
    assert ["different", "plain"] == [different.result(30), plain.result(30)]
    go.touch()
    assert ["first"] * 4 == [job.result(30) for job in [first, *others]]
    assert "next" == only.submit(jobs.append_line, str(trace), "next").result(30)
    assert ["different", "first", "next", "plain"] == sorted(lines(trace))


def test_job_is_the_only_one_for_a_period(pool, tmp_path):
    only = pool.options(key="hourly", unique=3600.0)
    first = only.submit(jobs.append_line, str(tmp_path / "trace"), "first")
    assert "first" == first.result(30)
    assert (first.id, "first") == ((again := only.submit(jobs.append_line, "", "again")).id, again.result(30))
    brief = pool.options(key="brief", unique=0.001)
    ids = {brief.submit(jobs.add, n).result(30) for n in range(2)}
    assert 2 == len(ids) or wait_until(lambda: brief.submit(jobs.add, 5).result(30) == 5)


def test_many_at_once_get_one(pool, tmp_path):
    go = tmp_path / "go"
    only = pool.options(key="film", unique=True)
    with ThreadPoolExecutor(8) as threads:
        call = only.submit, jobs.append_line_and_wait, str(tmp_path / "trace")
        calls = [threads.submit(*call, n, str(go)) for n in range(40)]
        handles = [call.result(30) for call in calls]
    assert 1 == len({job.id for job in handles})
    go.touch()
    assert 1 == len({job.result(30) for job in handles})


def test_key_is_released_when_its_job_could_not_be_submitted(pool):
    only = pool.options(key="film", unique=True)
    with pytest.raises(procjobs.PayloadError):
        only.submit(jobs.add, threading.Lock())
    assert 1 == only.submit(jobs.add, 1).result(30)


def test_refused_options():
    with procjobs.Pool(workers=1) as pool:
        with pytest.raises(procjobs.ConfigurationError, match="needs a key"):
            pool.options(unique=True)
        with pytest.raises(procjobs.ConfigurationError, match="unique"):
            pool.options(key="x", unique=-1)


def test_job_is_the_only_one_across_restarts(started, store, tmp_path):
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=1)
    options = {"key": "film", "unique": True}
    first = pool.options(**options).submit(jobs.append_line_and_wait, str(trace), "first", str(go))
    done = pool.options(key="done", unique=3600).submit(jobs.add, 1)
    first.wait_accepted(30)
    done.wait_accepted(30)
    wait_until(lambda: lines(trace))
    kill(pool.stats().supervisor_pid)
    again = pool.options(**options).submit(jobs.append_line, str(trace), "again")
    go.touch()
    assert first.id == again.id
    assert ["first", "first"] == [first.result(60), again.result(60)]
    assert ["first", "first"] == lines(trace)
    assert 1 == done.result(30)
    pool.stop()
    pool = started(workers=1)
    assert done.id == pool.options(key="done", unique=3600).submit(jobs.add, 2).id
    assert "next" == pool.options(**options).submit(jobs.append_line, str(trace), "next").result(30)
    assert {"succeeded": 3} == store.states()
    until = [until for (until,) in store.rows("SELECT unique_until FROM procjobs_jobs ORDER BY id")]
    assert [True, False, True] == [moment == 0 for moment in until]  # which the clock cannot come before


def test_key_is_released_when_the_supervisor_refuses_its_job(tmp_path, monkeypatch):
    go = str(tmp_path / "go")
    monkeypatch.setattr(Producer, "_check_capacity", lambda self, connection: None)  # the counters, which it is ahead of
    with procjobs.Pool(workers=1, max_queued=1) as pool:
        blocking = [pool.submit(jobs.wait_for_file, go)]
        wait_until(lambda: blocking[0].status().state == "running")
        blocking.append(pool.submit(jobs.wait_for_file, go))
        only = pool.options(key="film", unique=True)
        with pytest.raises(procjobs.QueueFull):
            only.submit(jobs.add, 1).result(30)
        open(go, "w").close()
        assert [None, None] == [job.result(30) for job in blocking]
        assert 2 == only.submit(jobs.add, 2).result(30)


def test_two_submissions_with_a_key_before_the_store_has_answered_get_one_job(started):
    pool = started(workers=1)
    pool.submit(jobs.add, 1).result(30)
    recorder = psutil.Process(recorder_of(pool))
    recorder.suspend()
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(pool.options(key="film", unique=60).submit, jobs.add, 1) for _ in range(2)]
        assert [] == pool.queues()  # another question to the supervisor
        wait_until(lambda: not recorder.resume() and all(one.done() for one in asked))
    assert 1 == len({one.result().id for one in asked})
    assert [1, 1] == [one.result().result(30) for one in asked]
