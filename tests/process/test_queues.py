"""Queues: limits that jobs share, with real workers. Their rules at made-up times are in test_queues of the unit tests."""

from __future__ import annotations

import pytest

import procjobs
from procjobs import Queue
from procjobs.client.producer import Producer
from tests.process import jobs

from ..conftest import wait_until


def held(pool, name="q"):
    return {queue.name: (queue.running, queue.held) for queue in pool.queues()}[name]


def test_as_many_run_as_the_limit_says_and_others_pass_by(tmp_path):
    go = str(tmp_path / "go")
    with procjobs.Pool(workers=3, queues={"q": Queue(limit=2), "other": {"limit": 1}}) as pool:
        limited = [pool.options(queue="q").submit(jobs.wait_for_file, go, n) for n in range(5)]
        wait_until(lambda: held(pool) == (2, 3))
        assert 3 == pool.submit(jobs.add, 1, 2).result(30)
        assert 4 == pool.options(queue="other").submit(jobs.add, 2, 2).result(30)
        assert ["queued"] * 3 == [job.status().state for job in limited[2:]]
        open(go, "w").close()
        assert list(range(5)) == [job.result(30) for job in limited]
        assert (0, 0) == held(pool)


def test_next_one_runs_when_a_worker_dies_and_when_one_is_cancelled(tmp_path):
    with procjobs.Pool(workers=2, queues={"q": Queue(limit=1)}) as pool:
        q = pool.options(queue="q")
        dies, cancelled, last = q.submit(jobs.segfault), q.submit(jobs.sleep, 600), q.submit(jobs.add, 1)
        with pytest.raises(procjobs.WorkerCrashed):
            dies.result(30)
        wait_until(lambda: cancelled.status().state == "running")
        wait_until(lambda: held(pool) == (1, 1))
        assert cancelled.cancel()
        assert 1 == last.result(30)


def test_no_more_are_started_than_the_rate_says():
    with procjobs.Pool(workers=2, queues={"q": Queue(rate="2/d")}) as pool:
        done = [pool.options(queue="q").submit(jobs.add, n) for n in range(5)]
        assert [0, 1] == [job.result(30) for job in done[:2]]
        wait_until(lambda: held(pool) == (0, 3))
        assert all(job.cancel() for job in done[2:])
        assert (0, 0) == held(pool)


def test_rate_lets_the_next_ones_start_in_time():
    with procjobs.Pool(workers=2, queues={"q": Queue(rate="2/s")}) as pool:
        assert list(range(5)) == [job.result(30) for job in [pool.options(queue="q").submit(jobs.add, n) for n in range(5)]]


def test_jobs_of_one_key_have_a_limit_of_their_own(tmp_path):
    go = str(tmp_path / "go")
    with procjobs.Pool(workers=4, queues={"q": Queue(key_limit=2)}) as pool:
        of_a = [pool.options(queue="q", key="a").submit(jobs.wait_for_file, go, n) for n in range(3)]
        of_b = pool.options(queue="q", key="b").submit(jobs.wait_for_file, go)
        wait_until(lambda: held(pool) == (3, 1))
        wait_until(lambda: [job.status().state for job in (*of_a, of_b)] == ["running", "running", "queued", "running"])
        open(go, "w").close()
        assert [0, 1, 2] == [job.result(30) for job in of_a]


def test_function_has_its_queue_by_the_decorator(tmp_path):
    with procjobs.Pool(workers=1, queues={"q": Queue(rate="1/d")}) as pool:
        first, second = pool.submit(limited, 1), pool.submit(limited, 2)
        assert 1 == first.result(30)
        wait_until(lambda: held(pool) == (0, 1))
        assert second.cancel()


@procjobs.job(queue="q")
def limited(value):
    return value


def test_queue_that_is_not_declared_is_refused_here_and_by_the_supervisor(monkeypatch):
    with procjobs.Pool(workers=1, queues={"video": Queue(limit=1)}) as pool:
        with pytest.raises(procjobs.ConfigurationError, match="has no queue 'vidoe': did you mean 'video'"):
            pool.options(queue="vidoe")
        monkeypatch.setattr(Producer, "_check_queue", lambda self, options: None)
        with pytest.raises(procjobs.ConfigurationError, match="has no queue 'mail': it has video"):
            pool.options(queue="mail").submit(jobs.add, 1).result(30)
        assert 1 == pool.options(queue="video").submit(jobs.add, 1).result(30)


def test_who_attaches_knows_the_queues_of_the_running_pool(pool_name):
    with procjobs.Pool(pool_name, workers=1, queues={"q": Queue(limit=1)}) as first:
        with procjobs.Pool(pool_name) as second:
            assert 1 == second.options(queue="q").submit(jobs.add, 1).result(30)
        with pytest.warns(procjobs.SettingsDiffer, match="queues"), procjobs.Pool(pool_name, queues={"q": {"limit": 2}}):
            pass
        assert [1] == [queue.limit for queue in first.queues()]
        first.stop()


def test_queues_are_read_from_the_settings_file(tmp_path, monkeypatch):
    file = tmp_path / "procjobs.toml"
    file.write_text('[default]\nworkers = 1\n[default.queues.mail]\nrate = "100/m"\n[default.queues]\nvideo = {limit = 1}\n')
    monkeypatch.setenv("PROCJOBS_CONFIG", str(file))
    with procjobs.Pool() as pool:
        assert {"mail": ("100/m", None), "video": (None, 1)} == {q.name: (q.rate, q.limit) for q in pool.queues()}
    file.write_text("[default.queues.mail]\nrat = 1\n")
    with pytest.raises(procjobs.ConfigurationError, match=r"\[default\] queue 'mail' has no field 'rat' .did you mean"):
        procjobs.Pool()


def test_limits_hold_across_generations(pool_name, tmp_path):
    """Of two versions of the code, jobs share the limit; one that waits is called though the other's workers are away."""
    go = str(tmp_path / "go")
    with procjobs.Pool(pool_name, workers=2, queues={"q": Queue(limit=1)}, version="1") as old:
        running = old.options(queue="q").submit(jobs.wait_for_file, go, "old")
        wait_until(lambda: running.status().state == "running")
        with procjobs.Pool(pool_name, version="2") as new:
            waiting = [pool.options(queue="q").submit(jobs.add, n) for n, pool in enumerate((new, old, new))]
            wait_until(lambda: held(new) == (1, 3))
            open(go, "w").close()
            assert [0, 1, 2] == [job.result(30) for job in waiting]
        old.stop()
