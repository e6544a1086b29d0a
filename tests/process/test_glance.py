"""Many jobs at a glance: from shared memory, without unpickling, and honest about a supervisor that was killed."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal

import pytest

import procjobs
from procjobs.client import finding
from procjobs.errors import ConfigurationError
from tests.process import jobs

from ..conftest import wait_until


class Unloadable:
    """Says so if it is unpickled."""

    def __reduce__(self):
        return os._exit, (99,)


def report_and_wait(path):
    procjobs.progress(1, 4, "first", data=pickle.dumps(Unloadable()))
    jobs.wait_for_file(path)
    procjobs.progress(4, 4, "last")


def report_unloadable(path):
    procjobs.progress(1, 4, "has data", data=Unloadable())
    jobs.wait_for_file(path)


def test_glance_leaves_out_what_has_not_changed_since(pool, tmp_path):
    job = pool.submit(report_and_wait, str(tmp_path / "go"))
    wait_until(lambda: job.progress() is not None)
    first = pool.glance([job.id])[job.id]
    assert ("running", "first", 0.25) == (first.state, first.progress.message, first.fraction)
    assert {} == pool.glance([job.id], {job.id: first.version})
    (tmp_path / "go").touch()
    job.result(30)
    last = pool.glance([job.id], {job.id: first.version})[job.id]
    assert ("succeeded", "last") == (last.state, last.progress.message)
    assert {} == pool.look_up([job.id], {job.id: last.version})


def test_data_of_a_report_is_not_unpickled(pool, tmp_path):
    job = pool.submit(report_unloadable, str(tmp_path / "go"))
    wait_until(lambda: pool.look_up([job.id])[job.id].progress is not None)
    for status in (pool.glance([job.id])[job.id], pool.look_up([job.id])[job.id], pool.jobs(data=False)[0]):
        assert ("has data", None) == (status.progress.message, status.progress.data)
    (tmp_path / "go").touch()
    job.result(30)


def test_ids_that_nobody_knows_are_none_and_others_are_found(pool):
    job = pool.submit(jobs.add, 1)
    job.result(30)
    unknown = "019a0000-0000-7000-8000-000000000000"
    wanted = [job.id.upper(), "no id", unknown]
    found = pool.look_up(wanted)
    assert wanted == list(found)
    assert ["succeeded", None, None] == [status and status.state for status in found.values()]
    assert found == asyncio.run(pool.aglance(wanted))


def test_job_that_waits_behind_others_has_another_version_as_it_comes_nearer(pool_settings, tmp_path):
    with procjobs.Pool(workers=1, **{k: v for k, v in pool_settings.items() if k != "workers"}) as pool:
        gates = [str(tmp_path / str(n)) for n in range(3)]
        handles = [pool.submit(jobs.wait_for_file, gate) for gate in gates]
        last = pool.submit(jobs.add, 1)
        wait_until(lambda: handles[0].status().state == "running")
        before = pool.status(last.id)
        open(gates[0], "w").close()
        wait_until(lambda: pool.status(last.id).ahead != before.ahead)
        assert before.version != pool.status(last.id).version
        for gate in gates[1:]:
            open(gate, "w").close()


@pytest.mark.parametrize("kind", ["memory", "store"])
def test_supervisor_that_was_killed_gets_its_successor(pool_name, tmp_path, kind):
    store = {"store": f"sqlite:///{tmp_path}/jobs.db"} if kind == "store" else {}
    with procjobs.Pool(pool_name, workers=1, **store) as pool:
        ended = pool.submit(jobs.add, 1)
        ended.result(30)
        job = pool.submit(jobs.wait_for_file, str(tmp_path / "go"), 7)
        if kind == "store":
            job.wait_accepted(30)
        wait_until(lambda: job.status().state == "running")
        pid = pool.stats().supervisor_pid
        reader = procjobs.Pool(pool_name, workers=1, **store)
        assert "running" == reader.look_up([job.id])[job.id].state
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}/fd/0"))
        wait_until(lambda: reader.glance([job.id])[job.id] is None or reader.stats().supervisor_pid != pid)
        found = asyncio.run(reader.aglance([job.id]))[job.id]
        assert pid != reader.stats().supervisor_pid
        if kind == "memory":
            assert found is None
        else:
            assert found.state in {"queued", "running", "retrying"}
            (tmp_path / "go").touch()
            wait_until(lambda: reader.look_up([job.id])[job.id].state == "succeeded")
        reader.shutdown()


def test_stopped_pool_is_not_started_by_those_that_look(pool_name):
    with procjobs.Pool(pool_name, workers=1) as pool:
        job = pool.submit(jobs.add, 1)
        job.result(30)
        reader = procjobs.Pool(pool_name, workers=1)
        assert "succeeded" == reader.look_up([job.id])[job.id].state
        directory = pool._link.directory.path
        pool.stop()
        wait_until(lambda: not os.path.exists(directory))
        assert "succeeded" == reader.look_up([job.id])[job.id].state
        assert not os.path.exists(directory)
        reader.shutdown()


def test_jobs_are_listed_by_page_and_searched(pool):
    handles = [pool.options(name=f"film-{n}").submit(jobs.add, n) for n in range(7)]
    for handle in handles:
        handle.result(30)
    ids = sorted((handle.id for handle in handles), reverse=True)
    first = pool.jobs(limit=3)
    assert ids[:3] == [status.id for status in first]
    assert ids[3:6] == [status.id for status in pool.jobs(limit=3, before=first[-1].id)]
    assert ["film-4"] == [status.name for status in pool.jobs(search="FILM-4")]
    assert [ids[0]] == [status.id for status in pool.jobs(search=ids[0][5:])]
    assert [] == pool.jobs("failed")
    with pytest.raises(ConfigurationError, match="unknown state"):
        pool.jobs("sucess")
    with pytest.raises(ConfigurationError, match="no job id"):
        pool.jobs(before="x")


def test_history_is_listed_by_page_and_searched(pool_name, tmp_path):
    with procjobs.Pool(pool_name, workers=1, store=f"sqlite:///{tmp_path}/jobs.db") as pool:
        handles = [pool.options(name=f"film_{n}").submit(jobs.add, n) for n in range(5)]
        for handle in handles:
            handle.result(30)
        ids = sorted((handle.id for handle in handles), reverse=True)
        wait_until(lambda: len(pool.history(state="succeeded")) == 5)
        first = pool.history(limit=2)
        assert ids[:2] == [record.id for record in first]
        assert ids[2:4] == [record.id for record in pool.history(limit=2, before=first[-1].id)]
        assert ["film_3"] == [record.name for record in pool.history(search="M_3")]
        assert [] == pool.history(search="film%3")


def test_nobody_can_tell_of_a_new_job_while_the_supervisor_does_not_answer(pool_name, monkeypatch, tmp_path):
    """That is another answer than that there is no such job."""
    monkeypatch.setattr(finding, "_ASK_TIMEOUT", 0.2)
    with procjobs.Pool(pool_name, workers=1) as pool, procjobs.Pool(pool_name) as reader:
        pid = pool.stats().supervisor_pid
        reader.queues()
        os.kill(pid, signal.SIGSTOP)
        try:
            job = pool.submit(jobs.add, 1)
            with pytest.raises(procjobs.SupervisorError, match="did not answer"):
                reader.look_up([job.id])
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: reader.look_up([job.id])[job.id].state == "succeeded")
