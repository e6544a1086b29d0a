"""The meta of a job in the store: kept, given out again, and searched."""

from __future__ import annotations

import os
import signal

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

import procjobs
from tests.process import jobs

from ..conftest import wait_until
from .conftest import submit_again

META = {"user": 7, "name": "Zoë \"Z\" \\ '", "tags": ["a", None], "more": {"b": 1, "a": 2}, "yes": True, "none": None}


def own_meta():
    return procjobs.current_job().meta


def test_jobs_are_found_by_their_meta(started):
    pool = started(workers=1)
    job = pool.options(meta=META).submit(own_meta)
    others = [{"user": "7"}, {"user": 77}, {"yes": 1, "none": "null"}, {'a"b': 1.5, "big": 2**70}]
    ended = [job, *(pool.options(meta=meta).submit(own_meta) for meta in others), pool.submit(own_meta)]
    assert [META, *others, {}] == [one.result(30) for one in ended]
    assert [META, *others, {}] == [record.meta for record in reversed(pool.history())]
    for key, value in META.items():
        assert [job.id] == [record.id for record in pool.history(meta={key: value})], key
    assert [job.id] == [record.id for record in pool.history(meta={"user": 7.0, "yes": True})]
    assert [ended[4].id] == [record.id for record in pool.history(meta={'a"b': 1.5, "big": 2**70})]
    for wanted in ({"user": 7, "yes": False}, {"nobody": None}, {"more": {"b": 1}}, {"tags": ["a"]}, {"user": True}):
        assert [] == pool.history(meta=wanted), wanted
    assert 6 == len(pool.history(meta={}))
    with pytest.raises(procjobs.ConfigurationError, match="cannot be written as JSON"):
        pool.history(meta={"user": object()})


def test_meta_survives_a_kill_of_everything(started, store, tmp_path):
    pool = started(workers=1)
    running = pool.options(meta={"n": 1}).submit(jobs.wait_for_file, str(tmp_path / "go"))
    waiting = pool.options(meta=META).submit(own_meta)
    waiting.wait_accepted(30)
    wait_until(lambda: running.status().state == "running")
    os.kill(pool.stats().supervisor_pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    assert META == waiting.result(60)
    assert running.result(60) is None
    assert [META, {"n": 1}] == [pool.status(job.id).meta for job in (waiting, running)]


def test_meta_of_a_job_that_the_store_alone_knows(started, store):
    pool = started(workers=1, result_ttl=0.2)
    job = pool.options(meta=META).submit(own_meta)
    job.result(30)
    wait_until(lambda: job.id not in [status.id for status in pool.jobs()])
    assert META == pool.status(job.id).meta


def test_submission_that_is_repeated_has_its_meta_once(started, store):
    pool = started(workers=1)
    job = pool.options(meta=META).submit(own_meta)
    assert META == job.result(30) == submit_again(pool, job, own_meta).result(30)
    assert [META] == [record.meta for record in pool.history()]


def test_job_of_a_transaction_has_its_meta(started, store):
    pool = started(workers=1)
    with Session(create_engine(store.url, poolclass=NullPool)) as session:
        job = pool.options(meta=META).submit_on_commit(session, own_meta)
        session.execute(text("SELECT 1"))
        session.commit()
    assert META == job.result(30)
    assert [job.id] == [record.id for record in pool.history(meta={"user": 7})]


@pytest.mark.parametrize("nonsense", ["{", "[]", '{"x": "' + "y" * 70_000 + '"}'])
def test_nonsense_that_others_write_harms_no_job(started, store, tmp_path, nonsense):
    pool = started(workers=1)
    running = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), "ran")
    waiting = pool.options(meta=META).submit(own_meta)
    waiting.wait_accepted(30)
    pool.stop()
    store.write("UPDATE procjobs_jobs SET meta = :meta, retry_of = 'x' WHERE id = :id", meta=nonsense, id=waiting.id)
    (tmp_path / "go").touch()
    again = started(workers=1)
    assert "ran" == again.job(running.id).result(60)
    assert {} == again.job(waiting.id).result(60)
    assert [{}, {}] == [record.meta for record in again.history()]
