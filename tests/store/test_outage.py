"""The database is away, locked, full, or newer than the code: the pool says so, jobs go on, and all recovers by itself."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
from types import SimpleNamespace

import psutil
import pytest

import procjobs
from procjobs.store.schema import VERSION
from tests.process import jobs

from ..conftest import wait_until
from .conftest import recorder_of
from .test_rescue import kill, kill_all, lines


class Locked:
    """Another writer has the SQLite file, and does not let go."""

    def begin(self, store, _server):
        self._connection = sqlite3.connect(store.url.removeprefix("sqlite:///"), isolation_level=None)
        self._connection.execute("BEGIN EXCLUSIVE")

    def end(self):
        self._connection.close()


class Away:
    """The PostgreSQL server is killed, and started again."""

    def begin(self, _store, server):
        self._server = server()
        self._server.stop("immediate")

    def end(self):
        self._server.start()


class Stuck:
    """Every process of the PostgreSQL server is stopped, so that it neither answers nor refuses."""

    def begin(self, _store, server):
        with open(f"{server().directory}/data/postmaster.pid") as file:
            postmaster = psutil.Process(int(file.readline()))
        self._processes = [postmaster, *postmaster.children()]
        for process in self._processes:
            process.suspend()

    def end(self):
        for process in self._processes:
            process.resume()


class Full:
    """The recorder may write no larger files: for it, that is a full disk."""

    def begin(self, _store, _server):
        self._pid = recorder_of(self.pool)
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    def end(self):
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def begin_outage(store, request):
    outage = Locked() if store.url.startswith("sqlite") else Away()
    outage.begin(store, lambda: request.getfixturevalue("postgres_server"))
    return outage


OUTAGES = {"sqlite_url": [Locked, Full], "postgres_url": [Away, Stuck]}
CASES = [(kind, outage) for kind, outages in OUTAGES.items() for outage in outages]


@pytest.mark.parametrize(("store", "outage"), CASES, indirect=["store"])
def test_outage_is_reported_and_survived(started, store, outage, request, tmp_path):
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=2)
    running = pool.submit(jobs.append_line_and_wait, str(trace), "running", str(go))
    running.wait_accepted(30)
    wait_until(lambda: lines(trace))
    trouble = outage()
    trouble.pool = pool
    trouble.begin(store, lambda: request.getfixturevalue("postgres_server"))
    try:
        waiting = [pool.submit(jobs.append_line, str(trace), n) for n in range(20)]
        wait_until(lambda: (pool.stats().store or "").startswith("unavailable since 20"), dump=lambda: str(pool.stats()))
        go.touch()
        wait_until(lambda: pool.stats().idle == 2)  # it has ended, and nothing has begun that is not in the store
        assert ["running"] == lines(trace)
        assert not running.done()
        with pytest.raises(TimeoutError):
            waiting[0].wait_accepted(0.01)
    finally:
        trouble.end()
    assert ["running", *range(20)] == [job.result(60) for job in [running, *waiting]]
    wait_until(lambda: pool.stats().store == "available")
    assert ["running", *map(str, range(20))] == sorted(lines(trace), key=lambda line: (line != "running", line.zfill(5)))


@pytest.mark.parametrize("store", ["sqlite_url"], indirect=True)
def test_submissions_that_wait_are_bounded(started, store):
    pool = started(workers=1)
    pool.submit(jobs.add, 1).result(30)
    outage = Locked()
    outage.begin(store, None)
    try:
        first = pool.submit(jobs.add, 0)
        wait_until(lambda: pool.stats().store.startswith("unavailable"))
        handles = [pool.submit(jobs.add, n) for n in range(1, 1500)]
        with pytest.raises(procjobs.StoreUnavailable, match=r"1000 submissions wait for it already \(unavailable since"):
            handles[-1].result(30)
    finally:
        outage.end()
    taken = [first, *handles][:1000]
    assert list(range(1000)) == [job.result(60) for job in taken]
    refused = [job for job in handles if isinstance(job.exception(30), procjobs.StoreUnavailable)]
    assert 500 == len(refused)
    assert 5 == pool.submit(jobs.add, 5).result(30)


def test_everything_killed_while_the_database_is_away(started, store, request, tmp_path):
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=1)
    running = pool.submit(jobs.append_line_and_wait, str(trace), "running", str(go))
    running.wait_accepted(30)
    wait_until(lambda: lines(trace))
    outage = begin_outage(store, request)
    try:
        waiting = pool.submit(jobs.append_line, str(trace), "waiting")
        wait_until(lambda: pool.stats().store.startswith("unavailable"))
        kill(pool.stats().supervisor_pid)
        wait_until(lambda: pool.stats().supervisor_pid and "unavailable" in (pool.stats().store or ""))
        go.touch()
    finally:
        outage.end()
    assert ["running", "waiting"] == [running.result(60), waiting.result(60)]
    assert ["running", "running", "waiting"] == sorted(lines(trace))


@pytest.mark.parametrize("is_swept_up", [False, True], ids=["killed again", "swept up"])
def test_attempts_are_counted_though_their_supervisor_could_not_record_them(started, store, request, tmp_path, is_swept_up):
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=1)
    pool.pause()
    job = pool.submit(jobs.append_line_and_wait, str(trace), "ran", str(go))
    job.wait_accepted(30)
    outage = begin_outage(store, request)
    try:
        pool.resume()
        wait_until(lambda: lines(trace))
        stats = pool.stats()
        if is_swept_up:
            pool.shutdown(wait=False)
            kill_all(SimpleNamespace(stats=lambda: stats))
            procjobs.Pool(workers=1).stop()  # it sweeps up the remains of others
            assert not os.path.exists(pool._link.directory.path)
        else:
            kill_all(pool)
            wait_until(lambda: pool.stats().supervisor_pid not in {0, stats.supervisor_pid} and pool.stats().store)
            kill_all(pool)
        go.touch()
    finally:
        outage.end()
    pool = started(workers=1)
    assert "ran" == pool.job(job.id).result(60)
    assert ["ran", "ran"] == lines(trace)
    assert [(1, "cut off"), (2, "succeeded")] == store.attempts(job)
    assert not os.path.exists(pool._link.directory.begun)


def test_pool_is_stopped_while_the_database_is_away(started, store, request, tmp_path):
    trace, go = tmp_path / "trace", tmp_path / "go"
    pool = started(workers=1)
    running = pool.submit(jobs.append_line_and_wait, str(trace), "running", str(go))
    running.wait_accepted(30)
    wait_until(lambda: lines(trace))
    outage = begin_outage(store, request)
    try:
        late = pool.submit(jobs.append_line, str(trace), "late")
        wait_until(lambda: pool.stats().store.startswith("unavailable"))
        pool.stop()
        for job in (running, late):
            with pytest.raises(procjobs.PoolClosed, match="its store is unavailable since"):
                job.result(30)
    finally:
        outage.end()
    go.touch()
    pool = started(workers=1)
    assert "running" == pool.job(running.id).result(30)
    assert ["running", "running"] == lines(trace)


def test_schema_of_a_newer_version_is_refused(started, store, pool_name):
    started().stop()
    store.write("UPDATE procjobs_schema SET version = 99")
    pool = started(is_available=False)
    wait_until(lambda: "version 99" in (pool.stats().store or ""))
    store.write("UPDATE procjobs_schema SET version = :version", version=VERSION)
    wait_until(lambda: pool.stats().store == "available")
    assert 1 == pool.submit(jobs.add, 1).result(30)


def test_signals_of_a_service_manager_do_not_end_the_recorder(started, store):
    pool = started()
    recorder = recorder_of(pool)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(recorder, number)
    assert 1 == pool.submit(jobs.add, 1).result(30)
    assert recorder == recorder_of(pool)


def test_missing_driver_is_named(pool_name):
    pool = procjobs.Pool(pool_name, workers=1, store="postgresql+nosuchdriver://host/database")
    try:
        wait_until(lambda: "Is its driver installed" in (pool.stats().store or ""))
    finally:
        pool.stop()


def test_password_is_shown_nowhere(pool_name, tmp_path, monkeypatch):
    url = "postgresql+psycopg://me:verysecret@/database?host=/nonexistent"
    pool = procjobs.Pool(pool_name, workers=1, store=url)
    try:
        wait_until(lambda: "unavailable" in (pool.stats().store or ""))
        with open(pool._link.directory.log) as log:
            assert "verysecret" not in log.read() + str(pool.stats())
        arguments = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
        assert "verysecret" not in arguments
        other = procjobs.Pool(pool_name, store=url.replace("verysecret", "othersecret"))
        with pytest.warns(procjobs.SettingsDiffer) as warned:
            other.connect()
        other.shutdown()
        assert "secret" not in str(warned[0].message)
    finally:
        pool.stop()
