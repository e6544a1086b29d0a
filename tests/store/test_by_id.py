"""Jobs that only the store knows, asked for by id."""

from __future__ import annotations

import asyncio
import os
import time
import uuid

import pytest

import procjobs
from procjobs.client import finding
from procjobs.shared.ids import new_id, to_text
from procjobs.store import engines, reading
from tests.process import jobs


@pytest.fixture
def kept(started):
    """A pool, and the id of a job that an earlier supervisor has run."""
    pool = started()
    job = pool.submit(jobs.add, 1, 2)
    job.result(30)
    pool.stop()
    return started(), job.id


@pytest.fixture
def asked(monkeypatch):
    """The ids that the store is asked for, one list for each question."""
    questions = []
    plain = reading.find_statuses

    def find_statuses(url, job_ids):
        questions.append([to_text(job_id) for job_id in job_ids])
        return plain(url, job_ids)

    monkeypatch.setattr(reading, "find_statuses", find_statuses)
    return questions


def moved(seconds):
    """An id whose time is so many seconds away."""
    return to_text((int((time.time() + seconds) * 1000) << 80 | int.from_bytes(new_id()) & (1 << 80) - 1).to_bytes(16))


def test_job_of_the_store_in_any_form_with_one_engine(kept, store):
    pool, job_id = kept
    for form in (job_id, job_id.upper(), job_id.replace("-", ""), uuid.UUID(job_id)):
        status = pool.status(form)
        assert (job_id, "succeeded", None) == (status.id, status.state, status.error)
        assert status.worker_pid
    engine = engines.engine_of(store.url)
    with procjobs.Pool(pool.name) as other:
        other.status(job_id)
        assert engine is engines.engine_of(store.url)


def test_unknown_id_is_asked_for_once_in_a_while(kept, asked):
    pool, _ = kept
    unknown = moved(-60)
    for _ in range(3):
        with pytest.raises(procjobs.UnknownJob, match="nor to its store"):
            pool.status(unknown)
    assert [[unknown]] == asked


def test_id_that_no_job_can_have_is_not_asked_for(kept, asked):
    pool, _ = kept
    with pytest.raises(procjobs.UnknownJob):
        pool.status(moved(-60))  # from here on, the age of the oldest job is known
    for impossible in (str(uuid.uuid4()), moved(7200), moved(-7200)):
        with pytest.raises(procjobs.UnknownJob):
            pool.status(impossible)
    assert 1 == len(asked)


def test_job_older_than_the_others_is_found_as_long_as_it_is_kept(kept, store):
    pool, job_id = kept
    old = moved(-40 * 86_400)
    for table, column in (("procjobs_attempts", "job_id"), ("procjobs_jobs", "id")):
        store.write(f"UPDATE {table} SET {column} = :old WHERE {column} = :id", old=old, id=job_id)
    finding._stores.clear()
    with pytest.raises(procjobs.UnknownJob):
        pool.status(moved(-60))
    assert "succeeded" == pool.status(old).state


def test_event_loop_does_not_wait_for_the_store(kept, asked):
    pool, job_id = kept

    async def ask():
        return pool.status(job_id)

    with pytest.raises(procjobs.UnknownJob, match=r"use `await pool\.astatus\(id\)`"):
        asyncio.run(ask())
    assert [] == asked
    with pytest.raises(procjobs.UnknownJob, match=r"use `await pool\.alogs\(id\)`"):
        asyncio.run(_awaited(pool.logs, job_id))


async def _awaited(call, *args):
    return call(*args)


def test_store_is_read_on_both_sides_of_a_fork(kept):
    pool, job_id = kept
    pool.status(job_id)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if "succeeded" == pool.status(job_id).state else 2
        finally:
            os._exit(code)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert "succeeded" == pool.status(job_id).state


def test_connection_that_was_cut_is_made_anew(kept, store):
    pool, job_id = kept
    pool.status(job_id)
    if store.url.startswith("postgresql"):
        cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        assert store.rows(f"{cut} AND datname = current_database() AND application_name = 'procjobs'")
    assert "succeeded" == pool.status(job_id).state
